"""What of a model is on this disk already when a fetch begins, found out before a byte is asked of anybody.

In order: files under their final names (ours and proven: taken at their word; all others: hashed), partial files of an
earlier run (claimed chunks are taken at their word, the rest is hashed where there is data), then the space for what is
missing is reserved, then chunks are copied from files that will be replaced and from other models on this disk. A
chunk counts only after its hash was computed from the bytes on disk, unless it is claimed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

from p2pmodel.errors import InterruptedFetchError, NoSpaceError, P2PModelError, RefusedError
from p2pmodel.limits import CHUNK_BYTES_MAX
from p2pmodel.model import Digest, HaveMap, Layout
from p2pmodel.store.catalogue import Catalogue
from p2pmodel.store.copies import Copy, KeptFile
from p2pmodel.store.destination import Destination
from p2pmodel.store.files import Files, OpenFile
from p2pmodel.store.serving import ChunkSource
from p2pmodel.store.values import FileIdentity, FileState

OnProgress = Callable[[int, int, str], None]
Keep = Callable[[int, memoryview], int]
Room = Callable[[int, Callable[[], int]], AbstractContextManager[None]]
"""Makes room for so many bytes on a disk with so many free, and keeps it while they are reserved."""


def chunk_buffer(layout: Layout) -> memoryview:
    """Room for any chunk of a model, and no more than that where all of its files are small."""
    return memoryview(bytearray(min(CHUNK_BYTES_MAX, max((file.size for file in layout.files), default=0))))


def good_chunks(
    file: OpenFile, layout: Layout, indices: Iterable[int], buffer: memoryview, stop: threading.Event
) -> int:
    """The chunks of `indices`, all of one file, whose bytes in `file` have the right hash, as bits."""
    bits = 0
    for index in indices:
        if stop.is_set():
            raise InterruptedFetchError("stopped")
        place = layout[index]
        view = buffer[: place.length]
        if file.read_into(view, place.offset) == place.length and place.digest.is_of(view):
            bits |= 1 << index
    return bits


def within(layout: Layout, indices: range, ranges: Iterable[tuple[int, int]]) -> list[int]:
    """Those chunks of one file that lie in, or touch, the byte ranges."""
    if not indices:
        return []
    chunks = layout.chunk_lists[layout[indices.start].file_index]
    found: dict[int, None] = {}
    for start, end in ranges:
        if end > start:
            found.update(dict.fromkeys(range(chunks.at(start), chunks.at(end - 1) + 1)))
    return [indices.start + number for number in found]


@dataclass(frozen=True, slots=True)
class _Replaced:
    """A file under a final name that will be replaced: a source of chunks until then."""

    index: int
    identity: FileIdentity


class Adoption:
    """One look at a destination. `run` returns the files of the copy as they are now, for the database."""

    def __init__(
        self,
        *,
        layout: Layout,
        file_indices: Sequence[int],
        copy: Copy,
        destination: Destination,
        files: Files,
        catalogue: Catalogue,
        overwrite: bool,
        room: Room,
        reserve: bool,
        link: Callable[[int], KeptFile | None],
        on_progress: OnProgress | None,
        stop: threading.Event,
    ) -> None:
        """`reserve`: the space of all files is taken at once; else they have holes, which chunks fill."""
        self._stop, self._room, self._reserve_space = stop, room, reserve
        self._layout, self._file_indices, self._copy = layout, file_indices, copy
        self._destination, self._files, self._catalogue = destination, files, catalogue
        self._overwrite, self._link = overwrite, link
        self.linked: list[int] = []
        """Files that are one with those of another model now."""
        self.replaceable: dict[int, FileIdentity] = {}
        """Files of ours under final names that are not whole, and must not be written to, for others have them too."""
        self._on_progress = on_progress
        self._buffer = chunk_buffer(layout)
        self._total = sum(layout.files[index].size for index in file_indices)
        self._seen = 0
        self._replaced: list[_Replaced] = []

    def run(self) -> list[KeptFile]:
        lacking = []
        for index in self._file_indices:
            if not self._take_final(index) and not self._take_link(index):
                lacking.append(index)
            self._report(index)
        self._reserve(lacking)
        for index in lacking:
            self._recover(index)
        return [kept for index in self._file_indices if (kept := self._copy.file(index)) is not None]

    def copy_replaced(self, keep: Keep) -> None:
        """Copy what fits from files that are about to be replaced."""
        for replaced in self._replaced:
            path = self._layout.files[replaced.index].path
            file = self._destination.open_final(path)
            if file is None:
                continue
            try:
                for index in self._layout.chunks_of(replaced.index):
                    place = self._layout[index]
                    view = self._buffer[: place.length]
                    if file.read_into(view, place.offset) == place.length and place.digest.is_of(view):
                        keep(index, view)
            finally:
                file.close()

    # --- files under their final names

    def _take_final(self, index: int) -> bool:
        """Whether file `index` is whole and in its place. Raises `RefusedError` for another file in its place."""
        path = self._layout.files[index].path
        kept = self._copy.file(index)
        if kept is not None and kept.state is not FileState.PARTIAL and self._is_whole(kept):
            return True
        status = self._destination.status(path)
        if status is None:
            if kept is not None and kept.state is not FileState.PARTIAL:
                self._copy.forget(index)
            return False
        if status.kind == "directory":
            raise RefusedError(f"{str(self._destination.final(path))!r} is a directory where a file has to be")
        ours = kept is not None and kept.state is not FileState.PARTIAL and kept.could_be(status.identity)
        good: int | None = 0 if ours else None
        if status.kind == "file" and status.identity.size == self._layout.files[index].size:
            good = self._hash_final(index, from_disk=ours)
            if good is not None and self._adopt_final(index, good, status.identity):
                return True
        if ours and good is not None and self._copy.kind == "fetched" and status.links == 1:
            self._take_back(index, good, status.identity)
            return False
        if ours and status.kind == "file" and self._copy.kind == "fetched":
            self.replaceable[index] = status.identity
        elif not self._overwrite and not self._is_unchanged(index, status.identity):
            raise RefusedError(
                f"{str(self._destination.final(path))!r} exists and has other content than the model; "
                "move it away, or have it replaced (fetch --overwrite)"
            )
        if kept is not None and kept.state is not FileState.PARTIAL:
            self._copy.forget(index)
        if status.kind == "file":
            self._replaced.append(_Replaced(index, status.identity))
        return False

    def _is_whole(self, kept: KeptFile) -> bool:
        """Whether a file that we know is trusted, has all its chunks, and is still what it was."""
        if not kept.trusted or self._copy.bits & kept.mask != kept.mask:
            return False
        status = self._files.status(kept.location)
        return status is not None and kept.identity == status.identity

    def _hash_final(self, index: int, *, from_disk: bool) -> int | None:
        file = self._destination.open_final(self._layout.files[index].path)
        if file is None:
            return None
        try:
            if from_disk:
                file.sync(forget=True)
            return good_chunks(file, self._layout, self._layout.chunks_of(index), self._buffer, self._stop)
        finally:
            file.close()

    def _adopt_final(self, index: int, good: int, before: FileIdentity) -> bool:
        """Take a file whose every chunk is right, unless it was written to while we read."""
        path = self._layout.files[index].path
        span = self._layout.chunks_of(index)
        status = self._destination.status(path)
        if good.bit_count() != len(span) or status is None or status.identity != before:
            return False
        self._copy.forget(index)
        self._copy.put(KeptFile(index, span, self._destination.final(path), FileState.PLACED, before))
        self._copy.add(good)
        return True

    def _take_back(self, index: int, good: int, identity: FileIdentity) -> None:
        """A file of ours that lost chunks (a power cut, a bad sector): partial again, and only those are fetched."""
        with self._copy.moving:
            self._destination.take_back(index, self._layout.files[index].path)
            self._copy.forget(index)
            location = self._destination.partial(index)
            self._copy.put(KeptFile(index, self._layout.chunks_of(index), location, FileState.PARTIAL, identity))
            self._copy.add(good)

    def _is_unchanged(self, index: int, identity: FileIdentity) -> bool:
        """Whether p2pmodel put this very file there: then it may replace it."""
        found = self._catalogue.located(self._destination.final(self._layout.files[index].path))
        return any(copy.kind == "fetched" and kept.identity == identity for copy, kept in found)

    def _take_link(self, index: int) -> bool:
        """Whether the file is here under another name, and now under this one too."""
        if self._destination.status(self._layout.files[index].path) is not None:
            return False
        kept = self._link(index)
        if kept is None:
            return False
        self._destination.remove_partial(index)
        self._copy.forget(index)
        self._copy.put(kept)
        self._copy.add(kept.mask)
        self.linked.append(index)
        return True

    # --- partial files

    def _reserve(self, lacking: list[int]) -> None:
        """Reserve the space of every file that will be written, or none: raises `NoSpaceError` and leaves no trace."""
        needed = 0
        for index in lacking:
            status = self._destination.partial_status(index)
            there = status.allocated_bytes if status is not None and status.kind == "file" else 0
            needed += max(0, self._layout.files[index].size - there)
        if not self._reserve_space:
            needed = 0
        with self._room(needed, self._destination.free_bytes):
            free = self._destination.free_bytes()
            if needed > free:
                raise NoSpaceError(f"{str(self._destination.root)!r} needs {needed:,} bytes more and has {free:,} free")
            made: list[int] = []
            try:
                made.extend(index for index in lacking if self._allocate(index))
            except P2PModelError:
                for index in made:
                    self._destination.remove_partial(index)
                    self._copy.forget(index)
                raise

    def _allocate(self, index: int) -> bool:
        """Whether the file was made just now; an existing one of the right size keeps its bytes."""
        size = self._layout.files[index].size
        status = self._destination.partial_status(index)
        fresh = status is None or status.kind != "file" or status.identity.size != size
        if status is not None and fresh:
            self._destination.remove_partial(index)
        file = self._destination.open_partial(index, create=True)
        assert file is not None
        try:
            file.allocate(size, reserve=self._reserve_space)
            if not fresh:
                file.sync()  # a time that a power cut takes back would make proven chunks look like a stranger's
            identity = file.status().identity
        except P2PModelError:
            if fresh:
                self._destination.remove_partial(index)
            raise
        finally:
            file.close()
        kept = self._copy.file(index)
        # A new file may get the inode of the one that vanished, so its number alone proves nothing.
        if (
            fresh
            or kept is None
            or not kept.has_grown_into(identity)
            or (self._copy.clean and kept.identity != identity)
        ):
            self._copy.forget(index)
            location = self._destination.partial(index)
            kept = KeptFile(index, self._layout.chunks_of(index), location, FileState.PARTIAL, identity)
        self._copy.put(replace(kept, fault=""))
        return fresh

    def _recover(self, index: int) -> None:
        """Hash what an earlier run wrote and did not claim, skipping space that was never written."""
        span = self._layout.chunks_of(index)
        held = self._copy.bits
        if self._copy.clean and any(held >> at & 1 for at in span):
            return
        file = self._destination.open_partial(index)
        if file is None:
            raise P2PModelError(f"the partial file {str(self._destination.partial(index))!r} has vanished")
        try:
            touched = within(self._layout, span, file.data_ranges(self._layout.files[index].size))
            unproven = [at for at in touched if not held >> at & 1]
            if unproven:
                file.sync(forget=True)  # a barrier of the earlier run may have failed
            self._copy.add(good_chunks(file, self._layout, unproven, self._buffer, self._stop))
        finally:
            file.close()

    def _report(self, index: int) -> None:
        file = self._layout.files[index]
        self._seen += file.size
        if self._on_progress is not None:
            self._on_progress(self._seen, self._total, file.path.text)


class LocalChunks:
    """Copies chunks that other models on this disk hold. `find` opens one by its digest; `worthwhile` says if any."""

    def __init__(self, find: Callable[[Digest], ChunkSource | None], worthwhile: Callable[[], bool]) -> None:
        self._find, self._worthwhile = find, worthwhile

    def copy_missing(
        self, layout: Layout, missing: HaveMap, keep: Keep, on_progress: OnProgress | None, stop: threading.Event
    ) -> int:
        """Returns the bytes copied; a source that changes under our hands is left to the network."""
        if not self._worthwhile():
            return 0
        buffer = chunk_buffer(layout)
        copied, total = 0, sum(layout[index].length for index in missing)
        for index in missing:
            if stop.is_set():
                raise InterruptedFetchError("stopped")
            place = layout[index]
            view = buffer[: place.length]
            if not self._read(place.digest, view):
                continue
            if keep(index, view):
                copied += place.length
            if on_progress is not None:
                on_progress(copied, total, layout.files[place.file_index].path.text)
        return copied

    def _read(self, digest: Digest, view: memoryview) -> bool:
        source = self._find(digest)
        if source is None:
            return False
        try:
            if source.length != len(view):
                return False
            source.read_into(view, 0)
        except P2PModelError:
            return False
        finally:
            source.release()
        return digest.is_of(view)
