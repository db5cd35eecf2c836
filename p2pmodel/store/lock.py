"""One owner for a data directory at a time. The kernel drops the lock with the process, however it ends."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType

from p2pmodel.errors import RefusedError
from p2pmodel.store.files import os_fault

LOCK_NAME = "lock"


class DirectoryLock:
    """An exclusive `flock` on `<directory>/lock`, which holds the owner's process number for people to read."""

    def __init__(self, directory: Path) -> None:
        """Take the lock; the directory is made if need be. Raises `RefusedError`, naming the owner, if it is held."""
        path = directory / LOCK_NAME
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise os_fault(error, path, "open the lock") from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip()
            os.close(self._fd)
            who = f" (process {owner})" if owner.isdigit() else ""
            raise RefusedError(f"the data directory {str(directory)!r} is in use by another peer{who}") from error
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """The file stays: removing it would let two processes lock two files of the same name."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> DirectoryLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
