"""Finding those who hold parts of a model without knowing it: as parts of its base, or of another made from that.

Chunks are announced by their own hashes, so somebody who has one is found whatever the model is called there. But a
lookup for each chunk would cost more than it brings. So a few are looked up, drawn at random; whoever turns up is asked
in one message which models it has them in; the chunk lists of those say at once which chunks they share with ours; and
their holders, found by the id of *their* model, tell as always what they have and what comes to them. That is a handful
of lookups however many chunks there are, and nobody is asked for more than a look into an index.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import aclosing
from itertools import islice
from random import Random

from p2pmodel.errors import DecodeError, PeerFault
from p2pmodel.limits import (
    MANIFEST_BYTES_MAX,
    MIB,
    PROBES_PER_MESSAGE_MAX,
    RELATIVE_CHUNKS_MIN,
    RELATIVE_SIZE_MAX,
    RELATIVES_PER_FETCH_MAX,
    RELATIVES_PER_PEER_MAX,
)
from p2pmodel.model import ChunkList, Digest, HaveMap, Layout, Manifest, ModelId, PublicKey
from p2pmodel.model.chunk_list import ENTRY_BYTES
from p2pmodel.net import Network
from p2pmodel.overlay import Overlay, Provider, overlay_key
from p2pmodel.peer.finding import Finder
from p2pmodel.store import Store
from p2pmodel.swarm import Download, Link, Relative, Swarm, shared_chunks
from p2pmodel.swarm.rarity import random_bit

log = logging.getLogger(__name__)

_FIRST_LOOK_S, _LOOK_S = 0.5, 1.0
"""When and how often it is looked at whether a search is worth while: what is over by then needs none."""
_WORTH_BYTES = 4 * MIB
_WORTH_S = 3.0
"""A search is worth its datagrams where so much is missing and will take so much longer."""
_PROBES = 4
"""Chunks looked up in one round. With a fifth of the chunks shared, three rounds find somebody in 93 of 100 cases."""
_PROBES_MAX = 16
_IDLE_PROBES = 8
"""Chunks looked up in one round where nobody known holds anything that is missing: all of them, in the end."""
_ROUNDS_APART_S = (4.0, 8.0, 16.0)
_LINKS_ASKED = 4
"""Connected peers who are asked for the models that they have chunks in, before any lookup: whoever trained on top of a
base, or fetched the one after the other, has both."""
_HOLDERS_MAX = 16
"""Of a related model, in one lookup."""


class Relatives:
    """The search of one transfer. `run` it until it is cancelled; then `leave`."""

    def __init__(
        self,
        layout: Layout,
        download: Download,
        finder: Finder,
        *,
        store: Store,
        overlay: Overlay,
        swarm: Swarm,
        network: Network,
        rng: Random,
    ) -> None:
        self._layout, self._download, self._finder = layout, download, finder
        self._store, self._overlay, self._swarm, self._network, self._rng = store, overlay, swarm, network, rng
        self._probed: list[int] = []
        self._asked: set[PublicKey] = set()
        self._known: dict[ModelId, Relative | None] = {}
        """None for a model that turned out to share nothing, or that nobody could describe."""
        self._named_by: dict[PublicKey, int] = {}

    @property
    def found(self) -> list[Relative]:
        return [relative for relative in self._known.values() if relative is not None]

    async def run(self) -> None:
        rounds, next_at = 0, 0.0
        while True:
            await asyncio.sleep(_LOOK_S if rounds else _FIRST_LOOK_S)
            idle = not self._download.sources
            if self._now() < next_at or not (idle or self._worth_while()):
                continue
            await self._round(idle)
            pause_s = _LOOK_S if idle and self._unprobed else _ROUNDS_APART_S[min(rounds, len(_ROUNDS_APART_S) - 1)]
            next_at = self._now() + pause_s
            rounds += 1

    def leave(self) -> None:
        for relative in self.found:
            relative.leave()

    def _now(self) -> float:
        return self._network.clock.monotonic()

    def _worth_while(self) -> bool:
        missing = HaveMap(len(self._layout), self._download.missing)
        left = sum(self._layout.length(index) for index in islice(missing, 10_000))
        rate, _ = self._download.rate(self._now())
        return left >= _WORTH_BYTES and left > rate * _WORTH_S

    # --- one round -----------------------------------------------------------------------------------------------

    async def _round(self, idle: bool) -> None:
        probes = self._draw(_IDLE_PROBES if idle else min(_PROBES, _PROBES_MAX - len(self._probed)))
        for link in list(self._download.links.values())[:_LINKS_ASKED]:
            await self._ask(link, probes)
        await asyncio.gather(*(self._look_up_chunk(index) for index in probes))
        await asyncio.gather(*(self._look_up_holders(relative) for relative in self.found))

    @property
    def _unprobed(self) -> int:
        """Missing chunks that were not looked up, as bits: those that nobody known holds, where there are such."""
        probed = HaveMap.of(len(self._layout), self._probed).bits
        return self._download.unheld & ~probed or self._download.missing & ~probed

    def _draw(self, count: int) -> list[int]:
        drawn = self._some(self._unprobed, count)
        self._probed += drawn
        return drawn

    def _some(self, bits: int, count: int) -> list[int]:
        """A few of these chunks at random: without a list of all, which may be a million."""
        drawn: list[int] = []
        while bits and len(drawn) < count:
            drawn.append(random_bit(bits, self._rng))
            bits ^= 1 << drawn[-1]
        return drawn

    async def _look_up_chunk(self, index: int) -> None:
        async with aclosing(self._overlay.providers(overlay_key(self._layout[index].digest))) as providers:
            async for provider in providers:
                if provider.peer in self._download.links:
                    continue
                link = await self._connect(provider)
                if link is not None:
                    self._download.add_link(link)
                    self._download.offer(link, 1 << index)
                    await self._ask(link, [index])

    async def _look_up_holders(self, relative: Relative) -> None:
        key = overlay_key(relative.model_id)
        async with aclosing(self._overlay.providers(key)) as providers:
            count = 0
            async for provider in providers:
                if count >= _HOLDERS_MAX or self._download.links_enough:
                    return
                count += 1
                link = self._swarm.links.get(provider.peer) or await self._connect(provider)
                if link is not None:
                    relative.follow(link)

    async def _connect(self, provider: Provider) -> Link | None:
        if provider.peer in self._download.banned or provider.address.scope > self._finder.scope():
            return None
        if self._download.links_enough and self._download.sources:
            return None
        try:
            return await self._swarm.connect(provider.address, provider.peer)
        except PeerFault as fault:
            log.info("no connection to %s: %s", provider.address, fault)
            return None

    # --- what a peer has them in ---------------------------------------------------------------------------------

    async def _ask(self, link: Link, indices: Sequence[int]) -> None:
        """Which models it holds these chunks in, and more of ours as there is room in the message."""
        if link.peer in self._asked:
            return
        self._asked.add(link.peer)
        more = self._some(self._download.missing, PROBES_PER_MESSAGE_MAX)
        wanted = list(dict.fromkeys([*indices, *more]))[:PROBES_PER_MESSAGE_MAX]
        if not wanted:
            return
        try:
            named = await link.questions.models([self._layout[index].digest for index in wanted])
        except (PeerFault, DecodeError):
            return
        for model_id in named:
            if model_id == self._layout.model_id:
                continue
            relative = await self._relative(model_id, link)
            if relative is not None:
                relative.follow(link)

    async def _relative(self, model_id: ModelId, link: Link) -> Relative | None:
        """The related model of this id, described by this disk or by the peer that named it."""
        if model_id in self._known:
            return self._known[model_id]
        named = self._named_by.get(link.peer, 0)
        if len(self.found) >= RELATIVES_PER_FETCH_MAX or named >= RELATIVES_PER_PEER_MAX:
            return None
        self._named_by[link.peer] = named + 1
        self._known[model_id] = None  # not twice at the same time
        try:
            theirs = await self._read_layout(model_id, link)
        except (PeerFault, DecodeError) as fault:
            self._known.pop(model_id, None)  # another peer may describe it
            log.info("peer %s names a model and does not describe it: %s", link.peer.text, fault)
            return None
        shared = await self._network.offload(shared_chunks, self._layout, theirs)
        if shared:
            relative = Relative(model_id, len(theirs), shared, self._download, self._finder.suggest)
            self._known[model_id] = relative
        return self._known[model_id]

    async def _read_layout(self, model_id: ModelId, link: Link) -> Layout:
        """Raises `PeerFault` where the peer does not send it, `DecodeError` where it is too large or none."""
        held = await self._network.offload(self._store.layout, model_id)
        if held is not None:
            return held
        manifest = Manifest.decode(await self._object(model_id, link, MANIFEST_BYTES_MAX))
        if manifest.chunk_count > max(RELATIVE_CHUNKS_MIN, RELATIVE_SIZE_MAX * len(self._layout)):
            raise DecodeError("it has many times as many chunks as the one that is fetched")
        lists = []
        for file in manifest.files:
            size = file.chunk_count * ENTRY_BYTES
            lists.append(ChunkList(await self._object(file.chunk_list, link, size) if size else b""))
        return Layout(manifest, lists)

    async def _object(self, digest: Digest, link: Link, size_bytes_max: int) -> bytes:
        held = await self._network.offload(self._store.object, digest)
        if held is not None:
            return held
        return await self._swarm.fetch_object(digest, [link], size_bytes_max=size_bytes_max)
