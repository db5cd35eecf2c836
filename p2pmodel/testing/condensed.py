"""Content at scale: models of gigabytes on thousands of simulated hosts, of which only the hashes exist.

A chunk's bytes are stood for by its digest. `CondensedStore` fills what the peer uses of `store.Store` (give
`open_condensed` to `Peer(open_store=...)`), its sources say the chunk's true length and carry those 32 bytes, the
simulated lines count the length, and its intake accepts a chunk only where the bytes that came are those that stand for
it: a liar's do not. Manifests, chunk lists, have-maps, statements, requests and everything that decides is real.

What is thereby *not* simulated: the time that hashing and writing take, disks that are slow, full or torn, and files
as such. Those are the matter of `store` on the simulated disk.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import cast

from p2pmodel.errors import CorruptChunkError, UsageError
from p2pmodel.limits import CHUNK_BYTES
from p2pmodel.model import (
    ChunkList,
    Digest,
    FileEntry,
    HaveMap,
    Layout,
    Manifest,
    ModelId,
    PublicKey,
    Sha256,
    SignedStatement,
)
from p2pmodel.model.paths import PortablePath
from p2pmodel.net import BulkSource
from p2pmodel.store import CacheLimits, CacheUse, Reuse, Store, StoredModel
from p2pmodel.store.cache import Beside


def condensed_layout(size_bytes: int, *, seed: int = 0, chunk_bytes: int = CHUNK_BYTES) -> Layout:
    """A model of one file, cut every `chunk_bytes`, whose content nobody has ever seen."""
    if size_bytes < 1:
        raise UsageError("a model has at least one byte")
    whole, rest = divmod(size_bytes, chunk_bytes)
    lengths = [chunk_bytes] * whole + ([rest] if rest else [])
    chunks = ChunkList.of(
        (Digest.of(b"condensed %d %d" % (seed, index)), length) for index, length in enumerate(lengths)
    )
    file = FileEntry(
        PortablePath("model.safetensors"),
        size_bytes,
        Digest.of(b"condensed file %d" % seed),
        Sha256(Digest.of(b"condensed sum %d" % seed).raw),
        len(chunks),
        chunks.digest,
    )
    return Layout(Manifest.of([file]), [chunks])


class CondensedSource:
    """A chunk on its way out. `condensed` is what the channel carries in place of `length` bytes."""

    __slots__ = ("condensed", "length")

    def __init__(self, condensed: bytes, length: int) -> None:
        self.condensed = condensed
        self.length = length

    def open(self) -> bool:
        return True

    def read_into(self, buffer: memoryview, offset: int) -> None:
        raise NotImplementedError("condensed content travels as what stands for it, on simulated channels only")

    def room(self) -> memoryview | None:
        return None

    def file_range(self) -> tuple[int, int] | None:
        return None

    def release(self) -> None:
        """There is nothing to let go of."""


class CondensedIntake:
    """A running fetch, as `store.Intake`."""

    def __init__(self, layout: Layout, wanted: HaveMap, held: dict[int, bytes], path: Path) -> None:
        self.layout = layout
        self.wanted = wanted
        self.path = path
        self._held = held
        self._bits = HaveMap.of(len(layout), held).bits
        self._same = {place: group for group in layout.repeated() for place in group}
        here = sum(layout[index].length for index in HaveMap(len(layout), self._bits & wanted.bits))
        self.reused: dict[Reuse, int] = {"resumed": here}

    @property
    def bytes_reused(self) -> int:
        return sum(self.reused.values())

    @property
    def have(self) -> HaveMap:
        return HaveMap(self.wanted.count, self._bits)

    @property
    def missing(self) -> HaveMap:
        return HaveMap(self.wanted.count, self.wanted.bits & ~self._bits)

    def adopt(
        self, on_progress: Callable[[int, int, str], None] | None = None, stop: threading.Event | None = None
    ) -> None:
        """What was held is held: memory forgets nothing."""

    def write(self, index: int, data: memoryview) -> int:
        """Raises `CorruptChunkError` where `data` is not what stands for the chunk."""
        digest = self.layout[index].digest
        if data != digest.raw:
            raise CorruptChunkError(f"what came for chunk {index} does not stand for {digest.hex}")
        bits = 0
        for place in self._same.get(index, (index,)):
            if place in self.wanted and place not in self._held:
                self._held[place] = bytes(data)
                bits |= 1 << place
        self._bits |= bits
        return bits

    def claim(self) -> None:
        """There is no disk."""

    def finish(self) -> None:
        assert not self.missing.held, "the model is not whole"

    def close(self) -> None:
        """What has arrived is kept."""


class _Copy:
    """What is here of one model. `held` keeps what came for each chunk, to be looked at after a simulation."""

    def __init__(self, layout: Layout, path: Path) -> None:
        self.layout = layout
        self.path = path
        self.held: dict[int, bytes] = {}
        self.intake: CondensedIntake | None = None
        self.places = {chunk.digest.raw: chunk.index for chunk in layout}

    @property
    def have(self) -> HaveMap:
        return self.intake.have if self.intake is not None else HaveMap.of(len(self.layout), self.held)


class CondensedStore:
    """Fills what a peer uses of `store.Store` while it serves and fetches. Publishing is `hold`."""

    def __init__(self, directory: Path = Path("/data")) -> None:
        self.directory = directory
        self._objects: dict[Digest, bytes] = {}
        self._copies: dict[ModelId, _Copy] = {}
        self._statements: dict[ModelId, list[SignedStatement]] = {}

        self.hash_each_read = False
        self.wrong_reads = 0
        self.scrubber = _NothingToScrub()
        self.health = _NothingRots()

    def close(self) -> None:
        """Nothing is open."""

    def hold(self, layout: Layout) -> None:
        """All of a model is here, as if it had been published."""
        self.know(layout).held = {chunk.index: chunk.digest.raw for chunk in layout}

    def know(self, layout: Layout) -> _Copy:
        """Manifest and chunk lists of a model are here, and no chunk of it."""
        return self._keep(layout, self.directory / "published")

    def _keep(self, layout: Layout, path: Path) -> _Copy:
        copy = self._copies.get(layout.model_id)
        if copy is None:
            copy = self._copies[layout.model_id] = _Copy(layout, path)
            self._objects[layout.model_id] = layout.manifest.encode()
            for chunks in layout.chunk_lists:
                self._objects[chunks.digest] = chunks.encoded
        return copy

    def bad_chunks(self, layout: Layout) -> int:
        """Chunks kept here whose content is not what the model says: looked at one by one, in hindsight."""
        copy = self._copies.get(layout.model_id)
        return 0 if copy is None else sum(kept != layout[index].digest.raw for index, kept in copy.held.items())

    # --- as `store.Store` ----------------------------------------------------------------------------------------

    def put_object(self, data: bytes) -> Digest:
        digest = Digest.of(data)
        self._objects[digest] = data
        return digest

    def object(self, digest: Digest) -> bytes | None:
        return self._objects.get(digest)

    def layout(self, model_id: ModelId) -> Layout | None:
        copy = self._copies.get(model_id)
        return None if copy is None else copy.layout

    def add_statement(self, signed: SignedStatement, *, durable: bool = True) -> None:
        known = self._statements.setdefault(signed.statement.model_id, [])
        if all(one.envelope != signed.envelope for one in known):
            known.insert(0, signed)

    def statements(self, model_id: ModelId) -> list[SignedStatement]:
        return list(self._statements.get(model_id, ()))

    def find_name(self, name: str, *, namespace: PublicKey | None = None, revision: str = "") -> list[SignedStatement]:
        return [
            signed
            for known in self._statements.values()
            for signed in known
            if signed.statement.name == name
            and namespace in (None, signed.signer)
            and revision in ("", signed.statement.revision)
        ]

    def chunk(self, digest: Digest, where: tuple[ModelId, int] | None = None) -> BulkSource | None:
        for copy in self._copies.values():
            index = copy.places.get(digest.raw)
            if index is not None and index in copy.held:
                return CondensedSource(copy.held[index], copy.layout[index].length)
        return None

    def models_with(self, digests: Sequence[Digest]) -> list[ModelId]:
        copies = self._copies.items()
        places = ((model_id, copy, copy.places.get(one.raw)) for model_id, copy in copies for one in digests)
        count = Counter(model_id for model_id, copy, index in places if index in copy.held)
        return [model_id for model_id, _ in count.most_common()]

    def models_with_file(self, hashed: Digest | Sha256) -> list[tuple[ModelId, int]]:
        return [
            (model_id, number)
            for model_id, copy in self._copies.items()
            for number, file in enumerate(copy.layout.files)
            if hashed in (file.blake3, file.sha256)
        ]

    def have_map(self, model_id: ModelId) -> HaveMap | None:
        copy = self._copies.get(model_id)
        return None if copy is None else copy.have

    def digests(self, model_id: ModelId) -> Iterator[Digest]:
        copy = self._copies.get(model_id)
        if copy is not None:
            for index in copy.have:
                yield copy.layout[index].digest

    def open_intake(
        self,
        layout: Layout,
        file_indices: Collection[int],
        destination: Path,
        *,
        overwrite: bool = False,
        stop: threading.Event | None = None,
        link: bool = False,
    ) -> CondensedIntake:
        copy = self._keep(layout, destination)
        copy.intake = CondensedIntake(copy.layout, layout.have_map(file_indices), copy.held, copy.path)
        return copy.intake

    def models(self) -> list[StoredModel]:
        found = [self.model(model_id) for model_id in self._copies]
        return [model for model in found if model is not None]

    def model(self, model_id: ModelId) -> StoredModel | None:
        copy = self._copies.get(model_id)
        if copy is None:
            return None
        layout, have = copy.layout, copy.have
        whole = have.whole
        return StoredModel(
            model_id=model_id,
            path=copy.path,
            state=("published" if copy.intake is None else "fetched") if whole else "partial",
            files=len(layout.files),
            bytes_total=layout.manifest.bytes_total,
            bytes_held=layout.manifest.bytes_total if whole else sum(layout[index].length for index in have),
            chunks=len(layout),
            chunks_held=have.held,
        )

    def watch_cache(
        self,
        limits: CacheLimits,
        on_released: Callable[[ModelId, int], None],
        known_elsewhere: Callable[[ModelId], int],
        beside: Beside,
    ) -> None:
        """Nothing is ever let go of."""

    def cache_use(self) -> CacheUse:
        """No byte is on a disk."""
        return CacheUse(0, 0, CacheLimits())

    def check_files(self, model_id: ModelId | None = None) -> list[StoredModel]:
        """There are no files that could change."""
        return []

    def prove(self, *, stop: threading.Event | None = None) -> list[StoredModel]:
        """Nothing is left unproven."""
        return []


class _NothingRots:
    """Fills what the peer uses of `store.Health`."""

    def damaged(self) -> list[tuple[ModelId, Path]]:
        return []


class _NothingToScrub:
    """Fills what the peer uses of `store.Scrubber`."""

    bytes_total = 0
    in_doubt = False


def as_store(store: CondensedStore) -> Store:
    """For `Peer(open_store=...)`: it has every method that a peer calls unless asked to publish, verify or keep."""
    return cast("Store", store)
