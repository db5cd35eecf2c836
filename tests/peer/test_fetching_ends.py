"""Goal: a fetch whose only holders do not give what they say they hold ends in time, and says what is kept. Method:
whole peers on simulated hosts, one of which lies; time is virtual.
"""

from __future__ import annotations

import asyncio

import pytest

from p2pmodel.errors import NoPeersError
from p2pmodel.limits import FETCH_STALL_S, REQUEST_DEADLINE_MAX_S
from p2pmodel.peer.finding import Finder
from p2pmodel.testing import run
from p2pmodel.testing.condensed import condensed_layout
from p2pmodel.testing.conditions import Conditions
from p2pmodel.testing.crowd import Crowd, Member
from p2pmodel.testing.internet import Internet
from p2pmodel.testing.keys import quick_keys
from p2pmodel.testing.liars import Lie, add_liar

MIB = 1 << 20


async def fetched_from(lies: list[Lie], *, honest: int = 0) -> tuple[Member, float]:
    """Who has tried to fetch a model of 64 chunks, and how long it took in virtual seconds."""
    internet = Internet(3, Conditions(latency_ms=(10, 30), upload_bytes_per_s=10e6, download_bytes_per_s=50e6))
    crowd, layout = Crowd(internet), condensed_layout(64 * MIB)
    entry = await crowd.add(internet.host())
    holders = [await add_liar(crowd, lie) for lie in lies]
    holders += [await crowd.add(internet.host()) for _ in range(honest)]
    leech = await crowd.add(internet.host())
    leech.store.know(layout)
    await crowd.joined()
    for holder in holders:
        await crowd.publish(holder, layout)
    await asyncio.sleep(5)
    began = internet.now
    await crowd.fetch(leech, layout)
    took_s = internet.now - began
    assert not entry.held_bits(layout)
    return leech, took_s


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lies", "within_s"),
    [
        ([Lie.BOAST], 2 * FETCH_STALL_S),
        ([Lie.STALL], 2 * FETCH_STALL_S + 2 * REQUEST_DEADLINE_MAX_S),
        ([Lie.CORRUPT], 2 * FETCH_STALL_S),
        ([Lie.BOAST, Lie.STALL, Lie.CORRUPT], 2 * FETCH_STALL_S + 2 * REQUEST_DEADLINE_MAX_S),
    ],
)
def test_a_fetch_that_nobody_serves_ends_though_somebody_goes_on_saying_that_he_holds_it(
    lies: list[Lie], within_s: float
) -> None:
    with quick_keys():
        leech, took_s = run(fetched_from(lies))
    assert isinstance(leech.failure, NoPeersError)
    assert FETCH_STALL_S <= took_s <= within_s


@pytest.mark.slow
def test_a_slow_liar_keeps_nobody_from_the_honest_one() -> None:
    with quick_keys():
        leech, took_s = run(fetched_from([Lie.SLOW, Lie.STALL, Lie.BOAST, Lie.CORRUPT], honest=1))
    assert leech.failure is None
    assert took_s < 1.5 * 64 * MIB / 10e6


@pytest.mark.slow
def test_a_fetch_looks_every_second_whether_those_who_were_not_needed_are_needed_now(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What such a look does is tested with the finder; in a crowd nothing else brings them back."""
    looks, fill_up = 0, Finder.fill_up

    def counted(finder: Finder) -> None:
        nonlocal looks
        looks += 1
        fill_up(finder)

    monkeypatch.setattr(Finder, "fill_up", counted)
    with quick_keys():
        leech, took_s = run(fetched_from([], honest=1))
    assert leech.failure is None
    assert looks >= took_s > 1
