"""Peers that want the same file of an origin at the same time: it is read there once, and passed on among them."""

import asyncio
import random

import pytest

from p2pmodel.errors import StaleBytesError, VerificationError
from p2pmodel.model import HaveMap, Sha256
from p2pmodel.model.parts import Parts
from p2pmodel.overlay import overlay_key
from p2pmodel.peer.draft import Draft
from p2pmodel.peer.gathering import Gathering
from p2pmodel.peer.leases import Leases
from tests.gateway.origin.origins import noise, sha256

pytestmark = pytest.mark.slow

REPO = "org/model"


async def test_ten_peers_that_ask_at_once_read_the_model_from_the_origin_about_once(hub, mirror):
    files = {"config.json": b"{}", "model.safetensors": noise(16_000_000, seed=5)}
    hub.add(REPO, files)
    peers = [await mirror() for _ in range(10)]
    size = sum(map(len, files.values()))

    async def everything(peer):
        return {path: await peer.read(REPO, path) for path in files}

    for got in await asyncio.gather(*(everything(peer) for peer in peers)):
        assert got == files
    assert hub.bytes_sent <= 1.1 * size, f"{hub.bytes_sent / size:.3f} times the model"
    assert sum(peer.origin_bytes for peer in peers) <= hub.bytes_sent


async def gather_lies(liar, content, right, *, half=False):
    """A member that has every part of the file, or the first half of them, and each of them wrong."""
    parts = Parts(Sha256.from_hex(sha256(right)), len(right))
    room = liar.peer.store.cache.room_beside
    draft = Draft(parts, liar.peer.config.data_dir / "lies", liar.peer.files, liar.peer.network, room)
    await liar.peer.network.offload(draft._open)
    for index in range(parts.count):
        draft.write(index, memoryview(content)[slice(*parts.span(index))])
    draft.have = HaveMap.full(parts.count // 2 if half else parts.count).bits
    now, key = asyncio.get_running_loop().time, liar.peer.peer_id.raw
    gathering = Gathering(draft, Leases(key, b""), now=now, rng=random.Random(1))
    liar.peer.gatherings.enter(gathering)
    await liar.peer.overlay.provide([overlay_key(parts.gathering_id)])
    return draft


async def test_wrong_parts_of_a_member_are_found_out_and_read_from_the_origin(hub, mirror):
    weights = noise(3_000_000, seed=6)
    hub.add(REPO, {"model.safetensors": weights})
    liar, victim = await mirror(), await mirror()
    draft = await gather_lies(liar, noise(len(weights), seed=7), weights)
    assert await victim.read(REPO, "model.safetensors") == weights
    assert len(weights) <= hub.bytes_sent <= 1.2 * len(weights)
    await draft.close(remove=True)


async def test_a_client_that_was_given_wrong_bytes_never_sees_the_end_and_must_begin_anew(hub, mirror, monkeypatch):
    monkeypatch.setattr("p2pmodel.peer.supply.HELD_BACK_BYTES", 0)
    weights = noise(3_000_000, seed=8)
    hub.add(REPO, {"model.safetensors": weights})
    liar, victim = await mirror(), await mirror()
    draft = await gather_lies(liar, noise(len(weights), seed=9), weights, half=True)
    hub.faults.bytes_per_s = 2_000_000
    repo = await victim.repo(REPO)
    file = await repo.file("model.safetensors")
    given = 0
    with pytest.raises(VerificationError, match="was wrong"):
        async for block in repo.read(file, 0, file.size):
            given += len(block)
    assert 0 < given < len(weights)
    with pytest.raises(StaleBytesError):
        await victim.read(REPO, "model.safetensors", start=given)
    assert await victim.read(REPO, "model.safetensors") == weights
    await draft.close(remove=True)


async def test_a_member_that_has_everything_and_sends_nothing_costs_a_moment(hub, mirror):
    weights = noise(3_000_000, seed=10)
    hub.add(REPO, {"model.safetensors": weights})
    liar, victim = await mirror(), await mirror()
    draft = await gather_lies(liar, weights, weights)
    liar.peer.gatherings.part = lambda digest, where: None
    assert await victim.read(REPO, "model.safetensors") == weights
    await draft.close(remove=True)
