"""Peers in this process whose origin is a hub in this process, over real sockets."""

import asyncio
import contextlib

import pytest

from p2pmodel.gateway.origin_repositories import OriginRepositories
from p2pmodel.peer import NetworkConfig, Peer, PeerConfig
from p2pmodel.testing.hub import Hub
from tests.gateway.origin.origins import Mirror


@pytest.fixture
async def hub():
    async with Hub() as running:
        yield running


@pytest.fixture
async def mirror(tmp_path, hub):
    """`await mirror()` starts a peer; the later ones enter the network through the first. `name`: its directory."""
    stacks, entries = [], []

    async def start(name=None, *, url=None, **options):
        config = PeerConfig(
            data_dir=tmp_path / (name or f"peer-{len(entries)}"),
            listen="127.0.0.1:0",
            http=None,
            bootstrap=tuple(entries[:1]),
            network=NetworkConfig(name="test", profile="cluster"),
            saved_state="ignore",
            origin=url or hub.url,
            **options,
        )
        stacks.append(contextlib.AsyncExitStack())
        peer = await stacks[-1].enter_async_context(Peer(config))
        repositories = OriginRepositories(peer, config.origin)
        stacks[-1].push_async_callback(repositories.close)
        entries.append(str(peer.listen))
        await peer.joined.wait()
        return Mirror(peer, repositories)

    yield start
    await asyncio.gather(*(stack.aclose() for stack in stacks))
