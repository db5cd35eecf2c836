"""Which keys this node provides, and when each is to be announced: a plain object, times are monotonic seconds."""

from __future__ import annotations

import math
from collections.abc import Iterable

_GROWTH = 2.0
"""When the network has grown this much since keys were announced, half of their holders are no longer among the
nearest; then all are announced again. A network that grows to n nodes causes log2(n) rounds."""


class Announcements:
    """The kept-announced set. A key is *pending* until some other node holds it, and again when it is due."""

    def __init__(self, republish_s: float) -> None:
        self._republish_s = republish_s
        self._announced_at: dict[bytes, float] = {}
        self._pending: set[bytes] = set()
        self._busy: set[bytes] = set()
        self._eldest_at = math.inf
        """No later than the earliest time in `_announced_at`."""
        self._size_then = math.inf
        """The smallest the network was when any of the announced keys went out."""

    def __len__(self) -> int:
        return len(self._announced_at) + len(self._pending)

    def __contains__(self, key: bytes) -> bool:
        return key in self._announced_at or key in self._pending

    @property
    def pending(self) -> int:
        return len(self._pending)

    def add(self, keys: Iterable[bytes]) -> None:
        self._pending.update(key for key in keys if key not in self._announced_at)

    def remove(self, keys: Iterable[bytes]) -> list[bytes]:
        """Returns those that were provided, sorted."""
        removed = sorted({key for key in keys if key in self})
        for key in removed:
            self._announced_at.pop(key, None)
            self._pending.discard(key)
        return removed

    def clear(self) -> None:
        self._announced_at.clear()
        self._pending.clear()

    def announced(self, keys: Iterable[bytes], now: float, network_size: float) -> None:
        """Another node holds `keys` since `now`, when the network was estimated to have `network_size` nodes."""
        for key in keys:
            if key in self:
                self._pending.discard(key)
                self._announced_at[key] = now
        self._eldest_at = min(self._eldest_at, now)
        self._size_then = min(self._size_then, network_size)

    def grown(self, network_size: float) -> bool:
        """Make everything pending where the network has outgrown the holders. Says whether it did."""
        if not self._announced_at or network_size < _GROWTH * self._size_then:
            return False
        self._make_pending(list(self._announced_at))
        self._size_then = math.inf
        return True

    def take_due(self, now: float) -> list[bytes]:
        """The keys to announce now, sorted; the caller owes `give_back` for them."""
        if now - self._eldest_at >= self._republish_s:
            before = now - self._republish_s
            self._make_pending([key for key, at in self._announced_at.items() if at <= before])
            self._eldest_at = min(self._announced_at.values(), default=math.inf)
        due = sorted(self._pending - self._busy)
        self._busy.update(due)
        return due

    def take(self, keys: Iterable[bytes]) -> list[bytes]:
        """As `take_due`, for these keys whether due or not."""
        taken = sorted({key for key in keys if key in self})
        self._busy.update(taken)
        return taken

    def give_back(self, keys: Iterable[bytes]) -> None:
        self._busy.difference_update(keys)

    def lag_s(self, now: float) -> float:
        """For how long the eldest announcement has stood."""
        return max(0.0, now - self._eldest_at) if self._announced_at else 0.0

    def _make_pending(self, keys: list[bytes]) -> None:
        for key in keys:
            del self._announced_at[key]
        self._pending.update(keys)
