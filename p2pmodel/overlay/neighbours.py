"""Neighbours to come back to: kept over a restart as a small JSON text, and remembered when they fall silent.

What is read is believed only as far as a list of whom to greet: whoever answers proves its key anew. No IO here.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

import msgspec

from p2pmodel.errors import DecodeError, UsageError
from p2pmodel.limits import ABSENT_NEIGHBOURS_MAX, NEIGHBOURS_FILE_BYTES_MAX, NEIGHBOURS_SAVED_MAX
from p2pmodel.model import PublicKey
from p2pmodel.net import Address

_RETRY_S = 30.0
_RETRY_MAX_S = 240.0
"""Below the five minutes in which two halves of a network are to find each other again."""
_FORGET_S = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A node that was in the table. `since` and `seen_at` are Unix seconds: first heard of, last answered."""

    peer: PublicKey
    address: Address
    since: int
    seen_at: int


class _Neighbour(msgspec.Struct):
    peer: str
    address: str
    since: int
    seen_at: int


class _File(msgspec.Struct):
    version: int
    neighbours: list[_Neighbour]


def encode_neighbours(neighbours: Iterable[Neighbour]) -> bytes:
    """What to write, whole and atomically, for `Overlay.remember` after the next start."""
    kept = islice(neighbours, NEIGHBOURS_SAVED_MAX)
    return msgspec.json.encode(
        _File(1, [_Neighbour(each.peer.text, str(each.address), each.since, each.seen_at) for each in kept])
    )


def decode_neighbours(content: bytes) -> list[Neighbour]:
    """The neighbours of `encode_neighbours`. Raises `DecodeError` for anything else."""
    if len(content) > NEIGHBOURS_FILE_BYTES_MAX:
        raise DecodeError("a list of neighbours that is too long")
    try:
        file = msgspec.json.decode(content, type=_File)
        return [
            Neighbour(PublicKey.from_text(each.peer), Address.parse(each.address), each.since, each.seen_at)
            for each in file.neighbours[:NEIGHBOURS_SAVED_MAX]
        ]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, UsageError) as error:
        raise DecodeError("not a list of neighbours") from error


@dataclass(slots=True)
class _Absence:
    neighbour: Neighbour
    since: float
    tries: int
    due_at: float


class Absent:
    """Neighbours that fell silent and may come back: the other half of a network that was cut in two.

    Bounded, asked ever less often, forgotten after a day. Times are monotonic seconds.
    """

    def __init__(self) -> None:
        self._absent: OrderedDict[PublicKey, _Absence] = OrderedDict()

    def __len__(self) -> int:
        return len(self._absent)

    def add(self, neighbour: Neighbour, now: float) -> None:
        if neighbour.peer in self._absent:
            return
        self._absent[neighbour.peer] = _Absence(neighbour, now, 0, now + _RETRY_S)
        if len(self._absent) > ABSENT_NEIGHBOURS_MAX:
            self._absent.popitem(last=False)

    def due(self, now: float, limit: int) -> list[Neighbour]:
        """Whom to greet now, those that wait longest first; the next time will be later."""
        waiting = sorted(
            (absence for absence in self._absent.values() if absence.due_at <= now),
            key=lambda absence: (absence.due_at, absence.neighbour.peer),
        )
        for absence in waiting[:limit]:
            absence.tries += 1
            absence.due_at = now + min(_RETRY_S * 2.0 ** min(absence.tries, 16), _RETRY_MAX_S)
            if now - absence.since > _FORGET_S:
                del self._absent[absence.neighbour.peer]
        return [absence.neighbour for absence in waiting[:limit]]

    def returned(self, peer: PublicKey) -> None:
        self._absent.pop(peer, None)

    def all(self) -> list[Neighbour]:
        return [absence.neighbour for absence in self._absent.values()]
