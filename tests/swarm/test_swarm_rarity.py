"""Rarity against the plain way of counting: a number for each chunk."""

from __future__ import annotations

from collections import Counter
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from p2pmodel.model.have_map import iter_bits
from p2pmodel.swarm.rarity import Rarity, random_bit

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

    @rule(among=BITS, seed=st.integers())
    def picks(self, among: int, seed: int) -> None:
        picked = self.rarity.rarest(among, Random(seed))
        if not among:
            assert picked is None
        else:
            fewest = min(self.holders[index] for index in iter_bits(among))
            assert among >> picked & 1 and self.holders[picked] == fewest

    @invariant()
    def counts_agree(self) -> None:
        assert [self.rarity.holders(index) for index in range(COUNT)] == [self.holders[i] for i in range(COUNT)]
        everything = (1 << COUNT) - 1
        assert set(iter_bits(self.rarity.unheld(everything))) == {i for i in range(COUNT) if not self.holders[i]}

    @invariant()
    def each_chunk_stands_at_one_level(self) -> None:
        union = 0
        for level in self.rarity._levels:
            assert not union & level
            union |= level
        assert union == (1 << COUNT) - 1


TestRarityAgainstACounter = RarityAgainstACounter.TestCase
TestRarityAgainstACounter.settings = settings(max_examples=30, stateful_step_count=25)


@given(st.integers(1, 1 << 200), st.integers())
def test_a_random_bit_is_a_set_bit(bits: int, seed: int) -> None:
    assert bits >> random_bit(bits, Random(seed)) & 1


def test_different_dice_pick_different_chunks() -> None:
    bits = (1 << 1000) - 1
    assert len({random_bit(bits, Random(seed)) for seed in range(50)}) > 40
