"""Single flight: callers who want the same thing at the same time share one piece of work and all of its progress.

The work lives as long as anybody waits for it: a caller who gives up takes only himself away, the last one ends it.
What is wanted of the same model but is not the same (other files, another place) comes after, and its callers are told
how far the first is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Generic, TypeVar

import msgspec

from p2pmodel.errors import InterruptedFetchError
from p2pmodel.model import ModelId
from p2pmodel.net import cancelled
from p2pmodel.peer.reports import Progress
from p2pmodel.peer.requests import OnProgress
from p2pmodel.peer.status import Transfer

L = TypeVar("L")
T = TypeVar("T")


class Flight(Generic[L, T]):
    """One piece of work. `lead` is what the first caller brought to do it with."""

    def __init__(self, model_id: ModelId, lead: L) -> None:
        self.model_id, self.lead = model_id, lead
        self.last: Progress | None = None
        """What was told last; None before its turn has come."""
        self.task: asyncio.Task[T]
        self._listeners: dict[object, OnProgress] = {}
        self._onlookers: dict[object, OnProgress] = {}

    def tell(self, progress: Progress) -> None:
        """Progress of the work itself."""
        self.last = progress
        self.pass_on(progress)

    def pass_on(self, progress: Progress) -> None:
        for listener in [*self._listeners.values(), *self._onlookers.values()]:
            listener(progress)

    def heard_by(self, caller: OnProgress) -> AbstractContextManager[None]:
        """Somebody waits for it: he is told what was told last, and all that follows."""
        return self._told(self._listeners, caller)

    def seen_by(self, onlooker: OnProgress) -> AbstractContextManager[None]:
        """Somebody wants to know how far it is, and does not keep it going."""
        return self._told(self._onlookers, onlooker)

    @contextmanager
    def _told(self, whom: dict[object, OnProgress], listener: OnProgress) -> Iterator[None]:
        key = object()
        whom[key] = listener
        try:
            if self.last is not None:
                listener(self.last)
            yield
        finally:
            del whom[key]

    @property
    def callers(self) -> int:
        """How many wait for it."""
        return len(self._listeners)


class Flights(Generic[L, T]):
    """What is under way in one peer, by what was asked for. On the event loop only."""

    def __init__(self) -> None:
        self._flights: dict[Hashable, Flight[L, T]] = {}
        self._tasks: dict[asyncio.Task[T], None] = {}
        """Those too that nobody waits for any more, and that have not ended yet."""
        self._stopped = False

    async def stop(self) -> None:
        """The peer stops: all work ends, and whoever waits for some gets `InterruptedFetchError`."""
        self._stopped = True
        await cancelled(self._tasks)

    def of(self, model_id: ModelId) -> list[Flight[L, T]]:
        """All that is under way for a model, the first of them at work and the others waiting for it."""
        return [flight for flight in self._flights.values() if flight.model_id == model_id]

    @property
    def under_way(self) -> list[Transfer]:
        """What is at work, and how far it is."""
        return [
            Transfer(model_id=flight.model_id.hex, progress=flight.last, callers=flight.callers)
            for flight in self._flights.values()
            if flight.last is not None
        ]

    def enter(
        self, key: Hashable, model_id: ModelId, lead: L, work: Callable[[Flight[L, T]], Coroutine[Any, Any, T]]
    ) -> tuple[Flight[L, T], bool]:
        """The flight that `key` stands for, begun where it is not under way; and whether another began it.

        `wait` has to follow at once. Raises `InterruptedFetchError` after `stop`.
        """
        if self._stopped:
            raise _stopped()
        if flight := self._flights.get(key):
            return flight, True
        flight = self._flights[key] = Flight(model_id, lead)
        task = flight.task = asyncio.get_running_loop().create_task(self._run(key, flight, work))
        self._tasks[task] = None
        task.add_done_callback(self._tasks.pop)
        return flight, False

    async def wait(self, key: Hashable, flight: Flight[L, T], on_progress: OnProgress) -> T:
        """Its result. Cancelled, it ends the flight if nobody else waits."""
        caller = asyncio.current_task()
        try:
            with flight.heard_by(on_progress):
                return await asyncio.shield(flight.task)
        except asyncio.CancelledError:
            if self._stopped and caller is not None and not caller.cancelling():
                raise _stopped() from None
            raise
        finally:
            if not flight.callers and not flight.task.done():
                if self._flights.get(key) is flight:
                    del self._flights[key]  # who comes now begins again, and finds what this one leaves
                await cancelled([flight.task])

    async def _run(
        self, key: Hashable, flight: Flight[L, T], work: Callable[[Flight[L, T]], Coroutine[Any, Any, T]]
    ) -> T:
        try:
            return await work(flight)
        finally:
            if self._flights.get(key) is flight:
                del self._flights[key]

    @contextmanager
    def following(self, flight: Flight[L, T]) -> Iterator[None]:
        """Pass the progress of the one before it on to those who wait for `flight`, with a word of why they wait."""
        before = next(iter(self.of(flight.model_id)), flight)
        if before is flight:  # those that came later follow it
            yield
            return

        def pass_on(progress: Progress) -> None:
            flight.pass_on(msgspec.structs.replace(progress, note="another fetch of this model comes first"))

        with before.seen_by(pass_on):
            yield


def _stopped() -> InterruptedFetchError:
    return InterruptedFetchError("the peer was stopped; what has arrived is kept, and the next fetch goes on")
