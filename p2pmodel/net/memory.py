"""Giving freed memory back: the C library keeps what a crowd of connections took, in case the next one comes."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable


def _find() -> Callable[[int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc alone has it
    return trim if callable(trim) else None


_trim = _find()


def give_back() -> None:
    """Return what is free to the system. Takes some ms, without the interpreter's lock."""
    if _trim is not None:
        _trim(0)
