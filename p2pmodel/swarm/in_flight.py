"""How much is asked for and not here yet, and whether there is room for more: a plain object.

Who has delivered and who has not are counted apart, so that a crowd that begins and does not go on takes nothing from
those who deliver. What is past its deadline is not counted here at all.
"""

from __future__ import annotations

from collections.abc import Iterable

from p2pmodel.limits import (
    IN_FLIGHT_BYTES_FAR_MAX,
    IN_FLIGHT_BYTES_MAX,
    IN_FLIGHT_BYTES_STRANGERS_MAX,
    STRANGERS_SPARED_S,
)
from p2pmodel.swarm.source import Source


class InFlight:
    """`deliverers` and `nearest` are as of the last `count`."""

    __slots__ = ("bytes", "deliverers", "nearest", "strangers_bytes")

    def __init__(self) -> None:
        self.bytes = 0
        self.strangers_bytes = 0
        """Of those, what is asked of peers that have not delivered yet."""
        self.deliverers: list[Source] = []
        """Peers that have delivered something."""
        self.nearest = 0
        """How near the nearest of those is."""

    def add(self, source: Source, length: int) -> None:
        """`length` more is asked of this peer; less, where it is negative."""
        self.bytes += length
        if not source.proven:
            self.strangers_bytes += length

    def count(self, sources: Iterable[Source]) -> None:
        """One of them has delivered for the first time, or one that had has gone."""
        everybody = list(sources)
        self.deliverers = [source for source in everybody if source.proven]
        strangers = [source for source in everybody if not source.proven]
        self.nearest = max((source.nearness for source in self.deliverers), default=0)
        asked = (request for source in strangers for request in source.requests.values() if not request.overdue)
        self.strangers_bytes = sum(request.length for request in asked)

    @property
    def full(self) -> bool:
        return self.bytes >= IN_FLIGHT_BYTES_MAX

    def room_for(self, source: Source) -> bool:
        """Whether more may be asked of this peer, but for the one chunk that each may owe."""
        counted = self.bytes - self.strangers_bytes if source.proven else self.bytes
        return counted < (IN_FLIGHT_BYTES_MAX if source.nearness >= self.nearest else IN_FLIGHT_BYTES_FAR_MAX)

    def room_for_strangers(self) -> bool:
        """Whether anything may be asked of who has not delivered yet."""
        return not self.deliverers or self.strangers_bytes < IN_FLIGHT_BYTES_STRANGERS_MAX

    def soon_here(self, chunks: int, now: float) -> int:
        """What those who deliver bring before it could be told that a stranger does not, with `chunks` to come: bits.

        Nothing where so many take them longer. What others who have delivered once hold is not theirs to bring.
        """
        brisk = [source for source in self.deliverers if source.brisk(now, STRANGERS_SPARED_S)]
        if chunks >= sum(source.chunks_per_s for source in brisk) * STRANGERS_SPARED_S:
            return 0
        bits = 0
        for source in brisk:
            bits |= source.bits
        return bits
