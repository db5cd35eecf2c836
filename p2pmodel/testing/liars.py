"""Peers that lie about one model of condensed content: they run the daemon's own code over a store that lies.

Each is found, connects, tells have-maps and is asked like any other; what is wrong is what it then hands out.
"""

from __future__ import annotations

from enum import Enum

from p2pmodel.model import Digest, HaveMap, Layout, ModelId
from p2pmodel.net import BulkSource
from p2pmodel.testing.condensed import CondensedSource, CondensedStore
from p2pmodel.testing.crowd import Crowd, Member

SLOW_BYTES_PER_S = 1_000.0
"""The line of a peer that is slow on purpose: below what the protocol lets an answer take."""


class Lie(Enum):
    CORRUPT = "corrupt"
    """Every chunk comes at once and is not what was asked for."""
    SLOW = "slow"
    """Every chunk is right, at 1 kB/s."""
    BOAST = "boast"
    """Says that it holds everything, and refuses whatever it is asked for."""
    STALL = "stall"
    """Says that it holds everything, takes every request, and never answers."""


class CorruptStore(CondensedStore):
    """Holds everything, and hands out something else."""

    lies = 0

    def chunk(self, digest: Digest, where: tuple[ModelId, int] | None = None) -> BulkSource | None:
        source = super().chunk(digest, where)
        if source is None:
            return None
        self.lies += 1
        return CondensedSource(Digest.of(b"a lie about " + digest.raw).raw, source.length)


class BoastingStore(CondensedStore):
    """Knows the model, says that all of it is here, and has no chunk of it."""

    def have_map(self, model_id: ModelId) -> HaveMap | None:
        have = super().have_map(model_id)
        return None if have is None else HaveMap.full(have.count)

    def hold(self, layout: Layout) -> None:
        self.know(layout)


_STORES: dict[Lie, type[CondensedStore]] = {
    Lie.CORRUPT: CorruptStore,
    Lie.SLOW: CondensedStore,
    Lie.BOAST: BoastingStore,
    Lie.STALL: CondensedStore,
}


async def add_liar(crowd: Crowd, lie: Lie) -> Member:
    """A peer on a new host that will lie in this way about whatever `Crowd.publish` lets it hold."""
    host = crowd.internet.host(upload_bytes_per_s=SLOW_BYTES_PER_S if lie is Lie.SLOW else None)
    host.stalls = lie is Lie.STALL
    return await crowd.add(host, store=_STORES[lie]())
