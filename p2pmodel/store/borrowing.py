"""What a fetch takes from other files of this disk instead of the network: whole files by a link, chunks by a copy.

A chunk that stands in any model here is copied, by reflink where the file system can, run by run: as far as the same
chunks follow each other in both files. Whatever the source has become since it was hashed, nothing counts before its
hash was computed from the bytes in the *target*, which does not change with the source any more. A linked file goes on
being one with its source; so it is linked only where neither is anybody's to edit (see docs/store.md), or on request.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, replace

from p2pmodel.errors import InterruptedFetchError, NoSpaceError, P2PModelError
from p2pmodel.limits import COPY_RUN_BYTES_MAX, LINKED_FILE_BYTES_MIN
from p2pmodel.model import HaveMap, Layout, ModelId
from p2pmodel.store.adoption import OnProgress, chunk_buffer, good_chunks
from p2pmodel.store.catalogue import Catalogue
from p2pmodel.store.copies import Copy, KeptFile
from p2pmodel.store.database import Database
from p2pmodel.store.destination import Destination
from p2pmodel.store.files import Files, OpenFile
from p2pmodel.store.serving import Server
from p2pmodel.store.values import FileState

Target = Callable[[int], AbstractContextManager[OpenFile]]
"""Opens the file of this number for writing."""


@dataclass(slots=True)
class _Run:
    """Chunks that follow each other in a file of ours as in one of another copy."""

    copy: Copy
    theirs: Layout
    their_first: int
    first: int
    count: int
    length: int

    def continues(self, layout: Layout, index: int) -> bool:
        """Whether this chunk is the next one of it; then it belongs to the run from now on."""
        their = self.their_first + self.count
        if index != self.first + self.count or self.length >= COPY_RUN_BYTES_MAX or their >= len(self.theirs):
            return False
        place, other = layout[index], self.theirs[their]
        same_files = place.file_index == layout[self.first].file_index
        same_files &= other.file_index == self.theirs[self.their_first].file_index
        if not same_files or place.digest != other.digest or not self.copy.bits & 1 << their:
            return False
        self.count += 1
        self.length += place.length
        return True


class Borrowing:
    """Looks through all copies of a store for what a fetch lacks. Thread-safe."""

    def __init__(
        self,
        *,
        files: Files,
        database: Database,
        catalogue: Catalogue,
        server: Server,
        layout_of: Callable[[ModelId], Layout | None],
        may_link: Callable[[Copy], bool],
    ) -> None:
        """`may_link` says whether a file of this copy may be one with a file of the fetch."""
        self._files, self._database, self._catalogue = files, database, catalogue
        self._server, self._layout_of, self._may_link = server, layout_of, may_link

    # --- whole files

    def link(self, layout: Layout, index: int, destination: Destination, stop: threading.Event) -> KeptFile | None:
        """Give a file of another model that is the same a name in this one; None where there is none to be had.

        Its bytes are hashed before. The name is not durable yet.
        """
        if layout.files[index].size < LINKED_FILE_BYTES_MIN:
            return None
        for copy, kept in self._same_files(layout, index):
            file = self._files.open_file(kept.location)
            if file is None:
                continue
            with closing(file):
                span = layout.chunks_of(index)
                if not kept.is_same(file.status().identity):
                    continue
                good = good_chunks(file, layout, span, chunk_buffer(layout), stop)
                path = layout.files[index].path
                if good.bit_count() != len(span) or not destination.link(file, path):
                    continue
                status = file.status()
                if not kept.is_same(status.identity):
                    destination.unlink(path)
                    continue
            self._note_link(copy, replace(kept, identity=status.identity))
            return KeptFile(index, span, destination.final(path), FileState.PLACED, status.identity)
        return None

    def _same_files(self, layout: Layout, index: int) -> Iterator[tuple[Copy, KeptFile]]:
        """Files of other copies with this hash and size: whole, unchanged for all we know, free to be linked."""
        wanted, first = layout.files[index], layout[layout.first(index)]
        for model_id, chunk in self._catalogue.places(first.digest):
            theirs = self._layout_of(model_id)
            if theirs is None or chunk >= len(theirs):
                continue
            file_index = theirs[chunk].file_index
            found = theirs.files[file_index]
            if (found.blake3, found.size, theirs.first(file_index)) != (wanted.blake3, wanted.size, chunk):
                continue
            for copy in self._catalogue.copies(model_id):
                kept = copy.file(file_index)
                if kept is None or kept.state is FileState.PARTIAL or not kept.readable or kept.repairing:
                    continue
                if not self._may_link(copy):
                    continue
                if copy.bits & kept.mask == kept.mask:
                    yield copy, kept

    def _note_link(self, copy: Copy, kept: KeptFile) -> None:
        """A new name changes the time of change, as anything does; that one was ours and is no doubt."""
        copy.put(kept)
        with self._database.transaction(durable=False) as writer:
            self._catalogue.save_files(writer, copy, [kept])

    # --- chunks

    def copy_missing(
        self,
        layout: Layout,
        missing: HaveMap,
        take: Callable[[int], None],
        target: Target,
        note: Callable[[int], int],
        on_progress: OnProgress | None,
        stop: threading.Event,
    ) -> dict[str, int]:
        """Copy what is missing and here elsewhere; `note` is told of chunks that are in their places, as bits.

        `take` makes room for so many bytes, where it has to be made.

        Returns the bytes that were "reflinked" and "copied". A source that is no longer what it was is left to the
        network. Raises `NoSpaceError` where the disk is full, `InterruptedFetchError` once `stop` is set.
        """
        came = {"reflinked": 0, "copied": 0}
        if len(self._catalogue.all_copies()) < 2:
            return came
        buffer, total = chunk_buffer(layout), sum(layout.length(index) for index in missing)
        for run in self._runs(layout, missing):
            if stop.is_set():
                raise InterruptedFetchError("stopped")
            file_index = layout[run.first].file_index
            take(run.length)
            how, good = self._copy(layout, run, target, buffer, stop)
            new = note(good)
            came[how] += sum(layout.length(index) for index in HaveMap(len(layout), new))
            if on_progress is not None:
                on_progress(sum(came.values()), total, layout.files[file_index].path.text)
        return came

    def found(self, layout: Layout, missing: HaveMap) -> int:
        """How many bytes of what is missing are said to be in other files."""
        return sum(run.length for run in self._runs(layout, missing))

    def _runs(self, layout: Layout, missing: HaveMap) -> Iterator[_Run]:
        run: _Run | None = None
        for index in missing:
            if run is not None:
                if run.continues(layout, index):
                    continue
                yield run
            run = self._begin(layout, index)
        if run is not None:
            yield run

    def _begin(self, layout: Layout, index: int) -> _Run | None:
        place = layout[index]
        for model_id, chunk in self._catalogue.places(place.digest):
            copy = next((copy for copy in self._catalogue.copies(model_id) if copy.bits & 1 << chunk), None)
            theirs = self._layout_of(model_id) if copy is not None else None
            if copy is None or theirs is None or chunk >= len(theirs) or theirs[chunk].digest != place.digest:
                continue
            return _Run(copy, theirs, chunk, index, 1, place.length)
        return None

    def _copy(
        self, layout: Layout, run: _Run, target: Target, buffer: memoryview, stop: threading.Event
    ) -> tuple[str, int]:
        """How a run came, and which chunks of it are right, as bits."""
        place = layout[run.first]
        source = self._server.open(run.copy, run.theirs[run.their_first])
        if source is None:
            return "copied", 0
        try:
            with target(place.file_index) as file:
                offset = source.place.offset
                how = self._files.sharing.copy(source.file, offset, file, place.offset, run.length)
                indices = range(run.first, run.first + run.count)
                good = good_chunks(file, layout, indices, buffer, stop)
        except (NoSpaceError, InterruptedFetchError):
            raise
        except P2PModelError:
            return "copied", 0  # its disk or ours: the network brings it, and ours says so again
        finally:
            source.release()
        if good.bit_count() < run.count:
            self._look_at(run, good)
        return how, good

    def _look_at(self, run: _Run, good: int) -> None:
        """Something of the source is not what it was; let its owner know."""
        for number in range(run.count):
            if not good >> (run.first + number) & 1:
                source = self._server.open(run.copy, run.theirs[run.their_first + number])
                if source is None:
                    return
                source.open()
                source.release()
