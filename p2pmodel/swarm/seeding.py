"""A seed and those who follow it: the thin shell around `superseed.SuperSeed`, one for each model in demand.

Peers that hold a part show all of it, and so does a seed to a few. Where a crowd follows a seed, each of it is shown
another part until one copy of everything has left.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any, Protocol

from p2pmodel.model import Digest, HaveMap, Layout, ModelId
from p2pmodel.net import Network
from p2pmodel.swarm import wire
from p2pmodel.swarm.shelf import Shelf
from p2pmodel.swarm.superseed import SuperSeed

CROWD_MIN = 3
"""Peers that follow at once. One has nobody to pass anything on to; two are done as soon without."""
_TICK_S = 0.25
_NEW_S = 1.0
"""Whoever followed for longer than this before there was a crowd has seen everything, and goes on so."""


class Follower(Hashable, Protocol):
    """A link whose peer follows a model."""

    @property
    def asks(self) -> bool:
        """Whether requests of it are waiting here."""

    def tell_have(self, model_id: ModelId, bits: int) -> None: ...

    def show(self, model_id: ModelId, held: HaveMap, *, forget: bool) -> None:
        """Tell it that we hold this, and where it is to `forget`, no more than this."""

    def hear(self, model_id: ModelId, on_held: Callable[[Any, HaveMap], None]) -> None:
        """Have `on_held` told, with this link, what the peer holds, each time that it says so."""

    def hear_no_more(self, model_id: ModelId) -> None: ...


@dataclass(frozen=True, slots=True)
class _Chunks:
    """The chunks of a model by their hash."""

    count: int
    places: dict[bytes, int]
    """Where each hash stands first."""
    groups: tuple[tuple[int, int], ...]
    """For what stands at several places: the first, and all of them as bits."""

    @staticmethod
    def of(layout: Layout) -> _Chunks:
        places: dict[bytes, int] = {}
        for chunk in layout:
            places.setdefault(chunk.digest.raw, chunk.index)
        groups = tuple((group[0], HaveMap.of(len(layout), group).bits) for group in layout.repeated())
        return _Chunks(len(layout), places, groups)

    @property
    def once(self) -> int:
        """Each hash at its first place alone: what stands twice is spread once."""
        bits = (1 << self.count) - 1
        for first, places in self.groups:
            bits &= ~places | 1 << first
        return bits

    def everywhere(self, bits: int) -> HaveMap:
        """These first places, with all others of the same hashes."""
        for first, places in self.groups:
            if bits >> first & 1:
                bits |= places
        return HaveMap(self.count, bits)


@dataclass(slots=True)
class _Crowd:
    followers: dict[Follower, float] = field(default_factory=dict)
    """With the time since when."""
    chunks: _Chunks | None = None
    seed: SuperSeed[Follower] | None = None
    opening: bool = False
    done: bool = False
    """Nothing is hidden any more: one copy has left since somebody began to follow, or was not all here."""


class Seeding:
    """What followers of each model are shown of it."""

    def __init__(self, shelf: Shelf, network: Network, rng: Random) -> None:
        self._shelf = shelf
        self._network = network
        self._rng = rng
        self._crowds: dict[ModelId, _Crowd] = {}

    def _now(self) -> float:
        return self._network.clock.monotonic()

    async def view(self, link: Follower, model_id: ModelId, held: HaveMap) -> HaveMap:
        """What this follower is to be told, of what is held here."""
        crowd = self._crowds.setdefault(model_id, _Crowd())
        crowd.followers.setdefault(link, self._now())
        if not held.whole:
            self._end(model_id, crowd, held)
            crowd.done = True  # those who follow a part will soon find all of it elsewhere too
            return held
        if len(crowd.followers) >= CROWD_MIN and not (crowd.seed or crowd.done or crowd.opening):
            crowd.opening = True
            try:
                await self._begin(model_id, crowd)
            finally:
                crowd.opening = False
        if crowd.seed is None or crowd.chunks is None:
            return held
        crowd.seed.peer_joined(link)
        link.hear(model_id, partial(self._heard, crowd))
        self._tell(model_id, crowd, crowd.seed.news(self._now()), besides=link)
        return crowd.chunks.everywhere(crowd.seed.visible(link))

    async def _begin(self, model_id: ModelId, crowd: _Crowd) -> None:
        layout = await self._network.offload(self._shelf.layout, model_id)
        if layout is None:
            return
        chunks = await self._network.offload(_Chunks.of, layout)
        now = self._now()
        crowd.chunks, crowd.seed = chunks, SuperSeed(chunks.once, self._rng, now)
        for link, since in crowd.followers.items():
            crowd.seed.peer_joined(link, everything=now - since > _NEW_S)
        crowd.seed.news(now)
        for link in crowd.followers:
            link.show(model_id, chunks.everywhere(crowd.seed.visible(link)), forget=True)
            link.hear(model_id, partial(self._heard, crowd))
        asyncio.get_running_loop().call_later(_TICK_S, self._tick, model_id, crowd)

    def _heard(self, crowd: _Crowd, link: Follower, held: HaveMap) -> None:
        """A follower says what it holds: so it is seen whether others pass on what they were sent."""
        if crowd.seed is not None and crowd.chunks is not None and held.count == crowd.chunks.count:
            crowd.seed.heard(link, held.bits, self._now())

    def serves(self, link: Follower, request: wire.RequestChunk) -> bool:
        """Whether this peer is to have this chunk from here, now."""
        seed, index = self._place(request)
        return seed is None or seed.serves(link, index, self._now())

    def sent(self, link: Follower, request: wire.RequestChunk) -> None:
        """This chunk has left to this peer."""
        seed, index = self._place(request)
        if seed is not None:
            now = self._now()
            seed.sent(link, index, now)
            if seed.hungry:
                model_id = ModelId(Digest(request.model))
                self._tell(model_id, self._crowds[model_id], seed.news(now))

    def _place(self, request: wire.RequestChunk) -> tuple[SuperSeed[Follower] | None, int]:
        """Who spreads the chunk that is asked for, if anybody does, and its number there."""
        crowd = self._crowds.get(ModelId(Digest(request.model))) if self._crowds else None
        index = crowd.chunks.places.get(request.digest) if crowd is not None and crowd.chunks is not None else None
        return (None, 0) if crowd is None or index is None else (crowd.seed, index)

    def left(self, link: Follower, model_id: ModelId, *, gone: bool = False) -> None:
        """It follows this model no longer."""
        crowd = self._crowds.get(model_id)
        if crowd is None or crowd.followers.pop(link, None) is None:
            return
        link.hear_no_more(model_id)
        if crowd.seed is not None:
            crowd.seed.peer_left(link, self._now(), gone=gone)
        if not crowd.followers:
            del self._crowds[model_id]

    def closed(self, link: Follower) -> None:
        """The connection has ended."""
        for model_id in list(self._crowds):
            self.left(link, model_id, gone=True)

    def _tick(self, model_id: ModelId, crowd: _Crowd) -> None:
        if crowd.seed is None or crowd.chunks is None or not crowd.followers:
            return
        now = self._now()
        if crowd.seed.over(now):
            self._end(model_id, crowd, HaveMap.full(crowd.chunks.count))
            return
        self._tell(model_id, crowd, crowd.seed.tick(now, [link for link in crowd.followers if not link.asks]))
        asyncio.get_running_loop().call_later(_TICK_S, self._tick, model_id, crowd)

    def _end(self, model_id: ModelId, crowd: _Crowd, held: HaveMap) -> None:
        if crowd.seed is None:
            return
        crowd.seed, crowd.chunks, crowd.done = None, None, True
        for link in crowd.followers:
            link.hear_no_more(model_id)
            link.show(model_id, held, forget=False)

    def _tell(
        self, model_id: ModelId, crowd: _Crowd, news: Mapping[Follower, int], besides: Follower | None = None
    ) -> None:
        assert crowd.chunks is not None
        for link, bits in news.items():
            if link is not besides:
                link.tell_have(model_id, crowd.chunks.everywhere(bits).bits)
