"""What the store may let go of to make room, how much all of that may take, and what goes first.

*Published* files are their owner's, and files *fetched* to a directory of the user are the user's: neither is ever
removed to make room. *Cached* is what a fetch without a destination, or a peer that is a cache, put below `models/` in
the data directory. Of that, whatever is not pinned, not being fetched or checked, and not being read goes when the
quota or the floor of free disk asks for it; which first, `expendables.py` says.

A model under its final names goes as one, by unlinking its files, so that a program that has one open keeps it. Where
nobody can read by name, because nothing has a final name, single chunks go by punching holes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from p2pmodel.errors import NoSpaceError
from p2pmodel.limits import EVICT_BATCH_BYTES
from p2pmodel.model import ModelId
from p2pmodel.store.catalogue import Catalogue
from p2pmodel.store.copies import Copy
from p2pmodel.store.database import Database
from p2pmodel.store.expendables import WHOLE, Expendables
from p2pmodel.store.files import Files
from p2pmodel.store.objects import Objects
from p2pmodel.store.pins import Pins
from p2pmodel.store.releasing import Releaser
from p2pmodel.store.serving import Server
from p2pmodel.store.values import CacheLimits, CacheUse, Collected, Content, Released, ReleasedFile

MODELS_NAME = "models"


class Beside(Protocol):
    """What lies in the data directory beside the models, counts as the cache's, and goes before them. Thread-safe."""

    def used_bytes(self) -> int: ...

    def releasable_bytes(self) -> int: ...

    def release(self, lacking_bytes: int, *, dry_run: bool = False) -> list[ReleasedFile]:
        """Remove what was not used for longest, until so much is free. Returns what went, or would go."""
        ...


@dataclass(frozen=True, slots=True)
class _Need:
    """Who needs room, and where."""

    who: str
    root: Path
    content: Content


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
        self.directory = files.resolve(directory) / MODELS_NAME
        self.expendables = Expendables(
            database=database,
            catalogue=catalogue,
            objects=objects,
            server=server,
            releaser=releaser,
            pins=pins,
            content=self.content,
        )
        self._files, self._catalogue, self._objects = files, catalogue, objects
        self._server, self._releaser, self._pins = server, releaser, pins
        self.beside: Beside | None = None
        self._making_room = threading.RLock()
        """Held while room is made and taken, so that two do not count on the same bytes."""
        self._allowance = 0
        self.expendables.load()

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
        return CacheUse(sum(size for _, size in sizes) + self._beside_bytes(), pinned, self.limits)

    def _used_bytes(self) -> int:
        return sum(self._releaser.allocated_bytes(copy) for copy in self._cached()) + self._beside_bytes()

    def _beside_bytes(self) -> int:
        return 0 if self.beside is None else self.beside.used_bytes()

    # --- making room

    @contextmanager
    def room(self, copy: Copy, needed_bytes: int, free_bytes: Callable[[], int]) -> Iterator[None]:
        """For so many bytes that a fetch into `copy` is about to reserve on a disk with so many free.

        Lets go of what it has to. Raises `NoSpaceError`, and then nothing has gone, where that would not be enough.
        """
        with self._room(self._need(copy), needed_bytes, free_bytes):
            yield

    @contextmanager
    def room_beside(self, directory: Path, needed_bytes: int, free_bytes: Callable[[], int]) -> Iterator[None]:
        """The same for a file that is about to be put into a directory beside the models (`beside`)."""
        with self._room(_Need(directory.name, directory, "cached"), needed_bytes, free_bytes):
            yield

    @contextmanager
    def _room(self, need: _Need, needed_bytes: int, free_bytes: Callable[[], int]) -> Iterator[None]:
        with self._making_room:
            self._allowance = 0
            if needed_bytes:
                free = free_bytes()  # only now, for whoever had the turn before has taken some of it
                over = self._lacking(need, needed_bytes, free)
                if over > 0:
                    self._check_enough(need, over, needed_bytes, free)
                    self._make_room(over, self._why(need, needed_bytes))
            yield

    def _need(self, copy: Copy) -> _Need:
        return _Need(copy.model_id.hex[:12], copy.root, self.content(copy))

    def _release_beside(self, over: int, *, dry_run: bool = False) -> list[ReleasedFile]:
        return [] if self.beside is None else self.beside.release(over, dry_run=dry_run)

    def _make_room(self, over: int, reason: str, enough: int = 0, gone: Collected | None = None) -> int:
        """Until no more than `enough` is lacking, or nothing more may go. Returns what is lacking still."""
        if over > enough:
            beside = self._release_beside(over)
            over -= sum(one.bytes_freed for one in beside)
            if gone is not None:
                gone.beside.extend(beside)
        # A file with several names takes its space until the last of them has gone.
        while over > enough and (went := self._released(self.expendables.choose(over), reason)):
            over -= sum(one.bytes_freed for one in went)
            if gone is not None:
                gone.models.extend(went)
        return over

    def take(self, copy: Copy, length_bytes: int, free_bytes: Callable[[], int]) -> None:
        """For a chunk that is about to be written to a copy without reserved space. Raises `NoSpaceError`."""
        with self._making_room:
            if length_bytes > self._allowance:
                quota = self.limits.quota_bytes
                batch = EVICT_BATCH_BYTES if quota is None else min(EVICT_BATCH_BYTES, quota // 32)
                wanted, need = max(batch, length_bytes), self._need(copy)
                over = self._lacking(need, wanted, free_bytes())
                if over > 0:
                    over = self._make_room(over, self._why(need, length_bytes), wanted - length_bytes)
                if over > wanted - length_bytes:
                    raise NoSpaceError(f"the cache is full of what may not go for this: {self._why(need, wanted)}")
                self._allowance = wanted - max(0, over)
            self._allowance -= length_bytes

    def _lacking(self, need: _Need, needed_bytes: int, free_bytes: int) -> int:
        """How much has to go before so much more fits."""
        lacking = needed_bytes + self._floor_bytes(need) - free_bytes
        if self.limits.quota_bytes is not None and need.content == "cached":
            lacking = max(lacking, self._used_bytes() + needed_bytes - self.limits.quota_bytes)
        return lacking

    def _on_our_disk(self, need: _Need) -> bool:
        """Whether it lies where cached models lie, so that letting go of those makes room for it."""
        here, there = self._files.status(self.directory.parent), self._files.status(need.root)
        return here is None or there is None or here.identity.device == there.identity.device

    def _floor_bytes(self, need: _Need) -> int:
        """What has to stay free; another disk than ours is the user's to fill, and may be a small one."""
        return self.limits.free_floor_bytes if self._on_our_disk(need) else 0

    def _check_enough(self, need: _Need, over: int, needed_bytes: int, free_bytes: int) -> None:
        releasable = self._releasable_bytes() if self._on_our_disk(need) else 0
        quota = self.limits.quota_bytes
        if releasable >= over:
            return
        if quota is not None and need.content == "cached" and self._used_bytes() + needed_bytes > quota:
            use = self.use()
            raise NoSpaceError(
                f"{needed_bytes:,} bytes more do not fit into the cache: of its quota of {quota:,} bytes "
                f"{use.used_bytes:,} are taken, and only {releasable:,} of those can be let go of "
                f"({use.pinned_bytes:,} are pinned); unpin something, raise cache_quota, or fetch --to a directory "
                "of your own"
            )
        floor = self._floor_bytes(need)
        spared = f", of which {floor:,} have to stay free (free_disk_floor)" if floor else ""
        helped = f"; the cache can let go of {releasable:,}" if releasable else ""
        raise NoSpaceError(
            f"{str(need.root)!r} needs {needed_bytes:,} bytes more and has {free_bytes:,} free{spared}{helped}"
        )

    def _releasable_bytes(self) -> int:
        beside = 0 if self.beside is None else self.beside.releasable_bytes()
        return beside + self.expendables.releasable_bytes()

    def _why(self, need: _Need, needed_bytes: int) -> str:
        return f"{need.who} needs {needed_bytes} bytes"

    def _released(self, chosen: list[tuple[int, int]], reason: str) -> list[Released]:
        """Let go of these units; returns what went."""
        done, groups = [], self.expendables.grouped(chosen)
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
                self.expendables.settle(copy)  # what did not go, for whatever reason, may go another time
        return done

    def _release_copy(self, copy: Copy, bits: int, reason: str) -> Released | None:
        layout = self._objects.layout(copy.model_id)
        held = copy.bits
        if bits == WHOLE or layout is None or not held & ~bits:
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

    def collect(self, *, keep_bytes: int | None = None, dry_run: bool = False) -> Collected:
        """Bring the cache within its limits, and to `keep_bytes` at most where that is given.

        Returns what went, or with `dry_run` what would go, and why.
        """
        with self._making_room:
            self._allowance = 0
            if not dry_run:
                self._releaser.finish()
            over, reason = self._excess(keep_bytes)
            collected = Collected([], [], reason)
            if over <= 0:
                return collected
            if not dry_run:
                self._make_room(over, reason, gone=collected)
                return collected
            collected.beside.extend(self._release_beside(over, dry_run=True))
            over -= sum(one.bytes_freed for one in collected.beside)
            if over <= 0:
                return collected
            groups = self.expendables.grouped(self.expendables.choose(over, imagined=True)).values()
            collected.models.extend(
                Released(copy.model_id, copy.root, "cached", chunks, size, whole, reason=reason)
                for copy, bits, size in groups
                for whole in [bits == WHOLE or not copy.bits & ~bits]
                for chunks in [(copy.bits if bits == WHOLE else bits).bit_count()]
            )
            return collected

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
