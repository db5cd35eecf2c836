"""Reading again, bit by bit, what is kept under final names: a bad sector is found before somebody asks for it.

A step reads so many bytes from a position on and says where it came to; the position survives a restart, the pace is
the peer's. Files in doubt (`FileIdentity.ctime_ns`) are read in one go from beginning to end, and are out of it where
every chunk was right and nothing was done to them meanwhile.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

from p2pmodel.errors import InterruptedFetchError, P2PModelError
from p2pmodel.model import Layout, ModelId
from p2pmodel.store.adoption import chunk_buffer
from p2pmodel.store.catalogue import Catalogue
from p2pmodel.store.copies import Copy, KeptFile
from p2pmodel.store.database import Database
from p2pmodel.store.files import Files, OpenFile
from p2pmodel.store.serving import changed_text
from p2pmodel.store.values import FileIdentity, FileState


@dataclass(frozen=True, slots=True, order=True)
class ScrubPosition:
    """The next chunk: of the copy with this number, or of the first one after it."""

    copy: int = 0
    chunk: int = 0


@dataclass(slots=True)
class Scrubbed:
    """What a step has read. `bad` are the models that lost something by it, `back` those that got something back."""

    position: ScrubPosition
    bytes_read: int = 0
    around: bool = False
    """There was nothing left after the position; the next step begins at the beginning."""
    bad: dict[ModelId, None] = field(default_factory=dict)
    back: dict[ModelId, None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Recheck:
    """A file in doubt, of which the chunks before `chunk` were right."""

    copy: Copy
    index: int
    identity: FileIdentity
    chunk: int


class Scrubber:
    """One step at a time."""

    def __init__(
        self, files: Files, database: Database, catalogue: Catalogue, layout: Callable[[ModelId], Layout | None]
    ) -> None:
        self._files, self._database, self._catalogue, self._layout = files, database, catalogue, layout
        self._recheck: _Recheck | None = None

    @property
    def bytes_total(self) -> int:
        """What there is to read."""
        found = (kept for copy in self._catalogue.all_copies() for kept in copy.files if _is_read(kept))
        return sum(kept.identity.size for kept in found)

    def step(self, position: ScrubPosition, bytes_max: int, stop: threading.Event) -> Scrubbed:
        """Read up to `bytes_max` (one chunk more, at most) from `position` on."""
        done = Scrubbed(position)
        for copy in sorted(self._catalogue.all_copies(), key=lambda copy: copy.number):
            if copy.number < position.copy:
                continue
            start = position.chunk if copy.number == position.copy else 0
            reached = self._with(copy, partial(self._copy, done, copy, start, bytes_max, stop))
            if reached is not None:
                done.position = ScrubPosition(copy.number, reached)
                return done
        done.position, done.around = ScrubPosition(), True
        return done

    def _with(self, copy: Copy, work: Callable[[Layout], int | None]) -> int | None:
        """Unless the copy is being fetched or checked: then its turn comes the next time."""
        layout = self._layout(copy.model_id)
        if layout is None or not copy.busy.acquire(blocking=False):
            return None
        try:
            return work(layout) if self._catalogue.is_listed(copy) else None
        finally:
            copy.busy.release()

    def _copy(
        self, done: Scrubbed, copy: Copy, start: int, bytes_max: int, stop: threading.Event, layout: Layout
    ) -> int | None:
        """The chunk with which to go on; None where the copy is through."""
        buffer = chunk_buffer(layout)
        for kept in sorted(copy.files, key=lambda kept: kept.span.start):
            if not _is_read(kept) or kept.span.stop <= start:
                continue
            file = self._opened(done, copy, kept)
            if file is None:
                continue
            try:
                for index in range(max(start, kept.span.start), kept.span.stop):
                    if done.bytes_read >= bytes_max:
                        return index
                    if stop.is_set():
                        raise InterruptedFetchError("stopped")
                    if not self._chunk(done, copy, kept, layout, file, index, buffer):
                        break
            finally:
                file.close()
        return None

    def _opened(self, done: Scrubbed, copy: Copy, kept: KeptFile) -> OpenFile | None:
        """The file, unless it is no longer what it was; then the copy says so."""
        file = self._files.open_file(kept.location)
        if file is not None and kept.is_same(file.status().identity):
            return file
        fault = changed_text(kept) if file is not None else f"{str(kept.location)!r} has vanished"
        if file is not None:
            file.close()
        if self._catalogue.mark(copy, kept.index, fault):
            done.bad[copy.model_id] = None
        return None

    def _chunk(
        self, done: Scrubbed, copy: Copy, kept: KeptFile, layout: Layout, file: OpenFile, index: int, buffer: memoryview
    ) -> bool:
        """Read one chunk and note what it is. False where the file changed meanwhile."""
        place, held = layout[index], bool(copy.bits & 1 << index)
        view = buffer[: place.length]
        good = False
        for _ in range(2 if held else 1):  # a wrong read may be the way's fault, not the disk's
            try:
                good = file.read_into(view, place.offset) == place.length and place.digest.is_of(view)
            except P2PModelError:
                good = False
            done.bytes_read += place.length
            if good:
                break
        if not kept.is_same(file.status().identity):
            if self._catalogue.mark(copy, kept.index, changed_text(kept)):
                done.bad[copy.model_id] = None
            return False
        if held and not good:
            self._catalogue.lose(copy, 1 << index)
            done.bad[copy.model_id] = None
        elif good and not held:
            self._catalogue.regain(copy, 1 << index)
            done.back[copy.model_id] = None
        return True

    # --- files in doubt

    @property
    def in_doubt(self) -> bool:
        """Whether there is a file that has to be read from beginning to end."""
        return self._recheck is not None or self._next_in_doubt() is not None

    def _next_in_doubt(self) -> tuple[Copy, KeptFile] | None:
        for copy in self._catalogue.all_copies():
            if copy.busy.locked():
                continue
            for kept in copy.files:
                in_doubt = _is_read(kept) and not kept.identity.ctime_ns and kept.state is FileState.PROVEN
                if in_doubt and self._layout(copy.model_id) is not None:  # else nobody can say, and others wait
                    return copy, kept
        return None

    def recheck(self, bytes_max: int, stop: threading.Event) -> Scrubbed:
        """Read on in a file in doubt, up to `bytes_max`."""
        done = Scrubbed(ScrubPosition())
        if self._recheck is None and (found := self._next_in_doubt()) is not None:
            copy, kept = found
            file = self._opened(done, copy, kept)
            if file is not None:
                self._recheck = _Recheck(copy, kept.index, file.status().identity, kept.span.start)
                file.close()
        if (at := self._recheck) is not None:
            self._recheck = None
            self._with(at.copy, partial(self._go_on, done, at, bytes_max, stop))
        return done

    def _go_on(self, done: Scrubbed, at: _Recheck, bytes_max: int, stop: threading.Event, layout: Layout) -> None:
        kept = at.copy.file(at.index)
        file = self._opened(done, at.copy, kept) if kept is not None and _is_read(kept) else None
        if kept is None or file is None:
            return
        buffer = chunk_buffer(layout)
        try:
            for index in range(at.chunk, kept.span.stop):
                if done.bytes_read >= bytes_max:
                    self._recheck = replace(at, chunk=index)
                    return
                if stop.is_set():
                    raise InterruptedFetchError("stopped")
                if not self._chunk(done, at.copy, kept, layout, file, index, buffer):
                    return
            found = file.status().identity
            settled = replace(kept, identity=at.identity)
            # Where something was done to it meanwhile, it is in doubt still, and begins again some other time.
            if found.untouched(at.identity) and not self._files.unsettled_s(found):
                at.copy.put(settled)
                with self._database.transaction() as writer:
                    self._catalogue.save_files(writer, at.copy, [settled])
        finally:
            file.close()


def _is_read(kept: KeptFile) -> bool:
    return kept.state is not FileState.PARTIAL and kept.readable and not kept.repairing
