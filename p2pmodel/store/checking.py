"""Looking again at what is kept: stat every file, or hash it whole and name each range that is not as it should be."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from dataclasses import replace

from p2pmodel.errors import InterruptedFetchError, P2PModelError
from p2pmodel.limits import CHUNK_BYTES_MAX
from p2pmodel.model import Layout
from p2pmodel.store.catalogue import Catalogue
from p2pmodel.store.copies import Copy, KeptFile
from p2pmodel.store.database import Database
from p2pmodel.store.files import Files, OpenFile
from p2pmodel.store.hashing import HashPool
from p2pmodel.store.publishing import Tally
from p2pmodel.store.serving import changed_text
from p2pmodel.store.values import BadRange, FileIdentity, FileState


class Checker:
    """Compares the files of copies with the catalogue (`look`) and with the manifest (`verify`)."""

    def __init__(self, files: Files, database: Database, catalogue: Catalogue, pool: HashPool) -> None:
        self._files, self._database, self._catalogue, self._pool = files, database, catalogue, pool

    def look(self, copy: Copy) -> bool:
        """Stat every file of a copy and mark what changed, vanished or came back. Whether any of that is news."""
        news = False
        for seen in copy.files:
            refused = ""
            try:
                status = self._files.status(seen.location)
            except P2PModelError as error:  # a right that was taken away: the others are looked at all the same
                status, refused = None, str(error)
            with copy.moving:  # a fetch may be giving the file its final name
                kept = copy.file(seen.index)
            if kept is None or kept != seen or not kept.trusted:
                continue
            fault = ""
            if status is None:
                fault = refused or f"{str(kept.location)!r} has vanished"
            elif not kept.is_same(status.identity):
                fault = changed_text(kept)
            news |= self._catalogue.mark(copy, kept.index, fault)
            if status is not None and not fault:
                self._doubt(copy, kept.index, status.identity)
        return news

    def _doubt(self, copy: Copy, index: int, found: FileIdentity) -> None:
        """Something was done to a file that its size and time do not tell of: it has to be hashed again some time."""
        kept = copy.file(index)
        if kept is None or kept.state is not FileState.PROVEN or kept.identity.ctime_ns in (0, found.ctime_ns):
            return
        changed = replace(kept, identity=replace(kept.identity, ctime_ns=0))
        copy.put(changed)
        with self._database.transaction() as writer:
            self._catalogue.save_files(writer, copy, [changed])

    def verify(self, copy: Copy, layout: Layout, tally: Tally, stop: threading.Event) -> list[BadRange]:
        """Hash every file of a copy; its bits and faults are then what the disk says."""
        bad: list[BadRange] = []
        lock = threading.Lock()

        def check(kept: KeptFile) -> None:
            found = self._verify_file(copy, kept, layout, tally, stop)
            with lock:
                bad.extend(found)

        files = sorted(copy.files, key=lambda kept: layout.files[kept.index].size, reverse=True)
        self._pool.each([_bind(check, kept) for kept in files])
        with self._database.transaction() as writer:
            self._catalogue.save_files(writer, copy, copy.files)
            self._catalogue.save_have(writer, copy, copy.bits | copy.hidden, clean=copy.clean)
        return sorted(bad, key=lambda found: (found.file, found.offset))

    def prove(self, copy: Copy, kept: KeptFile, layout: Layout, stop: threading.Event) -> None:
        """Hash the chunks of one file that an earlier run did not prove, and note what was found.

        Raises `InterruptedFetchError`, with nothing noted, once `stop` is set or somebody wants the copy.
        """
        self._verify_file(copy, kept, layout, Tally(0, None), stop, whole=False)
        found = copy.file(kept.index)
        with self._database.transaction() as writer:
            self._catalogue.save_files(writer, copy, [found] if found is not None else [])
            self._catalogue.save_have(writer, copy, copy.proven, clean=copy.clean)

    def _verify_file(
        self,
        copy: Copy,
        kept: KeptFile,
        layout: Layout,
        tally: Tally,
        stop: threading.Event,
        *,
        whole: bool = True,
    ) -> list[BadRange]:
        entry = layout.files[kept.index]
        file = self._files.open_file(kept.location)
        if file is None:
            self._catalogue.mark(copy, kept.index, f"{str(kept.location)!r} has vanished")
            return [BadRange(entry.path.text, 0, entry.size, "the file is missing")]
        try:
            if kept.state is FileState.PLACED:
                self._make_durable(file)
            before = file.status().identity
            good, sha256 = self._hash(file, copy, kept, layout, tally, stop, whole=whole)
            unchanged = file.status().identity.untouched(before)
        finally:
            file.close()
        claimed = kept.mask if kept.state is not FileState.PARTIAL else copy.bits & kept.mask
        bad = _ranges(layout, kept, claimed & ~good, "the content is not what the manifest says")
        if before.size > entry.size and kept.state is not FileState.PARTIAL:
            bad.append(BadRange(entry.path.text, entry.size, before.size - entry.size, "the file is longer"))
        if whole and not bad and kept.state is not FileState.PARTIAL and sha256 != entry.sha256.raw:
            bad.append(BadRange(entry.path.text, 0, entry.size, "the manifest gives another SHA-256 than its chunks"))
        copy.drop(claimed & ~good)
        copy.add(good)
        if unchanged and before.size == entry.size and (not bad or kept.could_be(before) or kept.is_same(before)):
            # Touched, or damaged in place: what was read is what the bits say. A file with other content that somebody
            # wrote keeps its fault, and with it the protection against being overwritten.
            state = FileState.PROVEN if kept.state is FileState.PLACED else kept.state
            copy.put(replace(kept, state=state, identity=before, fault="", trusted=True))
        else:
            copy.put(replace(kept, fault=changed_text(kept)))
        return bad

    def _make_durable(self, file: OpenFile) -> None:
        """What an earlier run placed and did not prove, it may not have waited for."""
        file.sync(forget=True)
        directory = self._files.open_directory(file.path.parent)
        if directory is not None:
            try:
                directory.sync()
            finally:
                directory.close()

    def _hash(
        self,
        file: OpenFile,
        copy: Copy,
        kept: KeptFile,
        layout: Layout,
        tally: Tally,
        stop: threading.Event,
        *,
        whole: bool,
    ) -> tuple[int, bytes]:
        buffer = memoryview(bytearray(min(CHUNK_BYTES_MAX, layout.files[kept.index].size)))
        sha256, good = hashlib.sha256(), 0
        held = copy.bits
        for index in kept.span:
            place = layout[index]
            view = buffer[: place.length]
            if kept.state is FileState.PARTIAL and not held >> index & 1:
                continue
            if stop.is_set() or (copy.wanted and not whole):
                raise InterruptedFetchError("stopped")
            count = file.read_into(view, place.offset)
            if whole:
                sha256.update(view[:count])
            if count == place.length and place.digest.is_of(view):
                good |= 1 << index
            tally.add(place.length, layout.files[kept.index].path.text)
        return good, sha256.digest()


def _bind(check: Callable[[KeptFile], None], kept: KeptFile) -> Callable[[], None]:
    return lambda: check(kept)


def _ranges(layout: Layout, kept: KeptFile, bits: int, reason: str) -> list[BadRange]:
    """The chunks of one file as byte ranges, neighbours joined."""
    found: list[BadRange] = []
    path = layout.files[kept.index].path.text
    for index in kept.span:
        if not bits >> index & 1:
            continue
        place = layout[index]
        if found and found[-1].offset + found[-1].length == place.offset:
            found[-1] = replace(found[-1], length=found[-1].length + place.length)
        else:
            found.append(BadRange(path, place.offset, place.length, reason))
    return found
