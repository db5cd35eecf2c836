"""IPv6 beside IPv4: by default a peer is there for both, by one port, whichever its neighbours speak."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from patience import comes_true

from p2pmodel import Peer, PeerConfig
from p2pmodel.peer.config import NetworkConfig

pytestmark = pytest.mark.slow


def config(directory: Path, listen: str, *entries: str) -> PeerConfig:
    network = NetworkConfig(name="lab")
    return PeerConfig(data_dir=directory, listen=listen, http=None, bootstrap=entries, network=network, lan=False)


@pytest.mark.parametrize("port_given", [True, False])
async def test_peers_of_either_family_enter_and_fetch_through_one_that_speaks_both(
    tmp_path: Path, port_given: bool
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("weights")
    async with AsyncExitStack() as stack:
        listen = "[::]:0" if port_given else PeerConfig(data_dir=tmp_path).listen
        both = await stack.enter_async_context(Peer(config(tmp_path / "both", listen)))
        model_id = await both.publish(tmp_path / "model")
        port, met = both.listen.port, {}
        for own, entry in (("127.0.0.1:0", f"127.0.0.1:{port}"), ("[::1]:0", f"[::1]:{port}")):
            peer = await stack.enter_async_context(Peer(config(tmp_path / own, own, entry)))
            report = await peer.fetch(model_id, to=tmp_path / f"out {own}", timeout_s=20)
            assert [source.address for source in report.peers] == [entry]
            met[peer.peer_id] = str(peer.listen)
        # Addresses leave the socket for both as plain ones: no `::ffff:127.0.0.1`.
        await comes_true(lambda: {peer: str(address) for peer, address in both.overlay.neighbours()} == met)
        assert {str(link.listens_at) for link in both.swarm.links.values()} == set(met.values())


async def test_a_name_with_addresses_of_both_families_is_tried_with_each(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        # `localhost` is ::1 first on most machines, and this peer is not there.
        entry = await stack.enter_async_context(Peer(config(tmp_path / "entry", "127.0.0.1:0")))
        other = Peer(config(tmp_path / "other", "[::]:0", f"localhost:{entry.listen.port}"))
        await stack.enter_async_context(other)
        await other.joined.wait()
        assert [peer for peer, _ in other.overlay.neighbours()] == [entry.peer_id]
