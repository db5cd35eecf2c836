"""Caches nearby: peers that offer themselves under a key of their own in the overlay, so that fetches can ask them.

Anybody may say that it is a cache, and one costs a fetch no more than any other peer: a connection, and a question.
Only a few are asked, and only near ones, on this machine or in a private network: a cache beyond the line that it is to
spare would help nobody.
"""

from __future__ import annotations

from contextlib import aclosing

from p2pmodel.limits import CACHES_LOOKED_AT_MAX, CACHES_PER_FETCH_MAX
from p2pmodel.model import Digest, PublicKey
from p2pmodel.net import Address, Clock
from p2pmodel.overlay import Overlay, overlay_key

CACHE_KEY = overlay_key(Digest.of(b"p2pmodel cache 1"))
"""What a cache provides besides its content."""
_KNOWN_S = 300.0
"""How long an answer holds: caches come and go more seldom than fetches."""


class NearCaches:
    def __init__(self, overlay: Overlay, clock: Clock) -> None:
        self._overlay, self._clock = overlay, clock
        self._known: list[tuple[PublicKey, Address]] = []
        self._looked_at = float("-inf")

    async def find(self) -> list[tuple[PublicKey, Address]]:
        """A few, the nearest first."""
        if self._clock.monotonic() - self._looked_at > _KNOWN_S:
            self._known = await self._look()
            # Where there was none, one may just be starting: the next fetch looks again.
            self._looked_at = self._clock.monotonic() if self._known else float("-inf")
        return self._known

    async def _look(self) -> list[tuple[PublicKey, Address]]:
        found: dict[PublicKey, Address] = {}
        async with aclosing(self._overlay.providers(CACHE_KEY)) as providers:
            async for provider in providers:
                if provider.address.scope:
                    found.setdefault(provider.peer, provider.address)
                if len(found) >= CACHES_LOOKED_AT_MAX:
                    break
        near = sorted(found.items(), key=lambda item: -item[1].scope)
        return near[:CACHES_PER_FETCH_MAX]
