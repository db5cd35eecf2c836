"""One owner for a data directory at a time. The kernel drops the lock with the process, however it ends.

So a lock is never stale: the process number in the file is for people alone, and whose number it is now does not
matter.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from types import TracebackType

from p2pmodel.errors import DirectoryInUseError, NoSpaceError, P2PModelError, RefusedError, UsageError
from p2pmodel.store.files import os_fault

LOCK_NAME = "lock"
_CANNOT = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF)
"""What `flock` says on a file system without locks (NFS without its lock service, some FUSE and cluster ones)."""


def try_lock(fd: int) -> bool | None:
    """Lock an open file or directory for this process alone. False: somebody has it; None: nobody can lock it here."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _CANNOT:
            return None
        raise
    return True


class DirectoryLock:
    """An exclusive `flock` on `<directory>/lock`, which holds the owner's process number for people to read."""

    def __init__(self, directory: Path) -> None:
        """Take the lock; the directory is made if need be.

        Raises `DirectoryInUseError`, naming the owner, if it is held, and `UsageError` on a file system without locks:
        two peers on one index would damage it, so nobody works there.
        """
        path = directory / LOCK_NAME
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise _unusable(error, path, "open the lock") from error
        try:
            self._take(directory)
        except BaseException as error:
            self.release()
            if isinstance(error, OSError):
                raise _unusable(error, path, "take the lock") from error
            raise

    def _take(self, directory: Path) -> None:
        taken = try_lock(self._fd)
        if taken is None:
            raise UsageError(
                f"the file system of {str(directory)!r} cannot lock files; put the data directory on a local disk"
            )
        if not taken:
            owner = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip()
            who = f" (process {owner})" if owner.isdigit() else ""
            raise DirectoryInUseError(f"the data directory {str(directory)!r} is in use by another peer{who}")
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


def _unusable(error: OSError, path: Path, doing: str) -> P2PModelError:
    fault = os_fault(error, path, doing)
    if isinstance(fault, (RefusedError, NoSpaceError)):
        return fault
    return UsageError(f"cannot use the data directory {path.parent}: {fault}")
