"""A limit in bytes per second as a token bucket that may go into debt: who takes a chunk waits until it is paid.

A line of that rate delivers its first chunk after the time that it takes. So the first one waits as well, up to a
second: a minute at 1 MB/s then carries what it should, and not a chunk more.
"""

from __future__ import annotations

from p2pmodel.limits import CHUNK_BYTES

_BURST_S = 0.1
_FIRST_S = 1.0
_MOMENT_S = 1e-5
"""A shorter pause may be rounding, and one too short for the clock would be begun again for ever."""


class Pace:
    """`rate_bytes_per_s` None means no limit. Time is given by the caller (seconds, any origin, never backwards)."""

    def __init__(self, rate_bytes_per_s: float | None) -> None:
        self.rate_bytes_per_s = rate_bytes_per_s
        self._credit_bytes = 0.0
        self._last: float | None = None

    def change(self, rate_bytes_per_s: float | None) -> bool:
        """Another limit from now on. Says whether more is allowed than before: then nobody need wait on."""
        before, self.rate_bytes_per_s = self.rate_bytes_per_s, rate_bytes_per_s
        if before is None or rate_bytes_per_s is None:
            self._credit_bytes, self._last = 0.0, None  # what moved without a limit is no debt
        return before is not None and (rate_bytes_per_s is None or rate_bytes_per_s > before)

    def wait_s(self, now: float) -> float:
        """How long until something may be taken."""
        if self.rate_bytes_per_s is None:
            return 0.0
        burst = self.rate_bytes_per_s * _BURST_S
        if self._last is None:
            self._credit_bytes -= min(CHUNK_BYTES, self.rate_bytes_per_s * _FIRST_S)
        else:
            self._credit_bytes = min(self._credit_bytes + (now - self._last) * self.rate_bytes_per_s, burst)
        self._last = now
        wait_s = -self._credit_bytes / self.rate_bytes_per_s
        return wait_s if wait_s > _MOMENT_S else 0.0

    def spend(self, size_bytes: int) -> None:
        """Account for bytes whether or not it was their time."""
        self._credit_bytes -= size_bytes
