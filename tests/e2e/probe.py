"""A bare participant of the swarm, to see from outside what the daemons hold, as another implementation would."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random

from p2pmodel.model import Digest, HaveMap, Layout, ModelId, PublicKey, SecretKey
from p2pmodel.net import Address, BulkSource, Identity, RealNetwork, network_id
from p2pmodel.peer.config import DEFAULT_NETWORK_NAME
from p2pmodel.swarm import Link, Swarm


class _EmptyShelf:
    def have_map(self, model_id: ModelId) -> HaveMap | None:
        return None

    def chunk(self, digest: Digest, where: tuple[ModelId, int] | None = None) -> BulkSource | None:
        return None

    def object(self, digest: Digest) -> bytes | None:
        return None

    def models(self, digests: Sequence[Digest]) -> list[ModelId]:
        return []

    def statements(self, model_id: ModelId) -> list[bytes]:
        return []

    def layout(self, model_id: ModelId) -> Layout | None:
        return None

    def named(self, publisher: PublicKey, name: str, revision: str) -> list[bytes]:
        return []


class Probe:
    """Follows one model at several peers. `union` is what they hold together, `held` what each does."""

    def __init__(self, model_id: str) -> None:
        self.model_id = ModelId(Digest.from_hex(model_id))
        self.held: dict[Link, HaveMap] = {}
        self.changed = asyncio.Event()
        self.background = False
        key = SecretKey.generate()
        self.network = RealNetwork(Identity(key, network_id(DEFAULT_NETWORK_NAME)))
        self.swarm = Swarm(key=key.public, network=self.network, shelf=_EmptyShelf(), rng=Random(1))

    async def follow(self, listen: str) -> Link:
        link = await self.swarm.connect(Address.parse(listen))
        link.follow(self.model_id, self)
        return link

    def link_has(self, link: Link, held: HaveMap, new: int) -> None:
        self.held[link] = held
        self.changed.set()

    def link_lost(self, link: Link, bits: int) -> None:
        self.held[link] = HaveMap(self.held[link].count, self.held[link].bits & ~bits)
        self.changed.set()

    def link_unknown(self, link: Link) -> None:
        pass

    def link_peers(self, link: Link, peers: object) -> None:
        pass

    def link_closed(self, link: Link, reason: Exception) -> None:
        self.held.pop(link, None)
        self.changed.set()

    @property
    def union(self) -> int:
        bits = 0
        for held in self.held.values():
            bits |= held.bits
        return bits

    async def until(self, condition, timeout_s: float = 60) -> None:  # type: ignore[no-untyped-def]
        async with asyncio.timeout(timeout_s):
            while not condition():
                self.changed.clear()
                await self.changed.wait()

    async def close(self) -> None:
        await self.swarm.stop()
        await self.network.close()
