"""Small files of the data directory: private directories, atomic replacement, and what the disk's errors mean."""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import aiofiles
import aiofiles.os

from p2pmodel.errors import NoSpaceError, RefusedError, UsageError

P = ParamSpec("P")
T = TypeVar("T")


@contextmanager
def storage_errors(doing: str) -> Iterator[None]:
    """Map `OSError` to the project's errors, with a sentence that begins "cannot <doing>"."""
    try:
        yield
    except PermissionError as error:
        raise RefusedError(f"cannot {doing}: no permission") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpaceError(f"cannot {doing}: the disk is full") from error
        if error.errno == errno.EROFS:
            raise RefusedError(f"cannot {doing}: the file system is read-only") from error
        raise UsageError(f"cannot {doing}: {error.strerror or error}") from error


def uninterrupted(work: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """A coroutine function that a cancellation does not tear apart: it ends first, then the cancellation goes on.

    For the few milliseconds of a small file: cancelled while a thread opens it, it would never be closed.
    """

    @wraps(work)
    async def whole(*args: P.args, **kwargs: P.kwargs) -> T:
        task = asyncio.ensure_future(work(*args, **kwargs))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait({task})
            if not task.cancelled():
                task.exception()  # looked at, so that nobody reports it as forgotten
            raise

    return whole


def make_private_directory(path: Path) -> None:
    """Make the directory with mode 0700 where it is missing, and those above it with the usual one."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)


@uninterrupted
async def replace_file(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Write `path` so that a reader, or a crash, finds the old content or the new, never a part. Raises `OSError`."""
    temporary = path.parent / f".{path.name}.{secrets.token_hex(8)}"

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_EXCL | os.O_NOFOLLOW, mode)

    try:
        async with aiofiles.open(temporary, "xb", opener=opener) as file:
            await file.write(content)
            await file.flush()
            os.fsync(file.fileno())
        await aiofiles.os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
