"""One running fetch of one model into one directory: verified bytes in, files under their final names out.

The order on disk is bytes, barrier, claim. `write` checks a chunk, writes it to every place of the model that has the
same hash, and counts it as held in memory, where it is served at once. `claim` makes the bytes durable and only then
says so in the database. `finish` renames whole files first (a user waits for the name, not for the disk), after the
database has been told their marks; they count as *placed*, and a later `claim` proves them. `place_whole` does so for
files that somebody waits for before the others are whole. What an earlier run left unproven is hashed again by `adopt`,
never fetched again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace

from p2pmodel.errors import CorruptChunkError, P2PModelError, RefusedError
from p2pmodel.model import HaveMap, Layout
from p2pmodel.store.adoption import Adoption
from p2pmodel.store.borrowing import Borrowing
from p2pmodel.store.cache import Cache
from p2pmodel.store.catalogue import Catalogue
from p2pmodel.store.copies import Copy, KeptFile
from p2pmodel.store.database import Database
from p2pmodel.store.destination import Destination
from p2pmodel.store.files import Files, OpenFile
from p2pmodel.store.serving import Entry, OpenFiles
from p2pmodel.store.values import FileIdentity, FileState, Reuse

OnProgress = Callable[[int, int, str], None]


class Intake:
    """Made by `Store.open_intake`. `adopt` comes first, once; then `write` and `claim` from any thread; then `finish`.

    `close` must be called in the end, whatever happened.
    """

    def __init__(
        self,
        *,
        layout: Layout,
        file_indices: Collection[int],
        copy: Copy,
        destination: Destination,
        files: Files,
        database: Database,
        catalogue: Catalogue,
        borrowing: Borrowing,
        cache: Cache,
        overwrite: bool,
        sparse: bool,
        on_close: Callable[[Intake], None],
    ) -> None:
        self.layout, self.copy = layout, copy
        self.file_indices = tuple(sorted(set(file_indices)))
        self.wanted = layout.have_map(self.file_indices)
        self.reused: dict[Reuse, int] = {}
        """Bytes of wanted chunks that were on this disk before the fetch, by how they came to be here."""
        self._copy, self._destination, self._files = copy, destination, files
        self._database, self._catalogue = database, catalogue
        self._borrowing, self._overwrite, self._on_close = borrowing, overwrite, on_close
        self._cache, self._sparse = cache, sparse
        self.was_whole = False
        """Whether all that was wanted was here before: the owner has asked for it again."""
        self._replaceable: dict[int, FileIdentity] = {}
        self._same = {place: group for group in layout.repeated() for place in group}
        self._open = OpenFiles()
        self._proven = copy.bits
        self._recorded = 0
        """Chunks of placed files: in the database they stand beside the file's state, which says "unproven"."""
        self._lock = threading.RLock()
        self._state = threading.Condition(self._lock)
        """Told when nobody writes and somebody waits for that."""
        self._waiting = 0
        self._claiming, self._recording = threading.Lock(), threading.Lock()
        self._writing: dict[int, int] = {}
        """Files that are being written to, and by how many."""
        self._dirty: set[int] = set()
        self._doubtful: set[int] = set()
        """Placed files whose barrier has failed: a second one would hold, and prove nothing. The next run looks."""
        self._adopted = self._closed = False

    @property
    def have(self) -> HaveMap:
        """The chunks of the model that are verified and here."""
        return HaveMap(self.wanted.count, self._copy.bits)

    @property
    def missing(self) -> HaveMap:
        """The wanted chunks that are not here yet."""
        return HaveMap(self.wanted.count, self.wanted.bits & ~self._copy.bits)

    def adopt(
        self,
        on_progress: OnProgress | None = None,
        stop: threading.Event | None = None,
        *,
        asked: int | None = None,
    ) -> None:
        """Take over what is here already, and reserve the space for the rest. Blocks; hashes what is not proven.

        `asked`: only these chunks are copied from other models on this disk; `borrow` copies others later.
        Raises `RefusedError` where a file with other content has a final name and `overwrite` is off,
        `NoSpaceError` before anything was written, and `InterruptedFetchError` once `stop` is set.
        """
        stop = stop or threading.Event()
        assert not self._adopted
        adoption = Adoption(
            layout=self.layout,
            file_indices=self.file_indices,
            copy=self._copy,
            destination=self._destination,
            files=self._files,
            catalogue=self._catalogue,
            overwrite=self._overwrite,
            room=self._room,
            reserve=not self._sparse,
            link=lambda index: self._link(index, stop),
            on_progress=on_progress,
            stop=stop,
        )
        kept = adoption.run()
        with self._database.transaction() as writer:
            self._proven &= self._copy.bits
            self._catalogue.save_files(writer, self._copy, kept)
            self._catalogue.save_have(writer, self._copy, self._proven | self._copy.hidden, clean=False)
        self._copy.clean = False
        self._dirty.update(file.index for file in kept if self._copy.bits & file.mask & ~self._proven)
        self._dirty.update(file.index for file in kept if file.state is FileState.PLACED)
        self._adopted = True
        self.was_whole = not self.missing.held
        self._replaceable = adoption.replaceable
        here = self._copy.bits
        linked = self.layout.have_map(adoption.linked).bits
        partial = sum(file.mask for file in kept if file.state is FileState.PARTIAL)
        adoption.copy_replaced(self._keep)
        replaced = self._copy.bits & ~here
        came = self._borrow(self.missing.bits if asked is None else asked, on_progress, stop)
        self.reused = {
            "in_place": self._bytes(here & ~partial & ~linked),
            "resumed": self._bytes(here & partial),
            "linked": self._bytes(linked),
            "reflinked": came["reflinked"],
            "copied": came["copied"] + self._bytes(replaced),
        }

    def borrow(self, bits: int, stop: threading.Event) -> int:
        """Copy those of these chunks that are missing here and lie in other models on this disk.

        Returns what of `bits` is here then. Raises as `adopt` does.
        """
        self._borrow(bits, None, stop)
        return bits & self._copy.bits

    def _borrow(self, bits: int, on_progress: OnProgress | None, stop: threading.Event) -> dict[str, int]:
        lacking = HaveMap(self.wanted.count, bits & self.missing.bits)
        return self._borrowing.copy_missing(
            self.layout, lacking, self._take, self._partial, self._note_copied, on_progress, stop
        )

    def _bytes(self, bits: int) -> int:
        return sum(self.layout.length(index) for index in HaveMap(self.wanted.count, self.wanted.bits & bits))

    def _note_copied(self, bits: int) -> int:
        """These chunks are in their places and have been hashed there. Returns those that were not held before."""
        with self._lock:
            self._dirty.update(self.layout[index].file_index for index in HaveMap(self.wanted.count, bits))
            return self._copy.add(bits)

    @property
    def bytes_reused(self) -> int:
        return sum(self.reused.values())

    def _link(self, index: int, stop: threading.Event) -> KeptFile | None:
        # What a cache lets go of by chunks must not be somebody else's file as well.
        return None if self._sparse else self._borrowing.link(self.layout, index, self._destination, stop)

    def _take(self, length_bytes: int) -> None:
        if self._sparse:
            self._cache.take(self._copy, length_bytes, self._destination.free_bytes)

    def _room(self, needed_bytes: int, free_bytes: Callable[[], int]) -> AbstractContextManager[None]:
        return self._cache.room(self._copy, needed_bytes, free_bytes)

    def write(self, index: int, data: memoryview) -> int:
        """Keep chunk `index` if `data` is it. Returns the chunks newly held, as bits of a have-map (0: had it).

        Raises `CorruptChunkError` where the bytes are not this chunk, `NoSpaceError` and others of the disk.
        """
        digest = self.layout[index].digest
        if not digest.is_of(data):
            raise CorruptChunkError(f"the bytes of chunk {index} do not have the hash {digest.hex}")
        return self._keep(index, data)

    def _keep(self, index: int, data: memoryview) -> int:
        """Write a verified chunk to every wanted place of its hash that does not have it yet."""
        assert self._adopted, "adopt() comes before the first write"
        with self._lock:
            held = self._copy.bits
            numbers = [at for at in self._same.get(index, (index,)) if at in self.wanted and not held >> at & 1]
            if not numbers:
                return 0
            places = [self.layout[at] for at in numbers]
            for place in places:
                if (kept := self._copy.file(place.file_index)) is not None and kept.fault:
                    raise P2PModelError(kept.fault)
            for place in places:
                self._writing[place.file_index] = self._writing.get(place.file_index, 0) + 1
        try:
            self._take(len(data) * len(places))
            bits = 0
            for place in places:
                if len(data) != place.length:
                    raise CorruptChunkError(f"chunk {index} has {len(data)} bytes instead of {place.length}")
                entry = self._acquire(place.file_index)
                try:
                    entry.file.write(data, place.offset)
                finally:
                    self._open.release(entry)
                bits |= 1 << place.index
            with self._lock:
                for place in places:
                    self._dirty.add(place.file_index)
                return self._copy.add(bits)
        finally:
            with self._lock:
                for place in places:
                    self._wrote(place.file_index)

    def _wrote(self, file_index: int) -> None:
        left = self._writing.pop(file_index) - 1
        if left:
            self._writing[file_index] = left
        elif not self._writing and self._waiting:
            self._state.notify_all()

    def _wait_for_writers(self) -> None:
        """With the lock, which it lets go of meanwhile."""
        self._waiting += 1
        try:
            self._state.wait_for(lambda: not self._writing)
        finally:
            self._waiting -= 1

    def _acquire(self, file_index: int) -> Entry:
        entry = self._open.acquire((0, file_index), lambda: self._destination.open_partial(file_index))
        if entry is None:
            raise P2PModelError(f"the partial file {str(self._destination.partial(file_index))!r} has vanished")
        return entry

    @contextmanager
    def _partial(self, file_index: int) -> Iterator[OpenFile]:
        entry = self._acquire(file_index)
        try:
            yield entry.file
        finally:
            self._open.release(entry)

    def claim(self) -> None:
        """Make durable what is held, then say so: after a power cut exactly this is known to be here.

        Raises `P2PModelError` where the disk cannot; what was not proven before then no longer counts as held.
        """
        self._claim(clean=False)

    def _claim(self, *, clean: bool) -> None:
        with self._claiming:
            with self._lock:
                bits, dirty = self._copy.bits, sorted(self._dirty)
                self._dirty.clear()
            try:
                synced = [step for file_index in dirty if (step := self._sync(file_index)) is not None]
                if any(after.state is FileState.PARTIAL for _, after in synced):
                    self._destination.sync_partial_names()
                if placed := [after for _, after in synced if after.state is FileState.PROVEN]:
                    self._destination.sync_directories([self.layout.files[file.index].path for file in placed])
            except P2PModelError:
                with self._lock:
                    self._dirty.update(dirty)
                raise
            if bits == self._proven and not synced and not clean:
                return
            with self._recording, self._database.transaction() as writer:
                # What has got its final name meanwhile stands there as such already.
                still = [
                    after for _, after in synced if after.state is FileState.PROVEN or not after.mask & self._recorded
                ]
                self._catalogue.save_files(writer, self._copy, still)
                self._catalogue.save_have(writer, self._copy, self._recorded | bits | self._copy.hidden, clean=clean)
            self._proven = bits
            self._copy.clean = clean
            for before, after in synced:
                with self._copy.moving:
                    if self._copy.file(before.index) is before:
                        self._copy.put(after)

    def _sync(self, file_index: int) -> tuple[KeptFile, KeptFile] | None:
        """Barrier for one file; what the catalogue says of it now, and what it may say once the barrier has held.

        After a barrier that failed nobody knows what is on the disk, so what it should have proven is held no more.
        """
        kept = self._copy.file(file_index)
        if kept is None or kept.state is FileState.PROVEN or file_index in self._doubtful:
            return None
        try:
            if kept.state is FileState.PARTIAL:
                with self._partial(file_index) as file:
                    file.sync()
                    return kept, replace(kept, identity=file.status().identity)
            placed = self._files.open_file(kept.location)
            if placed is None:
                raise P2PModelError(f"{str(kept.location)!r} has vanished")
            try:
                placed.sync()
                found = placed.status().identity  # it got its name since: that is a change of the file, and ours
            finally:
                placed.close()
            identity = found if found == kept.identity else kept.identity
            return kept, replace(kept, state=FileState.PROVEN, identity=identity)
        except P2PModelError:
            if self._copy.file(file_index) is not kept:  # it has got its final name meanwhile
                return self._sync(file_index)
            self._copy.drop(kept.mask & ~self._proven)
            if kept.state is FileState.PLACED:
                self._doubtful.add(file_index)
            raise

    def finish(self) -> None:
        """Give every wanted file its final name. Raises `P2PModelError` unless all of them are whole."""
        assert not self._sparse, "what a cache holds has no final names"
        with self._lock:
            self._wait_for_writers()
            if self.missing.held:
                raise P2PModelError(f"{self.missing.held} chunks are missing: the files are not whole")
            self._place_all(self._partial_files())
            self._destination.remove_partials()  # `close` may come a while later, and a user looks now

    def place_whole(self, among: Collection[int] | None = None) -> list[int]:
        """Give their final names to those files (`among` these) that are whole, while others are still coming.

        Returns those that have to wait for a late write. After `close` nothing happens.
        """
        with self._lock:
            partial = [] if self._closed else self._partial_files()
            wanted = [file for file in partial if among is None or file.index in among]
            whole = [file for file in wanted if self._copy.bits & file.mask == file.mask]
            if at_rest := [file for file in whole if file.index not in self._writing]:
                self._place_all(at_rest)
            return [file.index for file in whole if file.index in self._writing]

    def _place_all(self, partial: Iterable[KeptFile]) -> None:
        placed = [self._placed(kept) for kept in partial]
        self._check_final_names(placed)
        with self._recording, self._database.transaction() as writer:
            for file in placed:
                self._recorded |= file.mask
            self._catalogue.save_files(writer, self._copy, placed)
            have = self._recorded | self._proven | self._copy.hidden
            self._catalogue.save_have(writer, self._copy, have, clean=False)
        for file in placed:
            self._place(file)
        self._dirty.update(file.index for file in placed)

    def _partial_files(self) -> list[KeptFile]:
        kept = [self._copy.file(index) for index in self.file_indices]
        return [file for file in kept if file is not None and file.state is FileState.PARTIAL]

    def _placed(self, kept: KeptFile) -> KeptFile:
        path = self.layout.files[kept.index].path
        with self._partial(kept.index) as file:
            if self._destination.status(path) is not None:
                file.sync()  # what it replaces is gone with the rename, so here the name waits for the disk
            identity = file.status().identity
        if not identity.same_place(kept.identity):
            raise P2PModelError(f"the partial file {str(kept.location)!r} was replaced by something else")
        location = self._destination.final(path)
        return replace(kept, state=FileState.PLACED, identity=identity, location=location)

    def _check_final_names(self, placed: list[KeptFile]) -> None:
        """Somebody may have made a file of that name since `adopt` looked."""
        for file in placed:
            path = self.layout.files[file.index].path
            status = self._destination.status(path)
            if status is None or self._overwrite or status.identity == self._replaceable.get(file.index):
                continue
            if not self._is_ours(file, status.identity):
                raise RefusedError(f"{str(file.location)!r} has appeared meanwhile and would be overwritten")

    def _is_ours(self, file: KeptFile, identity: object) -> bool:
        found = self._catalogue.located(file.location)
        return any(kept.identity == identity and copy.kind == "fetched" for copy, kept in found)

    def _place(self, file: KeptFile) -> None:
        others = [(copy, kept) for copy, kept in self._catalogue.located(file.location) if copy is not self._copy]
        with self._copy.moving:
            self._destination.place(file.index, self.layout.files[file.index].path)
            self._copy.put(file)
        self._open.drop((0, file.index))
        for copy, kept in others:
            self._catalogue.mark(copy, kept.index, f"{str(kept.location)!r} was replaced by another model's file")

    def close(self) -> None:
        """End the fetch. What has arrived stays for the next run; where nothing did, nothing stays."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._wait_for_writers()
        with ExitStack() as ending:  # whatever fails on the way, the rest is let go of
            ending.callback(self._on_close, self)
            ending.callback(self._destination.close)
            ending.callback(self._open.close)
            if self._adopted and self._copy.bits:
                self._claim(clean=True)
            elif not self._copy.bits and all(file.state is FileState.PARTIAL for file in self._copy.files):
                self._discard()

    def _discard(self) -> None:
        for kept in self._copy.files:
            self._destination.remove_partial(kept.index)
        self._catalogue.remove_copy(self._copy)
        self._catalogue.remove_model(self.layout.model_id, self.layout)
