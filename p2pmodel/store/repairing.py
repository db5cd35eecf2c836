"""Bad chunks of files under their final names, written over where they stand.

A file that is being repaired keeps its name and stays open to whoever reads it; only the bytes of chunks that are known
to be bad are written, each after it was verified. The order on disk: the database says that the bad chunks are not here
and that the file is unproven (what else would its new time of change mean after a crash?), then bytes, barrier, claim.
A process that dies in between leaves a file that the next start hashes, whose good chunks are as good as before.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

from p2pmodel.errors import CorruptChunkError, P2PModelError, VerificationError
from p2pmodel.model import HaveMap, Layout
from p2pmodel.store.adoption import LocalChunks, OnProgress
from p2pmodel.store.catalogue import Catalogue
from p2pmodel.store.copies import Copy, KeptFile
from p2pmodel.store.database import Database
from p2pmodel.store.files import Files, OpenFile
from p2pmodel.store.values import BadRange, FileState


class Repair:
    """Made by `Store.open_repair`, which holds the copy. `close` must be called in the end, whatever happened.

    Fills what a download writes to. `beyond` are files that cannot be repaired in place: they are missing or have
    another length.
    """

    def __init__(
        self,
        layout: Layout,
        copy: Copy,
        *,
        files: Files,
        database: Database,
        catalogue: Catalogue,
        local_chunks: LocalChunks,
        on_close: Callable[[], None],
        unasked: bool = False,
    ) -> None:
        self.layout, self.copy = layout, copy
        self.bytes_reused = 0
        self.beyond: list[BadRange] = []
        self._files, self._database, self._catalogue = files, database, catalogue
        self._local_chunks, self._on_close, self._unasked = local_chunks, on_close, unasked
        self._lock = threading.Lock()
        self._before: dict[int, KeptFile] = {}
        self._others: list[tuple[Copy, KeptFile, int]] = []
        """The same files under other names, in copies that are held for it, as they were, and which of ours each is."""
        self._open: dict[int, OpenFile] = {}
        self._same = {place: group for group in layout.repeated() for place in group}
        self._written = 0
        bits = sum(self._lost(kept) for kept in copy.files)
        self.wanted = HaveMap(len(layout), bits)

    def _lost(self, kept: KeptFile) -> int:
        """The chunks of a file that can be put right in place, after a check of all of it."""
        entry = self.layout.files[kept.index]
        status = self._files.status(kept.location)
        if kept.state is FileState.PARTIAL or (self._unasked and kept.fault):
            return 0
        if status is None or status.identity.size != entry.size or status.kind != "file":
            reason = "the file is missing" if status is None else f"the file has {status.identity.size} bytes"
            self.beyond.append(BadRange(entry.path.text, 0, entry.size, reason))
            return 0
        return self.copy.lost(kept)

    # --- what a download sees

    @property
    def have(self) -> HaveMap:
        return HaveMap(self.wanted.count, (self.copy.bits & ~self.wanted.bits) | self._written)

    @property
    def missing(self) -> HaveMap:
        return HaveMap(self.wanted.count, self.wanted.bits & ~self._written)

    def begin(self, on_progress: OnProgress | None = None, stop: threading.Event | None = None) -> None:
        """Open the files, tell the database, and take from this disk what is on it in other places.

        Raises `RefusedError` where a file may not be written to.
        """
        for kept in self.copy.files:
            if kept.mask & self.wanted.bits:
                self._open[kept.index] = self._writable(kept)
                self._before[kept.index] = kept
        self._hold_others()
        begun = [
            replace(
                kept, state=FileState.PLACED, fault="", repairing=True, identity=self._open[index].status().identity
            )
            for index, kept in self._before.items()
        ]
        others = [(copy, replace(kept, state=FileState.PLACED, repairing=True)) for copy, kept, _ in self._others]
        with self._database.transaction() as writer:
            self._catalogue.save_files(writer, self.copy, begun)
            self._catalogue.save_have(writer, self.copy, self.copy.proven, clean=self.copy.clean)
            for copy, kept in others:
                self._catalogue.save_files(writer, copy, [kept])
        self.copy.put(*begun)
        for copy, kept in others:
            copy.put(kept)
        self._local_chunks.copy_missing(self.layout, self.missing, self._keep, on_progress, stop or threading.Event())
        self.bytes_reused = sum(self.layout[index].length for index in HaveMap(self.wanted.count, self._written))

    def _hold_others(self) -> None:
        """Other models may have the same file under another name: it changes for them as well, and not by a stranger.

        One on which somebody works is left out; its file counts as changed until it has been verified.
        """
        marks = {file.status().identity: index for index, file in self._open.items() if file.status().links > 1}
        for copy in self._catalogue.all_copies() if marks else []:
            if copy is self.copy or not copy.busy.acquire(blocking=False):
                continue
            found = [
                (copy, kept, marks[kept.identity])
                for kept in (copy.files if self._catalogue.is_listed(copy) else [])
                if kept.state is FileState.PROVEN and kept.readable and kept.identity in marks
            ]
            self._others += found
            if not found:
                copy.busy.release()

    def _writable(self, kept: KeptFile) -> OpenFile:
        directory = self._files.open_directory(kept.location.parent)
        file = directory.open(kept.location.name, write=True) if directory is not None else None
        if directory is not None:
            directory.close()
        if file is None:
            raise VerificationError(f"{str(kept.location)!r} has vanished")
        found = file.status().identity
        if found.size != self.layout.files[kept.index].size or not (kept.fault or kept.is_same(found)):
            file.close()
            raise VerificationError(f"{str(kept.location)!r} changed while it was being checked")
        return file

    def write(self, index: int, data: memoryview) -> int:
        """As `Intake.write`."""
        digest = self.layout[index].digest
        if not digest.is_of(data):
            raise CorruptChunkError(f"the bytes of chunk {index} do not have the hash {digest.hex}")
        return self._keep(index, data)

    def _keep(self, index: int, data: memoryview) -> int:
        with self._lock:
            bits = 0
            for at in self._same.get(index, (index,)):
                if at in self.wanted and not self._written >> at & 1:
                    place = self.layout[at]
                    self._open[place.file_index].write(data, place.offset)
                    bits |= 1 << at
            self._written |= bits
            self.copy.add(bits)
            return bits

    def claim(self) -> None:
        """The barrier of bytes so far; the claim is made once, at the end."""
        for file in list(self._open.values()):
            file.sync()

    def close(self) -> None:
        """Barrier and claim for what was written, whole or not; the copy is free again."""
        try:
            if self._before:
                self._settle()
        finally:
            for file in self._open.values():
                file.close()
            self._open.clear()
            for copy in {copy.number: copy for copy, _, _ in self._others}.values():
                copy.busy.release()
            self._others.clear()
            self._on_close()

    def _settle(self) -> None:
        try:
            self.claim()
        except P2PModelError:
            # Nobody knows what is on the disk. Unproven as it is, the next start hashes it.
            self.copy.drop(self._written)
            self.copy.put(*(replace(kept, state=FileState.PLACED, trusted=False) for kept in self._before.values()))
            for copy, kept, _ in self._others:
                copy.put(replace(kept, state=FileState.PLACED, trusted=False))
            raise
        settled = []
        for index, kept in self._before.items():
            # In doubt: while it was written to, nobody could tell whether others wrote to it as well.
            identity = replace(self._open[index].status().identity, ctime_ns=0)
            whole = not kept.mask & self.missing.bits
            # A file that somebody changed and that could not be made whole again stays his: nothing may overwrite it.
            fault, known = ("", identity) if whole or not kept.fault else (kept.fault, kept.identity)
            settled.append(replace(kept, state=FileState.PROVEN, identity=known, fault=fault, trusted=True))
        others = [
            (copy, replace(kept, identity=replace(self._open[index].status().identity, ctime_ns=0)))
            for copy, kept, index in self._others
        ]
        self.copy.put(*settled)
        for copy, kept in others:
            copy.put(kept)
        with self._database.transaction() as writer:
            self._catalogue.save_files(writer, self.copy, settled)
            self._catalogue.save_have(writer, self.copy, self.copy.proven, clean=self.copy.clean)
            for copy, kept in others:
                self._catalogue.save_files(writer, copy, [kept])
        self._before.clear()
