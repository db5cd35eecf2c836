"""Reused buffers for bulk bytes: a bounded amount, so that no crowd of peers can make us allocate without end.

A fresh megabyte costs its page faults again each time (measured: more than hashing it), so buffers are kept and lent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass

from p2pmodel.limits import BULK_BYTES_PER_S_MIN, BULK_GRACE_S


class BufferPool:
    """At most `bytes_max` bytes of buffers, lent and kept, each of one of the `sizes` (ascending) or as long as asked.

    `bytes_max` is at least the longest buffer that will be asked for, or that one would never come.
    """

    def __init__(self, sizes: tuple[int, ...], bytes_max: int) -> None:
        self.lent_bytes = 0
        self._sizes = sizes
        self._bytes_max = bytes_max
        self._kept_bytes = 0
        self._free: dict[int, list[bytearray]] = {size: [] for size in sizes}
        self._waiting: deque[Callable[[], None]] = deque()

    def lease(self, length: int) -> bytearray | None:
        """A buffer of at least `length` bytes, or None where too much is lent."""
        size = next((size for size in self._sizes if length <= size), length)
        assert size <= self._bytes_max
        if self.lent_bytes + size > self._bytes_max:
            return None
        self.lent_bytes += size
        free = self._free.get(size)
        if free:
            self._kept_bytes -= size
            return free.pop()
        self._make_room(size)
        return bytearray(size)

    def _make_room(self, size: int) -> None:
        for kept in self._free.values():
            while kept and self.lent_bytes + self._kept_bytes > self._bytes_max:
                self._kept_bytes -= len(kept.pop())

    def release(self, buffer: bytearray) -> None:
        """Give a buffer back; whoever waited longest is called and may lease."""
        size = len(buffer)
        self.lent_bytes -= size
        assert self.lent_bytes >= 0
        free = self._free.get(size)
        if free is not None:
            free.append(buffer)
            self._kept_bytes += size
        # Those who are called may lease, have lost interest, or find too little and wait again, behind the others.
        for _ in range(len(self._waiting)):
            if self.lent_bytes >= self._bytes_max or not self._waiting:
                return
            self._waiting.popleft()()

    def when_free(self, call: Callable[[], None]) -> None:
        """Call once, as soon as a buffer comes back. The caller leases again and may have to wait again."""
        self._waiting.append(call)


@dataclass(slots=True)
class Shared:
    """What all channels of one network share."""

    executor: Executor
    receive_buffers: BufferPool
    send_buffers: BufferPool
    scratch: bytearray


def patience_s(length: int) -> float:
    """How long an answer of this length may hold a buffer."""
    return BULK_GRACE_S + length / BULK_BYTES_PER_S_MIN
