"""When to announce again: as seldom as the profile says, more often where holders vanish sooner; and after failures.

No interval fits every network: in a quiet one Kubo's 22 hours lose nothing, and where half of the nodes leave in a
minute and a half a record must be renewed every minute. So a few holders are asked now and then whether they still
live. Deaths over the time watched give the rate at which holders vanish, hence how long a record can stand until too
few are left. Plain objects; times are seconds.
"""

from __future__ import annotations

_SURVIVORS = 0.67
"""The part of a key's holders that shall be left when it is announced again. Of 20 holders none is left then with
odds of 1 to 4 * 10**9, of 12 with odds of 1 to 600,000."""
_LIFE = 0.4
"""How much of a mean lifetime passes until so many are left: -ln `_SURVIVORS`."""
_MEMORY = 0.99
"""What a sample weighs when the next has come: about a hundred count."""
_DEATHS_MIN = 2.0
"""Fewer may be bad luck."""
_PROBE_MIN_S, _PROBE_MAX_S = 15.0, 300.0
_PROBE_PART = 8.0
_RETRY_S, _RETRY_MAX_S = 5.0, 300.0


class Retry:
    """When to go on with what could not be announced: ever later while nobody takes anything, up to five minutes."""

    def __init__(self) -> None:
        self._pause_s = _RETRY_S
        self._at = 0.0

    def due(self, now: float) -> bool:
        return now >= self._at

    def at_once(self) -> None:
        """Something is new: a key, or a neighbour who may take it."""
        self._at = 0.0

    def tried(self, stored: int, keys: int, now: float) -> None:
        """Of so many keys so many were taken by somebody."""
        if stored == keys:
            self._pause_s, self._at = _RETRY_S, 0.0
            return
        self._pause_s = _RETRY_S if stored else min(2 * self._pause_s, _RETRY_MAX_S)
        self._at = now + self._pause_s


class Pace:
    """Learns from probes of holders and says how long a round of announcing may take."""

    def __init__(self, interval_s: float, shortest_s: float) -> None:
        self._interval_s = interval_s
        self._shortest_s = min(shortest_s, interval_s)
        self._deaths = 0.0
        self._watched_s = 0.0

    def probed(self, alive: bool, since_s: float) -> None:
        """A holder that was heard from `since_s` ago has answered, or not."""
        self._deaths = self._deaths * _MEMORY + (not alive)
        self._watched_s = self._watched_s * _MEMORY + since_s

    @property
    def interval_s(self) -> float:
        if self._deaths < _DEATHS_MIN:
            return self._interval_s
        return min(max(_LIFE * self._watched_s / self._deaths, self._shortest_s), self._interval_s)

    @staticmethod
    def probe_after_s(since_start_s: float) -> float:
        """The time until the next probes: often while nothing is known, later every five minutes."""
        return min(max(since_start_s / _PROBE_PART, _PROBE_MIN_S), _PROBE_MAX_S)
