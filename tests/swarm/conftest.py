"""Swarms that must leave nothing behind: no link, no task, no lent buffer, no chunk that was not given back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from swarm_town import NETWORK, PATIENCE_S, DictShelf, Hostile, Model, Peer, Source, secret

from p2pmodel.errors import PeerGoneError
from p2pmodel.net import Address, Channel, Identity, RealNetwork


class Town:
    """Starts peers and hostile ends, and stops and inspects them in the end."""

    def __init__(self) -> None:
        self.unexpected: list[dict] = []
        """What reached the loop's exception handler: bugs, unless the test provoked it and empties this list."""
        self.model = Model()
        self._peers: list[Peer] = []
        self._networks: list[RealNetwork] = []
        self._listeners: list = []
        self._channels: list[Channel] = []
        self._next_hostile = 200
        Source.open_sources = 0
        asyncio.get_running_loop().set_exception_handler(lambda _, context: self.unexpected.append(context))

    async def peer(self, number: int, bits: int = 0, **options) -> Peer:
        peer = await Peer(number, DictShelf(self.model, bits), **options).start()
        self._peers.append(peer)
        return peer

    async def seed(self, number: int, **options) -> Peer:
        return await self.peer(number, self.model.all_bits, **options)

    def _hostile_network(self) -> RealNetwork:
        self._next_hostile += 1
        network = RealNetwork(Identity(secret(self._next_hostile), NETWORK))
        self._networks.append(network)
        return network

    async def hostile_to(self, peer: Peer) -> Hostile:
        """A hostile end that has called this peer."""
        channel = await self._hostile_network().connect(peer.address, peer.key.public)
        return self._started(channel)

    async def hostile_seed(self, met) -> Address:
        """An address at which `met` is called with the hostile end of each connection."""
        network = self._hostile_network()
        listener = await network.listen("127.0.0.1", 0, lambda channel: met(self._started(channel)))
        self._listeners.append(listener)
        return listener.address

    def _started(self, channel: Channel) -> Hostile:
        hostile = Hostile(channel)
        self._channels.append(channel)
        channel.start(hostile)
        return hostile

    async def close(self) -> None:
        for listener in self._listeners:
            listener.close()
        for channel in self._channels:
            channel.close(PeerGoneError("the test is over"))
        for peer in self._peers:
            await peer.stop()
            assert not peer.swarm.links
        for network in self._networks:
            await network.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        if tasks:
            _, tasks = await asyncio.wait(tasks, timeout=PATIENCE_S)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not tasks
        for network in [*self._networks, *(peer.network for peer in self._peers)]:
            assert network.shared.receive_buffers.lent_bytes == network.shared.send_buffers.lent_bytes == 0
        for peer in self._peers:
            for download in peer.downloads:
                assert not download.links and not download._request_ids
        assert Source.open_sources == 0
        assert not self.unexpected


@pytest.fixture
async def town() -> AsyncIterator[Town]:
    town = Town()
    yield town
    await town.close()
