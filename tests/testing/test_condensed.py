"""Condensed content: what stands for a chunk is carried in its place, costs its length, and nothing else passes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from p2pmodel.errors import CorruptChunkError, UsageError
from p2pmodel.limits import MIB
from p2pmodel.model import SecretKey, Statement, sign_statement
from p2pmodel.store import Store
from p2pmodel.testing.condensed import CondensedSource, CondensedStore, condensed_layout
from p2pmodel.testing.conditions import Conditions
from p2pmodel.testing.crowd import Crowd, Member
from p2pmodel.testing.internet import Internet
from p2pmodel.testing.liars import CorruptStore, Lie, add_liar
from p2pmodel.testing.loop import run

LAYOUT = condensed_layout(5 * MIB + 7, seed=3)
LINE = Conditions(latency_ms=(10, 10), jitter=0, upload_bytes_per_s=1e6, download_bytes_per_s=4e6)


def intake_of(store: CondensedStore):
    return store.open_intake(LAYOUT, [0], Path("/data/models/x"))


def test_a_layout_has_the_lengths_that_publishing_gives_and_content_that_differs_with_the_seed() -> None:
    assert [chunk.length for chunk in LAYOUT] == [MIB] * 5 + [7]
    assert LAYOUT.manifest.bytes_total == 5 * MIB + 7
    assert LAYOUT.model_id != condensed_layout(5 * MIB + 7, seed=4).model_id
    assert condensed_layout(2 * MIB, chunk_bytes=MIB)[1].length == MIB
    with pytest.raises(UsageError):
        condensed_layout(0)


def test_it_has_every_method_of_the_store_that_serving_and_fetching_use() -> None:
    unused = {"open", "publish", "verify", "remove", "model_at", "open_repair", "is_fetched", "pin", "unpin"}
    unused |= {"usage", "would_reuse", "forget_unused"}  # what `du`, a dry run and a cache ask
    unused |= {"find_seeds", "seed", "file_place", "enter", "published_roots"}  # files as such, which it has none of
    public = {name for name in vars(Store) if not name.startswith("_")}
    assert public - unused <= set(dir(CondensedStore()))


def test_a_seed_serves_every_chunk_at_its_true_length() -> None:
    store = CondensedStore()
    store.hold(LAYOUT)
    assert store.have_map(LAYOUT.model_id).whole
    for chunk in LAYOUT:
        source = store.chunk(chunk.digest)
        assert (source.condensed, source.length) == (chunk.digest.raw, chunk.length)
    assert store.model(LAYOUT.model_id).state == "published"
    assert list(store.digests(LAYOUT.model_id)) == [chunk.digest for chunk in LAYOUT]
    with pytest.raises(NotImplementedError):
        CondensedSource(b"x", 1).read_into(memoryview(bytearray(1)), 0)


def test_only_what_stands_for_the_chunk_is_kept_and_what_is_kept_is_served() -> None:
    store = CondensedStore()
    intake = intake_of(store)
    with pytest.raises(CorruptChunkError):
        intake.write(2, memoryview(LAYOUT[3].digest.raw))
    assert store.have_map(LAYOUT.model_id).held == 0
    assert store.chunk(LAYOUT[2].digest) is None
    assert intake.write(2, memoryview(LAYOUT[2].digest.raw)) == 1 << 2
    assert intake.write(2, memoryview(LAYOUT[2].digest.raw)) == 0
    assert store.chunk(LAYOUT[2].digest).length == MIB
    assert store.model(LAYOUT.model_id).state == "partial"
    with pytest.raises(AssertionError):
        intake.finish()


def test_a_second_fetch_finds_what_the_first_one_brought() -> None:
    store = CondensedStore()
    intake_of(store).write(5, memoryview(LAYOUT[5].digest.raw))
    again = intake_of(store)
    assert again.reused == {"resumed": 7}
    assert list(again.missing) == [0, 1, 2, 3, 4]


def test_bad_chunks_are_found_in_hindsight() -> None:
    store = CondensedStore()
    intake_of(store).write(0, memoryview(LAYOUT[0].digest.raw))
    assert store.bad_chunks(LAYOUT) == 0
    store.know(LAYOUT).held[1] = b"something else"
    assert store.bad_chunks(LAYOUT) == 1


def test_statements_are_kept_once_and_found_by_name() -> None:
    store, key = CondensedStore(), SecretKey.from_seed(b"k" * 32)
    signed = sign_statement(Statement(LAYOUT.model_id, 1_800_000_000, "llama", "main"), key)
    store.add_statement(signed)
    store.add_statement(signed)
    assert store.statements(LAYOUT.model_id) == [signed]
    assert store.find_name("llama", namespace=key.public) == [signed]
    assert store.find_name("llama", revision="other") == []


async def _two(lie: Lie | None = None, conditions: Conditions = LINE) -> tuple[Internet, Member, Member]:
    """One who has fetched the model, or tried to for a while, and one who has it or says so."""
    internet = Internet(1, conditions)
    crowd = Crowd(internet)
    here = await crowd.add(internet.host())
    there = await crowd.add(internet.host()) if lie is None else await add_liar(crowd, lie)
    await crowd.joined()
    await crowd.publish(there, LAYOUT)
    await asyncio.wait([crowd.fetch(here, LAYOUT)], timeout=300)
    return internet, here, there


def test_a_fetch_takes_what_its_bytes_take_on_the_line() -> None:
    async def story() -> None:
        internet, here, there = await _two()
        assert here.report.verified and here.report.bytes_fetched == LAYOUT.manifest.bytes_total
        assert here.store.have_map(LAYOUT.model_id).whole and not here.store.bad_chunks(LAYOUT)
        assert 1.0 < here.took_s / (LAYOUT.manifest.bytes_total / 1e6) < 1.1
        sent = there.host.upload.bytes_carried - LAYOUT.manifest.bytes_total
        assert 0 < sent < 2_000, "manifest and chunk list travel besides, in full"
        assert there.bytes_uploaded(internet.now) == there.host.upload.bytes_carried

    run(story())


def test_nothing_of_one_who_corrupts_is_kept_and_the_fetch_fails() -> None:
    async def story() -> None:
        _, here, there = await _two(Lie.CORRUPT)
        assert here.failure is not None and here.held_bits(LAYOUT) == 0
        assert isinstance(there.store, CorruptStore) and 0 < there.store.lies <= 4

    run(story())


@pytest.mark.slow
@pytest.mark.parametrize("lie", [Lie.BOAST, Lie.SLOW, Lie.STALL])
def test_one_who_boasts_or_stalls_brings_nothing_and_one_who_is_slow_a_few_bytes_at_most(lie: Lie) -> None:
    async def story() -> None:
        _, here, there = await _two(lie)
        assert here.report is None
        assert here.held_bits(LAYOUT) in ((0, 1 << 5) if lie is Lie.SLOW else (0,))
        assert there.store.have_map(LAYOUT.model_id).whole

    run(story())
