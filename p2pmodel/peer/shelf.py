"""The store, and the files that are being gathered, as the swarm sees them: what may be served to others."""

from __future__ import annotations

from collections.abc import Sequence

from p2pmodel.limits import STATEMENTS_PER_MODEL_MAX
from p2pmodel.model import Digest, HaveMap, Layout, ModelId, PublicKey
from p2pmodel.net import BulkSource
from p2pmodel.peer.gathering import Gatherings
from p2pmodel.store import Store


class StoreShelf:
    """Fills `swarm.Shelf`."""

    def __init__(self, store: Store, gatherings: Gatherings | None = None) -> None:
        self._store = store
        self._gatherings = gatherings or Gatherings()

    def have_map(self, model_id: ModelId) -> HaveMap | None:
        return self._gatherings.have_map(model_id) or self._store.have_map(model_id)

    def layout(self, model_id: ModelId) -> Layout | None:
        return self._store.layout(model_id)

    def chunk(self, digest: Digest, where: tuple[ModelId, int] | None = None) -> BulkSource | None:
        return self._gatherings.part(digest, where) or self._store.chunk(digest, where)

    def object(self, digest: Digest) -> bytes | None:
        return self._store.object(digest)

    def models(self, digests: Sequence[Digest]) -> list[ModelId]:
        """Files count by their hashes as chunks do: who looks for one by its SHA-256 asks in which models it is."""
        whole = [model_id for digest in digests for model_id, _ in self._store.models_with_file(digest)]
        return list(dict.fromkeys([*whole, *self._store.models_with(digests)]))

    def statements(self, model_id: ModelId) -> list[bytes]:
        return [signed.envelope for signed in self._store.statements(model_id)[:STATEMENTS_PER_MODEL_MAX]]

    def named(self, publisher: PublicKey, name: str, revision: str) -> list[bytes]:
        found = self._store.find_name(name, namespace=publisher, revision=revision)
        return [signed.envelope for signed in found[:STATEMENTS_PER_MODEL_MAX]]
