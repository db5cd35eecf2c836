"""What is known of one peer that can be asked: what it holds, what it owes, how fast it answers.

Estimates are for choosing between peers, so they are made to be wrong on the safe side: who is late is taken to stay
late for as long again, and who has never delivered to be slower than usual.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from p2pmodel.limits import (
    REFUSALS_IN_A_ROW_MAX,
    REQUEST_DEADLINE_MAX_S,
    REQUEST_DEADLINE_MIN_S,
    REQUEST_TURN_S,
    REQUEST_WINDOW_CHUNKS_MAX,
    REQUEST_WINDOW_CHUNKS_MIN,
    REQUEST_WINDOW_CHUNKS_START,
    WINDOW_ROUND_TRIPS,
)

_RATE_MEMORY_S = 1.0
"""Short enough to notice a stall, long enough to smooth over chunks."""
_PATIENCE = 4.0
"""A deadline, in multiples of the time that is expected."""
_UNPROVEN_SLOWER = 2.0
"""Who has not delivered is expected to take so much longer than others do."""
_AT_ONCE = 1.5
"""An answer within so many times the shortest has waited for nothing: the path carries more than is asked for."""
_LONG_QUEUED = 4.0
"""One that took so many times as long has waited for the others for most of it."""


class BusyRate:
    """Bytes per second while something was asked for, forgotten with time constant `_RATE_MEMORY_S`.

    A sum that decays, divided by decayed time: a burst does not look like speed, nor idleness like slowness.
    """

    __slots__ = ("_busy_s", "_bytes", "_mark")

    def __init__(self) -> None:
        self._bytes = self._busy_s = 0.0
        self._mark = 0.0

    def resume(self, now: float) -> None:
        """Something is asked for again, after nothing was."""
        self._mark = now

    def add(self, length: int, now: float) -> None:
        elapsed = max(now - self._mark, 0.0)
        self._mark = now
        keep = math.exp(-elapsed / _RATE_MEMORY_S)
        self._bytes = self._bytes * keep + length
        self._busy_s = self._busy_s * keep + elapsed

    @property
    def rate_bytes_per_s(self) -> float:
        return self._bytes / max(self._busy_s, 1e-3)


@dataclass(slots=True)
class Request:
    """A chunk that a peer owes."""

    index: int
    length: int
    asked_at: float
    deadline: float
    overdue: bool = False


@dataclass(slots=True)
class Source:
    """One peer. `requests` are in the order in which they were made, which is that in which peers answer."""

    nearness: int = 0
    """As `Address.scope`: 2 this machine, 1 a private network, 0 the internet."""
    bits: int = 0
    requests: dict[int, Request] = field(default_factory=dict)
    queued_bytes: int = 0
    arrivals: BusyRate = field(default_factory=BusyRate)
    rate_bytes_per_s: float = 0.0
    chunks_per_s: float = 0.0
    proven: bool = False
    """It has delivered a chunk that verified."""
    last_arrival: float | None = None
    response_s: float = float("inf")
    """The shortest time from a request to its verified chunk: the path and the chunk, without the queue."""
    window: int = REQUEST_WINDOW_CHUNKS_START
    snubbed: bool = False
    """It let a deadline pass and has sent nothing since."""
    lapses: int = 0
    """Times that it was late since it delivered last: each doubles the next deadline, for it may just be slow."""
    lapsed_at: float = float("-inf")
    refusals: int = 0
    """Chunks that it has refused since it delivered last."""
    paused_until: float = 0.0
    content_until: float = 0.0
    """Nothing of what others owe would come sooner from it, as of a moment ago."""
    batch: list[int] = field(default_factory=list)
    """Chunks picked for it in advance, the next one last."""
    batch_until: float = 0.0

    @property
    def empty_words(self) -> bool:
        """It says that it holds chunks, and has done nothing but refuse them."""
        return self.refusals > 0 and not self.proven

    # --- estimates -----------------------------------------------------------------------------------------------

    def expected_s(self, length: int, usual_s: float) -> float:
        """How long until something asked now would be here; `usual_s` is how long answers take elsewhere."""
        if self.rate_bytes_per_s <= 0:
            return usual_s
        return (self.queued_bytes + length) / self.rate_bytes_per_s

    def patience_s(self, length: int, usual_s: float) -> float:
        """How long a request may take that is made now."""
        patience_s = max(_PATIENCE * self.expected_s(length, usual_s), REQUEST_DEADLINE_MIN_S)
        return min(patience_s * 2.0 ** min(self.lapses, 8), REQUEST_DEADLINE_MAX_S)

    def deadline(self, request: Request, usual_s: float) -> float:
        """That of a request to a stranger, by what is usual by now: the first ones were made before that was known."""
        if self.proven:
            return request.deadline
        return request.asked_at + self.patience_s(request.length, usual_s)

    def brisk(self, now: float, within_s: float) -> bool:
        """Whether it delivers: in the last moment it has, or was asked. Who is asked for nothing will bring nothing."""
        if not self.proven or self.snubbed:
            return False
        head = next(iter(self.requests.values()), None)
        since = max(self.last_arrival or 0.0, 0.0 if head is None else head.asked_at)
        return now - since < within_s

    def ahead_of(self, index: int) -> tuple[int, int]:
        """Which of its answers this will be, counted from 0, and the bytes until its end."""
        ahead_bytes = 0
        for place, request in enumerate(self.requests.values()):
            ahead_bytes += request.length
            if request.index == index:
                return place, ahead_bytes
        raise KeyError(index)

    def remaining_s(self, ahead_bytes: int, usual_s: float, now: float) -> float:
        """How long until the first `ahead_bytes` of what it owes are here; it owes something.

        What is later than it should be is expected to be late for as long again, or to take half as long again.
        """
        head = next(iter(self.requests.values()))
        if self.rate_bytes_per_s <= 0:
            waited_s = now - head.asked_at
            return max(_UNPROVEN_SLOWER * usual_s * ahead_bytes / max(head.length, 1) - waited_s, waited_s / 2)
        waited_s = max(now - max(self.last_arrival or 0.0, head.asked_at), 1e-6)
        rate = min(self.rate_bytes_per_s, head.length / waited_s)
        late_s = waited_s - head.length / self.rate_bytes_per_s
        return max(ahead_bytes / rate - waited_s, waited_s / 2, late_s)

    # --- what happens --------------------------------------------------------------------------------------------

    def delivered(self, request: Request, now: float) -> None:
        self.arrivals.add(request.length, now)
        self.rate_bytes_per_s = self.arrivals.rate_bytes_per_s
        self.chunks_per_s = self.rate_bytes_per_s / max(request.length, 1)
        self.last_arrival, self.proven = now, True
        self.snubbed = False
        self.lapses = self.refusals = 0
        response_s = max(now - request.asked_at, 1e-4)
        before_s, self.response_s = self.response_s, min(self.response_s, response_s)
        self._open_window(request.length, response_s, before_s)

    def _open_window(self, length: int, response_s: float, before_s: float) -> None:
        """What the rate asks for; more, as in TCP's slow start, while answers come as soon as they can.

        The rate is that of a second, in which a path that has just been found to be wide was narrow most of the time.
        """
        path_bytes = self.rate_bytes_per_s * max(self.response_s * WINDOW_ROUND_TRIPS, REQUEST_TURN_S)
        chunks = path_bytes / max(length, 1) + REQUEST_WINDOW_CHUNKS_MIN
        # Doubling at most, so that one lucky sample does not queue a minute of work at a slow peer.
        target = min(int(chunks), 2 * self.window)
        if math.isinf(before_s):
            target = max(target, self.window)  # of one answer nobody knows whether it waited
        elif response_s <= _AT_ONCE * self.response_s:
            target = max(target, self.window + 1)
        elif response_s <= _LONG_QUEUED * self.response_s:
            target = max(target, self.window - 1)
        self.window = min(target, REQUEST_WINDOW_CHUNKS_MAX)

    def was_late(self, request: Request, now: float) -> None:
        if request.asked_at >= self.lapsed_at:
            self.lapses += 1
            self.lapsed_at = now
        if self.last_arrival is None or now - self.last_arrival > REQUEST_DEADLINE_MIN_S:
            self.snubbed = True
            self.window = REQUEST_WINDOW_CHUNKS_MIN

    def has_refused(self, now: float) -> None:
        """Each refusal after the first few makes the pause longer that it gets where others deliver."""
        self.refusals += 1
        if self.refusals >= REFUSALS_IN_A_ROW_MAX:
            pause_s = 2.0 ** min(self.refusals - REFUSALS_IN_A_ROW_MAX, 8)
            self.paused_until = now + min(pause_s, REQUEST_DEADLINE_MAX_S)
