"""Reused buffers for bulk bytes: a bounded amount, so that no crowd of peers can make us allocate without end.

A fresh megabyte costs its page faults again each time (measured: more than hashing it), so buffers are kept and lent.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from mmap import mmap
from typing import TYPE_CHECKING

from p2pmodel.limits import BULK_BYTES_PER_S_MIN, BULK_GRACE_S
from p2pmodel.net.tempo import Holders
from p2pmodel.net.threads import Mailbox, Threads

if TYPE_CHECKING:
    from p2pmodel.net.receiver import Receiver


Buffer = bytearray | mmap


class BufferPool:
    """At most `bytes_max` bytes of buffers, lent and kept, each of one of the `sizes` (ascending) or as long as asked.

    Each has `margin` bytes more than it counts for. Thread-safe. `bytes_max` is at least the longest buffer that will
    be asked for, or that one would never come.
    """

    def __init__(self, sizes: tuple[int, ...], bytes_max: int, *, margin: int = 0) -> None:
        self.lent_bytes = 0
        self._lock = threading.Lock()
        self._sizes = sizes
        self._bytes_max = bytes_max
        self._margin = margin
        self._kept_bytes = 0
        self._counted_bytes = 0
        """Of those that are lent, the ones that were blank."""
        self._free: dict[int, list[bytearray]] = {size: [] for size in sizes}
        self._waiting: list[Callable[[], None]] = []

    def lease(self, length: int) -> bytearray | None:
        """A buffer of at least `length` bytes, or None where too much is lent."""
        size = self._size(length)
        with self._lock:
            if not self._lend(size):
                return None
            free = self._free.get(size)
            if free:
                self._kept_bytes -= size
                return free.pop()
            self._make_room(size)
        return bytearray(size + self._margin)

    def blank(self, length: int) -> mmap:
        """A buffer of at least `length` bytes that counts for nothing: it takes memory as it is written, not before.

        Whoever writes much of it calls `count` first, and `release` only after that.
        """
        return mmap(-1, self._size(length) + self._margin)

    def count(self, blank: Buffer, part: float) -> bool:
        """From now on it is as if it had been leased; False where `lease` would give none.

        `part`: of all bytes, what those that were blank may have with this one; whatever it is, one of them may be.
        """
        size = len(blank) - self._margin
        with self._lock:
            if self._counted_bytes and self._counted_bytes + size > part * self._bytes_max:
                return False
            if not self._lend(size):
                return False
            self._counted_bytes += size
            self._make_room(size)
        return True

    def _size(self, length: int) -> int:
        size = next((size for size in self._sizes if length <= size), length)
        assert size <= self._bytes_max
        return size

    def _lend(self, size: int) -> bool:
        if self.lent_bytes and self.lent_bytes + size > self._bytes_max:
            return False
        self.lent_bytes += size
        return True

    def _make_room(self, size: int) -> None:
        for kept in self._free.values():
            while kept and self.lent_bytes + self._kept_bytes > self._bytes_max:
                self._kept_bytes -= len(kept.pop()) - self._margin

    def release(self, buffer: Buffer) -> None:
        """Give a buffer back; all who wait are called, who waited longest first, and may lease."""
        size = len(buffer) - self._margin
        with self._lock:
            self.lent_bytes -= size
            assert self.lent_bytes >= 0
            if not isinstance(buffer, bytearray):
                self._counted_bytes -= size
            elif (free := self._free.get(size)) is not None:
                free.append(buffer)
                self._kept_bytes += size
            waiting, self._waiting = self._waiting, []
        for call in waiting:
            call()

    def when_free(self, call: Callable[[], None]) -> None:
        """Call once, as soon as a buffer comes back, in the thread that brings it; at once where one may be free.

        The caller leases again and may have to wait again.
        """
        with self._lock:
            if self.lent_bytes:
                self._waiting.append(call)
                return
        call()


@dataclass(slots=True)
class Shared:
    """What all channels of one network share."""

    mail: Mailbox
    receiving: Threads
    """Each reads from one socket while bytes come in."""
    consuming: Threads
    """They verify and write what has come in, one for each CPU."""
    sending: Threads
    receive_buffers: BufferPool
    send_buffers: BufferPool
    scratch: bytearray
    holders: Holders[Receiver] = field(default_factory=Holders)
    """Whose answers stand in `receive_buffers` while they come in."""
    queued_bytes: int = 0
    """Of messages that have not left yet; the loop's."""


def patience_s(length: int) -> float:
    """How long an answer of this length may hold a buffer."""
    return BULK_GRACE_S + length / BULK_BYTES_PER_S_MIN
