"""The store as the swarm sees it: what may be served to others."""

from __future__ import annotations

from collections.abc import Sequence

from p2pmodel.limits import STATEMENTS_PER_MODEL_MAX
from p2pmodel.model import Digest, HaveMap, Layout, ModelId, PublicKey
from p2pmodel.net import BulkSource
from p2pmodel.store import Store


class StoreShelf:
    """Fills `swarm.Shelf`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def have_map(self, model_id: ModelId) -> HaveMap | None:
        return self._store.have_map(model_id)

    def layout(self, model_id: ModelId) -> Layout | None:
        return self._store.layout(model_id)

    def chunk(self, digest: Digest, where: tuple[ModelId, int] | None = None) -> BulkSource | None:
        return self._store.chunk(digest, where)

    def object(self, digest: Digest) -> bytes | None:
        return self._store.object(digest)

    def models(self, digests: Sequence[Digest]) -> list[ModelId]:
        return self._store.models_with(digests)

    def statements(self, model_id: ModelId) -> list[bytes]:
        return [signed.envelope for signed in self._store.statements(model_id)[:STATEMENTS_PER_MODEL_MAX]]

    def named(self, publisher: PublicKey, name: str, revision: str) -> list[bytes]:
        found = self._store.find_name(name, namespace=publisher, revision=revision)
        return [signed.envelope for signed in found[:STATEMENTS_PER_MODEL_MAX]]
