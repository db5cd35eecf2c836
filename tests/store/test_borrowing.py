"""Bytes that a fetch takes from other files of this disk: linked where both are the cache's, copied or reflinked
elsewhere, and never believed before they were hashed where they are now.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from p2pmodel.errors import P2PModelError
from p2pmodel.model import Digest
from p2pmodel.store import CacheLimits, Store
from p2pmodel.store.catalogue import Catalogue
from p2pmodel.testing.disk import SimDisk

MIB = 1 << 20


@pytest.fixture
def family(shop):
    """A base and one made from it: the weights are the same file, the head another one, the configuration edited."""
    base = {"weights.bin": shop.dice.randbytes(3 * MIB + 5), "head.bin": shop.dice.randbytes(MIB), "config.json": b"{}"}
    tuned = {**base, "head.bin": shop.dice.randbytes(MIB), "config.json": b'{"tuned": true}'}
    return shop.published(base, "base"), shop.published(tuned, "tuned"), tuned


def cached(store: Store, published) -> Path:
    return store.directory / "models" / published.model_id.hex


def begin(store: Store, published, to, **options):
    intake = store.open_intake(published.layout, range(len(published.layout.files)), to, **options)
    intake.adopt()
    return intake


def inode(path) -> int:
    return path.stat().st_ino


def test_a_whole_file_that_another_cached_model_has_is_one_with_it(shop, moves, family):
    (seed, base), (tuner, tuned), files = family
    store = shop.store()
    moves.fetch(seed, store, base.layout, cached(store, base))
    intake = begin(store, tuned, cached(store, tuned))
    assert intake.reused == {"in_place": 0, "resumed": 0, "linked": 3 * MIB + 5, "reflinked": 0, "copied": 0}
    fetched = moves.pull(tuner, intake)
    intake.finish()
    intake.claim()
    intake.close()
    assert fetched == MIB + 15 and moves.contents(cached(store, tuned)) == files
    assert inode(cached(store, base) / "weights.bin") == inode(cached(store, tuned) / "weights.bin")
    assert inode(cached(store, base) / "head.bin") != inode(cached(store, tuned) / "head.bin")
    store.close()
    again = shop.store()
    assert again.prove() == [] and again.check_files() == []
    for published in (base, tuned):
        assert again.have_map(published.model_id).whole and again.verify(published.model_id) == []


def test_one_of_two_that_share_a_file_can_go_and_the_other_stays(shop, moves, family):
    (seed, base), (tuner, tuned), files = family
    store = shop.store()
    moves.fetch(seed, store, base.layout, cached(store, base))
    moves.fetch(tuner, store, tuned.layout, cached(store, tuned))
    store.remove(base.model_id)
    assert not cached(store, base).exists() and moves.contents(cached(store, tuned)) == files
    assert store.check_files() == [] and store.verify(tuned.model_id) == []
    assert moves.read_chunk(store, tuned.layout[0].digest) is not None


@pytest.mark.parametrize(
    "case", ["to a directory of the user", "from a published file", "from a directory of the user"]
)
def test_files_that_somebody_may_edit_are_copied_unless_a_link_is_asked_for(shop, moves, family, tmp_path, case):
    (seed, base), (_, tuned), _ = family
    store = shop.store() if case != "from a published file" else seed
    if case != "from a published file":
        to = tmp_path / "mine" if case == "from a directory of the user" else cached(store, base)
        moves.fetch(seed, store, base.layout, to)
    to = tmp_path / "out" if case == "to a directory of the user" else cached(store, tuned)
    intake = begin(store, tuned, to)
    assert intake.reused["linked"] == 0 and intake.reused["copied"] == 3 * MIB + 5
    intake.close()
    other = begin(store, tuned, tmp_path / "linked", link=True)
    assert other.reused["linked"] == 3 * MIB + 5
    other.close()


def test_a_name_that_is_in_use_at_the_destination_is_not_replaced_by_a_link(shop, moves, family, tmp_path):
    (seed, base), (tuner, tuned), files = family
    store = shop.store()
    moves.fetch(seed, store, base.layout, cached(store, base))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "weights.bin").write_bytes(b"mine")
    with pytest.raises(P2PModelError, match="other content"):
        moves.fetch(tuner, store, tuned.layout, tmp_path / "out", link=True)
    assert (tmp_path / "out" / "weights.bin").read_bytes() == b"mine"
    moves.fetch(tuner, store, tuned.layout, tmp_path / "out", link=True, overwrite=True)
    assert moves.contents(tmp_path / "out") == files


def test_a_file_that_changed_since_it_was_hashed_is_neither_linked_nor_copied_from(shop, moves, family):
    (seed, base), (tuner, tuned), files = family
    store = shop.store()
    moves.fetch(seed, store, base.layout, cached(store, base))
    moves.damage(cached(store, base) / "weights.bin", MIB + 7)  # under the same marks
    intake = begin(store, tuned, cached(store, tuned))
    assert intake.reused["linked"] == 0 and intake.reused["copied"] == 2 * MIB + 5
    moves.pull(tuner, intake)
    intake.finish()
    intake.close()
    assert moves.contents(cached(store, tuned)) == files
    assert not store.have_map(base.model_id).whole, "what did not verify is noted where it came from"


def test_a_source_that_is_written_to_while_it_is_copied_spoils_nothing(shop, moves, family, tmp_path, monkeypatch):
    (seed, base), (tuner, tuned), files = family
    store = shop.store()
    moves.fetch(seed, store, base.layout, tmp_path / "mine")
    sharing = store._files.sharing
    copy = sharing.copy

    def late(source, source_offset, target, offset, length):
        done = copy(source, source_offset, target, offset, length)
        with (tmp_path / "mine" / "weights.bin").open("r+b") as file:
            file.write(b"edited" * 1000)
        target.write(memoryview(b"edited" * 1000), offset)  # as if that had been a moment sooner
        return done

    monkeypatch.setattr(sharing, "copy", late)
    intake = begin(store, tuned, tmp_path / "out")
    weights = tuned.layout.chunks_of(2)
    assert [index for index in weights if index not in intake.have] == [weights.start]
    moves.pull(tuner, intake)
    intake.finish()
    intake.close()
    assert moves.contents(tmp_path / "out") == files


def test_a_linked_file_that_went_bad_is_replaced_and_not_written_to(shop, moves, family):
    (seed, base), (tuner, tuned), files = family
    store = shop.store()
    moves.fetch(seed, store, base.layout, cached(store, base))
    moves.fetch(tuner, store, tuned.layout, cached(store, tuned))
    shared = inode(cached(store, base) / "weights.bin")
    moves.damage(cached(store, tuned) / "weights.bin", 2 * MIB)
    spoiled = (cached(store, base) / "weights.bin").read_bytes()
    assert store.verify(tuned.model_id)
    assert moves.fetch(tuner, store, tuned.layout, cached(store, tuned)) == MIB
    assert moves.contents(cached(store, tuned)) == files
    assert inode(cached(store, base) / "weights.bin") == shared != inode(cached(store, tuned) / "weights.bin")
    assert (cached(store, base) / "weights.bin").read_bytes() == spoiled


def test_a_run_of_chunks_that_follow_each_other_is_looked_up_once(shop, moves, family, tmp_path, monkeypatch):
    (seed, base), (_, tuned), _ = family
    store = shop.store()
    moves.fetch(seed, store, base.layout, tmp_path / "mine")
    looked_up = []
    places = Catalogue.places

    def counted(self, digest):
        looked_up.append(digest)
        return places(self, digest)

    monkeypatch.setattr(Catalogue, "places", counted)
    begin(store, tuned, tmp_path / "out").close()
    missing = {tuned.layout[0].digest, tuned.layout[1].digest}  # configuration and head are nowhere
    assert len(set(looked_up) - missing) == 1


def test_where_two_files_part_the_next_chunk_comes_from_a_third(shop, moves, tmp_path):
    one, two, other = (shop.dice.randbytes(MIB) for _ in range(3))
    seed, first = shop.published({"a.bin": one + other}, "first")
    again, second = shop.published({"b.bin": two}, "second")
    _, both = shop.published({"c.bin": one + two}, "both")
    store = shop.store()
    moves.fetch(seed, store, first.layout, tmp_path / "a")
    moves.fetch(again, store, second.layout, tmp_path / "b")
    intake = begin(store, both, tmp_path / "c")
    assert intake.missing.held == 0 and intake.reused["copied"] == 2 * MIB
    intake.close()
    assert store.have_map(first.model_id).whole


@pytest.mark.simulated_disk
def test_blocks_are_shared_where_the_disk_can_and_the_offsets_allow(shop, moves, family, tmp_path):
    tmp_path.disk.can_reflink = True
    (seed, base), (_, tuned), _ = family
    store = shop.store()
    moves.fetch(seed, store, base.layout, tmp_path / "mine")
    intake = begin(store, tuned, tmp_path / "out")
    assert intake.reused == {"in_place": 0, "resumed": 0, "linked": 0, "reflinked": 3 * MIB + 5, "copied": 0}
    intake.close()


@pytest.mark.simulated_disk
def test_linked_files_need_no_space(shop, moves, family, tmp_path):
    (seed, base), (tuner, tuned), files = family
    store = shop.store()
    moves.fetch(seed, store, base.layout, cached(store, base))
    tmp_path.disk.capacity_bytes = tmp_path.disk.used_bytes + MIB + MIB // 2
    moves.fetch(tuner, store, tuned.layout, cached(store, tuned))
    assert moves.contents(cached(store, tuned)) == files


def test_a_file_that_two_cached_models_have_counts_once_and_is_free_when_both_have_gone(shop, moves, family):
    (seed, base), (tuner, tuned), _ = family
    third, other = shop.published({"other.bin": shop.dice.randbytes(5 * MIB)}, "other")
    store = shop.store()
    moves.fetch(seed, store, base.layout, cached(store, base))
    alone = store.cache.use().used_bytes
    moves.fetch(tuner, store, tuned.layout, cached(store, tuned))
    both = store.cache.use().used_bytes
    assert 4 * MIB < alone < both < alone + 2 * MIB
    store.cache.limits = CacheLimits(quota_bytes=6 * MIB)
    moves.fetch(third, store, other.layout, cached(store, other))
    assert [model.model_id for model in store.models()] == [other.model_id]
    assert store.cache.use().used_bytes < 6 * MIB


def test_what_a_linked_file_takes_counts_in_full_when_its_other_name_has_gone(shop, moves, family):
    (seed, base), (tuner, tuned), _ = family
    third, other = shop.published({"other.bin": shop.dice.randbytes(5 * MIB)}, "other")
    store = shop.store()
    moves.fetch(seed, store, base.layout, cached(store, base))
    moves.fetch(tuner, store, tuned.layout, cached(store, tuned))
    store.remove(base.model_id)
    store.cache.limits = CacheLimits(quota_bytes=6 * MIB)
    moves.fetch(third, store, other.layout, cached(store, other))
    assert [model.model_id for model in store.models()] == [other.model_id]


def test_no_more_goes_than_has_to_where_the_other_name_of_a_file_went_before(shop, moves, family):
    (seed, base), (tuner, tuned), _ = family
    third, other = shop.published({"other.bin": shop.dice.randbytes(MIB)}, "other")
    store = shop.store()
    for at, published in ((seed, base), (tuner, tuned), (third, other)):
        moves.fetch(at, store, published.layout, cached(store, published))
    store.remove(base.model_id)
    (gone,) = store.cache.collect(keep_bytes=2 * MIB).models
    assert gone.model_id == tuned.model_id


@pytest.mark.parametrize("ends", ["well", "by a kill"])
def test_a_linked_file_that_is_repaired_is_right_under_each_of_its_names(shop, moves, family, ends):
    (seed, base), (tuner, tuned), files = family
    store = shop.store()
    moves.fetch(seed, store, base.layout, cached(store, base))
    moves.fetch(tuner, store, tuned.layout, cached(store, tuned))
    moves.damage(cached(store, tuned) / "weights.bin", 2 * MIB)
    assert store.verify(tuned.model_id)
    repair = store.open_repair(tuned.model_id)
    repair.begin()
    for index in list(repair.missing):
        repair.write(index, memoryview(bytearray(moves.read_chunk(tuner, tuned.layout[index].digest))))
    assert store.check_files() == [], "it changes under both names, and by us"
    if ends == "well":
        repair.close()
        assert store.check_files() == [] and store.have_map(base.model_id).whole
    store._database.close()
    again = shop.store()
    again.prove()
    assert again.check_files() == [] and moves.contents(cached(again, tuned)) == files
    assert again.have_map(base.model_id).whole and again.have_map(tuned.model_id).whole
    assert again.verify(base.model_id) == [] == again.verify(tuned.model_id)


def test_a_repair_of_a_linked_file_leaves_nobody_held(shop, moves, family):
    (seed, base), (tuner, tuned), _ = family
    store = shop.store()
    moves.fetch(seed, store, base.layout, cached(store, base))
    moves.fetch(tuner, store, tuned.layout, cached(store, tuned))
    moves.damage(cached(store, tuned) / "weights.bin", 2 * MIB)
    store.verify(tuned.model_id)
    repair = store.open_repair(tuned.model_id)
    repair.begin()
    repair.close()
    assert not any(copy.busy.locked() for copy in store._catalogue.all_copies())


# --- crashes


DATA = Path("/data")


@pytest.fixture(scope="module")
def lineage():
    """A disk on which a small base is cached, as it is durably; and where its descendant can be had."""
    dice = random.Random(5)
    base = {"big.bin": dice.randbytes(70_000), "head.bin": dice.randbytes(9_000)}
    tuned = {"deep/big.bin": base["big.bin"], "head.bin": dice.randbytes(9_000), "same.bin": base["head.bin"]}
    with SimDisk(random.Random(2)) as far:
        for name, data in base.items():
            far.write_file(f"/base/{name}", data)
        for name, data in tuned.items():
            far.write_file(f"/tuned/{name}", data)
        seed = Store.open(DATA, files=far)
        yield seed, seed.publish(Path("/base")).layout, seed.publish(Path("/tuned")).layout, base, tuned
        seed.close()


def with_base(moves, lineage, seed: int) -> SimDisk:
    disk = SimDisk(random.Random(seed))
    disk.can_reflink = bool(seed % 2)
    store = Store.open(DATA, files=disk.process())
    moves.fetch(lineage[0], store, lineage[1], DATA / "models" / lineage[1].model_id.hex)
    store.close()
    disk.sync_all()
    return disk


class Fetch:
    """A fetch of the descendant with a claim after each step; `proven` is what the last one that held was about."""

    def __init__(self, moves, lineage, files) -> None:
        self.proven = 0
        self._moves, self._seed, self._layout, self._files = moves, lineage[0], lineage[2], files

    def go(self) -> None:
        to = DATA / "models" / self._layout.model_id.hex
        store = Store.open(DATA, files=self._files)
        intake = store.open_intake(self._layout, range(len(self._layout.files)), to)
        intake.adopt()
        self._claim(intake)
        self._moves.pull(self._seed, intake)
        self._claim(intake)
        intake.finish()
        self._claim(intake)
        intake.close()
        store.close()

    def _claim(self, intake) -> None:
        held = intake.have.bits
        intake.claim()
        self.proven = held


def check_here(store: Store, layout, index: int) -> None:
    """The chunk is right in this very model: another one that has it too must not answer for it."""
    source = store._lender._at(layout.model_id, index, layout[index].digest)
    assert source is not None, f"chunk {index} is said to be here"
    data = bytearray(source.length)
    source.read_into(memoryview(data), 0)
    source.release()
    assert Digest.of(data) == layout[index].digest


@pytest.mark.simulated_disk
@pytest.mark.slow
@pytest.mark.parametrize("power", [True, False], ids=["power", "process"])
def test_every_call_of_a_fetch_that_borrows_may_be_the_last(moves, lineage, power):
    seed, base, tuned, base_files, tuned_files = lineage
    to, own = DATA / "models" / tuned.model_id.hex, DATA / "models" / base.model_id.hex
    with with_base(moves, lineage, 0) as disk:
        before = disk.calls
        Fetch(moves, lineage, disk.process()).go()
        calls = disk.calls - before
    assert calls > 60
    linked = tuned.have_map([0]).bits
    for number in range(calls):
        with with_base(moves, lineage, number) as disk:
            disk.stop_after(number)
            fetch = Fetch(moves, lineage, disk.process())
            with pytest.raises(P2PModelError):
                fetch.go()
            disk.cut_power() if power else disk.crash()
            store = Store.open(DATA, files=disk.process())
            store.prove()
            for layout in (base, tuned):
                for index in store.have_map(layout.model_id) or ():
                    check_here(store, layout, index)
            again = store.open_intake(tuned, range(len(tuned.files)), to)
            again.adopt()
            assert not fetch.proven & ~again.have.bits, "what a barrier has proven was lost"
            assert not (fetch.proven & linked and again.reused["linked"]), "and so was a name that was durable"
            assert moves.pull(seed, again) <= 9_000
            again.finish()
            again.close()
            assert disk.tree(to) == tuned_files and disk.tree(own) == base_files
            assert store.verify(base.model_id) == store.verify(tuned.model_id) == []
            store.close()
