"""From a path to a model: walk, hash on all cores, build the manifest, enter the files where they lie.

No byte is copied. A file whose identity (device, inode, size, time of change) is the same before and after it was
hashed is what was hashed; one that a former publication hashed and that has kept its identity is not read again.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

from p2pmodel.errors import DecodeError, InterruptedFetchError, UsageError, VerificationError
from p2pmodel.limits import HASH_BUFFER_BYTES
from p2pmodel.model import Layout, Manifest
from p2pmodel.model.chunking import chunk_lengths
from p2pmodel.store.catalogue import Catalogue
from p2pmodel.store.copies import Copy, KeptFile, hold
from p2pmodel.store.database import Database
from p2pmodel.store.files import Files, OpenFile
from p2pmodel.store.hashing import HashedFile, HashPool, hash_file, read_tensor_header
from p2pmodel.store.objects import Objects
from p2pmodel.store.values import FileIdentity, FileState, Published
from p2pmodel.store.walk import FoundFile, Tree, walk

OnProgress = Callable[[int, int, str], None]
"""Bytes done, bytes in all, name of the file. Called from several threads, one at a time."""

_LOOKS_MAX = 5
"""So often a file may have been written to just now before that is taken to go on."""


class Tally:
    """Progress of work on several threads; `counted` is what was truly read, not remembered."""

    def __init__(self, total: int, on_progress: OnProgress | None) -> None:
        self._total, self._on_progress = total, on_progress
        self._lock = threading.Lock()
        self._done = self.counted = 0

    def add(self, count: int, name: str, *, read: bool = True) -> None:
        with self._lock:
            self._done += count
            self.counted += count if read else 0
            if self._on_progress is not None:
                self._on_progress(self._done, self._total, name)


class Publisher:
    def __init__(
        self, files: Files, database: Database, objects: Objects, catalogue: Catalogue, pool: HashPool
    ) -> None:
        self._files, self._database, self._objects, self._catalogue = files, database, objects, catalogue
        self._pool = pool

    def publish(
        self, path: Path, *, follow_symlinks: bool, on_progress: OnProgress | None, stop: threading.Event
    ) -> Published:
        """Raises `NotFoundError`, `UsageError`, `RefusedError` for what cannot be published, `VerificationError`
        where a file changes meanwhile, `InterruptedFetchError` on `stop`."""
        tree = walk(self._files, path, follow_symlinks=follow_symlinks)
        return self.enter(tree, path, on_progress=on_progress, stop=stop)

    def enter(
        self, tree: Tree, path: Path, *, on_progress: OnProgress | None, stop: threading.Event, claims: bool = False
    ) -> Published:
        """The same for files that were found already. With `claims`, `VerificationError` where one is not what the name
        of its place says."""
        tally = Tally(sum(file.size for file in tree.files), on_progress)
        hashed: dict[str, tuple[HashedFile, FileIdentity, Path]] = {}

        def work(found: FoundFile) -> None:
            done = self._hash(found, tally, stop)
            if claims:
                self._check_claim(found, done[0])
            hashed[found.path.text] = done

        by_size = sorted(tree.files, key=lambda found: found.size, reverse=True)
        self._pool.each([partial(work, found) for found in by_size])
        try:
            manifest = Manifest.of(file.entry for file, _, _ in hashed.values())
            layout = Layout(manifest, [hashed[file.path.text][0].chunks for file in manifest.files])
            manifest.encode()
        except DecodeError as error:
            raise UsageError(f"{str(path)!r} cannot be published: {error}") from error
        root = self._files.resolve(path)
        self._enter(layout, root, [hashed[file.path.text][1:] for file in layout.files], stop)
        return Published(layout, root, tree.skipped, tally.counted)

    def _hash(self, found: FoundFile, tally: Tally, stop: threading.Event) -> tuple[HashedFile, FileIdentity, Path]:
        if stop.is_set():
            raise InterruptedFetchError("stopped")
        file = self._files.open_file(found.location)
        if file is None:
            raise VerificationError(f"{str(found.location)!r} changed while it was being read: it has vanished")
        try:
            identity = self._settled(file, stop)
            known = self._known(found, identity)
            if known is not None:
                parsed = chunk_lengths(identity.size, read_tensor_header(file, found.path, identity.size))
                if [chunk.length for chunk in known.chunks] == list(parsed):
                    tally.add(identity.size, found.path.text, read=False)
                    return known, identity, found.location
            hashed = hash_file(file, identity, found.path, self._pool, tally.add, stop)
            return hashed, identity, found.location
        finally:
            file.close()

    def _check_claim(self, found: FoundFile, hashed: HashedFile) -> None:
        kind, _, claimed = found.claim.partition(":")
        real = hashed.entry.sha256.hex if kind == "sha256" else self._git_object(found) if kind == "git" else claimed
        if real != claimed:
            raise VerificationError(f"{str(found.location)!r} is not what its name says: {kind} {real}")

    def _git_object(self, found: FoundFile) -> str:
        """The name that git gives a file: SHA-1, after its length. These are small, and have just been read."""
        file = self._files.open_file(found.location)
        if file is None:
            raise VerificationError(f"{str(found.location)!r} changed while it was being read: it has vanished")
        try:
            size = file.status().identity.size
            whole = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
            buffer = memoryview(bytearray(min(HASH_BUFFER_BYTES, size)))
            for at in range(0, size, len(buffer) or 1):
                count = file.read_into(buffer[: size - at], at)
                whole.update(buffer[:count])
            return whole.hexdigest()
        finally:
            file.close()

    def _settled(self, file: OpenFile, stop: threading.Event) -> FileIdentity:
        """The marks of a file from which every later change shows.

        Synced first: bytes, barrier, claim, and whoever wrote it a moment ago may not have waited for the disk; also,
        what another program writes through a mapping shows in a file's times from its next write-back on, not before.
        """
        file.sync()
        for _ in range(_LOOKS_MAX):
            identity = file.status().identity
            wait_s = self._files.unsettled_s(identity)
            if not wait_s:
                return identity
            if stop.wait(wait_s):
                raise InterruptedFetchError("stopped")
        raise VerificationError(f"{str(file.path)!r} changed while it was being read: somebody still writes to it")

    def _known(self, found: FoundFile, identity: FileIdentity) -> HashedFile | None:
        place = self._catalogue.known_file(identity)
        layout = self._objects.layout(place[0]) if place else None
        if place is None or layout is None:
            return None
        old = layout.files[place[1]]
        entry = type(old)(found.path, old.size, old.blake3, old.sha256, old.chunk_count, old.chunk_list)
        return HashedFile(entry, layout.chunk_lists[place[1]])

    def _enter(self, layout: Layout, root: Path, found: list[tuple[FileIdentity, Path]], stop: threading.Event) -> None:
        kept = [
            KeptFile(index, layout.chunks_of(index), location, FileState.PROVEN, identity)
            for index, (identity, location) in enumerate(found)
        ]
        while True:
            with self._catalogue.entering:
                copy = self._catalogue.copy_at(layout.model_id, root)
                if copy is None:
                    copy = self._save(layout, root, kept, None)
                    self._catalogue.publish_copy(copy)
                    return
            hold(copy, stop)  # a fetch into it, a check of it, or its end comes first
            try:
                if self._catalogue.copy_at(layout.model_id, root) is copy:
                    self._save(layout, root, kept, copy)
                    return
            finally:
                copy.busy.release()

    def _save(self, layout: Layout, root: Path, kept: list[KeptFile], copy: Copy | None) -> Copy:
        with self._database.transaction() as writer:
            self._objects.put_layout(writer, layout)
            entered = copy or self._catalogue.create(writer, layout, root, "published")
            self._catalogue.make_published(writer, entered, kept)
            self._catalogue.save_files(writer, entered, kept)
            self._catalogue.save_have(writer, entered, layout.have_map().bits, clean=True)
        self._objects.remember(layout)
        entered.kind = "published"
        _make_whole(entered, kept, layout)
        return entered


def _make_whole(copy: Copy, kept: list[KeptFile], layout: Layout) -> None:
    copy.put(*kept)
    copy.add(layout.have_map().bits)
