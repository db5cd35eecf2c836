"""Chunks as they go out: ranges of open files whose identity is checked before and after each read.

Open files are kept, at most `OPEN_FILES_MAX`, and closed least recently used first; one that is being sent from stays
open until its source is released, so that deleting a model in the middle of a transfer breaks nothing.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from p2pmodel.errors import VerificationError
from p2pmodel.limits import OPEN_FILES_MAX
from p2pmodel.model import ChunkPlace
from p2pmodel.store.catalogue import Catalogue, Copy, KeptFile
from p2pmodel.store.files import Files, OpenFile

Key = tuple[int, int]
"""Copy number and file number."""


@dataclass(slots=True)
class _Entry:
    file: OpenFile
    users: int = 0
    dropped: bool = False


class OpenFiles:
    """A cache of open files. Thread-safe. What `acquire` returns must be given to `release`."""

    def __init__(self, capacity: int = OPEN_FILES_MAX) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()

    def acquire(self, key: Key, open_file: Callable[[], OpenFile | None]) -> _Entry | None:
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None:
                self._entries.move_to_end(key)
                entry.users += 1
                return entry
        file = open_file()
        if file is None:
            return None
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None:  # another thread was faster
                file.close()
            else:
                entry = self._entries[key] = _Entry(file)
            entry.users += 1
            self._shrink()
            return entry

    def release(self, entry: _Entry) -> None:
        with self._lock:
            entry.users -= 1
            if entry.dropped and not entry.users:
                entry.file.close()
            self._shrink()

    def drop(self, key: Key) -> None:
        """Forget a file; it is closed as soon as nobody uses it."""
        with self._lock:
            self._drop(key)

    def close(self) -> None:
        with self._lock:
            for key in list(self._entries):
                self._drop(key)

    def _drop(self, key: Key) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            entry.dropped = True
            if not entry.users:
                entry.file.close()

    def _shrink(self) -> None:
        if len(self._entries) <= self._capacity:
            return
        for key in [key for key, entry in self._entries.items() if not entry.users]:
            if len(self._entries) <= self._capacity:
                return
            self._drop(key)


class ChunkSource:
    """The bytes of one chunk on this disk, ready to be sent: what `net` calls a bulk source."""

    __slots__ = ("_entry", "_place", "_server", "copy", "length")

    def __init__(self, server: Server, entry: _Entry, copy: Copy, place: ChunkPlace) -> None:
        self._server, self._entry, self._place, self.copy = server, entry, place, copy
        self.length = place.length

    def open(self) -> bool:
        """Whoever made this has opened the file."""
        return True

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill `buffer` from `offset` of the chunk. Raises `VerificationError` where the file changed meanwhile."""
        count = self._entry.file.read_into(buffer, self._place.offset + offset)
        if count != len(buffer) or not self._server.is_unchanged(self._entry, self.copy, self._place.file_index):
            raise VerificationError(f"{str(self._entry.file.path)!r} changed while it was being served")

    def file_range(self) -> tuple[int, int] | None:
        """File descriptor and offset for `sendfile`; None where the file is not one of the system's."""
        fd = self._entry.file.fileno()
        return None if fd is None else (fd, self._place.offset)

    def release(self) -> None:
        self._server.open_files.release(self._entry)


class Server:
    """Opens chunks for reading, and marks the copy whose file is no longer what it was. Thread-safe."""

    def __init__(self, files: Files, catalogue: Catalogue) -> None:
        self.open_files = OpenFiles()
        self._files, self._catalogue = files, catalogue

    def open(self, copy: Copy, place: ChunkPlace) -> ChunkSource | None:
        """None where the file changed or vanished; the copy then carries a fault that says so."""
        entry = self._acquire(copy, place.file_index)
        if entry is None:
            with copy.moving:  # unless a fetch was just giving the file its final name
                entry = self._acquire(copy, place.file_index)
                kept = copy.file(place.file_index)
                if entry is None and kept is not None and kept.readable:
                    self._catalogue.mark(copy, kept.index, f"{str(kept.location)!r} has vanished")
        if entry is None:
            return None
        if not self.is_unchanged(entry, copy, place.file_index):
            self.open_files.release(entry)
            return None
        return ChunkSource(self, entry, copy, place)

    def _acquire(self, copy: Copy, file_index: int) -> _Entry | None:
        kept = copy.file(file_index)
        if kept is None or not kept.readable:
            return None
        return self.open_files.acquire((copy.number, file_index), lambda: self._files.open_file(kept.location))

    def is_unchanged(self, entry: _Entry, copy: Copy, file_index: int) -> bool:
        while True:
            kept = copy.file(file_index)
            if kept is None:
                return False
            status = entry.file.status()
            if kept.is_same(status.identity) and status.links:
                return True
            if copy.file(file_index) is kept:  # else a fetch has just moved it on: look again
                break
        self.open_files.drop((copy.number, file_index))
        self._catalogue.mark(copy, file_index, changed_text(kept))
        return False


def changed_text(kept: KeptFile) -> str:
    return f"{str(kept.location)!r} changed since it was hashed"
