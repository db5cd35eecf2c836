"""What models take on a disk, by hash and by blocks: shared files count once, and what is there twice is said to be."""

from __future__ import annotations

import pytest

from p2pmodel.store.values import Extent

MIB = 1 << 20


@pytest.fixture
def family(shop):
    base = {"weights.bin": shop.dice.randbytes(3 * MIB), "head.bin": shop.dice.randbytes(MIB)}
    tuned = {**base, "head.bin": shop.dice.randbytes(2 * MIB)}
    return shop.published(base, "base"), shop.published(tuned, "tuned")


def lines(usage) -> dict:
    return {one.model_id: one for one in usage.models}


def close_to(value: int, expected: int) -> bool:
    """As many bytes, or a few blocks more: file systems keep some for themselves."""
    return expected <= value <= expected + 64 * 1024


def test_nothing_takes_nothing(shop):
    usage = shop.store().usage()
    assert usage.models == () and usage.bytes_on_disk == usage.bytes_apparent == usage.bytes_saved == 0


def test_a_linked_file_is_counted_once_and_what_it_saves_is_told(shop, moves, family):
    (seed, base), (tuner, tuned) = family
    store = shop.store()
    moves.fetch(seed, store, base.layout, store.directory / "models" / "a")
    moves.fetch(tuner, store, tuned.layout, store.directory / "models" / "b")
    usage = store.usage()
    one, other = lines(usage)[base.model_id], lines(usage)[tuned.model_id]
    assert (one.bytes_apparent, other.bytes_apparent, usage.bytes_apparent) == (4 * MIB, 5 * MIB, 9 * MIB)
    assert close_to(one.bytes_on_disk, 4 * MIB) and close_to(other.bytes_on_disk, 5 * MIB)
    assert close_to(one.bytes_own, MIB) and close_to(other.bytes_own, 2 * MIB)
    assert one.bytes_shared == other.bytes_shared == 3 * MIB
    assert close_to(usage.bytes_on_disk, 6 * MIB) and close_to(usage.bytes_saved, 3 * MIB)
    assert usage.bytes_repeated == 0


def test_what_was_copied_is_there_twice(shop, moves, family, tmp_path):
    (seed, base), (tuner, tuned) = family
    store = shop.store()
    moves.fetch(seed, store, base.layout, tmp_path / "a")
    moves.fetch(tuner, store, tuned.layout, tmp_path / "b")
    usage = store.usage()
    assert lines(usage)[base.model_id].bytes_shared == 3 * MIB == usage.bytes_repeated
    assert usage.bytes_saved == 0 and close_to(usage.bytes_on_disk, 9 * MIB)
    assert close_to(lines(usage)[base.model_id].bytes_own, 4 * MIB)


def test_the_same_model_in_two_places_is_there_twice_and_shares_with_no_other(shop, moves, family, tmp_path):
    (seed, base), _ = family
    store = shop.store()
    for place in ("a", "b"):
        moves.fetch(seed, store, base.layout, tmp_path / place)
    usage = store.usage()
    (line,) = usage.models
    assert line.bytes_apparent == 8 * MIB and line.bytes_shared == 0
    assert close_to(line.bytes_on_disk, 8 * MIB) and usage.bytes_repeated == 4 * MIB


def test_half_a_model_counts_as_far_as_it_is_here(shop, moves, family, tmp_path):
    (seed, base), _ = family
    store = shop.store()
    intake = store.open_intake(base.layout, range(2), tmp_path / "a")
    intake.adopt()
    moves.pull(seed, intake, [0])
    assert store.usage().bytes_apparent == MIB
    intake.close()


def test_blocks_that_a_file_system_says_are_shared_count_once(shop, moves, family, tmp_path, monkeypatch):
    (seed, base), (tuner, tuned) = family
    store = shop.store()
    moves.fetch(seed, store, base.layout, tmp_path / "a")
    moves.fetch(tuner, store, tuned.layout, tmp_path / "b")

    def extents(file):
        if file.path.name != "weights.bin":
            return [Extent(10 * MIB, file.status().identity.size, False)]
        return [Extent(0, 2 * MIB, True), Extent((4 if file.path.parent.name == "a" else 8) * MIB, MIB, False)]

    monkeypatch.setattr(store._files.sharing, "extents", extents)
    usage = store.usage()
    assert close_to(usage.bytes_saved, 2 * MIB) and close_to(usage.bytes_on_disk, 7 * MIB)
    assert close_to(lines(usage)[base.model_id].bytes_own, 2 * MIB)
    assert usage.bytes_repeated == 3 * MIB - usage.bytes_saved
