"""Whose answer leaves next, and how many at once: a plain object driven with `now` and a `Random`.

An upload slot is the turn to send one answer, or a few that leave within milliseconds. The peer that has been served
for the shortest time, of late, comes next; each fourth turn is drawn among all who wait (BitTorrent's optimistic slot),
and a newcomer counts as served like the average, so that coming back under another name gains nothing. Few slots,
because an answer that shares the line with many others is passed on that much later; as many as the measured capacity
fills. A peer that takes its answer far slower than is usual does not hold up the others: its slot is given on while it
goes on, and where very many do, the slowest of those that have had long enough is to be cut. A peer that takes from us
while we fetch as well, and gives nothing back, is served one answer at a time, when nobody else waits.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from random import Random
from typing import Generic, TypeVar

from p2pmodel.limits import CHUNK_BYTES, UPLOAD_SLOTS_MAX, UPLOAD_SLOTS_MIN, UPLOADS_MAX

K = TypeVar("K", bound=Hashable)
"""How a peer is named."""

_MEMORY_S = 20.0
"""Time served is forgotten with this time constant."""
_OPTIMISTIC_EVERY = 4
_SLOT_S = 0.25
"""With as many slots as fill the line for this long, no peer waits longer for the rest of a chunk."""
_PATIENCE_ANSWERS = 4.0
_PATIENCE_MIN_S, _PATIENCE_MAX_S = 0.25, 5.0
"""An answer that takes so many times as long as is usual, within these bounds, gives its slot on."""
_OVERSTAYED_S = 10.0
_TICK_S = 0.01


@dataclass(slots=True, eq=False)
class Turn(Generic[K]):
    """Answers of `length` bytes in all to `peer`: waiting, then in a slot."""

    peer: K
    length: int
    owing: bool = False
    begun_at: float | None = None


class _Capacity:
    """Bytes per second while at least one answer was on its way, over the last seconds."""

    def __init__(self) -> None:
        self._bytes = self._busy_s = self._mark = 0.0

    def advance(self, now: float, busy: bool) -> None:
        elapsed = max(now - self._mark, 0.0)
        self._mark = now
        if busy and elapsed:
            keep = math.exp(-elapsed / 2.0)
            self._bytes *= keep
            self._busy_s = self._busy_s * keep + elapsed

    def add(self, length: int) -> None:
        self._bytes += length

    @property
    def bytes_per_s(self) -> float:
        return self._bytes / self._busy_s if self._busy_s > 0 else 0.0


class Choker(Generic[K]):
    """`ask`, then `give` until nothing comes, then `done` for each that was given. `slots` None: as measured."""

    def __init__(self, rng: Random, slots: int | None = None) -> None:
        self._rng = rng
        self._fixed = slots
        self._waiting: dict[Turn[K], None] = {}
        self._owing: dict[Turn[K], None] = {}
        """Waiting too, of peers that take and do not give."""
        self._sending: dict[Turn[K], None] = {}
        self._served: dict[K, float] = {}
        """Seconds in a slot, each weighed by `_weight` of when it was: so none has to be made less as time goes on."""
        self._origin = 0.0
        self._given = 0
        self._usual_s = _PATIENCE_MIN_S
        self._capacity = _Capacity()

    @property
    def waiting(self) -> int:
        return len(self._waiting) + len(self._owing)

    @property
    def slots(self) -> int:
        if self._fixed is not None:
            return self._fixed
        fill = self._capacity.bytes_per_s * _SLOT_S / CHUNK_BYTES
        return min(max(int(fill), UPLOAD_SLOTS_MIN), UPLOAD_SLOTS_MAX)

    def sends_to(self, peer: K) -> bool:
        return any(turn.peer == peer for turn in self._sending)

    def ask(self, peer: K, length: int, *, owing: bool = False) -> Turn[K]:
        """This peer waits for its turn from now on; one that is `owing`, until nobody else waits."""
        if peer not in self._served:
            self._served[peer] = sum(self._served.values()) / max(len(self._served), 1)
        turn = Turn(peer, length, owing)
        (self._owing if owing else self._waiting)[turn] = None
        return turn

    def give(self, now: float) -> Turn[K] | None:
        """Whose turn it is now, if there is a slot."""
        waiting = self._waiting
        if not waiting and not any(turn.owing for turn in self._sending):
            waiting = self._owing
        if not waiting or len(self._sending) >= UPLOADS_MAX:
            return None
        if len(self._sending) >= self.slots and self._moving(now) >= self.slots:
            return None
        self._given += 1
        if self._given % _OPTIMISTIC_EVERY:
            turn = min(waiting, key=lambda turn: self._served.get(turn.peer, 0.0))
        else:
            turn = self._rng.choice(list(waiting))
        del waiting[turn]
        self._capacity.advance(now, bool(self._sending))
        self._sending[turn] = None
        turn.begun_at = now
        return turn

    def _moving(self, now: float) -> int:
        patience_s = self._patience_s
        return sum(now - (turn.begun_at or 0.0) < patience_s for turn in self._sending)

    @property
    def _patience_s(self) -> float:
        return min(max(_PATIENCE_ANSWERS * self._usual_s, _PATIENCE_MIN_S), _PATIENCE_MAX_S)

    def give_on_s(self, now: float) -> float | None:
        """When `give` should be asked again although nothing is done: how long until the next slot is given on."""
        if not self.waiting or not self._sending:
            return None
        begun = [at for turn in self._sending if now - (at := turn.begun_at or 0.0) < self._patience_s]
        return max(min(begun) + self._patience_s - now, _TICK_S) if begun else _PATIENCE_MAX_S

    def done(self, turn: Turn[K], now: float, *, sent: bool) -> None:
        """The answer has left, or will not; or nobody waits for it any more."""
        for waiting in (self._waiting, self._owing):
            if turn in waiting:
                del waiting[turn]
                return
        self._capacity.advance(now, bool(self._sending))
        del self._sending[turn]
        if turn.begun_at is None or not sent:
            return
        took_s = now - turn.begun_at
        self._capacity.add(turn.length)
        self._usual_s += 0.1 * (min(took_s, _PATIENCE_MAX_S) - self._usual_s)
        if turn.peer in self._served:
            self._served[turn.peer] += took_s * self._weight(now)

    def left(self, peer: K) -> None:
        """The peer is gone; its turns are done or will be."""
        self._served.pop(peer, None)

    def overstayed(self, now: float) -> K | None:
        """Who is to be cut, because everything is taken by those who do not read, and others wait."""
        if not self._waiting or len(self._sending) < UPLOADS_MAX:
            return None
        slowest = min(self._sending, key=lambda turn: turn.begun_at or 0.0)
        return slowest.peer if now - (slowest.begun_at or 0.0) > _OVERSTAYED_S else None

    def _weight(self, now: float) -> float:
        exponent = (now - self._origin) / _MEMORY_S
        if exponent > 20.0:
            for peer in self._served:
                self._served[peer] *= math.exp(-exponent)
            self._origin, exponent = now, 0.0
        return math.exp(exponent)
