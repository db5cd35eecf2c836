"""Neighbours kept over a restart: a small JSON text, believed only as far as a list of whom to ask. No IO here."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

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


def encode_neighbours(neighbours: Iterable[tuple[PublicKey, Address]]) -> bytes:
    """What to write, whole and atomically, so that `Overlay.bootstrap` can be given these addresses next time."""
    kept = islice(neighbours, NEIGHBOURS_SAVED_MAX)
    return msgspec.json.encode(_File(1, [_Neighbour(peer.text, str(address)) for peer, address in kept]))


def decode_neighbours(content: bytes) -> list[tuple[PublicKey, Address]]:
    """The neighbours of `encode_neighbours`. Raises `DecodeError` for anything else."""
    if len(content) > NEIGHBOURS_FILE_BYTES_MAX:
        raise DecodeError("a list of neighbours that is too long")
    try:
        file = msgspec.json.decode(content, type=_File)
        return [
            (PublicKey.from_text(entry.peer), Address.parse(entry.address))
            for entry in file.neighbours[:NEIGHBOURS_SAVED_MAX]
        ]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, UsageError) as error:
        raise DecodeError("not a list of neighbours") from error
