"""Goal: a seed that a crowd follows hears what its followers pass on, and only a seed hides anything.

Method: followers that write down what they are shown; the clock is set by hand, work for threads is done in place.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from swarm_town import DictShelf, Model

from p2pmodel.model import HaveMap, ModelId
from p2pmodel.swarm import wire
from p2pmodel.swarm.seeding import Seeding


class Follower:
    """A link whose peer asks for what it is shown."""

    asks = True

    def __init__(self) -> None:
        self.bits = 0
        self.on_held: Callable[[Any, HaveMap], None] | None = None
        self.heard_times = 0

    def tell_have(self, model_id: ModelId, bits: int) -> None:
        self.bits |= bits

    def show(self, model_id: ModelId, held: HaveMap, *, forget: bool) -> None:
        self.bits = held.bits if forget else self.bits | held.bits

    def hear(self, model_id: ModelId, on_held: Callable[[Any, HaveMap], None]) -> None:
        self.heard_times += self.on_held is None
        self.on_held = self.on_held or on_held

    def hear_no_more(self, model_id: ModelId) -> None:
        self.on_held = None


class House:
    """A peer that holds `bits` of a model, and its followers."""

    def __init__(self, bits: int | None = None) -> None:
        self.model = Model(count=40, chunk_bytes=10)
        self.now = 0.0
        self.held = HaveMap(40, self.model.all_bits if bits is None else bits)
        network = SimpleNamespace(clock=SimpleNamespace(monotonic=lambda: self.now), offload=self._offload)
        self.seeding = Seeding(DictShelf(self.model, self.held.bits), network, Random(1))

    @staticmethod
    async def _offload(work: Callable[..., Any], *args: Any) -> Any:
        return work(*args)

    async def follow(self, count: int) -> list[Follower]:
        followers = [Follower() for _ in range(count)]
        for follower in followers:
            follower.bits |= (await self.seeding.view(follower, self.model.id, self.held)).bits
        return followers

    def take(self, follower: Follower, index: int) -> bool:
        chunk = self.model.layout[index]
        request = wire.RequestChunk(1, self.model.id.raw, chunk.digest.raw, chunk.length, index)
        serves = self.seeding.serves(follower, request)
        if serves:
            self.seeding.sent(follower, request)
        return serves


async def test_a_seed_listens_to_a_crowd_of_its_followers_until_one_leaves() -> None:
    house = House()
    few = await house.follow(2)
    assert not any(follower.on_held for follower in few), "they are shown everything"
    more = await house.follow(3)
    assert all(follower.on_held for follower in [*few, *more])
    house.seeding.left(more[0], house.model.id)
    assert more[0].on_held is None


async def test_what_is_heard_to_be_passed_on_counts_and_a_have_map_of_another_length_does_not() -> None:
    house = House()
    a, b, _ = await house.follow(3)
    index = next(index for index in range(40) if house.take(a, index))
    seed = house.seeding._crowds[house.model.id].seed
    assert index in seed._alone
    b.on_held(b, HaveMap(80, (1 << 80) - 1))
    assert index in seed._alone
    b.on_held(b, HaveMap(40, 1 << index))
    assert index not in seed._alone


@pytest.mark.parametrize("part", [1, (1 << 39) - 1])
async def test_whoever_was_followed_while_it_held_a_part_hides_nothing_once_it_is_whole(part: int) -> None:
    house = House(bits=part)
    early = await house.follow(4)
    house.held = HaveMap(40, house.model.all_bits)
    late = await house.follow(4)
    assert all(follower.bits == house.model.all_bits for follower in late)
    assert not any(follower.on_held for follower in [*early, *late]), "and listens to nobody"
