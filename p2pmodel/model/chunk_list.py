"""The chunks of one file, in order: a content-addressed object of its own, named by the BLAKE3 of its encoding.

Encoding: 36 bytes for each chunk, BLAKE3-256 then length in bytes as an unsigned 32-bit big-endian integer. The list
is kept in that form in memory too (a 140 GB model has 133,514 chunks; Python objects for them would take 40 MB).
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from p2pmodel.errors import DecodeError
from p2pmodel.limits import CHUNK_BYTES_MAX, CHUNKS_PER_MODEL_MAX
from p2pmodel.model.digest import Digest

ENTRY_BYTES = 36
_LENGTH = struct.Struct(">I")


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of one file: `length` bytes from `offset`, whose BLAKE3 is `digest`."""

    offset: int
    length: int
    digest: Digest


class ChunkList:
    """The immutable chunk list of a file. `encoded` is its canonical form; `size` the file's length in bytes."""

    __slots__ = ("_ends", "encoded", "size")

    def __init__(self, encoded: bytes) -> None:
        """Parse the canonical form. Raises `DecodeError` for a wrong length, or a chunk that is empty or too long."""
        if len(encoded) % ENTRY_BYTES:
            raise DecodeError("a chunk list is a whole number of 36-byte entries")
        if len(encoded) // ENTRY_BYTES > CHUNKS_PER_MODEL_MAX:
            raise DecodeError("a chunk list has too many entries")
        self.encoded = encoded
        self._ends = array("Q")
        end = 0
        for at in range(32, len(encoded), ENTRY_BYTES):
            (length,) = _LENGTH.unpack_from(encoded, at)
            if not 0 < length <= CHUNK_BYTES_MAX:
                raise DecodeError("a chunk's length is outside its limits")
            end += length
            self._ends.append(end)
        self.size = end

    @classmethod
    def of(cls, chunks: Iterable[tuple[Digest, int]]) -> ChunkList:
        """Build from (digest, length in bytes) pairs in file order."""
        return cls(b"".join(digest.raw + _LENGTH.pack(length) for digest, length in chunks))

    @property
    def digest(self) -> Digest:
        return Digest.of(self.encoded)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> Chunk:
        if not 0 <= index < len(self._ends):
            raise IndexError(index)
        offset = self._ends[index - 1] if index else 0
        at = index * ENTRY_BYTES
        return Chunk(offset, self._ends[index] - offset, Digest(self.encoded[at : at + 32]))

    def __iter__(self) -> Iterator[Chunk]:
        return (self[index] for index in range(len(self)))

    def length(self, index: int) -> int:
        """Of chunk `index`, which exists, in bytes."""
        return self._ends[index] - (self._ends[index - 1] if index else 0)

    def at(self, offset: int) -> int:
        """The index of the chunk that holds the byte at `offset`. Raises `IndexError` past the end."""
        if not 0 <= offset < self.size:
            raise IndexError(offset)
        return bisect_right(self._ends, offset)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ChunkList) and self.encoded == other.encoded

    def __hash__(self) -> int:
        return hash(self.encoded)
