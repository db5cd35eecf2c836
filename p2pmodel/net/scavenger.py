"""How much a connection in the background may have under way, so that it takes only what others leave of a line.

LEDBAT (RFC 6817), and where we receive, rLEDBAT (RFC 9840): a queue before the narrow place shows in the round trip
before anything is lost. The window grows while the round trip is less than `target_s` above the shortest one seen of
late, and shrinks while it is more, or where something was lost: whoever fills the queue has the line. As in LEDBAT++ it
shrinks by a part and not by a segment. It grows so too, for by one segment in a round trip a long path would not be
filled in minutes; but slowly as long as the last sign of others is recent, for who has lost a segment because of us
takes seconds to come back. A plain object; times are monotonic seconds.
"""

from __future__ import annotations

from collections import deque

from p2pmodel.limits import YIELD_TARGET_S, YIELD_TARGET_S_MIN, YIELD_WINDOW_BYTES_MIN, YIELD_WINDOW_BYTES_START

_START_GROWTH = 0.5
"""Of the window, at each decision, while there is no queue: until there was one for the first time,"""
_CALM_GROWTH = 0.1
"""when nobody else has shown for `_CALM_S`, and right after somebody has: in between, in between."""
_WARY_GROWTH = 0.01
_CALM_S = 4.0
_SHRINK_MAX = 0.5
_LEFT_BY_LOSS = 0.3
"""Others have lost then too, and come back from 0.7 of what they had (CUBIC) in seconds."""
_USED = 0.5
"""A window of which less than this was used has shown nothing, and does not grow."""
_BASE_SPAN_S, _BASE_SPANS = 20.0, 6
"""The shortest round trip is that of the last two minutes: paths change."""
_PAUSE_ROUND_TRIPS, _PAUSE_S_MIN = 2.0, 0.06
"""Between decisions: some samples, of which the shortest counts, for what is late once is no queue."""


class Scavenger:
    """One direction of one connection. `paced`: the window is not offered, but sent at an even rate (`bytes_per_s`)."""

    def __init__(self, target_s: float = YIELD_TARGET_S, *, paced: bool = False) -> None:
        self._paced = paced
        self.window_bytes = float(YIELD_WINDOW_BYTES_START)
        self._target_s = target_s
        self._bases: deque[tuple[float, float]] = deque(maxlen=_BASE_SPANS)
        """The shortest round trip of each span of time, with when that began."""
        self._decided_at: float | None = None
        self._shortest_s = 0.0
        """Since then."""
        self._moved_bytes = self._lost = 0
        self._met_at: float | None = None
        """When others last showed; None: never yet."""

    @property
    def base_s(self) -> float:
        """The shortest round trip of late."""
        return min((shortest for _, shortest in self._bases), default=self._shortest_s)

    @property
    def bytes_per_s(self) -> float:
        """A window for each round trip of the length that we may cause: so the rate does not swing with the queue."""
        return self.window_bytes / (self.base_s + self.target_s)

    @property
    def target_s(self) -> float:
        """No more than the path itself: who has only as much under way as that needs (BBR) loses to a longer queue."""
        return max(min(self.base_s, self._target_s), YIELD_TARGET_S_MIN)

    def decide(self, now: float, round_trip_s: float, moved_bytes: int, lost: int) -> float:
        """The window from now on. So much has moved, and so many segments were lost, in all. Asked often."""
        if round_trip_s <= 0:
            return self.window_bytes
        if self._decided_at is None:
            self._begin(now, round_trip_s, moved_bytes, lost)
            return self.window_bytes
        self._shortest_s = min(self._shortest_s, round_trip_s)
        elapsed_s = now - self._decided_at
        if elapsed_s < max(_PAUSE_ROUND_TRIPS * self._shortest_s, _PAUSE_S_MIN):
            return self.window_bytes
        moved, lost_now, shortest_s = moved_bytes - self._moved_bytes, lost - self._lost, self._shortest_s
        self._begin(now, round_trip_s, moved_bytes, lost)
        if moved:  # or what was measured includes the time in which nobody had anything to send
            self._note(now, shortest_s)
            possible = self.bytes_per_s if self._paced else self.window_bytes / round_trip_s
            used = moved / elapsed_s >= _USED * possible
            self._step(now, shortest_s - self.base_s, lost_now > 0, used)
        return self.window_bytes

    def _begin(self, now: float, round_trip_s: float, moved_bytes: int, lost: int) -> None:
        self._decided_at, self._shortest_s, self._moved_bytes, self._lost = now, round_trip_s, moved_bytes, lost

    def _note(self, now: float, round_trip_s: float) -> None:
        if not self._bases or now - self._bases[-1][0] >= _BASE_SPAN_S:
            self._bases.append((now, round_trip_s))
        elif round_trip_s < self._bases[-1][1]:
            self._bases[-1] = self._bases[-1][0], round_trip_s

    def _step(self, now: float, delay_s: float, lost: bool, used: bool) -> None:
        over = delay_s / self.target_s - 1.0
        if lost or over > 0:
            self._met_at = now
            self.window_bytes *= _LEFT_BY_LOSS if lost else 1.0 - min(over / 2, _SHRINK_MAX)
        elif used:
            self.window_bytes *= 1.0 + self._growth(now, over) * -over
        self.window_bytes = max(self.window_bytes, YIELD_WINDOW_BYTES_MIN)

    def _growth(self, now: float, over: float) -> float:
        if self._met_at is None:
            if over <= -0.5:
                return _START_GROWTH
            self._met_at = now - _CALM_S
        calm = min((now - self._met_at) / _CALM_S, 1.0)
        return _WARY_GROWTH + (_CALM_GROWTH - _WARY_GROWTH) * calm
