"""Repeated chunks: whatever comes in whatever way, nobody waits for a chunk for which nothing is asked."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from swarm_town import Model

from p2pmodel.model.have_map import bits_of, iter_bits
from p2pmodel.swarm.twins import Twins


def same(model: Model, index: int) -> int:
    return bits_of([place.index for place in model.layout if place.digest == model.layout[index].digest])


def test_the_first_place_that_is_missing_is_asked_for_in_place_of_the_others() -> None:
    model = Model(count=9, different=3)
    twins = Twins(model.layout, model.all_bits & ~1)
    assert twins.asked_for(bits_of([6, 7, 8])) == bits_of([3, 1, 2])
    assert twins.filled_by(bits_of([1, 3])) == bits_of([1, 3, 4, 6, 7])
    assert twins.arrived(1) == (4, 7)
    assert twins.asked_for(bits_of([7, 8])) == bits_of([7, 2])


def test_who_holds_a_place_that_is_here_already_can_send_what_is_missing() -> None:
    model = Model(count=9, different=3)
    twins = Twins(model.layout, model.all_bits & ~1)
    assert twins.implied_by(bits_of([0])) == bits_of([3])
    assert twins.implied_by(bits_of([8])) == bits_of([2])
    assert twins.came_otherwise(bits_of([2, 5])) == {2: 8}
    assert twins.implied_by(bits_of([2, 5])) == bits_of([8])


class Pairs:
    """A layout of which each chunk stands at two places: all that a manifest can repeat."""

    def __init__(self, count: int) -> None:
        self.count = count

    def repeated(self) -> list[tuple[int, ...]]:
        return [(first, first + 1) for first in range(0, self.count, 2)]


def work_s(count: int) -> float:
    twins, every_first = Twins(Pairs(count), (1 << count) - 1), bits_of(range(0, count, 2))  # type: ignore[arg-type]
    began = time.process_time()
    twins.filled_by(every_first)
    assert len(twins.came_otherwise(every_first)) == count // 2
    return time.process_time() - began


@pytest.mark.slow
def test_a_manifest_that_repeats_every_chunk_costs_in_proportion_to_its_length() -> None:
    assert work_s(80_000) < 30 * min(work_s(10_000) for _ in range(3))  # eight times as long; 64 times if in its square


@given(
    different=st.integers(1, 6),
    here=st.integers(0, (1 << 12) - 1),
    steps=st.lists(st.tuples(st.booleans(), st.integers(0, (1 << 12) - 1)), max_size=12),
)
def test_for_whatever_is_missing_something_is_asked_that_is_missing_too(
    different: int, here: int, steps: list[tuple[bool, int]]
) -> None:
    model = Model(count=12, chunk_bytes=10, different=different)
    missing = model.all_bits & ~here
    twins = Twins(model.layout, missing)
    for over_the_network, bits in steps:
        asked_for = twins.asked_for(missing)
        for index in iter_bits(missing):
            assert asked_for & same(model, index)
        assert not asked_for & ~missing
        if over_the_network:
            for index in iter_bits(bits & asked_for):
                assert bits_of(twins.arrived(index)) | 1 << index == same(model, index) & missing
                missing &= ~same(model, index)
        else:
            twins.came_otherwise(bits)
            missing &= ~bits
