"""Which request that is out at one peer had better be another's: a plain object, driven with `now`.

What cannot have begun to leave where it waits is moved; that costs nothing. A second copy of what may have begun is
asked for in the end game, or where somebody waits for it, and only until so much has come twice.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from p2pmodel.limits import (
    DUPLICATE_BYTES_MIN,
    DUPLICATE_PART_MAX,
    DUPLICATE_REQUESTS_MAX,
    REQUEST_DEADLINE_MIN_S,
    REQUESTS_BEGUN,
)
from p2pmodel.swarm.source import Request, Source

K = TypeVar("K", bound=Hashable)
"""How a peer is named."""

_USUAL_WEIGHT = 1 / 16
_MOVE_MARGIN_S = 0.01
_DUPLICATE_MARGIN_S = 0.05
"""Without a margin, equal peers would fetch each other's last chunks twice."""
_QUEUED_AFTER = 2.0
"""With nothing coming in for so many times as long as a peer needs at best, what it was asked for has not begun."""
_UNUSUAL = 1.3
"""A second copy is asked for of what has been out for so many times as long as is usual,"""
_UNUSUAL_FOR_IT = 2.5
"""or for so many times as long as this peer needs, if that is less."""


@dataclass(frozen=True, slots=True)
class Overtaken(Generic[K]):
    """Chunk `index`, asked of `peer`: to be withdrawn there where it `moves`, else asked for a second time."""

    peer: K
    index: int
    moves: bool


class Overtaking(Generic[K]):
    """`sources` and `askers` are the schedule's own: who owes what, and of whom each chunk is asked."""

    def __init__(self, sources: Mapping[K, Source], askers: Mapping[int, Mapping[K, None]]) -> None:
        self._sources = sources
        self._askers = askers
        self._twice: dict[int, int] = {}
        """Chunks that are asked for twice, with their lengths."""
        self._twice_bytes = 0
        self._arrived_bytes = 0
        self.wasted_bytes = 0
        """What has come twice so far, as far as the owner says: second copies are asked for only up to a limit."""
        self.coming: Callable[[K], bool] = lambda peer: True
        """Whether an answer of this peer is on its way in, as far as the owner sees: then its second may be, too."""
        self.usual_s = REQUEST_DEADLINE_MIN_S
        """How long an answer takes, of late, over all peers."""

    def arrived(self, request: Request, now: float) -> None:
        self._arrived_bytes += request.length
        self.usual_s += _USUAL_WEIGHT * (now - request.asked_at - self.usual_s)

    def asked_twice(self, index: int, length: int) -> None:
        self._twice[index] = length
        self._twice_bytes += length

    def asked_once(self, index: int) -> None:
        """At most one peer is asked for it any more."""
        self._twice_bytes -= self._twice.pop(index, 0)

    def best(self, peer: K, among: int, now: float, *, second: bool) -> Overtaken[K] | None:
        """What would come from this peer by so much sooner that it is worth asking it; `second`: copies too."""
        source = self._sources[peer]
        best: Overtaken[K] | None = None
        best_gain_s = 0.0
        for index, askers in self._askers.items():
            if not among & 1 << index or peer in askers:
                continue
            for other in askers:
                their = self._sources[other]
                request = their.requests[index]
                if request.overdue:
                    continue
                place, ahead_bytes = their.ahead_of(index)
                moves = place >= REQUESTS_BEGUN or self._queued(other, their, request, now)
                if not moves and not (second and self._may_duplicate(their, request, ahead_bytes, now)):
                    continue
                remaining_s = their.remaining_s(ahead_bytes, self.usual_s, now)
                gain_s = remaining_s - 2.0 * source.expected_s(request.length, self.usual_s)
                gain_s -= _MOVE_MARGIN_S if moves else _DUPLICATE_MARGIN_S
                if gain_s > best_gain_s and self._in_time(askers, index) - moves < DUPLICATE_REQUESTS_MAX:
                    best, best_gain_s = Overtaken(other, index, moves), gain_s
        return best

    def _queued(self, peer: K, source: Source, request: Request, now: float) -> bool:
        """Whether this request has long waited for its turn there, with nothing of that peer coming in."""
        at_best_s = source.response_s if source.proven else self.usual_s
        return now - request.asked_at > _QUEUED_AFTER * at_best_s and not self.coming(peer)

    def _may_duplicate(self, source: Source, request: Request, ahead_bytes: int, now: float) -> bool:
        """Whether this has been out for so long, by what is usual or by its own haste, that a second copy is due."""
        unusual_s = _UNUSUAL * self.usual_s
        if source.proven:
            unusual_s = min(unusual_s, _UNUSUAL_FOR_IT * ahead_bytes / source.rate_bytes_per_s)
            if not self._may_waste:
                return False
        # Who has never delivered will hardly do so now: that costs nothing.
        return now - request.asked_at >= unusual_s

    @property
    def _may_waste(self) -> bool:
        limit = max(DUPLICATE_BYTES_MIN, DUPLICATE_PART_MAX * self._arrived_bytes)
        return self._twice_bytes + self.wasted_bytes < limit

    def _in_time(self, askers: Mapping[K, None], index: int) -> int:
        return sum(not self._sources[other].requests[index].overdue for other in askers)
