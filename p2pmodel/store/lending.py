"""What others may be given: chunks by their hash, whichever model and copy they lie in, and what is here of a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from p2pmodel.model import Digest, HaveMap, ModelId
from p2pmodel.store.cache import Cache
from p2pmodel.store.catalogue import Catalogue
from p2pmodel.store.files import Files
from p2pmodel.store.objects import Objects
from p2pmodel.store.serving import ChunkSource, Server
from p2pmodel.store.values import FilePlace, FileState


class Lender:
    """Thread-safe."""

    def __init__(self, files: Files, catalogue: Catalogue, objects: Objects, server: Server, cache: Cache) -> None:
        self._files = files
        self._catalogue, self._objects, self._server, self._cache = catalogue, objects, server, cache

    def chunk(self, digest: Digest, where: tuple[ModelId, int] | None = None) -> ChunkSource | None:
        """The chunk with this hash, from whichever model holds it; the caller releases it.

        `where` says which chunk of which model it may be: right, it saves a look into the database.
        """
        if where is not None and (source := self._at(*where, digest)) is not None:
            return source
        return self.find(digest)

    def find(self, digest: Digest) -> ChunkSource | None:
        """The chunk with this hash, from whichever model holds it."""
        found = (self._at(model_id, index, digest) for model_id, index in self._catalogue.places(digest))
        return next((source for source in found if source is not None), None)

    def _at(self, model_id: ModelId, index: int, digest: Digest) -> ChunkSource | None:
        """The chunk with this hash if it is that one of the model, and here."""
        copies = [copy for copy in self._catalogue.copies(model_id) if copy.bits & 1 << index]
        layout = self._objects.layout(model_id) if copies else None
        if layout is None or index >= len(layout) or (place := layout[index]).digest != digest:
            return None
        for copy in copies:
            source = self._server.open(copy, place)
            if source is not None:
                self._cache.expendables.served(copy, index)
                return source
        return None

    def models_with(self, digests: Sequence[Digest]) -> list[ModelId]:
        """Models of which chunks with these hashes are here, those with most of them first."""
        count: Counter[ModelId] = Counter()
        for digest in digests:
            for model_id, index in self._catalogue.places(digest):
                if any(copy.bits & 1 << index for copy in self._catalogue.copies(model_id)):
                    count[model_id] += 1
        return [model_id for model_id, _ in count.most_common()]

    def have_map(self, model_id: ModelId) -> HaveMap | None:
        """What can be served of a model now, chunks of a running fetch included; None where nothing is known of it."""
        copies = self._catalogue.copies(model_id)
        if not copies:
            return None
        bits = 0
        for copy in copies:
            bits |= copy.bits
        return HaveMap(copies[0].count, bits)

    def file_place(self, model_id: ModelId, file_index: int, chunks: int) -> FilePlace | None:
        """Where these chunks (bits) of a file can be read together; a whole file rather than a part of one."""
        found = [(copy, copy.file(file_index)) for copy in self._catalogue.copies(model_id)]
        able = [(copy, kept) for copy, kept in found if kept is not None and kept.readable and not chunks & ~copy.bits]
        able.sort(key=lambda item: item[1].state is FileState.PARTIAL)
        for copy, kept in able:
            status = self._files.status(kept.location)
            if status is not None and kept.is_same(status.identity):
                named = kept.state is not FileState.PARTIAL
                return FilePlace(kept.location, named and copy.bits & kept.mask == kept.mask, status.identity)
        return None

    def digests(self, model_id: ModelId) -> Iterator[Digest]:
        """The hashes of the chunks that are here, in order."""
        layout, have = self._objects.layout(model_id), self.have_map(model_id)
        if layout is not None and have is not None:
            for index in have:
                yield layout[index].digest
