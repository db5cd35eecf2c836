"""What a crash left below `models/`: bytes that no claim covers are proven and claimed, or freed.

Meant for the background after a start. A claim is never made of what was not hashed, and nothing is removed that a
fetch could have known: partial files that no copy has are what a fetch reserved just before it died, and final names
that no copy has are left alone, for the next fetch to take.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

from p2pmodel.errors import P2PModelError
from p2pmodel.model import Layout, ModelId
from p2pmodel.store.adoption import chunk_buffer, good_chunks, within
from p2pmodel.store.catalogue import Catalogue
from p2pmodel.store.copies import Copy, KeptFile
from p2pmodel.store.database import Database
from p2pmodel.store.destination import PARTIALS_PREFIX, partial_index
from p2pmodel.store.files import Files
from p2pmodel.store.releasing import Releaser
from p2pmodel.store.values import DirectoryEntry, FileState


class Tidier:
    """`directory` is where the cache lies."""

    def __init__(
        self, directory: Path, *, files: Files, database: Database, catalogue: Catalogue, releaser: Releaser
    ) -> None:
        self._directory = directory
        self._files, self._database = files, database
        self._catalogue, self._releaser = catalogue, releaser

    def run(self, layout_of: Callable[[ModelId], Layout | None], stop: threading.Event) -> list[Copy]:
        """Returns the copies of which more, or less, is held now. Those that somebody works on are passed over."""
        self._remove_strays()
        changed = []
        for copy in self._catalogue.all_copies():
            layout = layout_of(copy.model_id)
            if layout is None or not self._is_unsettled(copy) or not copy.busy.acquire(blocking=False):
                continue
            try:
                before = copy.bits
                self._settle(copy, layout, stop)
                if copy.bits != before:
                    changed.append(copy)
            finally:
                copy.busy.release()
        return changed

    def _is_unsettled(self, copy: Copy) -> bool:
        inside = copy.root.is_relative_to(self._directory)
        return inside and not copy.clean and all(kept.state is FileState.PARTIAL for kept in copy.files)

    # --- bytes of files that we know

    def _settle(self, copy: Copy, layout: Layout, stop: threading.Event) -> None:
        settled = [self._settle_file(copy, kept, layout, stop) for kept in copy.files]
        for directory in dict.fromkeys([*(kept.location.parent for kept in settled), copy.root]):
            self._sync(directory)  # the process that made these names may have died before it could wait for them
        with self._database.transaction() as writer:
            self._catalogue.save_files(writer, copy, settled)
            clean = all(kept.readable for kept in settled)
            self._catalogue.save_have(writer, copy, copy.bits | copy.hidden, clean=clean)
        copy.put(*settled)
        copy.clean = clean

    def _settle_file(self, copy: Copy, kept: KeptFile, layout: Layout, stop: threading.Event) -> KeptFile:
        """Bytes, barrier; the claim is the caller's. A file with a fault is for a later start."""
        if not kept.readable:
            return kept
        file = self._files.open_file(kept.location)
        if file is None or not kept.is_same(file.status().identity):
            if file is not None:
                file.close()
            return kept
        with closing(file):
            touched = within(layout, kept.span, file.data_ranges(layout.files[kept.index].size))
            held = copy.bits
            unproven = [index for index in touched if not held >> index & 1]
            if unproven:
                file.sync(forget=True)  # a barrier of the earlier run, or of this one, may have failed
            found = copy.add(good_chunks(file, layout, unproven, chunk_buffer(layout), stop))
            try:
                self._releaser.punch(copy, kept, layout)
                file.sync()
            except P2PModelError:
                copy.drop(found)  # after a barrier that failed nobody knows what is on the disk
                raise
            return replace(kept, identity=file.status().identity)

    # --- files that nobody knows

    def _remove_strays(self) -> None:
        for entry in self._entries(self._directory):
            if entry.status.kind == "directory":
                self._remove_strays_of(self._directory / entry.name)

    def _remove_strays_of(self, root: Path) -> None:
        """No fetch begins here meanwhile: what it has just made is no stray."""
        with self._catalogue.entering, ExitStack() as held:
            copies = [copy for copy in self._catalogue.all_copies() if copy.root == root]
            for copy in copies:
                if not copy.busy.acquire(blocking=False):
                    return
                held.callback(copy.busy.release)
            self._remove_unknown(root, copies)

    def _remove_unknown(self, root: Path, copies: list[Copy]) -> None:
        known = {kept.location: kept for copy in copies for kept in copy.files}
        for entry in self._entries(root):
            if entry.status.kind != "directory" or not entry.name.startswith(PARTIALS_PREFIX):
                continue
            partials = root / entry.name
            for partial in self._entries(partials):
                index = partial_index(partial.name)
                if index is not None and partials / partial.name not in known and not _taken_back(copies, partial):
                    self._remove(partials, partial.name)
            if not copies:
                self._remove(root, entry.name)
        if not copies:
            self._remove(self._directory, root.name)

    def _entries(self, path: Path) -> list[DirectoryEntry]:
        try:
            return self._files.entries(path)
        except P2PModelError:
            return []

    def _remove(self, directory: Path, name: str) -> None:
        opened = self._files.open_directory(directory)
        if opened is not None:
            with closing(opened):
                opened.remove(name)
                opened.sync()

    def _sync(self, directory: Path) -> None:
        opened = self._files.open_directory(directory)
        if opened is not None:
            with closing(opened):
                opened.sync()


def _taken_back(copies: list[Copy], partial: DirectoryEntry) -> bool:
    """Whether this is a file that lost its final name just before the crash, and that a copy still has under it."""
    found = partial.status.identity
    marks = [kept.identity for copy in copies for kept in copy.files]
    return any((mark.device, mark.inode) == (found.device, found.inode) for mark in marks)
