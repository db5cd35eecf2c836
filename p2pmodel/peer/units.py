"""Sizes, rates and durations as people write and read them. Parsing is strict: what is not understood is an error.

`KB`, `MB`, `GB` are powers of 1000 and `KiB`, `MiB`, `GiB` powers of 1024 (IEC 80000-13); a lone `K`, `M`, `G` is a
power of 1024, as in `dd` and `rclone`. Rates are in bytes per second, or in bits where the text says `bit`.
"""

from __future__ import annotations

import re

from p2pmodel.errors import UsageError

_QUANTITY = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*", re.ASCII)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_BIT = re.compile(r"([kmgt]?)(?:bit|bits|bps)", re.ASCII)
_BYTE = re.compile(r"([kmgt]?)(i?)(b|bytes)?", re.ASCII)
_BYTES_MAX = 1 << 62
UNLIMITED = ("unlimited", "none", "off")


def parse_size(text: str) -> int:
    """Bytes, from `1048576`, `256MiB`, `1GB`, `64 KiB`. Raises `UsageError`."""
    size_bytes = _bytes(text)
    if size_bytes is None:
        raise UsageError(f"{text!r} is not a size; write it as 256MiB, 1GB or 64KiB")
    return size_bytes


def parse_rate(text: str) -> int | None:
    """Bytes per second, from `10MiB`, `10MiB/s`, `80Mbit`; None for `unlimited`. Raises `UsageError`."""
    body = text.strip().lower().removesuffix("/s")
    if body in UNLIMITED:
        return None
    rate = _bits(body)
    if rate is None:
        rate = _bytes(body)
    if rate is None:
        raise UsageError(f"{text!r} is not a rate; write it as 10MiB or 80Mbit (per second), or 'unlimited'")
    if rate < 1:
        raise UsageError(f"{text!r} would let nothing through; write 'unlimited' for no limit")
    return rate


def _bytes(text: str) -> int | None:
    if not (quantity := _QUANTITY.fullmatch(text)):
        return None
    number, unit = quantity.groups()
    # A capital or small letter means the same here: nobody who writes "256mib" means millibytes.
    if not (parts := _BYTE.fullmatch(unit.lower())):
        return None
    prefix, binary, byte = parts.groups()
    if binary and not prefix:
        return None
    base = 1000 if byte and not binary else 1024
    return _scaled(number, base ** _POWERS[prefix])


def _bits(text: str) -> int | None:
    if not (quantity := _QUANTITY.fullmatch(text)):
        return None
    number, unit = quantity.groups()
    if not (parts := _BIT.fullmatch(unit)):
        return None
    bits = _scaled(number, 1000 ** _POWERS[parts.group(1)])
    return None if bits is None else bits // 8


def _scaled(number: str, factor: int) -> int | None:
    if len(number) > 20:
        return None
    value = int(float(number) * factor) if "." in number else int(number) * factor
    return value if value <= _BYTES_MAX else None


def format_size(size_bytes: float) -> str:
    """`64.0 KiB`, `1.2 GiB`; below 1 KiB `12 B`."""
    if size_bytes < 1024:
        return f"{int(size_bytes)} B"
    value = float(size_bytes)
    for unit in ("KiB", "MiB", "GiB"):
        value /= 1024
        if value < 999.95:
            return f"{value:.1f} {unit}"
    return f"{value / 1024:.1f} TiB"


def format_rate(bytes_per_s: float) -> str:
    return f"{format_size(bytes_per_s)}/s"


def format_duration(seconds: float) -> str:
    """`0.4 s`, `12 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return _pair(whole // 60, "min", whole % 60, "s")
    if whole < 86_400:
        return _pair(whole // 3600, "h", whole % 3600 // 60, "min")
    return _pair(whole // 86_400, "d", whole % 86_400 // 3600, "h")


def _pair(large: int, large_unit: str, small: int, small_unit: str) -> str:
    return f"{large} {large_unit} {small} {small_unit}" if small else f"{large} {large_unit}"
