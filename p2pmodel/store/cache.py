"""What the store may let go of to make room, how much all of that may take, and what goes first.

*Published* files are their owner's, and files *fetched* to a directory of the user are the user's: neither is ever
removed to make room. *Cached* is what a fetch without a destination, or a peer that is a cache, put below `models/` in
the data directory. Of that, whatever is not pinned, not being fetched or checked, and not being read goes when the
quota or the floor of free disk asks for it; which first, `eviction.py` says.

A model under its final names goes as one, by unlinking its files, so that a program that has one open keeps it. Where
nobody can read by name, because nothing has a final name, single chunks go by punching holes.
"""

from __future__ import annotations

import copy as copying
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from p2pmodel.errors import NoSpaceError
from p2pmodel.limits import EVICT_BATCH_BYTES
from p2pmodel.model import ModelId
from p2pmodel.model.have_map import iter_bits
from p2pmodel.store.catalogue import Catalogue
from p2pmodel.store.copies import Copy
from p2pmodel.store.database import Database
from p2pmodel.store.eviction import S3Fifo
from p2pmodel.store.files import Files
from p2pmodel.store.objects import Objects
from p2pmodel.store.pins import Pins
from p2pmodel.store.releasing import Releaser
from p2pmodel.store.serving import Server
from p2pmodel.store.values import CacheLimits, CacheUse, Content, FileState, Released

MODELS_NAME = "models"
_WHOLE = -1
_UNIT_BITS = 22
"""A unit is a number: that of the copy, and in these lowest bits 0 for all of it, or 1 and the chunk's."""


class Cache:
    """Thread-safe. Nothing is let go of before somebody needs room, or says `collect`."""

    def __init__(
        self,
        directory: Path,
        *,
        files: Files,
        database: Database,
        catalogue: Catalogue,
        objects: Objects,
        server: Server,
        releaser: Releaser,
        pins: Pins,
    ) -> None:
        self.limits = CacheLimits()
        """May be changed at any time."""
        self.on_released: Callable[[ModelId, int], None] = lambda model_id, bits: None
        """Told of each model that lost something, and which chunks, in the thread that let go of it."""
        self.known_elsewhere: Callable[[ModelId], int] = lambda model_id: -1
        """The chunks of a model that somebody else is known to hold, as bits; -1 where nothing is known of others."""
        self.directory = files.resolve(directory) / MODELS_NAME
        self._files, self._database = files, database
        self._catalogue, self._objects = catalogue, objects
        self._server, self._releaser, self._pins = server, releaser, pins
        self._making_room = threading.RLock()
        """Held while room is made and taken, so that two do not count on the same bytes."""
        self._lock = threading.Lock()
        self._policy: S3Fifo[int] = S3Fifo()
        self._units: dict[int, tuple[Copy, int]] = {}
        """By number, the copies in the policy, with those of their chunks that are; `_WHOLE` for a copy as one."""
        self._served: dict[int, int] = {}
        """Chunks of a copy as one that were served since that counted as a use."""
        self._readers: Counter[ModelId] = Counter()
        """Models that a reader has open: what was told to be here stays until it has been read."""
        self._allowance = 0
        self._used = False
        """Whether anything was used since that was saved."""
        self._load()

    def _load(self) -> None:
        """In the order of the last run, with the uses that were counted then; what it did not know goes last."""
        rows = self._database.query("SELECT copy, uses, place FROM uses")
        known = {copy: (uses, place) for copy, uses, place in rows}
        last = (0, len(known))
        for copy in sorted(self._catalogue.all_copies(), key=lambda copy: known.get(copy.number, last)[1]):
            self.settle(copy, known.get(copy.number, last)[0])

    def save(self) -> None:
        """Keep for the next run what was used; not durable, for it is only a hint."""
        with self._lock:
            if not self._used:
                return
            self._used = False
            rows: dict[int, tuple[int, int]] = {}
            for place, key in enumerate(self._policy.order()):
                uses, first = rows.get(key >> _UNIT_BITS, (0, place))
                rows[key >> _UNIT_BITS] = max(uses, self._policy.uses(key)), first
        with self._database.transaction(durable=False) as writer:
            writer.execute("DELETE FROM uses")
            writer.execute_many(
                "INSERT INTO uses SELECT ?, ?, ? WHERE EXISTS (SELECT 1 FROM copies WHERE number = ?)",
                [(number, *row, number) for number, row in sorted(rows.items())],
            )

    # --- whose things are

    def content(self, copy: Copy) -> Content:
        if copy.kind == "published":
            return "published"
        return "cached" if copy.root.is_relative_to(self.directory) else "fetched"

    def _cached(self) -> list[Copy]:
        return [copy for copy in self._catalogue.all_copies() if self.content(copy) == "cached"]

    def use(self) -> CacheUse:
        sizes = [(copy, self._releaser.allocated_bytes(copy)) for copy in self._cached()]
        pinned = sum(size for copy, size in sizes if copy.model_id in self._pins)
        return CacheUse(sum(size for _, size in sizes), pinned, self.limits)

    def _used_bytes(self) -> int:
        return sum(self._releaser.allocated_bytes(copy) for copy in self._cached())

    # --- what happens

    def settle(self, copy: Copy, uses: int = 0) -> None:
        """A copy has come, gone or changed, or its model was pinned or unpinned: what of it may go is counted anew.

        `uses` are those of the last run, for what is not known here yet.
        """
        chunks = self._chunk_units(copy)
        size = self._releaser.allocated_bytes(copy) if chunks == _WHOLE else 0
        layout = self._objects.layout(copy.model_id) if chunks not in (0, _WHOLE) else None
        with self._lock:
            _, before = self._units.pop(copy.number, (copy, 0))
            stay = chunks if _WHOLE not in (before, chunks) else 0
            for key in _keys(copy, before & ~stay if before != chunks else 0):
                self._policy.drop(key)
            if not chunks:
                self._served.pop(copy.number, None)
                return
            self._units[copy.number] = copy, chunks
            for key in _keys(copy, chunks):
                if chunks == _WHOLE:
                    self._policy.add(key, size, uses=uses)
                elif layout is not None and key not in self._policy:
                    self._policy.add(key, layout.length(_chunk_of(key)), uses=uses)

    def _chunk_units(self, copy: Copy) -> int:
        """The chunks of a copy that may go one by one; `_WHOLE` where all of it goes at once, 0 where nothing does."""
        listed = self._catalogue.copy_at(copy.model_id, copy.root) is copy
        if not listed or self.content(copy) != "cached" or copy.model_id in self._pins:
            return 0
        nameless = all(kept.state is FileState.PARTIAL for kept in copy.files)
        return copy.bits if nameless and copy.bits else _WHOLE

    def served(self, copy: Copy, index: int) -> None:
        """A chunk was read for somebody. As many chunks as a model has count as one use of it."""
        with self._lock:
            _, chunks = self._units.get(copy.number, (copy, 0))
            if chunks == _WHOLE:
                self._served[copy.number] = self._served.get(copy.number, 0) + 1
                if self._served[copy.number] >= max(1, copy.count):
                    self._served[copy.number] = 0
                    self._policy.touch(_whole(copy))
                    self._used = True
            elif chunks:
                self._policy.touch(_chunk(copy, index))
                self._used = True

    def used(self, copy: Copy) -> None:
        """Its owner asked for a model that is here."""
        with self._lock:
            self._policy.touch(_whole(copy))
            self._used = True

    def reader_came(self, model_id: ModelId) -> None:
        """Nothing of this model is let go of to make room until the reader leaves (`reader_left`)."""
        with self._lock:
            self._readers[model_id] += 1

    def reader_left(self, model_id: ModelId) -> None:
        with self._lock:
            self._readers -= Counter([model_id])

    # --- making room

    @contextmanager
    def room(self, copy: Copy, needed_bytes: int, free_bytes: int) -> Iterator[None]:
        """For so many bytes that a fetch into `copy` is about to reserve on a disk with so many free.

        Lets go of what it has to. Raises `NoSpaceError`, and then nothing has gone, where that would not be enough.
        """
        with self._making_room:
            self._allowance = 0
            if needed_bytes:
                over = self._lacking(copy, needed_bytes, free_bytes)
                if over > 0:
                    self._check_enough(copy, over, needed_bytes, free_bytes)
                    self._make_room(over, self._why(copy, needed_bytes))
            yield

    def _make_room(self, over: int, reason: str, enough: int = 0, gone: list[Released] | None = None) -> int:
        """Until no more than `enough` is lacking, or nothing more may go. Returns what is lacking still."""
        # A file with several names takes its space until the last of them has gone.
        while over > enough and (went := self._released(self._choose(over), reason)):
            over -= sum(one.bytes_freed for one in went)
            if gone is not None:
                gone += went
        return over

    def take(self, copy: Copy, length_bytes: int, free_bytes: Callable[[], int]) -> None:
        """For a chunk that is about to be written to a copy without reserved space. Raises `NoSpaceError`."""
        with self._making_room:
            if length_bytes > self._allowance:
                quota = self.limits.quota_bytes
                batch = EVICT_BATCH_BYTES if quota is None else min(EVICT_BATCH_BYTES, quota // 32)
                wanted = max(batch, length_bytes)
                over = self._lacking(copy, wanted, free_bytes())
                if over > 0:
                    over = self._make_room(over, self._why(copy, length_bytes), wanted - length_bytes)
                if over > wanted - length_bytes:
                    raise NoSpaceError(f"the cache is full of what may not go for this: {self._why(copy, wanted)}")
                self._allowance = wanted - max(0, over)
            self._allowance -= length_bytes

    def _lacking(self, copy: Copy, needed_bytes: int, free_bytes: int) -> int:
        """How much has to go before so much more fits."""
        lacking = needed_bytes + self._floor_bytes(copy) - free_bytes
        if self.limits.quota_bytes is not None and self.content(copy) == "cached":
            lacking = max(lacking, self._used_bytes() + needed_bytes - self.limits.quota_bytes)
        return lacking

    def _on_our_disk(self, copy: Copy) -> bool:
        """Whether it lies where cached models lie, so that letting go of those makes room for it."""
        here, there = self._files.status(self.directory.parent), self._files.status(copy.root)
        return here is None or there is None or here.identity.device == there.identity.device

    def _floor_bytes(self, copy: Copy) -> int:
        """What has to stay free; another disk than ours is the user's to fill, and may be a small one."""
        return self.limits.free_floor_bytes if self._on_our_disk(copy) else 0

    def _check_enough(self, copy: Copy, over: int, needed_bytes: int, free_bytes: int) -> None:
        releasable = self._releasable_bytes() if self._on_our_disk(copy) else 0
        quota = self.limits.quota_bytes
        if releasable >= over:
            return
        if quota is not None and self.content(copy) == "cached" and self._used_bytes() + needed_bytes > quota:
            use = self.use()
            raise NoSpaceError(
                f"{needed_bytes:,} bytes more do not fit into the cache: of its quota of {quota:,} bytes "
                f"{use.used_bytes:,} are taken, and only {releasable:,} of those can be let go of "
                f"({use.pinned_bytes:,} are pinned); unpin something, raise cache_quota, or fetch --to a directory "
                "of your own"
            )
        floor = self._floor_bytes(copy)
        spared = f", of which {floor:,} have to stay free (free_disk_floor)" if floor else ""
        helped = f"; the cache can let go of {releasable:,}" if releasable else ""
        raise NoSpaceError(
            f"{str(copy.root)!r} needs {needed_bytes:,} bytes more and has {free_bytes:,} free{spared}{helped}"
        )

    def _releasable_bytes(self) -> int:
        """Models that go as one are looked at anew: what they take changes as files get, and lose, other names."""
        with self._lock:
            may_go = [
                (*self._units[key >> _UNIT_BITS], self._policy.size(key)) for key in self._policy if self._may_go(key)
            ]
        return sum(self._releaser.allocated_bytes(copy) if chunks == _WHOLE else size for copy, chunks, size in may_go)

    def _why(self, copy: Copy, needed_bytes: int) -> str:
        return f"{copy.model_id.hex[:12]} needs {needed_bytes} bytes"

    # --- choosing and letting go

    def _may_go(self, key: int) -> bool:
        copy, chunks = self._units[key >> _UNIT_BITS]
        if copy.busy.locked() or copy.model_id in self._readers:
            return False
        reading = self._server.reading(copy)
        return not (reading if chunks == _WHOLE else reading >> _chunk_of(key) & 1)

    def _rare(self) -> Callable[[int], bool]:
        known: dict[ModelId, int] = {}

        def is_rare(key: int) -> bool:
            copy, chunks = self._units[key >> _UNIT_BITS]
            if copy.model_id not in known:
                known[copy.model_id] = self.known_elsewhere(copy.model_id)
            alone = copy.bits & ~known[copy.model_id]
            return bool(alone if chunks == _WHOLE else alone >> _chunk_of(key) & 1)

        return is_rare

    def _choose(self, needed_bytes: int, policy: S3Fifo[int] | None = None) -> list[tuple[int, int]]:
        """Units to let go of, with their sizes, until so much is free; they have left the policy."""
        chosen, is_rare = [], self._rare()
        with self._lock:
            policy = policy or self._policy
            while needed_bytes > 0:
                key = policy.victim(self._may_go, is_rare)
                if key is None:
                    break
                copy, chunks = self._units[key >> _UNIT_BITS]
                size = self._releaser.allocated_bytes(copy) if chunks == _WHOLE else policy.last_size_bytes
                chosen.append((key, size))
                needed_bytes -= size
        return chosen

    def _grouped(self, chosen: Iterable[tuple[int, int]]) -> dict[int, tuple[Copy, int, int]]:
        """By copy: the chunks that go, or `_WHOLE`, and their bytes."""
        groups: dict[int, tuple[Copy, int, int]] = {}
        with self._lock:
            for key, size in chosen:
                copy, chunks = self._units.get(key >> _UNIT_BITS, (None, 0))
                if copy is None:
                    continue  # somebody else has just let go of it
                _, bits, total = groups.get(copy.number, (copy, 0, 0))
                bits = _WHOLE if chunks == _WHOLE else bits | 1 << _chunk_of(key)
                groups[copy.number] = copy, bits, total + size
        return groups

    def _released(self, chosen: list[tuple[int, int]], reason: str) -> list[Released]:
        """Let go of these units; returns what went."""
        done, groups = [], self._grouped(chosen)
        try:
            for copy, bits, _ in groups.values():
                if not copy.busy.acquire(blocking=False):
                    continue
                held = copy.bits
                try:
                    one = self._release_copy(copy, bits, reason)
                finally:
                    copy.busy.release()
                if one is not None:
                    done.append(one)
                    self.on_released(copy.model_id, held & ~copy.bits)
        finally:
            for copy, _, _ in groups.values():
                self.settle(copy)  # what did not go, for whatever reason, may go another time
        return done

    def _release_copy(self, copy: Copy, bits: int, reason: str) -> Released | None:
        layout = self._objects.layout(copy.model_id)
        held = copy.bits
        if bits == _WHOLE or layout is None or not held & ~bits:
            if self._server.reading(copy):
                return None
            freed = self._releaser.whole(copy, files=True)
            chunks, whole = held.bit_count(), True
        else:
            before = self._releaser.allocated_bytes(copy)
            chunks, whole = self._releaser.chunks(copy, layout, bits).bit_count(), False
            freed = max(0, before - self._releaser.allocated_bytes(copy))
        return Released(copy.model_id, copy.root, "cached", chunks, freed, whole, reason=reason)

    # --- by hand

    def collect(self, *, keep_bytes: int | None = None, dry_run: bool = False) -> list[Released]:
        """Bring the cache within its limits, and to `keep_bytes` at most where that is given.

        Returns what went, or with `dry_run` what would go, and why.
        """
        with self._making_room:
            self._allowance = 0
            if not dry_run:
                self._releaser.finish()
            over, reason = self._excess(keep_bytes)
            if over <= 0:
                return []
            if not dry_run:
                gone: list[Released] = []
                self._make_room(over, reason, gone=gone)
                return gone
            with self._lock:
                imagined = copying.deepcopy(self._policy)
            groups = self._grouped(self._choose(over, imagined)).values()
            return [
                Released(copy.model_id, copy.root, "cached", chunks, size, whole, reason=reason)
                for copy, bits, size in groups
                for whole in [bits == _WHOLE or not copy.bits & ~bits]
                for chunks in [(copy.bits if bits == _WHOLE else bits).bit_count()]
            ]

    def _excess(self, keep_bytes: int | None) -> tuple[int, str]:
        """How much is to go, and for which reason."""
        used, quota = self._used_bytes(), self.limits.quota_bytes
        found = [(0, "")]
        if keep_bytes is not None:
            found.append((used - keep_bytes, f"no more than {keep_bytes:,} bytes are to be kept"))
        if quota is not None:
            found.append((used - quota, f"the quota is {quota:,} bytes"))
        if (free := self._free_bytes()) is not None:
            floor = self.limits.free_floor_bytes
            found.append((min(floor - free, used), f"{floor:,} bytes are to stay free on the disk"))
        return max(found)

    def _free_bytes(self) -> int | None:
        directory = self._files.open_directory(self.directory)
        if directory is None:
            return None
        try:
            return directory.free_bytes()
        finally:
            directory.close()


def _whole(copy: Copy) -> int:
    return copy.number << _UNIT_BITS


def _chunk(copy: Copy, index: int) -> int:
    return copy.number << _UNIT_BITS | index + 1


def _chunk_of(key: int) -> int:
    return (key & (1 << _UNIT_BITS) - 1) - 1


def _keys(copy: Copy, chunks: int) -> Iterator[int]:
    if chunks == _WHOLE:
        yield _whole(copy)
    else:
        yield from (_chunk(copy, index) for index in iter_bits(chunks))
