"""Sybil density: how often chance is taken for an attack, and an attack for chance."""

from __future__ import annotations

import random
from heapq import nsmallest

import pytest

from p2pmodel.overlay.density import NetworkSize, is_crowded, radius_for, too_near
from p2pmodel.overlay.package import ID_BITS

SPACE = 1 << ID_BITS


def nearest(rng: random.Random, nodes: list[int], count: int = 20) -> list[int]:
    place = rng.getrandbits(ID_BITS)
    return sorted(nsmallest(count, (node ^ place for node in nodes)))


def network(rng: random.Random, size: int) -> list[int]:
    return [rng.getrandbits(ID_BITS) for _ in range(size)]


@pytest.mark.slow
def test_fewer_than_one_clean_key_in_a_hundred_is_called_crowded_though_the_size_is_guessed_from_one_table() -> None:
    rng = random.Random(1)
    alarms = 0
    for _ in range(10):
        nodes = network(rng, 1000)
        for _ in range(100):
            guessed = 20 * SPACE / nearest(rng, nodes)[-1]
            alarms += is_crowded(nearest(rng, nodes), guessed)
    assert alarms <= 10


@pytest.mark.slow
def test_of_clean_keys_in_a_network_of_known_size_hardly_any_is_called_crowded() -> None:
    rng, alarms = random.Random(2), 0
    nodes = network(rng, 1000)
    size = NetworkSize()
    for _ in range(33):
        size.saw(20, nearest(rng, nodes)[-1], 0.0)
    assert 850 < size.estimate(1.0, 1.0) < 1150
    for _ in range(1000):
        alarms += is_crowded(nearest(rng, nodes), size.estimate(1000.0, 1.0))
    assert alarms <= 6


@pytest.mark.slow
@pytest.mark.parametrize("sybils", [20, 40])
def test_sybils_nearer_to_a_key_than_every_honest_node_are_noticed(sybils: int) -> None:
    rng = random.Random(3)
    nodes = network(rng, 1000)
    missed = 0
    for _ in range(1000):
        honest = nearest(rng, nodes)
        guessed = 20 * SPACE / nearest(rng, nodes)[-1]
        placed = sorted([rng.randrange(honest[0]) for _ in range(sybils)] + honest)
        missed += not is_crowded(placed, guessed)
    assert missed <= 10


def test_a_small_or_unknown_network_is_never_crowded() -> None:
    assert not is_crowded([1] * 19, 1e6)
    assert not is_crowded([1] * 20, 39.0)
    assert is_crowded([1] * 20, 40.0)


def test_k_nodes_are_expected_within_the_radius_and_few_are_nearer_than_the_limit() -> None:
    rng, size = random.Random(4), 2000
    nodes = network(rng, size)
    counts = [sum(node ^ place <= radius_for(size, 20) for node in nodes) for place in network(rng, 40)]
    assert 18 < sum(counts) / len(counts) < 22
    assert too_near(size, 10) < too_near(size, 20) < radius_for(size, 20) == radius_for(size / 2, 10)
    assert radius_for(3.0, 20) == SPACE - 1


def test_a_minority_of_filled_places_does_not_move_the_size() -> None:
    rng = random.Random(5)
    nodes, size = network(rng, 1000), NetworkSize()
    for n in range(33):
        size.saw(20, nearest(rng, nodes)[-1] if n % 3 else 1 << 100, 0.0)
    assert 700 < size.estimate(1000.0, 1.0) < 1400
    assert size.estimate(77.0, 3601.0) == 77.0
    few = NetworkSize()
    few.saw(20, 1, 0.0)
    few.saw(5, 1, 0.0)
    assert few.estimate(123.0, 1.0) == 123.0
