"""Peers that lie to those who fetch from them, and otherwise behave: they are found, connect, and are asked."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from p2pmodel.model import Digest, HaveMap, Layout, ModelId, PublicKey
from p2pmodel.net import BulkSource
from p2pmodel.swarm.shelf import ObjectInMemory, Shelf


class CorruptingShelf:
    """Serves what `shelf` has, and turns one bit in a fraction of the chunks. Fills `swarm.Shelf`."""

    def __init__(self, shelf: Shelf, fraction: float, rng: Random) -> None:
        self._shelf = shelf
        self._fraction = fraction
        self._rng = rng
        self.lies = 0
        """Corrupt chunks that were handed out."""

    def have_map(self, model_id: ModelId) -> HaveMap | None:
        return self._shelf.have_map(model_id)

    def layout(self, model_id: ModelId) -> Layout | None:
        return self._shelf.layout(model_id)

    def chunk(self, digest: Digest, where: tuple[ModelId, int] | None = None) -> BulkSource | None:
        source = self._shelf.chunk(digest, where)
        if source is None or self._rng.random() >= self._fraction:
            return source
        data = bytearray(source.length)
        source.read_into(memoryview(data), 0)
        source.release()
        data[self._rng.randrange(len(data))] ^= 1 << self._rng.randrange(8)
        self.lies += 1
        return ObjectInMemory(bytes(data))

    def object(self, digest: Digest) -> bytes | None:
        return self._shelf.object(digest)

    def models(self, digests: Sequence[Digest]) -> list[ModelId]:
        return self._shelf.models(digests)

    def statements(self, model_id: ModelId) -> list[bytes]:
        return self._shelf.statements(model_id)

    def named(self, publisher: PublicKey, name: str, revision: str) -> list[bytes]:
        return self._shelf.named(publisher, name, revision)


class BoastingShelf(CorruptingShelf):
    """Says that it holds every chunk of what it knows, and refuses what it does not have."""

    def __init__(self, shelf: Shelf) -> None:
        super().__init__(shelf, 0.0, Random(0))

    def have_map(self, model_id: ModelId) -> HaveMap | None:
        have = self._shelf.have_map(model_id)
        return None if have is None else HaveMap.full(have.count)
