"""Single flight, by hand: one piece of work for all who want the same, for as long as one of them waits."""

import asyncio

import pytest

from p2pmodel.errors import InterruptedFetchError, NoSpaceError
from p2pmodel.model import Digest
from p2pmodel.peer.flights import Flights
from p2pmodel.peer.reports import Progress

MODEL = Digest(bytes(32))


class Kitchen:
    """Work that goes on until the test lets it end."""

    def __init__(self):
        self.flights = Flights()
        self.begun, self.cancelled = [], []
        self.may_end = asyncio.Event()

    async def ask(self, key="all", told=None):
        async def work(flight):
            self.begun.append(key)
            flight.tell(Progress(phase="transfer", bytes_done=len(self.begun)))
            try:
                with self.flights.following(flight):
                    await self.may_end.wait()
            except asyncio.CancelledError:
                self.cancelled.append(key)
                raise
            if key == "too much":
                raise NoSpaceError("no space")
            return f"{key} done"

        flight, joined = self.flights.enter(key, MODEL, None, work)
        return await self.flights.wait(key, flight, (told if told is not None else []).append), joined


async def started(*coroutines):
    tasks = [asyncio.ensure_future(one) for one in coroutines]
    for _ in range(5):
        await asyncio.sleep(0)
    return tasks


async def test_twenty_who_ask_for_the_same_have_it_made_once():
    kitchen = Kitchen()
    tasks = await started(*(kitchen.ask() for _ in range(20)))
    kitchen.may_end.set()
    assert [await task for task in tasks] == [("all done", False)] + [("all done", True)] * 19
    assert kitchen.begun == ["all"] and kitchen.flights.of(MODEL) == []


async def test_who_comes_later_hears_at_once_how_far_it_is():
    kitchen, told = Kitchen(), []
    first = await started(kitchen.ask())
    late = await started(kitchen.ask(told=told))
    assert [news.bytes_done for news in told] == [1]
    assert kitchen.flights.under_way[0].callers == 2
    kitchen.may_end.set()
    await asyncio.gather(*first, *late)


async def test_who_gives_up_takes_only_himself_away_and_the_last_one_ends_the_work():
    kitchen = Kitchen()
    first, second = await started(kitchen.ask(), kitchen.ask())
    first.cancel()
    await asyncio.wait([first])
    assert kitchen.cancelled == []
    second.cancel()
    await asyncio.wait([second])
    assert kitchen.cancelled == ["all"] and kitchen.flights.of(MODEL) == []


async def test_who_comes_while_abandoned_work_ends_has_it_made_again():
    kitchen = Kitchen()
    (first,) = await started(kitchen.ask())
    first.cancel()
    (second,) = await started(kitchen.ask())
    kitchen.may_end.set()
    assert await second == ("all done", False) and kitchen.begun == ["all", "all"]


async def test_an_error_is_everybody_s():
    kitchen = Kitchen()
    tasks = await started(kitchen.ask("too much"), kitchen.ask("too much"))
    kitchen.may_end.set()
    for task in tasks:
        with pytest.raises(NoSpaceError):
            await task


async def test_who_waits_for_another_s_work_on_the_model_is_told_how_far_that_is_and_why_he_waits():
    kitchen, told = Kitchen(), []
    first = await started(kitchen.ask("a"))
    other = await started(kitchen.ask("b", told))
    kitchen.flights.of(MODEL)[0].tell(Progress(phase="transfer", bytes_done=7))
    assert (told[-1].bytes_done, told[-1].note) == (7, "another fetch of this model comes first")
    kitchen.may_end.set()
    await asyncio.gather(*first, *other)


async def test_when_the_peer_stops_all_work_has_ended_and_who_waits_or_comes_later_is_told():
    kitchen = Kitchen()
    tasks = await started(kitchen.ask(), kitchen.ask(), kitchen.ask("little"))
    (leaving,) = await started(kitchen.ask("little"))
    leaving.cancel()
    await kitchen.flights.stop()
    assert sorted(kitchen.cancelled) == ["all", "little"] and kitchen.flights.of(MODEL) == []
    ends = await asyncio.gather(*tasks, leaving, return_exceptions=True)
    assert [type(end) for end in ends] == [InterruptedFetchError] * 3 + [asyncio.CancelledError]
    with pytest.raises(InterruptedFetchError):
        await kitchen.ask()
