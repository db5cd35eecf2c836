"""What is not here any more: withdrawn from the overlay, and told to the peers that follow it.

What the cache lets go of is told of together, a moment later: many small losses must not cost as many messages.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from p2pmodel.model import ModelId

if TYPE_CHECKING:
    from p2pmodel.peer.peer import Peer

_TELL_S = 1.0


class Losses:
    """One peer's. Made on its event loop."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._loop = asyncio.get_running_loop()
        self._untold: dict[ModelId, int] = {}
        """Chunks of each model that the cache has let go of, as bits."""

    def released(self, model_id: ModelId, bits: int) -> None:
        """From any thread: the cache has let go of these chunks."""
        self._loop.call_soon_threadsafe(self._note, model_id, bits)

    def _note(self, model_id: ModelId, bits: int) -> None:
        if not self._untold:
            self._loop.call_later(_TELL_S, lambda: self._peer.spawn(self._tell_all()))
        self._untold[model_id] = self._untold.get(model_id, 0) | bits

    async def _tell_all(self) -> None:
        peer = self._peer
        lost, self._untold = self._untold, {}
        for model_id, bits in lost.items():
            held = await peer.network.offload(peer.store.have_map, model_id)
            if held is None or not held.bits:
                await self.tell(model_id)
                continue
            peer.swarm.tell_lost(model_id, bits & ~held.bits)
            await peer.announcer.update(model_id)

    async def tell(self, model_id: ModelId) -> None:
        """Something of this model is not here any more: now."""
        await self._peer.announcer.update(model_id)
        await self._peer.swarm.tell_state(model_id)
