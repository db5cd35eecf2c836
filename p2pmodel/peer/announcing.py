"""What this peer announces in the overlay: for each model its root, its files by both hashes, and every chunk held.

The root goes out first and at once, because that is what people look for; chunks follow in the background, batched.
What is no longer held is withdrawn. Keys are the first 20 bytes of the hashes.
"""

from __future__ import annotations

import asyncio

from p2pmodel.limits import OVERLAY_KEY_BYTES
from p2pmodel.model import Digest, HaveMap, Layout, ModelId, PublicKey
from p2pmodel.net import Network
from p2pmodel.overlay import Overlay, overlay_key
from p2pmodel.store import Store


def name_key(publisher: PublicKey, name: str) -> bytes:
    """Where the statements by which this publisher gives out this name are found."""
    return overlay_key(Digest.of(b"p2pmodel name 1\0" + publisher.raw + name.encode()))


def root_keys(layout: Layout) -> list[bytes]:
    """The model's id first, then its files by BLAKE3 and by SHA-256."""
    keys = [overlay_key(layout.model_id)]
    for file in layout.files:
        if file.size:
            keys += [overlay_key(file.blake3), overlay_key(file.sha256)]
    return list(dict.fromkeys(keys))


def _chunk_keys(layout: Layout, bits: int) -> list[bytes]:
    return layout.hashes(bits, OVERLAY_KEY_BYTES)


class Announcer:
    """Keeps the overlay's set of provided keys in step with the store."""

    def __init__(self, store: Store, overlay: Overlay, network: Network) -> None:
        self._store = store
        self._overlay = overlay
        self._network = network
        self._announced: dict[ModelId, int] = {}
        """Chunks announced for each model, as bits."""
        self._roots: dict[ModelId, list[bytes]] = {}
        """The other keys announced for each model that is here: its id, its files, its names."""
        self._begun: set[ModelId] = set()
        """Models of which the id alone was announced, before anything of them was here."""
        self._lock = asyncio.Lock()

    async def begin(self, layout: Layout) -> None:
        """A model whose chunks are about to come: peers that look for it shall find us as well."""
        self._announced.setdefault(layout.model_id, 0)
        self._begun.add(layout.model_id)
        self._overlay.provide_later([overlay_key(layout.model_id)], roots=True)

    async def update(self, model_id: ModelId, *, now: bool = False) -> int:
        """Announce what is new of a model and withdraw what is gone.

        `now` waits until the root is out, and returns at how many keys another peer took the record.
        """
        async with self._lock:
            return await self._update(model_id, now=now)

    async def _update(self, model_id: ModelId, *, now: bool) -> int:
        layout, have = await self._network.offload(self._look, model_id)
        # A model of empty files alone has no chunks, and can be fetched all the same.
        here = have if layout is not None and have is not None and (have.bits or not have.count) else None
        held, before, placed = here.bits if here else 0, self._announced.get(model_id, 0), 0
        if layout is not None and here is not None and (now or model_id not in self._roots):
            # Publishing again may have given it another name.
            names = await self._name_keys(model_id)
            self._roots[model_id] = [*root_keys(layout), *names]
            placed = await self._overlay.provide([overlay_key(model_id), *names]) if now else 0
            self._overlay.provide_later(self._roots[model_id], roots=True)
        if layout is not None and (new := held & ~before):
            self._overlay.provide_later(await self._network.offload(_chunk_keys, layout, new))
        self._announced[model_id] = held
        lost = [] if here is not None else self._roots.pop(model_id, [])
        if model_id in self._begun and here is None:
            lost.append(overlay_key(model_id))
        self._begun.discard(model_id)
        if layout is not None and (gone := before & ~held):
            lost += await self._network.offload(_chunk_keys, layout, gone)
        if lost:
            await self._overlay.withdraw(lost)
        if here is None:
            self._announced.pop(model_id, None)
        return placed

    def _look(self, model_id: ModelId) -> tuple[Layout | None, HaveMap | None]:
        return self._store.layout(model_id), self._store.have_map(model_id)

    async def _name_keys(self, model_id: ModelId) -> list[bytes]:
        signed = await self._network.offload(self._store.statements, model_id)
        return [name_key(one.signer, one.statement.name) for one in signed if one.statement.name]

    async def update_all(self) -> list[ModelId]:
        """Look at every model; returns those of which something was lost since the last time."""
        known = [model.model_id for model in await self._network.offload(self._store.models)]
        lost = []
        for model_id in dict.fromkeys([*known, *self._announced]):
            before = self._announced.get(model_id, 0)
            await self.update(model_id)
            if before & ~self._announced.get(model_id, 0):
                lost.append(model_id)
        return lost
