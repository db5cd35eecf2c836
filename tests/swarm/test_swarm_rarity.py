"""Rarity against the plain way of counting: a number for each chunk."""

from __future__ import annotations

from collections import Counter
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from p2pmodel.model.have_map import iter_bits
from p2pmodel.swarm.rarity import FlippedBits, Rarity, random_bit, some_bits

COUNT = 20
BITS = st.integers(0, (1 << COUNT) - 1)


class RarityAgainstACounter(RuleBasedStateMachine):
    """Peers come with sets of chunks and go again."""

    peers = Bundle("peers")

    def __init__(self) -> None:
        super().__init__()
        self.rarity = Rarity(COUNT)
        self.holders: Counter[int] = Counter()

    @rule(target=peers, bits=BITS)
    def comes(self, bits: int) -> int:
        self.rarity.add(bits)
        self.holders.update(iter_bits(bits))
        return bits

    @rule(bits=consumes(peers))
    def goes(self, bits: int) -> None:
        self.rarity.remove(bits)
        self.holders.subtract(iter_bits(bits))

    @rule(among=BITS, count=st.integers(1, COUNT), seed=st.integers())
    def picks(self, among: int, count: int, seed: int) -> None:
        picked = self.rarity.rarest(among, count, Random(seed))
        assert len(picked) == len(set(picked)) <= count
        assert bool(picked) == bool(among)
        holders = [self.holders[index] for index in picked]
        assert holders == sorted(holders)
        assert all(among >> index & 1 for index in picked)
        rarer = [i for i in iter_bits(among) if i not in picked and picked and self.holders[i] < holders[-1]]
        assert not rarer

    @invariant()
    def counts_agree(self) -> None:
        assert [self.rarity.holders(index) for index in range(COUNT)] == [self.holders[i] for i in range(COUNT)]
        everything = (1 << COUNT) - 1
        assert set(iter_bits(self.rarity.unheld(everything))) == {i for i in range(COUNT) if not self.holders[i]}


TestRarityAgainstACounter = RarityAgainstACounter.TestCase
TestRarityAgainstACounter.settings = settings(max_examples=30, stateful_step_count=25)


@given(st.integers(1, 1 << 200), st.integers())
def test_a_random_bit_is_a_set_bit(bits: int, seed: int) -> None:
    assert bits >> random_bit(bits, Random(seed)) & 1


def test_different_dice_pick_different_chunks() -> None:
    bits = (1 << 1000) - 1
    assert len({random_bit(bits, Random(seed)) for seed in range(50)}) > 40


@settings(max_examples=200)
@given(st.sets(st.integers(0, 3000), min_size=1, max_size=80), st.integers(1, 70), st.integers())
def test_some_bits_are_set_bits_and_all_of_them_where_it_says_so(members: set[int], count: int, seed: int) -> None:
    some, all_of_them = some_bits(sum(1 << index for index in members), count, Random(seed))
    assert 1 <= len(some) == len(set(some)) <= count and set(some) <= members
    assert all_of_them == (set(some) == members)


def test_a_batch_of_one_peer_has_little_in_common_with_that_of_another() -> None:
    bits = (1 << 1000) - 1
    batches = [set(some_bits(bits, 16, Random(seed))[0]) for seed in range(20)]
    assert len(set.union(*batches)) > 200


@given(st.integers(0, (1 << 40) - 1), st.lists(st.lists(st.integers(0, 39), max_size=30), max_size=5))
def test_flipped_bits_are_those_of_flips_done_one_by_one(bits: int, rounds: list[list[int]]) -> None:
    flipped = FlippedBits(40, bits)
    for flips in rounds:
        for index in flips:
            flipped.flip(index)
            bits ^= 1 << index
        assert flipped.bits == bits
