"""Who says where it listens: everybody but those whom others cannot reach."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from p2pmodel import Peer, PeerConfig
from p2pmodel.model import Digest, ModelId
from p2pmodel.overlay import Reach, overlay_key
from p2pmodel.peer.config import NetworkConfig

pytestmark = pytest.mark.slow


def config(directory: Path, **options: object) -> PeerConfig:
    return PeerConfig(
        data_dir=directory, listen="127.0.0.1:0", http=None, network=NetworkConfig(name="lab"), lan=False, **options
    )


async def test_a_peer_that_others_cannot_reach_tells_no_port_and_one_that_is_soon_gone_does(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:

        async def peer(name: str, **options: object) -> Peer:
            return await stack.enter_async_context(Peer(config(tmp_path / name, **options)))

        met = await peer("met")
        client, passing, usual = await peer("client", client_only=True), await peer("passing", passing=True), None
        command = await peer("command", client_only=True, passing=True)
        usual = await peer("usual")
        for one in (client, passing, command, usual):
            await one.swarm.connect(met.listen, met.peer_id)
        told = {link.peer: link.listens_at for link in met.swarm.links.values()}
        assert told[client.peer_id] is None and told[command.peer_id] is None
        assert told[passing.peer_id] == passing.listen and told[usual.peer_id] == usual.listen
        assert passing.overlay.stats().client_only, "of the overlay it is no part"


async def test_a_peer_that_finds_out_that_others_cannot_reach_it_tells_no_port_from_then_on(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        met, other, peer = [
            await stack.enter_async_context(Peer(config(tmp_path / name))) for name in ("met", "other", "peer")
        ]
        await peer.swarm.connect(met.listen, met.peer_id)
        assert met.swarm.links[peer.peer_id].listens_at == peer.listen
        peer.overlay._self_check.reachability.state = Reach.UNREACHABLE
        await peer.swarm.connect(other.listen, other.peer_id)
        assert other.swarm.links[peer.peer_id].listens_at is None


async def test_a_peer_that_others_cannot_reach_announces_nothing_and_one_that_is_soon_gone_does(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "w.bin").write_bytes(b"weights")
    async with AsyncExitStack() as stack:
        met = await stack.enter_async_context(Peer(config(tmp_path / "met")))
        found = {}
        for name, options in (("client", {"client_only": True}), ("passing", {"passing": True})):
            one = config(tmp_path / name, bootstrap=(str(met.listen),), **options)
            async with Peer(one) as peer:
                await peer.joined.wait()
                key = overlay_key(ModelId(Digest.from_hex(await peer.publish(tmp_path / "model"))))
                found[name] = [provider.peer == peer.peer_id async for provider in met.overlay.providers(key)]
        assert found == {"client": [], "passing": [True]}
