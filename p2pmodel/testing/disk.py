"""A disk in memory for a simulated peer: it fills the seam `store.files`, and fails in every way that a real one does.

    disk = SimDisk(random.Random(7))
    store = Store.open(Path("/data"), files=disk.process())
    disk.fail_after(20, errno.EIO, only={"sync"})     # the twentieth sync fails, and its pages are lost
    ...
    disk.cut_power()                                  # every process is dead; what was not synced may be gone
    store = Store.open(Path("/data"), files=disk.process())

What is modelled: a page cache above a disk, by pages of 4 KiB and sectors of 512 bytes; names and renames that are
durable only once their directory was synced; holes, reserved space and a capacity; links, locks and open files that
end with their process; marks (inode, size, time) by which files are known again; calls that fail with any error; a
sync that fails once and after which the lost pages count as clean (Rebello et al., ATC 2020); bits that flip. SQLite
commits are whole, durable when they return unless they are not meant to be, or fail.

What is not: rights and owners, `mmap`, disks that reorder across a sync or lie about it, the inside of
SQLite's journal, the time that a disk takes, and a rename that a power cut leaves with both names.

The same rng and the same calls give the same disk. Nothing here looks at a clock other than the one that is handed in.
"""

from __future__ import annotations

import errno
import os
import random
import threading
import weakref
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Self

from p2pmodel.store.values import Kind
from p2pmodel.testing.disk_database import SimDatabase
from p2pmodel.testing.disk_faults import Dice, Faults, Script
from p2pmodel.testing.disk_files import SimFiles, SimProcess
from p2pmodel.testing.disk_names import Edit, Inode, Names
from p2pmodel.testing.disk_pages import PAGE_BYTES, Choices

_CAPACITY_BYTES = 1 << 40
_SAME_NS = 1_000_000
"""Times that differ by less are those of one moment, told apart by a nanosecond; more, and the clock was set back."""


class SimDisk(SimFiles):
    """One machine's disk. `process()` gives a peer its view of it; the disk itself is a view that is never dead.

    `clock` gives seconds, for the times of files; without one, time stands still but for a nanosecond at each change.
    """

    def __init__(
        self,
        rng: random.Random | None = None,
        *,
        clock: Callable[[], float] | None = None,
        capacity_bytes: int = _CAPACITY_BYTES,
    ) -> None:
        self.guard = threading.RLock()
        self.faults = Faults()
        self.names = Names()
        self.rng = rng if rng is not None else random.Random(0)
        self.capacity_bytes = capacity_bytes
        self.can_reflink = False
        """Whether files can share blocks, as on Btrfs and XFS."""
        self.flip_rate = 0.0
        """The chance of each read to come back with one bit flipped."""
        self._clock = clock
        self._processes: list[SimProcess] = []
        self._started = 0
        self._databases: list[SimDatabase] = []
        weakref.finalize(self, _close_all, self._databases)
        super().__init__(self, self._start())

    # --- processes and crashes

    def process(self) -> SimFiles:
        """The disk as a new process sees it, until that or the machine crashes."""
        with self.guard:
            return SimFiles(self, self._start())

    def _start(self) -> SimProcess:
        self._started += 1
        process = SimProcess(self._started)
        self._processes = [known for known in self._processes if known.alive]
        self._processes.append(process)
        return process

    def crash(self) -> None:
        """Every process dies, as with SIGKILL; what they wrote stays in the page cache."""
        with self.guard:
            for process in self._processes:
                process.die()
            self._process = self._start()
            self.faults.start()

    def cut_power(self, choices: Choices | None = None) -> None:
        """Every process dies, and of what was not synced any part may be lost or torn; dice decide, or `choices`."""
        with self.guard:
            self.crash()
            choices = choices or Dice(self.rng)
            self.names.cut(choices)
            for inode in self.names.durable():
                inode.contents.cut(choices)
                if inode.mtime_ns != inode.durable_mtime_ns and not choices.kept():
                    inode.mtime_ns = inode.durable_mtime_ns
                inode.durable_mtime_ns = inode.mtime_ns
                if inode.database is not None:
                    inode.database.cut(choices)

    def stop_after(self, calls: int) -> None:
        """The machine goes on for so many calls; the next one, and all after it, fail until it crashes.

        A write that it stops in may have happened in part. `crash` or `cut_power` starts the machine again.
        """
        with self.guard:
            self.faults.stop_in(calls)

    # --- faults

    @property
    def calls(self) -> int:
        """How many calls there have been."""
        return self.faults.calls

    @property
    def on_call(self) -> Callable[[str, Path], None] | None:
        """Told of each call, and the path it is about, before it happens; may `fork` the disk."""
        return self.faults.on_call

    @on_call.setter
    def on_call(self, hook: Callable[[str, Path], None] | None) -> None:
        self.faults.on_call = hook

    def fail_after(
        self,
        calls: int = 1,
        code: int = errno.EIO,
        *,
        only: Collection[str] = (),
        below: str | Path = "/",
        times: int | None = 1,
    ) -> None:
        """Let the `calls`-th call from now fail with this `errno`, and as many after it as `times` says (None: all).

        `only` names the operations that count (see `disk_faults.OPERATIONS`), `below` where a path has to begin.
        """
        with self.guard:
            self.faults.plan(calls, code, only, str(below), times)

    def heal(self) -> None:
        """No planned failure is left, and no bit flips."""
        self.faults.heal()
        self.flip_rate = 0.0

    def forget_cache(self) -> None:
        """Let clean pages leave the memory: what a failed sync lost is now seen to be lost."""
        with self.guard:
            for inode in self.names.everything():
                inode.contents.forget_cache()

    def rot(self, path: str | Path, offset: int, bit: int = 0) -> None:
        """Flip one stored bit; the marks of the file tell nothing."""
        with self.guard:
            self.names.find(Path(path)).contents.rot(offset, bit)

    # --- copies of the whole disk

    def fork(self) -> SimDisk:
        """Another disk that holds, and would lose, the same. It has no processes, no faults, and the same next dice."""
        with self.guard:
            other = SimDisk(random.Random(), clock=self._clock, capacity_bytes=self.capacity_bytes)
            other.can_reflink = self.can_reflink
            other.rng.setstate(self.rng.getstate())
            copies = {inode: Inode(inode.number, inode.kind) for inode in self.names.everything()}
            for inode, copy in copies.items():
                copy.links, copy.target, copy.contents = inode.links, inode.target, inode.contents.copy()
                copy.mtime_ns, copy.durable_mtime_ns = inode.mtime_ns, inode.durable_mtime_ns
                copy.ctime_ns = inode.ctime_ns
                copy.entries = {name: copies[below] for name, below in inode.entries.items()}
                copy.durable_entries = {name: copies[below] for name, below in inode.durable_entries.items()}
                if inode.database is not None:
                    copy.database = other.add_database(inode.database.committed())
                    copy.database.older = list(inode.database.older)
            other.names.root, other.names.made = copies[self.names.root], self.names.made
            other.names.pending = [
                tuple(
                    Edit(
                        copies[edit.directory],
                        edit.name,
                        copies[edit.before] if edit.before is not None else None,
                        copies[edit.after] if edit.after is not None else None,
                    )
                    for edit in change
                )
                for change in self.names.pending
            ]
            return other

    def outcomes(self, limit: int) -> Iterator[SimDisk]:
        """The disks that a power cut now may leave: every one where there are at most `limit`, else 2 x `limit`."""
        script = Script()
        for _ in range(limit):
            fork = self.fork()
            fork.cut_power(script)
            yield fork
            if not script.advance():
                return
        for _ in range(limit):
            fork = self.fork()
            fork.cut_power(Dice(self.rng))
            yield fork

    # --- what another program on this machine might do; these never fail by plan

    def write_file(self, path: str | Path, data: bytes) -> None:
        """Make or overwrite a file, with the directories above it. Nothing of it is durable before a sync."""
        path = Path(path)
        with self.guard:
            parent = self.make_directories(path.parent)
            inode = parent.entries.get(path.name)
            inode = self.make(parent, path.name, "file") if inode is None else self.names.find(path)
            if inode.database is not None:
                inode.database.close()
                inode.database = None
            self.allocate(inode, 0)
            self.write(inode, memoryview(data), 0)

    def read_file(self, path: str | Path) -> bytes:
        """Raises `FileNotFoundError`."""
        with self.guard:
            inode = self.names.find(Path(path))
            return _whole(inode)

    def tree(self, root: str | Path = "/") -> dict[str, bytes]:
        """Every regular file below a directory, by its relative path; databases too. Empty where there is nothing."""
        found: dict[str, bytes] = {}
        with self.guard:
            try:
                waiting = [("", self.names.find(Path(root)))]
            except FileNotFoundError:
                return found
            while waiting:
                prefix, directory = waiting.pop()
                for name, inode in directory.entries.items():
                    if inode.kind == "directory":
                        waiting.append((f"{prefix}{name}/", inode))
                    elif inode.kind == "file":
                        found[prefix + name] = _whole(inode)
        return dict(sorted(found.items()))

    def make_directories(self, path: Path, *, durable: bool = False) -> Inode:
        with self.guard:
            found = self.names.root
            for part in self.names.walk(path)[1].parts[1:]:
                above, below = found, found.entries.get(part)
                found = below if below is not None else self.make(above, part, "directory")
                if durable:
                    self.names.sync(above, part)
            if found.kind != "directory":
                raise OSError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
            return found

    def make_special(self, path: str | Path, kind: Kind, target: str = "") -> None:
        """A link to `target`, a pipe, a socket or a device."""
        path = Path(path)
        with self.guard:
            parent = self.names.find(path.parent)
            if path.name in parent.entries:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
            self.make(parent, path.name, kind).target = target

    def rename(self, path: str | Path, new: str | Path) -> None:
        source, target = Path(path), Path(new)
        with self.guard:
            self.names.rename(self.names.find(source.parent), source.name, self.names.find(target.parent), target.name)

    def remove(self, path: str | Path) -> None:
        """A file, a link or an empty directory. Raises `FileNotFoundError`, `OSError` for a full directory."""
        path = Path(path)
        with self.guard:
            parent = self.names.find(path.parent)
            inode = parent.entries.get(path.name)
            if inode is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
            if inode.entries:
                raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(path))
            self.names.set(parent, path.name, None)

    def sync_all(self) -> None:
        """All that was ever written is durable, as after `sync(1)`."""
        with self.guard:
            for inode in self.names.everything():
                self.sync_file(inode)
                if inode.database is not None:
                    inode.database.older.clear()
                if inode.kind == "directory":
                    self.names.sync(inode)

    # --- what the views of processes are made of; they hold `guard` and map errors

    @property
    def used_bytes(self) -> int:
        return sum(inode.status().allocated_bytes for inode in self.names.seen())

    @property
    def free_bytes(self) -> int:
        return max(0, self.capacity_bytes - self.used_bytes)

    def make(self, directory: Inode, name: str, kind: Kind) -> Inode:
        inode = self.names.new(kind)
        self.names.set(directory, name, inode)
        self._touch(inode)
        return inode

    def write(self, inode: Inode, data: memoryview, offset: int) -> None:
        self._reserve(inode.contents.allocated_with(offset, len(data)) - inode.contents.allocated_bytes)
        inode.contents.write(data, offset)
        self._touch(inode)

    def write_part(self, inode: Inode, data: memoryview, offset: int) -> None:
        """What a write that failed may have written: nothing, or some pages from its beginning."""
        pages = self.rng.randrange(-(-len(data) // PAGE_BYTES) + 1) if self.rng.random() < 0.5 else 0
        part = data[: pages * PAGE_BYTES]
        if part and inode.contents.allocated_with(offset, len(part)) == inode.contents.allocated_bytes:
            self.write(inode, part, offset)

    def allocate(self, inode: Inode, size: int, *, reserve: bool = True) -> None:
        if reserve:
            self._reserve(-(-size // PAGE_BYTES) * PAGE_BYTES - inode.contents.allocated_bytes)
        inode.contents.allocate(size, reserve=reserve)
        self._touch(inode)

    def punch(self, inode: Inode, offset: int, length: int) -> None:
        inode.contents.punch(offset, length)
        self._touch(inode)

    def sync_file(self, inode: Inode) -> None:
        inode.contents.sync()
        inode.durable_mtime_ns = inode.mtime_ns

    def lose_sync(self, inode: Inode) -> None:
        inode.contents.lose_sync(Dice(self.rng))

    def flip_bits(self, data: memoryview) -> None:
        if self.flip_rate and len(data) and self.rng.random() < self.flip_rate:
            data[self.rng.randrange(len(data))] ^= 1 << self.rng.randrange(8)

    def database(self, path: Path) -> SimDatabase:
        """The database at a path, made where there is none. Raises `OSError`."""
        found, real = self.names.walk(path)
        if found is None:
            found = self.make(self.names.find(real.parent), real.name, "file")
        if found.kind != "file":
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if found.database is None:
            found.database = self.add_database(_whole(found))
        return found.database

    def add_database(self, image: bytes) -> SimDatabase:
        database = SimDatabase(image)
        self._databases.append(database)
        return database

    def committing(self, path: Path, size: int) -> None:
        """A commit is about to make a database `size` bytes long; its name is durable with it. Raises `OSError`."""
        found, real = self.names.walk(path)
        if found is not None and found.database is not None:
            self._reserve(size - found.database.size)
            self.names.sync(self.names.find(real.parent), real.name)

    def _reserve(self, more: int) -> None:
        if more > 0 and more > self.free_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _touch(self, inode: Inode) -> None:
        now_ns = int(self._clock() * 1e9) if self._clock is not None else 0
        back_ns = inode.mtime_ns - now_ns
        inode.mtime_ns = now_ns if back_ns < 0 or (self._clock and back_ns > _SAME_NS) else inode.mtime_ns + 1
        inode.ctime_ns = max(now_ns, inode.ctime_ns + 1)

    def close(self) -> None:
        """Let go of the databases; the processes are dead."""
        self.crash()
        _close_all(self._databases)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _whole(inode: Inode) -> bytes:
    if inode.database is not None:
        return inode.database.committed()
    data = bytearray(inode.contents.size)
    inode.contents.read_into(memoryview(data), 0)
    return bytes(data)


def _close_all(databases: list[SimDatabase]) -> None:
    while databases:
        databases.pop().close()
