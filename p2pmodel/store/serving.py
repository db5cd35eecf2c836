"""Chunks as they go out: read whole from open files, and checked, before a byte of them leaves.

The marks of the file are looked at before and after each read, and the bytes are hashed in the memory from which they
are sent: no program that writes meanwhile, no file system with coarse times and no bad sector can make other bytes
leave than those that were asked for. Where the kernel sends straight from the file (`hash_each_read` off), a chunk is
hashed only where something was done to the file since it was hashed as a whole, once for as long as nothing more is.

Open files are kept, at most `OPEN_FILES_MAX`, and closed least recently used first; one that is being sent from stays
open until its source is released, so that deleting a model in the middle of a transfer breaks nothing.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from p2pmodel.errors import P2PModelError, VerificationError
from p2pmodel.limits import (
    CHUNK_BYTES,
    CHUNK_BYTES_MAX,
    OPEN_FILES_MAX,
    RECORD_MARGIN_BYTES,
    SERVING_BUFFER_BYTES_MAX,
)
from p2pmodel.model import ChunkPlace
from p2pmodel.store.catalogue import Catalogue
from p2pmodel.store.copies import Copy, KeptFile
from p2pmodel.store.files import Files, OpenFile
from p2pmodel.store.values import FileIdentity, FileState

Key = tuple[int, int]
"""Copy number and file number."""
_SPARE_BYTES_MAX = 4 * CHUNK_BYTES_MAX


@dataclass(slots=True)
class Entry:
    file: OpenFile
    users: int = 0
    dropped: bool = False
    proven: set[int] = field(default_factory=set)
    """Chunks that were hashed while the file was as of `proven_at`, its last time of any change."""
    proven_at: int = 0


class OpenFiles:
    """A cache of open files. Thread-safe. What `acquire` returns must be given to `release`."""

    def __init__(self, capacity: int = OPEN_FILES_MAX) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()
        self._entries: OrderedDict[Key, Entry] = OrderedDict()

    def acquire(self, key: Key, open_file: Callable[[], OpenFile | None]) -> Entry | None:
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
                entry = self._entries[key] = Entry(file)
            entry.users += 1
            self._shrink()
            return entry

    def release(self, entry: Entry) -> None:
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


class _Buffers:
    """Memory for chunks on their way out, with `RECORD_MARGIN_BYTES` on both sides; what comes back is lent again.

    Thread-safe.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lent_bytes = self._spare_bytes = 0
        self._free: dict[int, list[memoryview]] = {CHUNK_BYTES: [], CHUNK_BYTES_MAX: []}

    def lease(self, length: int) -> memoryview | None:
        """None where too much is lent."""
        size = CHUNK_BYTES if length <= CHUNK_BYTES else CHUNK_BYTES_MAX
        with self._lock:
            if self._lent_bytes + size > SERVING_BUFFER_BYTES_MAX:
                return None
            self._lent_bytes += size
            if free := self._free[size]:
                self._spare_bytes -= size
                return free.pop()
        return memoryview(bytearray(size + 2 * RECORD_MARGIN_BYTES))

    def release(self, buffer: memoryview) -> None:
        size = len(buffer) - 2 * RECORD_MARGIN_BYTES
        with self._lock:
            self._lent_bytes -= size
            if self._spare_bytes + size <= _SPARE_BYTES_MAX:
                self._spare_bytes += size
                self._free[size].append(buffer)


class ChunkSource:
    """The bytes of one chunk on this disk, ready to be sent: what `net` calls a bulk source."""

    __slots__ = ("_data", "_entry", "_seen", "_server", "copy", "length", "place")

    def __init__(self, server: Server, entry: Entry, copy: Copy, place: ChunkPlace, seen: FileIdentity) -> None:
        """`seen`: the marks of the file as they were just now."""
        self._server, self._entry, self.place, self.copy = server, entry, place, copy
        self._seen: FileIdentity = seen
        self._data: memoryview | None = None
        self.length = place.length

    @property
    def file(self) -> OpenFile:
        return self._entry.file

    def open(self, *, afresh: bool | None = None) -> bool:
        """Read the chunk and check it. False where it is not what it should be: it is held no more then.

        `afresh`: hash it even if it was hashed before and nothing was done to its file since; as the server does it
        for all, by default. Without `open`, `read_into` gives the bytes as they are on the disk.
        """
        afresh = self._server.hash_each_read if afresh is None else afresh
        if not afresh and self._server.is_proven(self._entry, self.copy, self.place, self._seen):
            return True
        buffer = self._server.buffers.lease(self.length)
        if buffer is None:
            # So many are on their way out that this one is read twice: once to be hashed, again by pieces to be sent.
            view = memoryview(bytearray(self.length))
        else:
            view = buffer[RECORD_MARGIN_BYTES : RECORD_MARGIN_BYTES + self.length]
        good = self._server.read(self._entry, self.copy, self.place, view, self._seen)
        if good and buffer is not None and afresh:
            self._data = buffer
        elif buffer is not None:
            self._server.buffers.release(buffer)
        return good

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill `buffer` from `offset` of the chunk. Raises `VerificationError` where the file changed meanwhile."""
        if self._data is not None:
            offset += RECORD_MARGIN_BYTES
            buffer[:] = self._data[offset : offset + len(buffer)]
            return
        count = self._entry.file.read_into(buffer, self.place.offset + offset)
        if count != len(buffer) or not self._server.is_unchanged(self._entry, self.copy, self.place.file_index):
            raise VerificationError(f"{str(self._entry.file.path)!r} changed while it was being served")

    def room(self) -> memoryview | None:
        """The bytes that were hashed, where they lie, with `RECORD_MARGIN_BYTES` before and behind.

        Whoever writes there does not call `read_into` any more.
        """
        return None if self._data is None else self._data[: self.length + 2 * RECORD_MARGIN_BYTES]

    def file_range(self) -> tuple[int, int] | None:
        """File descriptor and offset for `sendfile`; None where the file is not one of the system's."""
        fd = self._entry.file.fileno()
        return None if fd is None else (fd, self.place.offset)

    def release(self) -> None:
        if self._data is not None:
            self._server.buffers.release(self._data)
            self._data = None
        self._server.open_files.release(self._entry)
        self._server.done_reading(self.copy, self.place.index)


class Server:
    """Opens chunks for reading, and marks the copy whose file is no longer what it was. Thread-safe."""

    def __init__(self, files: Files, catalogue: Catalogue) -> None:
        self.open_files = OpenFiles()
        self.buffers = _Buffers()
        self.hash_each_read = True
        self.wrong_reads = 0
        """Reads that came back wrong and, at once repeated, right: a disk or a memory that is about to fail."""
        self._files, self._catalogue = files, catalogue
        self._lock = threading.Lock()
        self._reading: defaultdict[int, Counter[int]] = defaultdict(Counter)
        """For each copy, by its number, the chunks that are being read, and by how many."""

    def open(self, copy: Copy, place: ChunkPlace) -> ChunkSource | None:
        """None where the file changed or vanished; the copy then carries a fault that says so.

        Whoever lets go of a chunk takes it out of the copy's bits first and looks for readers then; here it is the
        other way round, so that one of the two sees the other.
        """
        with self._lock:
            self._reading[copy.number][place.index] += 1
        source = self._open(copy, place) if copy.bits & 1 << place.index else None
        if source is None:
            self.done_reading(copy, place.index)
        return source

    def done_reading(self, copy: Copy, index: int) -> None:
        with self._lock:
            reading = self._reading[copy.number]
            reading[index] -= 1
            if not reading[index]:
                del reading[index]
            if not reading:
                del self._reading[copy.number]

    def reading(self, copy: Copy) -> int:
        """The chunks of this copy that are being read, as bits."""
        with self._lock:
            bits = 0
            for index in self._reading.get(copy.number, ()):
                bits |= 1 << index
            return bits

    def _open(self, copy: Copy, place: ChunkPlace) -> ChunkSource | None:
        entry = self._acquire(copy, place.file_index)
        if entry is None:
            with copy.moving:  # unless a fetch was just giving the file its final name
                entry = self._acquire(copy, place.file_index)
                kept = copy.file(place.file_index)
                if entry is None and kept is not None and kept.readable:
                    self._catalogue.mark(copy, kept.index, f"{str(kept.location)!r} has vanished")
        if entry is None:
            return None
        seen = self._unchanged(entry, copy, place.file_index)
        if seen is None:
            self.open_files.release(entry)
            return None
        return ChunkSource(self, entry, copy, place, seen)

    def _acquire(self, copy: Copy, file_index: int) -> Entry | None:
        kept = copy.file(file_index)
        if kept is None or not kept.readable:
            return None
        return self.open_files.acquire((copy.number, file_index), lambda: self._files.open_file(kept.location))

    def is_proven(self, entry: Entry, copy: Copy, place: ChunkPlace, seen: FileIdentity) -> bool:
        """Whether the chunk was hashed before, and nothing was done to its file until it was `seen`.

        A partial file is ours alone.
        """
        kept = copy.file(place.file_index)
        if kept is None:
            return False
        if kept.state is FileState.PARTIAL or kept.identity.untouched(seen):
            return True
        return entry.proven_at == seen.ctime_ns and place.index in entry.proven

    def read(self, entry: Entry, copy: Copy, place: ChunkPlace, view: memoryview, seen: FileIdentity) -> bool:
        """Fill `view` with a chunk, and whether it is that. One that is not is held no more, nor is a changed file.

        `seen`: the marks of the file, before.
        """
        changed_at = seen.ctime_ns
        for attempt in range(2):
            try:
                count = entry.file.read_into(view, place.offset)
            except P2PModelError:  # a bad sector: the second try comes from the disk as well
                count = -1
            if not self.is_unchanged(entry, copy, place.file_index):
                return False
            if count == place.length and place.digest.is_of(view):
                self.wrong_reads += attempt
                if entry.proven_at != changed_at:
                    entry.proven, entry.proven_at = set(), changed_at
                entry.proven.add(place.index)
                return True
        self._catalogue.lose(copy, 1 << place.index)
        return False

    def is_unchanged(self, entry: Entry, copy: Copy, file_index: int) -> bool:
        return self._unchanged(entry, copy, file_index) is not None

    def _unchanged(self, entry: Entry, copy: Copy, file_index: int) -> FileIdentity | None:
        """The marks of the file as of now; None where it is not what it was, and the copy says so from then on."""
        while True:
            kept = copy.file(file_index)
            if kept is None:
                return None
            status = entry.file.status()
            if kept.is_same(status.identity) and status.links:
                return status.identity
            if copy.file(file_index) is kept:  # else a fetch has just moved it on: look again
                break
        self.open_files.drop((copy.number, file_index))
        self._catalogue.mark(copy, file_index, changed_text(kept))
        return None


def changed_text(kept: KeptFile) -> str:
    return f"{str(kept.location)!r} changed since it was hashed"
