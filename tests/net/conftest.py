"""Real networks on loopback that must leave nothing behind: no lent buffer, no task, no unreported error."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from wire_pairs import PATIENCE_S, Handler, Pair, identity

from p2pmodel.errors import PeerGoneError
from p2pmodel.net import Address, Channel, Identity, RealNetwork


class Town:
    """Opens networks and channels, and closes and inspects them in the end."""

    def __init__(self) -> None:
        self.unexpected: list[dict] = []
        """What reached the loop's exception handler: bugs, unless the test provoked it and empties this list."""
        self._networks: list[RealNetwork] = []
        self._listeners: list = []
        self._channels: list[Channel] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: self.unexpected.append(context))

    def network(self, who: Identity) -> RealNetwork:
        network = RealNetwork(who)
        self._networks.append(network)
        return network

    async def listen(self, network: RealNetwork, accepted=None, host: str = "127.0.0.1") -> Address:
        def accept(channel: Channel) -> None:
            self._channels.append(channel)
            if accepted is not None:
                accepted(channel)

        listener = await network.listen(host, 0, accept)
        self._listeners.append(listener)
        return listener.address

    async def channels(self, near: Identity, far: Identity) -> tuple[Channel, Channel]:
        """Two ends of one connection, neither started."""
        accepted: asyncio.Future[Channel] = asyncio.get_running_loop().create_future()
        address = await self.listen(self.network(far), accepted.set_result)
        outgoing = await self.network(near).connect(address, far.key.public)
        self._channels.append(outgoing)
        return outgoing, await accepted

    async def pair(self, *, encryption: bool = True, near_handler=None, far_handler=None) -> Pair:
        near, far = await self.channels(identity(1, encryption=encryption), identity(2, encryption=encryption))
        pair = Pair(near, far, near_handler or Handler(), far_handler or Handler())
        near.start(pair.near_handler)
        far.start(pair.far_handler)
        return pair

    @property
    def lent_bytes(self) -> int:
        return sum(
            network.shared.receive_buffers.lent_bytes + network.shared.send_buffers.lent_bytes
            for network in self._networks
        )

    async def close(self) -> None:
        for channel in self._channels:
            channel.close(PeerGoneError("the test is over"))
        for listener in self._listeners:
            listener.close()
        for network in self._networks:
            await network.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        if tasks:
            _, tasks = await asyncio.wait(tasks, timeout=PATIENCE_S)
        # What threads finished last is reported through the loop.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not tasks
        assert self.lent_bytes == 0
        assert not self.unexpected


@pytest.fixture
async def town() -> AsyncIterator[Town]:
    town = Town()
    yield town
    await town.close()
