"""Neighbours kept over a restart: a small JSON file, replaced whole, believed only as far as a list of whom to ask."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from p2pmodel.errors import DecodeError, UsageError
from p2pmodel.limits import NEIGHBOURS_FILE_BYTES_MAX, NEIGHBOURS_SAVED_MAX
from p2pmodel.model import PublicKey
from p2pmodel.net import Address


class _Neighbour(msgspec.Struct):
    peer: str
    address: str


class _File(msgspec.Struct):
    version: int
    neighbours: list[_Neighbour]


def save_neighbours(path: Path, neighbours: Iterable[tuple[PublicKey, Address]]) -> None:
    """Write the file anew (temporary name, flush, rename), so that a crash leaves the old or the new one.

    Blocking. Raises `OSError`.
    """
    entries = [_Neighbour(peer.text, str(address)) for peer, address in neighbours][:NEIGHBOURS_SAVED_MAX]
    temporary = path.with_name(path.name + ".new")
    with temporary.open("wb") as file:
        file.write(msgspec.json.encode(_File(1, entries)))
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def load_neighbours(path: Path) -> list[tuple[PublicKey, Address]]:
    """What `save_neighbours` wrote; nothing where there is no file or it cannot be read as one. Blocking."""
    try:
        with path.open("rb") as file:
            content = file.read(NEIGHBOURS_FILE_BYTES_MAX + 1)
        if len(content) > NEIGHBOURS_FILE_BYTES_MAX:
            return []
        entries = msgspec.json.decode(content, type=_File).neighbours[:NEIGHBOURS_SAVED_MAX]
        return [(PublicKey.from_text(entry.peer), Address.parse(entry.address)) for entry in entries]
    except (OSError, ValueError, RecursionError, msgspec.MsgspecError, DecodeError, UsageError):
        return []
