"""The seam between a peer and its disk: small interfaces, with `OS_FILES` and the simulated disk of `testing` behind.

Everything below a directory is reached by one name at a time, relative to its open directory and without following
links, so that a link swapped in under our feet cannot lead a write outside. Errors of the operating system leave here
as `P2PModelError` with the path: a full disk or quota `NoSpaceError`, missing rights `RefusedError`.
"""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol

from p2pmodel.errors import NoSpaceError, P2PModelError, RefusedError
from p2pmodel.limits import SMALL_FILE_BYTES_MAX
from p2pmodel.store.values import DirectoryEntry, Extent, FileIdentity, FileStatus


class OpenFile(Protocol):
    """A regular file. `path` is for messages."""

    path: Path

    def fileno(self) -> int | None:
        """The descriptor for `sendfile`, where there is one."""

    def status(self) -> FileStatus: ...

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Fill `buffer` from `offset`; fewer bytes only at the end of the file."""

    def write(self, data: memoryview, offset: int) -> None:
        """Write all of `data` at `offset`. Several threads may, at different places."""

    def allocate(self, size: int, *, reserve: bool = True) -> None:
        """Make the file `size` bytes long with its space reserved, or else with holes. Raises `NoSpaceError`."""

    def punch(self, offset: int, length: int) -> None:
        """Make a hole: the bytes are zero and the blocks that lie wholly in it free. The length stays.

        A file system that has no holes leaves it at that: nothing is freed, and nothing raised.
        """

    def sync(self, *, forget: bool = False) -> None:
        """Return when all that was written, the length and the time are durable; the name is the directory's.

        `forget` lets go of what is in memory then, so that what is read next comes from the disk: after a sync that
        failed, in whichever process, memory has what the disk never got, and says that it is clean (ATC 2020).
        """

    def data_ranges(self, size: int) -> Iterator[tuple[int, int]]:
        """The ranges [start, end) that may hold something: holes and space never written are left out."""

    def close(self) -> None: ...


class Directory(Protocol):
    """An open directory. Names have one component; a link is never followed."""

    path: Path

    def directory(self, name: str, *, create: bool = False, exclusive: bool = False) -> Directory | None:
        """Open the directory `name`; None where there is nothing. Raises `RefusedError` for a link or a file.

        `exclusive` also raises it where somebody else has the directory open in that way.
        """

    def open(self, name: str, *, write: bool = False, create: bool = False, exclusive: bool = False) -> OpenFile | None:
        """Open the regular file `name`; None where there is none. Raises `RefusedError` for anything else.

        `exclusive` makes it with mode 0600, and waits while somebody else has it open in that way.
        """

    def status(self, name: str) -> FileStatus | None: ...

    def rename(self, name: str, to: Directory, new_name: str) -> None:
        """Replace atomically what has the new name."""

    def remove(self, name: str) -> None:
        """Remove a file or an empty directory; a full or missing one is left as it is."""

    def free_bytes(self) -> int: ...

    def sync(self) -> None: ...

    def close(self) -> None: ...


class Lock(Protocol):
    """A data directory that is this process's own until it is released or the process dies."""

    def release(self) -> None: ...

    def __enter__(self) -> Lock: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Sharing(Protocol):
    """What two files can have in common. Nothing of it is durable before the target, or the directory, was synced."""

    def copy(
        self, source: OpenFile, source_offset: int, target: OpenFile, offset: int, length: int
    ) -> Literal["reflinked", "copied"]:
        """Put a range of one file into another, without taking space for it where the file system can.

        Says how most of it came there. The bytes are what the source has by then, fewer where it has become shorter:
        whoever wants to be sure reads them from the target, which does not change with the source any more.
        """

    def link(self, source: OpenFile, directory: Directory, name: str) -> bool:
        """Give an open file one more name. False where that cannot be: another file system, no right, a name in use."""

    def extents(self, file: OpenFile) -> list[Extent] | None:
        """Where a file lies; None where that cannot be known."""


class Files(Protocol):
    """What a peer does with a disk. Implementations inherit from it: two methods are made of the others."""

    sharing: Sharing
    threads: int | None
    """How many threads may work on files at once; None leaves it to the machine, 1 keeps all in the caller's."""

    def open_directory(self, path: Path, *, create: bool = False, private: bool = False) -> Directory | None:
        """Links on the way are followed: the caller chose this path. None where there is no such directory.

        With `create` it is made where it is missing, with mode 0700 if `private` is set; in any case its name is
        durable then, and so are those of the directories above it.
        """

    def open_file(self, path: Path) -> OpenFile | None:
        """Open a regular file for reading. None where there is none, or where it is something else."""

    def status(self, path: Path) -> FileStatus | None:
        """Of what the path leads to, links followed; None where that is nothing."""

    def unsettled_s(self, identity: FileIdentity) -> float:
        """How long until a change of this file is sure to show in its times: two in one tick of a clock look alike."""

    def entries(self, path: Path) -> list[DirectoryEntry]:
        """What is in a directory, by name. Raises `RefusedError`, and `P2PModelError` where it is none."""

    def resolve(self, path: Path) -> Path:
        """The absolute path without links, as far as it exists. Raises `UsageError` for a loop of links."""

    def lock(self, directory: Path) -> Lock:
        """Take a data directory for this process; it is made if need be, with mode 0700.

        Raises `RefusedError`, naming the owner, where another process has it.
        """

    def connect(self, path: Path) -> sqlite3.Connection:
        """Open or make an SQLite file, in autocommit mode and for use by any thread. Raises `sqlite3.Error`."""

    def read_small(self, path: Path, bytes_max: int = SMALL_FILE_BYTES_MAX) -> bytes | None:
        """The whole of a small file; None where there is none. Raises `P2PModelError` for a longer one."""
        file = self.open_file(path)
        if file is None:
            return None
        try:
            size = file.status().identity.size
            if size > bytes_max:
                raise P2PModelError(f"{str(path)!r} has {size} bytes, more than the {bytes_max} that make sense")
            data = bytearray(size)
            return bytes(data[: file.read_into(memoryview(data), 0)])
        finally:
            file.close()

    def write_small(self, path: Path, data: bytes) -> None:
        """Replace a small file, mode 0600: a reader or a crash finds the old content or the new, never a part.

        Durable when it returns. Its directory is made if need be, with mode 0700.
        """
        directory = self.open_directory(path.parent) or self.open_directory(path.parent, create=True, private=True)
        assert directory is not None
        temporary = f".{path.name}.new"
        try:
            file = directory.open(temporary, write=True, create=True, exclusive=True)
            assert file is not None
            try:
                file.allocate(len(data))
                file.write(memoryview(data), 0)
                file.sync()
                directory.rename(temporary, directory, path.name)
            except P2PModelError:
                directory.remove(temporary)
                raise
            finally:
                file.close()
            directory.sync()
        finally:
            directory.close()


def os_fault(error: OSError, path: Path | str, doing: str) -> P2PModelError:
    """The error of ours for an error of the operating system, in one sentence that names the path."""
    text = f"cannot {doing} {str(path)!r}: {error.strerror or error}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return NoSpaceError(text)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return RefusedError(text)
    return P2PModelError(text)
