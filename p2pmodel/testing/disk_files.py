"""The seam `store.files` as one simulated process sees it: paths, directories and files that die with the process."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from p2pmodel.errors import DirectoryInUseError, RefusedError, UsageError
from p2pmodel.store.files import Directory, Files, Lock, OpenFile, os_fault
from p2pmodel.store.lock import LOCK_NAME
from p2pmodel.store.values import DirectoryEntry, FileIdentity, FileStatus
from p2pmodel.testing.disk_database import SimConnection, sqlite_fault
from p2pmodel.testing.disk_names import Inode
from p2pmodel.testing.disk_sharing import SimSharing

if TYPE_CHECKING:
    from p2pmodel.testing.disk import SimDisk

_ABSENT = (errno.ENOENT, errno.ENOTDIR)
_DEAD = "the process that opened it has died"


class SimProcess:
    """What the kernel keeps for a process and lets go of when that dies."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.alive = True
        self.held: dict[Inode, None] = {}
        self.opened: dict[SimFile | SimDirectory, None] = {}
        self.connections: list[SimConnection] = []

    def die(self) -> None:
        self.alive = False
        for inode in self.held:
            inode.holder = None
        self.held.clear()
        self.opened.clear()
        for connection in self.connections:
            connection.close()
        self.connections.clear()


class _Part:
    """What directories, files and the view of a process have in common."""

    def __init__(self, disk: SimDisk, process: SimProcess) -> None:
        self._disk, self._process = disk, process

    @contextmanager
    def _doing(self, operation: str, path: Path, doing: str) -> Iterator[None]:
        """One call, alone on the disk. It may fail; errors of the system leave as ours."""
        with self._disk.guard:
            try:
                self._step(operation, path)
                yield
            except OSError as error:
                raise os_fault(error, path, doing) from error

    def _step(self, operation: str, path: Path) -> None:
        if not self._process.alive:
            raise OSError(errno.EBADF, _DEAD)
        self._disk.faults.step(operation, path)


class SimFile(_Part):
    """An open regular file."""

    def __init__(self, disk: SimDisk, process: SimProcess, inode: Inode, path: Path, write: bool) -> None:
        super().__init__(disk, process)
        self._inode, self.path, self._writable, self._closed = inode, path, write, False
        process.opened[self] = None

    def fileno(self) -> int | None:
        return None

    def status(self) -> FileStatus:
        with self._doing("status", self.path, "look at"):
            self._check()
            return self._inode.status()

    def read_into(self, buffer: memoryview, offset: int) -> int:
        with self._doing("read", self.path, "read"):
            self._check()
            if offset < 0:
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            count = self._inode.contents.read_into(buffer, offset)
            self._disk.flip_bits(buffer[:count])
            return count

    def write(self, data: memoryview, offset: int) -> None:
        with self._doing_whole_or_part(data, offset):
            self._check(write=True)
            self._disk.write(self._inode, data, offset)

    @contextmanager
    def _doing_whole_or_part(self, data: memoryview, offset: int) -> Iterator[None]:
        """A write that fails, or that the machine stops in, may have written some of it."""
        with self._disk.guard:
            try:
                self._step("write", self.path)
                yield
            except OSError as error:
                if self._process.alive and self._writable and not self._closed:
                    self._disk.write_part(self._inode, data, offset)
                raise os_fault(error, self.path, "write") from error

    def allocate(self, size: int, *, reserve: bool = True) -> None:
        with self._doing("allocate", self.path, f"reserve {size} bytes for"):
            self._check(write=True)
            self._disk.allocate(self._inode, size, reserve=reserve)

    def punch(self, offset: int, length: int) -> None:
        with self._doing("punch", self.path, "make a hole in"):
            self._check(write=True)
            self._disk.punch(self._inode, offset, length)

    def sync(self, *, forget: bool = False) -> None:
        with self._disk.guard:
            try:
                self._step("sync", self.path)
                self._check()
                self._disk.sync_file(self._inode)
                if forget:
                    self._inode.contents.forget_cache()
            except OSError as error:
                if self._process.alive and not self._disk.faults.stopped:
                    self._disk.lose_sync(self._inode)
                raise os_fault(error, self.path, "make durable") from error

    def data_ranges(self, size: int) -> Iterator[tuple[int, int]]:
        with self._doing("ranges", self.path, "look at"):
            self._check()
            yield from list(self._inode.contents.data_ranges(size))

    def linked_from(self, directory: SimDirectory, name: str) -> Inode | None:
        """What one more name would lead to; None where the file has no name any more, or the name is in use."""
        self._check()
        return self._inode if self._inode.links and directory.entry(name) is None else None

    def close(self) -> None:
        self._closed = True
        self._process.opened.pop(self, None)
        _let_go(self._process, self._inode, self)

    def _check(self, *, write: bool = False) -> None:
        if self._closed or (write and not self._writable):
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))


class SimDirectory(_Part):
    """An open directory."""

    def __init__(self, disk: SimDisk, process: SimProcess, inode: Inode, path: Path) -> None:
        super().__init__(disk, process)
        self.inode, self.path, self._closed = inode, path, False
        process.opened[self] = None

    def directory(self, name: str, *, create: bool = False, exclusive: bool = False) -> Directory | None:
        path = self.path / name
        with self._doing("make" if create else "open", path, "open the directory"):
            found = self.entry(name)
            if found is None and create:
                found = self._disk.make(self.inode, name, "directory")
            if found is None:
                return None
            if found.kind != "directory":
                raise RefusedError(f"{str(path)!r} is a link or a file where a directory has to be")
            opened = SimDirectory(self._disk, self._process, found, path)
            if exclusive and not _hold(self._process, found, opened):
                raise RefusedError(f"another fetch is writing to {str(path)!r}")
            return opened

    def open(self, name: str, *, write: bool = False, create: bool = False, exclusive: bool = False) -> OpenFile | None:
        path = self.path / name
        with self._doing("open", path, "open"):
            found = self.entry(name)
            if found is None and create:
                found = self._disk.make(self.inode, name, "file")
            if found is None:
                return None
            if found.kind != "file":
                raise RefusedError(f"{str(path)!r} is not a regular file")
            opened = SimFile(self._disk, self._process, found, path, write)
            if exclusive and not _hold(self._process, found, opened):
                raise OSError(errno.EDEADLK, "somebody has it open, and one simulated process cannot wait for another")
            return opened

    def status(self, name: str) -> FileStatus | None:
        with self._doing("status", self.path / name, "look at"):
            found = self.entry(name)
            return None if found is None else found.status()

    def rename(self, name: str, to: Directory, new_name: str) -> None:
        assert isinstance(to, SimDirectory)
        with self._doing("rename", to.path / new_name, "put in its place"):
            self.entry(name)
            self._disk.names.rename(self.inode, name, to.inode, new_name)

    def remove(self, name: str) -> None:
        with self._doing("remove", self.path / name, "remove"):
            found = self.entry(name)
            if found is not None and not found.entries:
                self._disk.names.set(self.inode, name, None)

    def free_bytes(self) -> int:
        with self._doing("space", self.path, "look at"):
            return self._disk.free_bytes

    def sync(self) -> None:
        with self._doing("sync_directory", self.path, "make durable"):
            self._disk.names.sync(self.inode)

    def close(self) -> None:
        self._closed = True
        self._process.opened.pop(self, None)
        _let_go(self._process, self.inode, self)

    def entry(self, name: str) -> Inode | None:
        assert name and "/" not in name and name not in (".", "..")
        if self._closed:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return self.inode.entries.get(name)


class SimLock:
    """A data directory that is one process's own."""

    def __init__(self, process: SimProcess, inode: Inode) -> None:
        self._process, self._inode = process, inode

    def release(self) -> None:
        _let_go(self._process, self._inode, self)

    def __enter__(self) -> Lock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class SimFiles(_Part, Files):
    """The disk as one process sees it. Made by `SimDisk.process`; after `crash` every call raises."""

    threads = 1

    def __init__(self, disk: SimDisk, process: SimProcess) -> None:
        super().__init__(disk, process)
        self.sharing = SimSharing(self._link, lambda: disk.can_reflink)

    def _link(self, source: SimFile, directory: SimDirectory, name: str) -> bool:
        with self._doing("link", directory.path / name, "link"):
            inode = source.linked_from(directory, name)
            if inode is None:
                return False
            self._disk.names.set(directory.inode, name, inode)
            return True

    def crash(self) -> None:
        """This process dies: its files are closed, its locks free, its transactions rolled back."""
        with self._disk.guard:
            self._process.die()

    def open_paths(self) -> list[Path]:
        """What this process has open: files, directories and databases."""
        connections = [known.path for known in self._process.connections if not known.is_closed]
        return [*(opened.path for opened in self._process.opened), *connections]

    def open_directory(self, path: Path, *, create: bool = False, private: bool = False) -> Directory | None:
        with self._doing("make" if create else "open", path, "open the directory"):
            try:
                found = self._disk.make_directories(path, durable=True) if create else self._disk.names.find(path)
            except OSError as error:
                if error.errno in (*_ABSENT, errno.EEXIST) and create:
                    raise RefusedError(f"{str(path)!r} cannot be a directory: a file is in its way") from error
                if error.errno in _ABSENT:
                    return None
                raise
            return SimDirectory(self._disk, self._process, found, path) if found.kind == "directory" else None

    def open_file(self, path: Path) -> OpenFile | None:
        with self._doing("open", path, "open"):
            try:
                parent = self._disk.names.find(path.parent)
            except OSError as error:
                if error.errno in (*_ABSENT, errno.ELOOP):
                    return None
                raise
            found = parent.entries.get(path.name)
            if found is None or found.kind != "file":
                return None
            return SimFile(self._disk, self._process, found, path, write=False)

    def status(self, path: Path) -> FileStatus | None:
        with self._doing("status", path, "look at"):
            try:
                return self._disk.names.find(path).status()
            except OSError as error:
                if error.errno in (*_ABSENT, errno.ELOOP):
                    return None
                raise

    def unsettled_s(self, identity: FileIdentity) -> float:
        return 0.0  # each change of a simulated file has a time of its own

    def entries(self, path: Path) -> list[DirectoryEntry]:
        with self._doing("list", path, "read the directory"):
            found = self._disk.names.find(path)
            if found.kind != "directory":
                raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            return [DirectoryEntry(name, inode.status(), inode.target) for name, inode in sorted(found.entries.items())]

    def resolve(self, path: Path) -> Path:
        try:
            with self._disk.guard:
                return self._disk.names.walk(path)[1]
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise UsageError(f"{str(path)!r} is a link that leads back to itself") from error
            return Path(os.path.normpath(path))

    def lock(self, directory: Path) -> Lock:
        path = directory / LOCK_NAME
        with self._doing("lock", path, "open the lock"):
            made = self._disk.make_directories(directory, durable=True)
            inode = made.entries.get(LOCK_NAME) or self._disk.make(made, LOCK_NAME, "file")
            lock = SimLock(self._process, inode)
            if not _hold(self._process, inode, lock):
                buffer = bytearray(inode.contents.size)
                inode.contents.read_into(memoryview(buffer), 0)
                who = f"(process {buffer.decode().strip()})"
                raise DirectoryInUseError(f"the data directory {str(directory)!r} is in use by another peer {who}")
            self._disk.allocate(inode, 0)
            self._disk.write(inode, memoryview(f"{self._process.number}\n".encode()), 0)
            return lock

    def connect(self, path: Path) -> sqlite3.Connection:
        with self._disk.guard:
            try:
                self._step("connect", path)
                database = self._disk.database(path)
            except OSError as error:
                raise sqlite_fault(error) from error
            faults = self._disk.faults
            connection = database.connect(path, self._committing(path), lambda: faults.on_call is not None)
            self._process.connections = [known for known in self._process.connections if not known.is_closed]
            self._process.connections.append(connection)
            return connection

    def _committing(self, path: Path) -> Callable[[int], None]:
        def commit(size: int) -> None:
            with self._disk.guard:
                self._step("commit", path)
                self._disk.committing(path, size)

        return commit


def _hold(process: SimProcess, inode: Inode, holder: object) -> bool:
    if inode.holder is not None:
        return False
    inode.holder = holder
    process.held[inode] = None
    return True


def _let_go(process: SimProcess, inode: Inode, holder: object) -> None:
    if inode.holder is holder:
        inode.holder = None
        process.held.pop(inode, None)
