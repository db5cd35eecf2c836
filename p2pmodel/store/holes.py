"""Holes in files: `fallocate(2)` with FALLOC_FL_PUNCH_HOLE, which Python does not offer."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from functools import cache
from typing import Any

_KEEP_SIZE, _PUNCH_HOLE = 0x01, 0x02
"""linux/falloc.h."""
_CANNOT = (errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV)


@cache
def _fallocate() -> Any:
    """The C library's function; None where there is none (macOS has another call, Windows another again)."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None, use_errno=True)
    function = getattr(library, "fallocate64", None) or getattr(library, "fallocate", None)
    if function is not None:
        function.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    return function


def punch_hole(fd: int, offset: int, length: int) -> None:
    """Free the blocks in a range of a file; its length stays. Nothing happens where the file system has no holes."""
    function = _fallocate()
    if function is None or length <= 0:
        return
    while function(fd, _KEEP_SIZE | _PUNCH_HOLE, offset, length):
        code = ctypes.get_errno()
        if code in _CANNOT:
            return
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code))
