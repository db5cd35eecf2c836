"""A swarm at whose door a crowd stands: how many get in from where, and who leaves for whom.

Played on the simulated network, where every caller has the address that the test wants. No caller is ever told to go
that has something to do and does not belong to the crowd.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random

import pytest
from swarm_town import NETWORK, DictShelf, Hostile, Model

from p2pmodel.limits import (
    CONNECTION_IDLE_BYTES,
    CONNECTION_IDLE_S,
    CONNECTIONS_INCOMING_MAX,
    CONNECTIONS_PER_GROUP_MAX,
    CONNECTIONS_PER_HOST_MAX,
)
from p2pmodel.model import SecretKey
from p2pmodel.net import Address, Identity
from p2pmodel.swarm import Swarm, wire
from p2pmodel.testing.conditions import Conditions
from p2pmodel.testing.host import Host
from p2pmodel.testing.internet import Internet
from p2pmodel.testing.loop import run
from p2pmodel.testing.network import SimNetwork

pytestmark = pytest.mark.slow
SEED = Address("50.1.1.1", 700)


class Door:
    """One swarm that listens, and everybody who has called at it."""

    def __init__(self, internet: Internet) -> None:
        self.internet = internet
        self.model = Model(4, 200_000)
        self.callers: list[Hostile] = []
        self._hosts: dict[str, Host] = {}

    async def open(self) -> None:
        who = Identity(SecretKey.from_seed(bytes(32)), NETWORK)
        network = SimNetwork(self.internet, self.internet.host(SEED.host), who)
        shelf = DictShelf(self.model, self.model.all_bits)
        self.swarm = Swarm(key=who.key.public, network=network, shelf=shelf, rng=Random(1))
        await network.listen("0.0.0.0", SEED.port, self.swarm.accept)

    async def call(self, host: str) -> Hostile:
        number = len(self.callers) + 1
        who = Identity(SecretKey.from_seed(number.to_bytes(32, "big")), NETWORK)
        if host not in self._hosts:
            self._hosts[host] = self.internet.host(host)
        channel = await SimNetwork(self.internet, self._hosts[host], who).connect(SEED, None)
        caller = Hostile(channel)
        channel.start(caller)
        self.callers.append(caller)
        return caller

    async def crowd(self, count: int, host: Callable[[int], str]) -> list[Hostile]:
        callers = [await self.call(host(number)) for number in range(count)]
        await asyncio.sleep(1)
        return callers


def play(story) -> None:
    async def whole() -> None:
        door = Door(Internet(1, Conditions(latency_ms=(1, 1), jitter=0)))
        await door.open()
        await story(door)
        await door.swarm.stop()

    run(whole())


def inside(callers: list[Hostile]) -> int:
    return sum(caller.reason is None for caller in callers)


def test_one_address_and_one_group_get_so_many_places_and_others_still_come_in() -> None:
    async def story(door: Door) -> None:
        alone = await door.crowd(CONNECTIONS_PER_HOST_MAX + 10, lambda number: "60.1.1.1")
        assert inside(alone) == CONNECTIONS_PER_HOST_MAX
        group = await door.crowd(CONNECTIONS_PER_GROUP_MAX, lambda number: f"60.1.1.{2 + number % 200}")
        assert inside(alone + group) == CONNECTIONS_PER_GROUP_MAX
        assert inside(await door.crowd(1, lambda number: "60.1.2.1")) == 1

    play(story)


def test_a_crowd_of_few_groups_keeps_nobody_from_elsewhere_out_nor_puts_anybody_out() -> None:
    async def story(door: Door) -> None:
        first = await door.crowd(5, lambda number: f"70.{number}.1.1")
        flood = await door.crowd(600, lambda number: f"60.1.{number % 3}.{number // 3}")
        assert len(door.swarm.links) == CONNECTIONS_INCOMING_MAX
        late = await door.crowd(20, lambda number: f"80.{number}.1.1")
        assert inside(first) == 5 and inside(late) == 20
        assert inside(flood) == len(door.swarm.links) - 25 == CONNECTIONS_INCOMING_MAX - 25

    play(story)


def test_from_a_crowd_of_a_thousand_groups_the_idle_make_room_and_the_busy_stay() -> None:
    async def story(door: Door) -> None:
        [busy] = await door.crowd(1, lambda number: "70.1.1.1")
        for index, place in enumerate(door.model.layout):
            busy.say(wire.RequestChunk(index, door.model.id.raw, place.digest.raw, place.length))
        await asyncio.sleep(1)
        assert busy.channel.bytes_received > CONNECTION_IDLE_BYTES
        await door.crowd(CONNECTIONS_INCOMING_MAX - 1, lambda number: f"60.{number // 250}.{number % 250}.1")
        assert inside(await door.crowd(1, lambda number: "80.1.1.1")) == 0, "nobody has been idle for long"
        await asyncio.sleep(CONNECTION_IDLE_S)
        assert inside(await door.crowd(9, lambda number: f"90.{number}.1.1")) == 9
        assert busy.reason is None
        assert len(door.swarm.links) == CONNECTIONS_INCOMING_MAX

    play(story)


def test_who_calls_again_with_the_same_key_takes_its_own_place() -> None:
    async def story(door: Door) -> None:
        await door.crowd(CONNECTIONS_INCOMING_MAX, lambda number: f"60.{number // 250}.{number % 250}.1")
        door.callers.pop()
        again = await door.call("60.1.0.1")
        await asyncio.sleep(1)
        assert again.reason is None and len(door.swarm.links) == CONNECTIONS_INCOMING_MAX

    play(story)
