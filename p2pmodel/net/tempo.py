"""How fast answers come in, and what follows: who is worth a thread, and who gives up a buffer that others wait for.

Threads and receive buffers are few, and an answer that has begun holds one of each while it comes. A peer that begins
and then drips would hold them for minutes. Plain objects; times are monotonic seconds.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

from p2pmodel.limits import BULK_CROWDED_BYTES_PER_S, BULK_CROWDED_S

K = TypeVar("K", bound=Hashable)

_LOOK_S = 0.05
FAST_BYTES = 32 * 1024
"""In so long: below 0.6 MB/s an answer is read on the loop, a few reads for each record."""

_GULP_BYTES_MIN, _GULP_BYTES_MAX = 256 * 1024, 1024 * 1024
_GULP_QUICK_S, _GULP_SLOW_S = 0.001, 0.004


class Tempo:
    """Of one connection: `fast` says whether a thread may wait for its bytes. Belongs to whoever reads."""

    __slots__ = ("_before", "_since", "fast")

    def __init__(self) -> None:
        self.fast = True
        self._since = 0.0
        self._before = 0

    def begin(self, now: float, received: int, *, known: bool) -> None:
        """An answer begins: a peer that is `known` to bring some, and has been silent since, is not slow.

        One that has not brought any yet shows so much first: threads are few, and a crowd of those may begin at once.
        """
        self.fast = known
        self._since, self._before = now, received

    def pause(self) -> None:
        """Nothing came for as long as a thread waits."""
        self.fast = False

    def look(self, now: float, received: int) -> bool:
        """`received` counts all bytes of this connection so far. Returns `fast`."""
        if received - self._before >= FAST_BYTES:
            self.fast = True
        elif now - self._since >= _LOOK_S:
            self.fast = False
        else:
            return self.fast
        self._since, self._before = now, received
        return self.fast


class Gulp:
    """How many bytes of an answer are worth waking a thread for: what comes within some milliseconds."""

    __slots__ = ("bytes",)

    def __init__(self) -> None:
        self.bytes = _GULP_BYTES_MIN

    def waited(self, wait_s: float) -> None:
        """So long it took until about `bytes` had come, or until nobody waited any more."""
        if wait_s < _GULP_QUICK_S:
            self.bytes = min(2 * self.bytes, _GULP_BYTES_MAX)
        elif wait_s > _GULP_SLOW_S:
            self.bytes = max(self.bytes // 2, _GULP_BYTES_MIN)


class Holders(Generic[K]):
    """Who holds a buffer for an answer that is coming in, since when, and what had come in by then. Thread-safe."""

    def __init__(self) -> None:
        self._held: dict[K, tuple[float, int]] = {}

    def __len__(self) -> int:
        return len(self._held)

    def take(self, holder: K, now: float, received: int) -> None:
        self._held[holder] = now, received

    def let_go(self, holder: K) -> None:
        """A second call does nothing."""
        self._held.pop(holder, None)

    def slowest(self, now: float, received: dict[K, int]) -> K | None:
        """Who gives way: the slowest of those who have held one for a while and are slow; None where nobody is.

        `received` has what has come in from each of `holders` by now.
        """
        rates = {}
        for holder, (since, before) in list(self._held.items()):
            held_s = now - since
            if holder in received and held_s > BULK_CROWDED_S:
                rates[holder] = (received[holder] - before) / held_s
        slowest = min(rates, key=rates.__getitem__, default=None)
        return slowest if slowest is not None and rates[slowest] < BULK_CROWDED_BYTES_PER_S else None

    @property
    def holders(self) -> list[K]:
        return list(self._held)
