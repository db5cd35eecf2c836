"""The real disk behind `files.py`: system calls relative to directory descriptors, no link followed below the root."""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from p2pmodel.errors import RefusedError, UsageError
from p2pmodel.store.files import Directory, Files, Lock, OpenFile, os_fault
from p2pmodel.store.holes import punch_hole
from p2pmodel.store.lock import DirectoryLock, try_lock
from p2pmodel.store.os_sharing import OsSharing
from p2pmodel.store.values import DirectoryEntry, FileIdentity, FileStatus, Kind

_ABSENT = (errno.ENOENT, errno.ENOTDIR)
_FILE_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
"""`O_NONBLOCK`: opening a pipe that somebody put in a file's place must not wait for ever."""
_DIRECTORY_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY
_TICK_S = 0.02
"""Two ticks of the slowest timer that Linux is built with (100 Hz)."""
_COARSE_TICK_S = 2.0
_KINDS: dict[int, Kind] = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "link",
    stat.S_IFIFO: "pipe",
    stat.S_IFSOCK: "socket",
}


def file_status(result: os.stat_result) -> FileStatus:
    identity = FileIdentity(result.st_dev, result.st_ino, result.st_size, result.st_mtime_ns, result.st_ctime_ns)
    kind = _KINDS.get(stat.S_IFMT(result.st_mode), "device")
    return FileStatus(identity, kind, result.st_nlink, result.st_blocks * 512)


class OsFile:
    """An open regular file."""

    __slots__ = ("_fd", "_seen", "path")

    def __init__(self, fd: int, path: Path) -> None:
        self._fd, self.path = fd, path
        self._seen: tuple[tuple[int, ...], FileStatus] | None = None

    def fileno(self) -> int | None:
        return self._fd

    def status(self) -> FileStatus:
        result = os.fstat(self._fd)
        # Asked twice for each chunk that is served, and hardly ever another: what stays as it is, is made once.
        marks = (result.st_size, result.st_mtime_ns, result.st_ctime_ns, result.st_nlink, result.st_blocks)
        seen = self._seen  # another thread may put there what it saw before
        if seen is None or seen[0] != marks:
            seen = self._seen = marks, file_status(result)
        return seen[1]

    def read_into(self, buffer: memoryview, offset: int) -> int:
        try:
            done = count = os.preadv(self._fd, [buffer], offset)
            while count and done < len(buffer):
                count = os.preadv(self._fd, [buffer[done:]], offset + done)
                done += count
        except OSError as error:
            raise os_fault(error, self.path, "read") from error
        return done

    def write(self, data: memoryview, offset: int) -> None:
        try:
            done = os.pwrite(self._fd, data, offset)
            while done < len(data):
                done += os.pwrite(self._fd, data[done:], offset + done)
        except OSError as error:
            raise os_fault(error, self.path, "write") from error

    def allocate(self, size: int, *, reserve: bool = True) -> None:
        try:
            if size and reserve:
                os.posix_fallocate(self._fd, 0, size)
            os.ftruncate(self._fd, size)
        except OSError as error:
            raise os_fault(error, self.path, f"reserve {size} bytes for") from error

    def punch(self, offset: int, length: int) -> None:
        try:
            punch_hole(self._fd, offset, length)
        except OSError as error:
            raise os_fault(error, self.path, "make a hole in") from error

    def sync(self, *, forget: bool = False) -> None:
        try:
            os.fsync(self._fd)  # not `fdatasync`: the time of the last write is one of the marks of a file
            if forget and hasattr(os, "posix_fadvise"):
                os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)
        except OSError as error:
            raise os_fault(error, self.path, "make durable") from error

    def data_ranges(self, size: int) -> Iterator[tuple[int, int]]:
        end = 0
        while end < size:
            try:
                start = os.lseek(self._fd, end, os.SEEK_DATA)
                end = os.lseek(self._fd, start, os.SEEK_HOLE)
            except OSError as error:
                if error.errno != errno.ENXIO:  # a file system that cannot tell: all of it may hold something
                    yield end, size
                return
            yield start, min(end, size)

    def close(self) -> None:
        os.close(self._fd)


class OsDirectory:
    """An open directory."""

    __slots__ = ("_fd", "path")

    def __init__(self, fd: int, path: Path) -> None:
        self._fd, self.path = fd, path

    def directory(self, name: str, *, create: bool = False, exclusive: bool = False) -> Directory | None:
        path = self.path / name
        try:
            if create:
                try:
                    os.mkdir(name, 0o777, dir_fd=self._fd)
                except FileExistsError:
                    pass
            fd = os.open(name, _DIRECTORY_FLAGS | os.O_NOFOLLOW, dir_fd=self._fd)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                raise RefusedError(f"{str(path)!r} is a link or a file where a directory has to be") from error
            raise os_fault(error, path, "open the directory") from error
        # Where a file system cannot lock, the owner of the data directory is alone all the same; a peer of another
        # data directory would write the same verified bytes to the same places.
        if exclusive and try_lock(fd) is False:
            os.close(fd)
            raise RefusedError(f"another fetch is writing to {str(path)!r}")
        return OsDirectory(fd, path)

    def open(self, name: str, *, write: bool = False, create: bool = False, exclusive: bool = False) -> OpenFile | None:
        flags = _FILE_FLAGS | (os.O_RDWR if write else os.O_RDONLY) | (os.O_CREAT if create else 0)
        path = self.path / name
        while True:
            try:
                fd = os.open(name, flags, 0o600 if exclusive else 0o666, dir_fd=self._fd)
            except FileNotFoundError:
                return None
            except OSError as error:
                if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
                    raise RefusedError(f"{str(path)!r} is not a regular file") from error
                raise os_fault(error, path, "open") from error
            file = _regular(fd, path)
            if not exclusive:
                return file
            _wait_for_lock(fd)
            here = self.status(name)  # whoever held it may have given it another name, or removed it
            if here is not None and here.identity.inode == file.status().identity.inode:
                return file
            file.close()

    def status(self, name: str) -> FileStatus | None:
        try:
            return file_status(os.stat(name, dir_fd=self._fd, follow_symlinks=False))
        except OSError as error:
            if error.errno in _ABSENT:
                return None
            raise os_fault(error, self.path / name, "look at") from error

    def rename(self, name: str, to: Directory, new_name: str) -> None:
        assert isinstance(to, OsDirectory)
        try:
            os.rename(name, new_name, src_dir_fd=self._fd, dst_dir_fd=to._fd)
        except OSError as error:
            raise os_fault(error, to.path / new_name, "put in its place") from error

    def remove(self, name: str) -> None:
        try:
            os.unlink(name, dir_fd=self._fd)
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno not in (errno.EISDIR, errno.EPERM):
                raise os_fault(error, self.path / name, "remove") from error
            try:
                os.rmdir(name, dir_fd=self._fd)
            except OSError as second:
                if second.errno not in (errno.ENOTEMPTY, errno.ENOENT, errno.EEXIST):
                    raise os_fault(second, self.path / name, "remove") from second

    def fileno(self) -> int:
        return self._fd

    def free_bytes(self) -> int:
        numbers = os.fstatvfs(self._fd)
        return numbers.f_bavail * numbers.f_frsize

    def sync(self) -> None:
        try:
            _sync_directory(self._fd)
        except OSError as error:
            raise os_fault(error, self.path, "make durable") from error

    def close(self) -> None:
        os.close(self._fd)


class OsFiles(Files):
    """The file system of this machine."""

    sharing = OsSharing()
    threads = None

    def open_directory(self, path: Path, *, create: bool = False, private: bool = False) -> Directory | None:
        try:
            if create:
                _make_directories(path, 0o700 if private else 0o777)
            return OsDirectory(os.open(path, _DIRECTORY_FLAGS), path)
        except OSError as error:
            if error.errno in (*_ABSENT, errno.EEXIST):
                if not create:
                    return None
                raise RefusedError(f"{str(path)!r} cannot be a directory: a file is in its way") from error
            raise os_fault(error, path, "open the directory") from error

    def open_file(self, path: Path) -> OpenFile | None:
        try:
            fd = os.open(path, os.O_RDONLY | _FILE_FLAGS)
        except OSError as error:
            if error.errno in (*_ABSENT, errno.ELOOP, errno.EISDIR, errno.ENXIO):
                return None
            raise os_fault(error, path, "open") from error
        try:
            return _regular(fd, path)
        except RefusedError:
            return None

    def status(self, path: Path) -> FileStatus | None:
        try:
            return file_status(path.stat())
        except OSError as error:
            if error.errno in (*_ABSENT, errno.ELOOP):
                return None
            raise os_fault(error, path, "look at") from error

    def unsettled_s(self, identity: FileIdentity) -> float:
        # What the kernel writes into a file's times is as coarse as its timer; FAT and old file systems know seconds.
        tick_s = _TICK_S if identity.ctime_ns % 1_000_000_000 else _COARSE_TICK_S
        return max(0.0, min(tick_s, identity.ctime_ns / 1e9 + tick_s - time.time()))

    def entries(self, path: Path) -> list[DirectoryEntry]:
        try:
            with os.scandir(path) as found:
                return [_entry(entry) for entry in sorted(found, key=lambda entry: entry.name)]
        except OSError as error:
            raise os_fault(error, path, "read the directory") from error

    def resolve(self, path: Path) -> Path:
        try:
            return path.resolve(strict=True)
        except RuntimeError as error:  # Python 3.12 and before
            raise UsageError(f"{str(path)!r} is a link that leads back to itself") from error
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise UsageError(f"{str(path)!r} is a link that leads back to itself") from error
            return path.resolve()

    def lock(self, directory: Path) -> Lock:
        return DirectoryLock(directory)

    def connect(self, path: Path) -> sqlite3.Connection:
        return sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10.0)


def _make_directories(path: Path, mode: int) -> None:
    """Make what is missing of a path. All names on the way are durable then, as far as their directories can be opened.

    Those that were there already, too: a process that died a moment ago may have made them, and not waited.
    """
    path.mkdir(mode, parents=True, exist_ok=True)
    for above in path.resolve().parents:
        try:
            fd = os.open(above, _DIRECTORY_FLAGS)
        except PermissionError:
            continue
        try:
            _sync_directory(fd)
        finally:
            os.close(fd)


def _wait_for_lock(fd: int) -> None:
    if try_lock(fd) is False:
        fcntl.flock(fd, fcntl.LOCK_EX)


def _sync_directory(fd: int) -> None:
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that cannot has nothing to wait for
            raise


def _entry(entry: os.DirEntry[str]) -> DirectoryEntry:
    status = file_status(entry.stat(follow_symlinks=False))
    return DirectoryEntry(entry.name, status, os.readlink(entry.path) if status.kind == "link" else "")  # noqa: PTH115


def _regular(fd: int, path: Path) -> OsFile:
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise RefusedError(f"{str(path)!r} is not a regular file")
    return OsFile(fd, path)


OS_FILES: Files = OsFiles()
