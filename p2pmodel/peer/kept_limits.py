"""Limits that were set while the peer ran, kept for its next start: `limits.json` in the data directory.

They stand between what is said for one start (flag, environment) and what was written down before (`config.toml`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from p2pmodel.errors import P2PModelError, UsageError
from p2pmodel.peer.requests import LimitsChange
from p2pmodel.store import Files

LIMITS_NAME = "limits.json"
_UNLIMITED = "unlimited"
_KEYS = {"upload_bytes_per_s": "upload_limit", "download_bytes_per_s": "download_limit"}
"""Field of a change, key of the settings."""


def parse_kept(content: bytes | str, where: str) -> Mapping[str, Any]:
    """A table as in `config.toml`. Raises `UsageError`."""
    try:
        table = msgspec.json.decode(content, type=dict[str, int | str])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UsageError(f"{where}: {error}; remove it, or set the limits again") from error
    if unknown := sorted(set(table) - set(_KEYS.values())):
        raise UsageError(f"{where}: unknown key {unknown[0]!r}; remove it, or set the limits again")
    return table


def keep_limits(files: Files, data_dir: Path, change: LimitsChange) -> None:
    """Raises `P2PModelError` where the file cannot be written. What is there and cannot be read is replaced."""
    path = data_dir / LIMITS_NAME
    table: dict[str, Any] = {}
    try:
        table.update(parse_kept(files.read_small(path) or b"{}", str(path)))
    except P2PModelError:
        pass
    for field, key in _KEYS.items():
        value = getattr(change, field)
        if value is not msgspec.UNSET:
            table[key] = _UNLIMITED if value is None else value
    files.write_small(path, msgspec.json.format(msgspec.json.encode(table)) + b"\n")
