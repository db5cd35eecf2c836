"""Announcing many keys at the cost of a few lookups: one for each region of the key space, not one for each key.

The answer to one lookup shows every node within some distance of its target, so the whole aligned subtree of that size
around the target is known. Walking the key space subtree by subtree, each key is given to its nearest nodes, and each
node gets its keys fifty to a datagram (the idea of go-libp2p's provide sweep). A region that holds only one or two
keys is not explored; they are looked up singly.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from heapq import nsmallest

from p2pmodel.limits import BUCKET_SIZE, KEYS_PER_ANNOUNCE_MAX, OVERLAY_KEY_BYTES
from p2pmodel.net import Address
from p2pmodel.overlay.crawl import Candidate
from p2pmodel.overlay.package import ID_BITS

SPACE = 1 << ID_BITS
_SINGLE_KEYS_MAX = 2
_KEYS_PER_TURN = 256
"""Keys that are assigned before others get a turn of the event loop."""
_SEEDS_MAX = 40

Explore = Callable[[bytes, Iterable[tuple[bytes, Address]]], Awaitable[list[Candidate]]]
Send = Callable[[Candidate, list[bytes]], Awaitable[None]]


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


class Sweep:
    """One pass over sorted keys. `explore` looks a place up, `send` delivers at most fifty keys to a node."""

    def __init__(self, keys: Sequence[bytes], replicas: int, explore: Explore, send: Send) -> None:
        self._keys = keys
        self._places = [int.from_bytes(key, "big") for key in keys]
        assert self._places == sorted(set(self._places))
        self._replicas = replicas
        self._explore = explore
        self._send = send
        self._known: dict[bytes, Candidate] = {}

    async def run(self) -> None:
        """Returns when every key has been given to `send`, or nobody answers any more."""
        at = 0
        while at < len(self._keys):
            place = self._places[at]
            nearest = await self._look(place)
            if not nearest:
                return
            region = enclosing(place, nearest, self._replicas)
            end = bisect_left(self._places, region.end)
            if end - at <= _SINGLE_KEYS_MAX:
                for node in nearest[: self._replicas]:
                    await self._send(node, [self._keys[at]])
                at += 1
                continue
            await self._cover(region, known_around(place, nearest))
            await self._assign(at, end, [node for node in self._known.values() if node.long_id in region])
            at = end

    async def _look(self, place: int) -> list[Candidate]:
        seeds = nsmallest(_SEEDS_MAX, self._known.values(), key=lambda node: node.long_id ^ place)
        # Far behind the walk nothing is of use any more.
        self._known = {node.id: node for node in seeds}
        target = place.to_bytes(OVERLAY_KEY_BYTES, "big")
        nearest = await self._explore(target, [(node.id, node.address) for node in seeds])
        self._known.update((node.id, node) for node in nearest)
        return nearest

    async def _cover(self, region: Region, known: Region) -> None:
        """Look around in `region` until every node in it is known."""
        found = dict(self._known)
        place = region.low
        while place < region.end:
            if place in known:
                place = known.end
                continue
            nearest = await self._look(place)
            found.update(self._known)
            if not nearest:
                break
            place = known_around(place, nearest).end
        self._known = found

    async def _assign(self, start: int, end: int, nodes: list[Candidate]) -> None:
        """Hand each key to its nearest nodes. Keys come sorted, so each node's share is sorted too."""
        shares: dict[bytes, list[bytes]] = {node.id: [] for node in nodes}
        for at in range(start, end):
            place = self._places[at]
            for node in self._holders(place, nodes):
                share = shares[node.id]
                share.append(self._keys[at])
                if len(share) == KEYS_PER_ANNOUNCE_MAX:
                    shares[node.id] = []
                    await self._send(node, share)
            if at % _KEYS_PER_TURN == 0:
                await asyncio.sleep(0)
        for node in nodes:
            if shares[node.id]:
                await self._send(node, shares[node.id])

    def _holders(self, place: int, nodes: list[Candidate]) -> list[Candidate]:
        if len(nodes) <= self._replicas:
            return nodes
        return nsmallest(self._replicas, nodes, key=lambda node: node.long_id ^ place)
