"""Files of an origin that other peers have: found and proven by their SHA-256; what liars say of them costs little."""

from dataclasses import replace

import pytest

from p2pmodel.model import Layout, Manifest, Sha256
from p2pmodel.overlay import overlay_key
from p2pmodel.peer.shelf import StoreShelf
from tests.gateway.origin.origins import noise, sha256
from tests.peer.patience import comes_true

pytestmark = pytest.mark.slow

WEIGHTS = noise(3_000_000, seed=2)
FILES = {"config.json": b"{}", "model.safetensors": WEIGHTS}
REPO = "org/model"
PROBES = len(WEIGHTS) // 100


async def announced(mirror):
    def done():
        told = mirror.peer.overlay.stats()
        return mirror.peer.store.models() and told.keys_provided > 3 and not told.keys_pending

    await comes_true(done)


async def test_what_one_peer_has_read_from_the_origin_the_next_gets_from_that_peer(hub, mirror):
    hub.add(REPO, FILES)
    first, second = await mirror(), await mirror()
    assert await first.read(REPO, "model.safetensors") == WEIGHTS
    await announced(first)
    hub.forget()
    assert await second.read(REPO, "model.safetensors") == WEIGHTS
    assert hub.bytes_sent == second.origin_bytes <= PROBES


async def test_what_somebody_published_under_another_name_is_found_by_its_hash(hub, mirror, tmp_path):
    hub.add(REPO, FILES)
    first, second = await mirror(), await mirror()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "renamed.bin").write_bytes(WEIGHTS)
    (tmp_path / "mine" / "more.bin").write_bytes(b"more")
    await first.peer.publish(tmp_path / "mine")
    await announced(first)
    assert await second.read(REPO, "model.safetensors") == WEIGHTS
    assert hub.bytes_sent <= PROBES
    assert await first.read(REPO, "model.safetensors") == WEIGHTS  # it has it under that name itself
    assert hub.bytes_sent <= PROBES


async def test_with_the_origin_dead_a_file_comes_from_peers_where_its_hash_is_known(hub, mirror):
    hub.add(REPO, FILES)
    first, second = await mirror(), await mirror()
    await first.read(REPO, "model.safetensors")
    await announced(first)
    await (await second.repo(REPO)).files()
    await hub.die()
    assert await second.read(REPO, "model.safetensors") == WEIGHTS


class Lying(StoreShelf):
    """Says of a file that it published that it has another SHA-256."""

    def __init__(self, peer, layout, claimed):
        super().__init__(peer.store)
        entries = [replace(file, sha256=Sha256.from_hex(claimed)) for file in layout.files]
        self.claimed = Layout(Manifest.of(entries), layout.chunk_lists)

    def have_map(self, model_id):
        return self.claimed.have_map() if model_id == self.claimed.model_id else super().have_map(model_id)

    def layout(self, model_id):
        return self.claimed if model_id == self.claimed.model_id else super().layout(model_id)

    def object(self, digest):
        return self.claimed.manifest.encode() if digest == self.claimed.model_id else super().object(digest)

    def models(self, digests):
        return [self.claimed.model_id]


async def lie(liar, directory, content, claimed):
    directory.mkdir()
    (directory / "model.safetensors").write_bytes(content)
    model_id = await liar.peer.publish(directory)
    layout = next(liar.peer.store.layout(m.model_id) for m in liar.peer.store.models() if m.model_id.hex == model_id)
    shelf = Lying(liar.peer, layout, claimed)
    liar.peer.swarm._uploads.shelf = shelf
    await liar.peer.overlay.provide([overlay_key(Sha256.from_hex(claimed)), overlay_key(shelf.claimed.model_id)])
    return shelf.claimed.model_id


@pytest.mark.parametrize("wrong", ["everywhere", "in one byte"])
async def test_a_peer_that_lies_about_a_hash_is_found_out_and_the_file_comes_from_the_origin(
    hub, mirror, tmp_path, wrong
):
    hub.add(REPO, FILES)
    liar, victim = await mirror(), await mirror()
    other = noise(len(WEIGHTS), seed=3) if wrong == "everywhere" else WEIGHTS[:-1] + bytes([WEIGHTS[-1] ^ 1])
    model_id = await lie(liar, tmp_path / "lie", other, sha256(WEIGHTS))
    hub.forget()
    assert await victim.read(REPO, "model.safetensors") == WEIGHTS
    assert len(WEIGHTS) <= hub.bytes_sent <= len(WEIGHTS) + PROBES
    store = victim.peer.store
    await comes_true(lambda: store.have_map(model_id) is None and len(store.models()) == 1)


async def test_a_peer_that_names_a_model_and_sends_nothing_costs_a_moment(hub, mirror, tmp_path):
    hub.add(REPO, FILES)
    liar, victim = await mirror(), await mirror()
    await lie(liar, tmp_path / "lie", noise(len(WEIGHTS), seed=4), sha256(WEIGHTS))
    liar.peer.swarm._uploads.shelf.chunk = lambda digest, where=None: None
    assert await victim.read(REPO, "model.safetensors") == WEIGHTS
