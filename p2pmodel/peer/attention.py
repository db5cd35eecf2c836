"""Time in which something could have been noticed: where this whole machine stands still, nobody else is late."""

from __future__ import annotations

from collections.abc import Callable

_LOOK_MAX_S = 0.2
"""What passes between two looks counts up to here."""


class Attention:
    """Seconds since the first look, as far as somebody looked on. `now` is a clock that only goes forward."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._looked_at, self._seconds = now(), 0.0

    def look(self) -> float:
        """How much it is; to be called more often than every 0.2 s while it is to grow."""
        now = self._now()
        self._seconds += min(now - self._looked_at, _LOOK_MAX_S)
        self._looked_at = now
        return self._seconds
