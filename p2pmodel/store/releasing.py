"""Letting go of a copy, or of chunks of it, in an order that a crash at any point survives.

The claim goes first: it leaves memory, then, durably, the database. Then names go, durably, then the bytes. So nothing
is ever said to be here that is not; and since what is let go of is noted with the claim's end (`leaving.py`) or lies
outside of every claim in a partial file (`tidying.py` finds it), nothing stays behind that nobody knows of.

Whoever calls holds the copy (`copy.busy`): no fetch writes to it, no check reads it.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from p2pmodel.limits import CHUNK_BYTES
from p2pmodel.model import Layout, ModelId
from p2pmodel.model.have_map import iter_bits
from p2pmodel.store.catalogue import Catalogue
from p2pmodel.store.copies import Copy, KeptFile
from p2pmodel.store.database import Database
from p2pmodel.store.destination import partial_path, partials_name
from p2pmodel.store.files import Files
from p2pmodel.store.leaving import Leaving
from p2pmodel.store.objects import Objects
from p2pmodel.store.serving import Server
from p2pmodel.store.values import FileIdentity, FileState

_PAST_THE_END = CHUNK_BYTES
"""A hole to the end of a file goes on, so that the block in which the file ends is free too; the length stays."""


class Releaser:
    """Thread-safe, as far as copies are held."""

    def __init__(
        self,
        *,
        files: Files,
        database: Database,
        catalogue: Catalogue,
        objects: Objects,
        server: Server,
        leaving: Leaving,
    ) -> None:
        self._files, self._database, self._catalogue = files, database, catalogue
        self._objects, self._server, self._leaving = objects, server, leaving

    def allocated_bytes(self, copy: Copy) -> int:
        """What the files of a copy take on disk; of one with several names its part, as others keep theirs."""
        found = (next(filter(None, map(self._files.status, _places(copy, kept))), None) for kept in copy.files)
        return sum(status.allocated_bytes // max(1, status.links) for status in found if status is not None)

    def finish(self, copy: Copy | None = None) -> int:
        """Remove what was let go of before and could not be removed then. Raises `P2PModelError`."""
        if copy is None:
            return self._leaving.finish()
        return sum(map(self._leaving.finish, (copy.root, copy.root / partials_name(copy.model_id))))

    # --- a whole copy

    def whole(self, copy: Copy, *, files: bool) -> int:
        """Forget a copy, with all of its `files` or only with partial ones; returns the bytes that this frees.

        Raises `P2PModelError`. Once the claim is gone the copy is gone, and what could not be removed goes later.
        """
        removed = [kept for kept in copy.files if kept.state is FileState.PARTIAL]
        removed += self._own_files(copy) if files else []
        gone = [(kept.location, kept.identity) for kept in removed] + self._unknown_partials(copy)
        # A directory that somebody named stays: nobody knows any more whether it was there before the fetch.
        top = copy.root if files else copy.root / partials_name(copy.model_id)
        held = copy.bits
        copy.drop(held)
        try:
            with self._database.transaction() as writer:
                self._catalogue.forget_copy(writer, copy)
                self._leaving.note(writer, top, gone)
        except BaseException:
            copy.add(held)
            raise
        try:
            for kept in copy.files:
                self._server.open_files.drop((copy.number, kept.index))
            return self._leaving.finish(top)
        finally:
            with self._catalogue.entering:
                self._catalogue.unlist(copy)
                if not self._catalogue.copies(copy.model_id):
                    self._forget_model(copy.model_id)

    def finish_models(self) -> None:
        """Forget the models of which an earlier process let go of the last copy, and died. Raises `P2PModelError`."""
        with self._catalogue.entering:
            for model_id in self._catalogue.models_without_copies():
                self._forget_model(model_id)

    def _forget_model(self, model_id: ModelId) -> None:
        """The index last: a start after a crash finds by it what is left to be forgotten."""
        layout = self._objects.layout(model_id)
        if layout is not None:
            self._objects.forget(layout, self._catalogue.model_ids())
        self._catalogue.remove_model(model_id, layout)

    def _own_files(self, copy: Copy) -> list[KeptFile]:
        """Files under their final names that are still what was fetched, and nobody else's: none that somebody has
        written to, and none that was published from here as part of another model."""
        others = [other for other in self._catalogue.all_copies() if other is not copy]
        taken = {kept.location for other in others for kept in other.files}
        named = [kept for kept in copy.files if kept.state is not FileState.PARTIAL and kept.location not in taken]
        looked = [(kept, self._files.status(kept.location)) for kept in named]
        return [kept for kept, status in looked if status is None or kept.could_be(status.identity)]

    def _unknown_partials(self, copy: Copy) -> list[tuple[Path, FileIdentity]]:
        """Partial files that a process made and did not live to enter."""
        place = copy.root / partials_name(copy.model_id)
        status = self._files.status(place) if copy.kind == "fetched" else None
        if status is None or status.kind != "directory":
            return []
        known = {kept.location for kept in copy.files}
        found = [entry for entry in self._files.entries(place) if entry.status.kind == "file"]
        return [(place / entry.name, entry.status.identity) for entry in found if place / entry.name not in known]

    # --- chunks of files that have no names

    def chunks(self, copy: Copy, layout: Layout, bits: int) -> int:
        """Let go of these chunks of partial files, but for those that are being read. Returns which went, as bits."""
        bits &= copy.bits
        copy.drop(bits)
        reading = self._server.reading(copy) & bits
        copy.add(reading)
        bits &= ~reading
        if not bits:
            return 0
        try:
            with self._database.transaction() as writer:
                self._catalogue.unclaim(writer, copy, bits)
            copy.clean = False
        except BaseException:
            copy.add(bits)
            raise
        for kept in copy.files:
            if kept.mask & bits:
                self.punch(copy, kept, layout, bits)
        return bits

    def punch(self, copy: Copy, kept: KeptFile, layout: Layout, bits: int | None = None) -> None:
        """Make holes of what a partial file does not hold: around these chunks, or all of it."""
        directory = self._files.open_directory(kept.location.parent)
        if directory is None:
            return
        with closing(directory):
            file = directory.open(kept.location.name, write=True)
        if file is None:
            return
        with closing(file):
            if file.status().links != 1:
                return  # somebody else has the same bytes under another name
            gone = kept.mask & ~(copy.bits | copy.hidden) & ~self._server.reading(copy)
            for start, end in _holes(layout, kept, gone, bits):
                file.punch(start, end - start)


def _places(copy: Copy, kept: KeptFile) -> list[Path]:
    """Where a file lies: at its location, or where a power cut took the name back that it had just been given."""
    partial = partial_path(copy.root, copy.model_id, kept.index)
    return list(dict.fromkeys([kept.location, partial]))


def _holes(layout: Layout, kept: KeptFile, gone: int, bits: int | None) -> Iterable[tuple[int, int]]:
    """The byte ranges of each run of chunks that are `gone`, where one of `bits` is among them.

    Neighbours that are gone as well belong to it: the page in which two chunks meet is free only if both are.
    """
    start = end = 0
    asked = False
    for index in iter_bits(gone):
        place = layout[index]
        if end and place.offset != end:
            if asked:
                yield start, end
            start, asked = place.offset, False
        elif not end:
            start = place.offset
        end = place.offset + place.length
        asked = asked or bits is None or bool(bits >> index & 1)
    if end and asked:
        yield start, end + _PAST_THE_END if end == layout.files[kept.index].size else end
