"""Reused buffers for bulk bytes: a bounded number, so that no crowd of peers can make us allocate without end.

A fresh megabyte costs its page faults again each time (measured: more than hashing it), so buffers are kept and lent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable


class BufferPool:
    """At most `count_max` buffers at once, each of one of the `sizes` (bytes, ascending) or just as long as asked."""

    def __init__(self, sizes: tuple[int, ...], count_max: int) -> None:
        self._sizes = sizes
        self._count_max = count_max
        self._lent = 0
        self._free: dict[int, list[bytearray]] = {size: [] for size in sizes}
        self._waiting: deque[Callable[[], None]] = deque()

    def lease(self, length: int) -> bytearray | None:
        """A buffer of at least `length` bytes, or None where all are lent."""
        if self._lent >= self._count_max:
            return None
        self._lent += 1
        for size in self._sizes:
            if length <= size:
                free = self._free[size]
                return free.pop() if free else bytearray(size)
        return bytearray(length)

    def release(self, buffer: bytearray) -> None:
        """Give a buffer back; whoever waited longest is called and may lease."""
        self._lent -= 1
        free = self._free.get(len(buffer))
        if free is not None:
            free.append(buffer)
        # Whoever is called may have lost interest, or lease, or have to wait again: then all buffers are lent.
        while self._waiting and self._lent < self._count_max:
            self._waiting.popleft()()

    def when_free(self, call: Callable[[], None]) -> None:
        """Call once, as soon as a buffer comes back. The caller leases again and may have to wait again."""
        self._waiting.append(call)
