"""What the swarm needs of whoever keeps the bytes. The peer fills these with the store; tests with dictionaries.

Every method may block on a disk and is called off the event loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from p2pmodel.errors import P2PModelError
from p2pmodel.model import Digest, HaveMap, Layout, ModelId, PublicKey
from p2pmodel.net import BulkSource


class Shelf(Protocol):
    """What can be served to others."""

    def have_map(self, model_id: ModelId) -> HaveMap | None:
        """The chunks of this model that can be served now; None where the model is not known here."""

    def layout(self, model_id: ModelId) -> Layout | None:
        """The model's chunks, where they are known here."""

    def chunk(self, digest: Digest, where: tuple[ModelId, int] | None = None) -> BulkSource | None:
        """The chunk with this hash, from any model; `where` says which chunk of which it may be, and may be wrong."""

    def object(self, digest: Digest) -> bytes | None: ...

    def models(self, digests: Sequence[Digest]) -> list[ModelId]:
        """Models that hold chunks with these hashes here, those with most of them first."""

    def statements(self, model_id: ModelId) -> list[bytes]:
        """Envelopes, verified when they came in."""

    def named(self, publisher: PublicKey, name: str, revision: str) -> list[bytes]: ...


class Intake(Protocol):
    """Where the chunks of one download go."""

    def write(self, index: int, data: memoryview) -> int:
        """Verify and keep chunk `index`; returns the set of chunks that are held by it, as bits.

        Raises `CorruptChunkError` where the hash is another, an error of ours where it cannot be kept.
        """


class ObjectInMemory:
    """A `BulkSource` for a manifest or chunk list."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    def length(self) -> int:
        return len(self._data)

    def open(self) -> bool:
        return True

    def read_into(self, buffer: memoryview, offset: int) -> None:
        buffer[:] = self._data[offset : offset + len(buffer)]

    def room(self) -> memoryview | None:
        return None

    def file_range(self) -> tuple[int, int] | None:
        return None

    def release(self) -> None:
        pass


class SoughtChunk:
    """A `BulkSource` for a chunk that was asked for: looked for when its turn has come, in the thread that sends it.

    Not there, of another length, or trouble of our own disk, which is none of the peer's business: the peer asks
    elsewhere.
    """

    __slots__ = ("_digest", "_found", "_shelf", "_where", "length")

    def __init__(self, shelf: Shelf, digest: Digest, length: int, where: tuple[ModelId, int] | None = None) -> None:
        self._shelf = shelf
        self._digest = digest
        self._where = where
        self._found: BulkSource | None = None
        self.length = length

    def open(self) -> bool:
        try:
            found = self._shelf.chunk(self._digest, self._where)
        except P2PModelError:
            return False
        if found is None:
            return False
        self._found = found
        return found.length == self.length and found.open()

    @property
    def found(self) -> BulkSource:
        """Raises `P2PModelError` before `open` has found it."""
        if self._found is None:
            raise P2PModelError("a chunk that was not looked for")
        return self._found

    def read_into(self, buffer: memoryview, offset: int) -> None:
        self.found.read_into(buffer, offset)

    def room(self) -> memoryview | None:
        return None if self._found is None else self._found.room()

    def file_range(self) -> tuple[int, int] | None:
        return self.found.file_range()

    def release(self) -> None:
        if self._found is not None:
            self._found.release()
