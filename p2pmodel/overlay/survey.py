"""Who lives in a part of the key space: lookups side by side that ask each node once.

The answer to one lookup shows every node within some distance of its target, so the whole aligned subtree of that size
around the target is known. Walking subtree by subtree shows a region of any size. What one lookup has found counts in
the next, so a node is asked about once, and its answer brings both its neighbours and the token for announcing to it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from heapq import nsmallest

from p2pmodel.limits import BUCKET_SIZE, OVERLAY_KEY_BYTES
from p2pmodel.overlay.crawl import Candidate
from p2pmodel.overlay.package import ID_BITS

SPACE = 1 << ID_BITS
_REMEMBERED = 128
"""Nodes that count in the next lookup: those of its region and the ones beside it."""
_WITNESSES = 3
"""Nodes nearest to a new place that are asked about it though they have answered for another."""

Explore = Callable[[bytes, Sequence[Candidate], Sequence[Candidate]], Awaitable[list[Candidate]]]
"""A lookup: target, nodes to begin with, and nodes that have answered and need not be asked again. Returns the nearest
to the target, nearest first."""


@dataclass(frozen=True, slots=True)
class Region:
    """An aligned part of the key space: from `low`, up to and without `end`."""

    low: int
    end: int

    def __contains__(self, place: int) -> bool:
        return self.low <= place < self.end

    @classmethod
    def around(cls, place: int, bits: int) -> Region:
        bits = min(bits, ID_BITS)
        low = place >> bits << bits
        return cls(low, low + (1 << bits))


def known_around(target: int, nearest: Sequence[Candidate]) -> Region:
    """The largest subtree around `target` in which no node can be unknown, given the nearest to it."""
    if len(nearest) < BUCKET_SIZE:
        return Region(0, SPACE)
    farthest = nearest[-1].long_id ^ target
    return Region.around(target, (farthest + 1).bit_length() - 1)


def enclosing(target: int, nearest: Sequence[Candidate], replicas: int) -> Region:
    """The smallest subtree around `target` with at least `replicas` nodes.

    Whatever lies in it is nearer to each of its keys than whatever lies outside, so it holds each key's holders.
    """
    if len(nearest) < BUCKET_SIZE:
        return Region(0, SPACE)
    return Region.around(target, (nearest[replicas - 1].long_id ^ target).bit_length())


class Survey:
    """A walk through the key space; `known` are the nodes around the last place, each with its token."""

    def __init__(self, explore: Explore) -> None:
        self._explore = explore
        self.known: dict[bytes, Candidate] = {}

    async def look(self, place: int) -> list[Candidate]:
        """The nearest nodes to `place`, nearest first; none where nobody answers."""
        near = nsmallest(_REMEMBERED, self.known.values(), key=lambda node: node.long_id ^ place)
        target = place.to_bytes(OVERLAY_KEY_BYTES, "big")
        nearest = await self._explore(target, near[:_WITNESSES], near[_WITNESSES:])
        # Far behind the walk nothing is of use any more.
        self.known = {node.id: node for node in near}
        self.known.update((node.id, node) for node in nearest)
        return nearest

    async def cover(self, region: Region, known: Region) -> None:
        """Look around in `region`, of which `known` has been seen, until every node in it is in `self.known`."""
        found = dict(self.known)
        place = region.low
        while place < region.end:
            if place in known:
                place = known.end
                continue
            nearest = await self.look(place)
            found.update(self.known)
            if not nearest:
                break
            place = known_around(place, nearest).end
        self.known = found
