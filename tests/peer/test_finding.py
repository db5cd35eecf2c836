"""Goal: a finder dials whom it may, and no more than its limits, whatever it is told. Method: a real finder between a
swarm and an overlay that record what they are asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from p2pmodel.errors import PeerGoneError
from p2pmodel.limits import DIALS_WAITING_MAX, SUGGESTED_DIALS_MAX
from p2pmodel.model import PublicKey, SecretKey
from p2pmodel.net import Address
from p2pmodel.overlay import Provider
from p2pmodel.peer.finding import Finder, _Turns

STRANGER = SecretKey.from_seed(bytes(32)).public


@dataclass
class Clock:
    now: float = 0.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now


@dataclass
class Overlay:
    neighbour: Address
    provided: list[Address] = field(default_factory=list)
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    def neighbours(self) -> list[tuple[PublicKey, Address]]:
        return [(STRANGER, self.neighbour)]

    async def providers(self, key: bytes) -> AsyncIterator[Provider]:
        for address in self.provided:
            yield Provider(STRANGER, address, 0.0)
        self.asked.set()


@dataclass
class Swarm:
    """Nobody ever answers; who was dialled is kept."""

    refuses_at_once: bool = True
    links: dict[PublicKey, object] = field(default_factory=dict)
    dialled: list[Address] = field(default_factory=list)

    async def connect(self, address: Address, peer: PublicKey | None, greeting: object = None) -> None:
        self.dialled.append(address)
        if not self.refuses_at_once:
            await asyncio.Event().wait()
        raise PeerGoneError("nobody is there")


def finder(overlay: Overlay, swarm: Swarm, clock: Clock, **options) -> Finder:  # type: ignore[no-untyped-def]
    return Finder(b"k" * 20, overlay=overlay, swarm=swarm, clock=clock, **options)  # type: ignore[arg-type]


async def settle() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("neighbour", "provider", "dialled"),
    [
        ("1.1.1.1:1", "127.0.0.1:9", False),
        ("1.1.1.1:1", "192.168.1.4:9", False),
        ("1.1.1.1:1", "8.8.4.4:9", True),
        ("192.168.1.9:1", "192.168.1.4:9", True),
        ("192.168.1.9:1", "127.0.0.1:9", False),
        ("127.0.0.1:1", "127.0.0.1:9", True),
    ],
)
async def test_the_overlay_cannot_make_it_knock_nearer_than_its_neighbours_are(
    neighbour: str, provider: str, dialled: bool
) -> None:
    near = Address.parse(neighbour)
    overlay, swarm = Overlay(near, [Address.parse(provider)]), Swarm()
    async with finder(overlay, swarm, Clock()):
        await overlay.asked.wait()
        await settle()
    assert (Address.parse(provider) in swarm.dialled) is dialled


async def test_peers_named_without_end_cost_a_bounded_number_of_dials() -> None:
    overlay, swarm, clock = Overlay(Address.parse("127.0.0.1:1")), Swarm(), Clock()
    async with finder(overlay, swarm, clock) as found:
        for number in range(4 * SUGGESTED_DIALS_MAX):
            found.suggest([(STRANGER, Address("127.0.0.1", 1000 + number))])
            await settle()
    assert len(swarm.dialled) <= SUGGESTED_DIALS_MAX


async def test_dials_that_nobody_answers_wait_in_a_bounded_queue() -> None:
    overlay, swarm, clock = Overlay(Address.parse("127.0.0.1:1")), Swarm(refuses_at_once=False), Clock()
    async with finder(overlay, swarm, clock) as found:
        found.suggest([(STRANGER, Address("127.0.0.1", 1000 + number)) for number in range(500)])
        await settle()
        assert len(found._tasks) <= DIALS_WAITING_MAX


async def test_of_those_that_wait_for_a_turn_the_nearest_is_dialled_first() -> None:
    turns, order = _Turns(1), []

    async def dial(name: str, scope: int) -> None:
        async with turns.of(scope):
            order.append(name)
            await asyncio.sleep(0)

    dials = [("first", 0), ("far", 0), ("lan", 1), ("gone", 2), ("farther", 0), ("here", 2)]
    tasks = {name: asyncio.get_running_loop().create_task(dial(name, scope)) for name, scope in dials}
    await asyncio.sleep(0)
    tasks.pop("gone").cancel()
    await asyncio.gather(*tasks.values())
    assert order == ["first", "here", "lan", "far", "farther"]
    async with turns.of(0):
        order.append("later")
    assert order[-1] == "later", "every turn was given back"


async def test_an_address_that_does_not_answer_is_not_dialled_again_at_once() -> None:
    overlay, swarm, clock = Overlay(Address.parse("127.0.0.1:1")), Swarm(), Clock()
    async with finder(overlay, swarm, clock) as found:
        for _ in range(3):
            found.suggest([(STRANGER, Address("127.0.0.1", 9))])
            await settle()
        assert len(swarm.dialled) == 1
        clock.now = 60.0
        found.suggest([(STRANGER, Address("127.0.0.1", 9))])
        await settle()
    assert len(swarm.dialled) == 2


async def test_who_was_named_by_hand_is_dialled_however_many_connections_there_are_and_nobody_else() -> None:
    swarm, named = Swarm(), Address("80.1.1.1", 1)
    overlay = Overlay(Address("80.9.9.9", 9), provided=[Address("80.2.2.2", 2)])
    opened = finder(overlay, swarm, Clock(), direct=[named])
    opened.enough = lambda: True
    async with opened:
        opened.suggest([(STRANGER, Address("80.3.3.3", 3))])
        await settle()
    assert swarm.dialled == [named]


async def test_who_was_named_while_there_were_enough_is_dialled_once_there_are_not() -> None:
    """In a crowd many connections end a moment after they were opened, and nobody is named anew then."""
    overlay, swarm, enough = Overlay(Address.parse("127.0.0.1:1")), Swarm(), True
    async with finder(overlay, swarm, Clock()) as found:
        found.enough = lambda: enough
        found.suggest([(STRANGER, Address("127.0.0.1", 1000 + number)) for number in range(500)])
        found.fill_up()
        await settle()
        assert not swarm.dialled
        enough = False
        found.fill_up()
        await settle()
        assert 0 < len(swarm.dialled) < DIALS_WAITING_MAX
        assert swarm.dialled[0] == Address("127.0.0.1", 1499), "who was named last is the likeliest to need us too"
        for _ in range(20):
            found.fill_up()
            await settle()
        assert len(swarm.dialled) == DIALS_WAITING_MAX, "of endlessly many some are kept"


async def test_it_is_dialing_only_while_a_connection_that_was_begun_may_come_about() -> None:
    """Else whoever asks for a name waits for as long as for one that nobody has."""
    overlay, swarm = Overlay(Address.parse("127.0.0.1:1"), []), Swarm(refuses_at_once=False)
    async with finder(overlay, swarm, Clock()) as looking:
        await overlay.asked.wait()
        await settle()
        assert looking.rounds == 1
        assert not looking.dialing
        looking.ask_also([Address.parse("127.0.0.1:9")])
        await settle()
        assert looking.dialing
