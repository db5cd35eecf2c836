"""What a request asks for of a file: on which condition (RFC 9110, section 13), and which part of it (section 14)."""

from __future__ import annotations

import re

_RANGE = re.compile(r"bytes=\s*(\d{0,19})\s*-\s*(\d{0,19})\s*", re.IGNORECASE)


_TAG = re.compile(r'(W/)?"([^"]*)"')


def names(header: str | None, etag: str, *, weak: bool) -> bool:
    """Whether `If-Match` or `If-None-Match` names the file, which is there; `weak`: by a weak tag as well."""
    if header is None:
        return False
    if header.strip() == "*":
        return True
    return any(tag == etag and (weak or not mild) for mild, tag in _TAG.findall(header))


class UnsatisfiableRangeError(ValueError):
    """It begins past the end of the file: status 416."""


def parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """First byte and the one after the last; None for the whole file.

    A header that is malformed, of another unit or of several ranges counts as none, as the standard allows.
    """
    match = _RANGE.fullmatch(header.strip()) if header else None
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        if not int(last) or not size:
            raise UnsatisfiableRangeError(header)
        return max(0, size - int(last)), size
    start = int(first)
    end = min(int(last) + 1, size) if last else size
    if last and int(last) < start:
        return None
    if start >= size:
        raise UnsatisfiableRangeError(header)
    return start, end
