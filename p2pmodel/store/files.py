"""The seam between the store and the disk: three small interfaces and the real thing behind them, `OS_FILES`.

Everything below a directory is reached by one name at a time, relative to its open directory and without following
links, so that a link swapped in under our feet cannot lead a write outside. Errors of the operating system leave here
as `P2PModelError` with the path: a full disk or quota `NoSpaceError`, missing rights `RefusedError`.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from p2pmodel.errors import NoSpaceError, P2PModelError, RefusedError
from p2pmodel.store.values import FileStatus


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

    def allocate(self, size: int) -> None:
        """Make the file `size` bytes long with its space reserved. Raises `NoSpaceError`."""

    def sync(self) -> None:
        """Return when all that was written is durable."""

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

    def open(self, name: str, *, write: bool = False, create: bool = False) -> OpenFile | None:
        """Open the regular file `name`; None where there is none. Raises `RefusedError` for anything else."""

    def status(self, name: str) -> FileStatus | None: ...

    def rename(self, name: str, to: Directory, new_name: str) -> None:
        """Replace atomically what has the new name."""

    def remove(self, name: str) -> None:
        """Remove a file or an empty directory; a full or missing one is left as it is."""

    def free_bytes(self) -> int: ...

    def sync(self) -> None: ...

    def close(self) -> None: ...


class Files(Protocol):
    def open_directory(self, path: Path, *, create: bool = False) -> Directory | None:
        """Links on the way are followed: the caller chose this path. None where there is no such directory."""

    def open_file(self, path: Path) -> OpenFile | None:
        """Open a regular file for reading. None where there is none, or where it is something else."""

    def status(self, path: Path) -> FileStatus | None:
        """Of what the path leads to, links followed; None where that is nothing."""


def os_fault(error: OSError, path: Path | str, doing: str) -> P2PModelError:
    """The error of ours for an error of the operating system, in one sentence that names the path."""
    text = f"cannot {doing} {str(path)!r}: {error.strerror or error}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return NoSpaceError(text)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return RefusedError(text)
    return P2PModelError(text)
