"""Announcing many keys at the cost of a few lookups: one for each region of the key space, not one for each key.

A survey shows who lives in a region; each key is given to its nearest nodes, and each node gets its keys fifty to a
datagram (the idea of go-libp2p's provide sweep). A region that holds only one or two keys is not surveyed; they are
looked up singly. Where the nodes nearest to a key are too near for chance, it goes to all that live within the
distance that honest ones would fill.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, bisect_right
from collections.abc import Awaitable, Callable, Sequence
from heapq import nsmallest
from itertools import islice

from p2pmodel.limits import BUCKET_SIZE, CROWDED_HOLDERS_MAX, KEYS_PER_ANNOUNCE_MAX
from p2pmodel.overlay.crawl import Candidate
from p2pmodel.overlay.density import is_crowded, radius_for, too_near
from p2pmodel.overlay.survey import Explore, Region, Survey, enclosing, known_around

_SINGLE_KEYS_MAX = 2
_SPARE = 4
"""Nodes that a region has beyond the holders of a key, so that the next nearest is known when a holder is gone."""
_KEYS_PER_TURN = 256
"""Keys that are assigned before others get a turn of the event loop: about five milliseconds."""

Send = Callable[[Candidate, list[bytes]], Awaitable[None]]


class Sweep:
    """One pass over sorted keys. `explore` looks a place up, `send` delivers at most fifty keys to a node.

    `size` is the estimated number of nodes; without it no region is ever taken for crowded.
    """

    def __init__(
        self, keys: Sequence[bytes], replicas: int, explore: Explore, send: Send, *, size: float = 0.0
    ) -> None:
        self._keys = keys
        self._places = [int.from_bytes(key, "big") for key in keys]
        assert all(a < b for a, b in zip(self._places, self._places[1:], strict=False))
        self._replicas = replicas
        self._survey = Survey(explore)
        self._send = send
        self._size = size
        self._radius = radius_for(size, BUCKET_SIZE) if size else 0
        self._limit = too_near(size, replicas) if size >= 2 * BUCKET_SIZE else 0
        """Holders whose farthest is nearer than this are too near for chance."""
        self._ends: list[int] = []
        self._nodes: list[list[Candidate]] = []
        """Who was known when the keys up to each of `_ends` were assigned."""
        self._lost: list[tuple[bytes, Sequence[bytes]]] = []
        self._gone: dict[bytes, None] = {}
        """Nodes that lost something, in the order of their losses."""
        self._mended: dict[bytes, int] = {}
        """How many of them were taken into account when a key was given out anew."""

    async def run(self) -> None:
        """Returns when every key has been given to `send`, or nobody answers any more."""
        at = 0
        while at < len(self._keys):
            place = self._places[at]
            nearest = await self._survey.look(place)
            if not nearest:
                return
            region = enclosing(place, nearest, min(self._replicas + _SPARE, len(nearest)))
            crowded = is_crowded([node.long_id ^ place for node in nearest], self._size)
            if crowded:
                region = Region.around(place, self._radius.bit_length())
            end = bisect_left(self._places, region.end)
            if end - at <= _SINGLE_KEYS_MAX and not crowded:
                self._note(at + 1, nearest)
                for node in self._holders(place, nearest):
                    await self._send(node, [self._keys[at]])
                at += 1
                continue
            await self._survey.cover(region, known_around(place, nearest))
            known = [node for node in self._survey.known.values() if node.id not in self._gone]
            self._note(end, known)
            await self._assign(at, end, known)
            at = end

    def lost(self, node: bytes, keys: Sequence[bytes]) -> None:
        """`node` did not take `keys`; `mend` gives them to the next nearest."""
        self._lost.append((node, keys))

    async def mend(self) -> bool:
        """Send what was lost to others. Says whether there was any."""
        lost, self._lost = self._lost, []
        self._gone.update(dict.fromkeys(node for node, _ in lost))
        shares: dict[bytes, tuple[Candidate, list[bytes]]] = {}
        for key in sorted({key for _, keys in lost for key in keys}):
            place = int.from_bytes(key, "big")
            nodes = self._nodes[bisect_right(self._ends, bisect_left(self._places, place))]
            # Other holders of the key may be gone too and not have said so yet: each key is given out anew at once
            # for all that are known to be gone, and what was known the last time is remembered.
            then = set(islice(self._gone, self._mended.get(key, 0)))
            had = {node.id for node in self._holders(place, [node for node in nodes if node.id not in then])}
            for heir in self._holders(place, [node for node in nodes if node.id not in self._gone]):
                if heir.id not in had:
                    shares.setdefault(heir.id, (heir, []))[1].append(key)
            self._mended[key] = len(self._gone)
        for heir, share in shares.values():
            for at in range(0, len(share), KEYS_PER_ANNOUNCE_MAX):
                await self._send(heir, share[at : at + KEYS_PER_ANNOUNCE_MAX])
        return bool(lost)

    def _note(self, end: int, nodes: list[Candidate]) -> None:
        self._ends.append(end)
        self._nodes.append(nodes)

    async def _assign(self, start: int, end: int, nodes: list[Candidate]) -> None:
        """Hand each key to its nearest nodes. Keys come sorted, so each node's share is sorted too."""
        shares: dict[bytes, list[bytes]] = {node.id: [] for node in nodes}
        for at in range(start, end):
            for node in self._holders(self._places[at], nodes):
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
        """The nearest of `nodes` to `place`; where those are too near for chance, all within the honest radius."""
        if len(nodes) <= self._replicas:
            return nodes
        nearest = nsmallest(self._replicas, nodes, key=lambda node: node.long_id ^ place)
        if nearest[-1].long_id ^ place >= self._limit:
            return nearest
        within = sorted((node.long_id ^ place, node.id, node) for node in nodes)
        wide = [node for distance, _, node in within if distance <= self._radius]
        if len(wide) <= CROWDED_HOLDERS_MAX:
            return wide if len(wide) > len(nearest) else nearest
        # However many there are, near and far get their part.
        return [wide[len(wide) * i // CROWDED_HOLDERS_MAX] for i in range(CROWDED_HOLDERS_MAX)]
