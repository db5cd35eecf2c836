"""A manifest together with its chunk lists: every chunk of the model by one running number, and where it lies."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from p2pmodel.errors import DecodeError
from p2pmodel.model.chunk_list import ENTRY_BYTES, ChunkList
from p2pmodel.model.digest import Digest, ModelId
from p2pmodel.model.have_map import HaveMap, iter_bits
from p2pmodel.model.manifest import FileEntry, Manifest

_RECENT_MAX = 512


@dataclass(frozen=True, slots=True)
class ChunkPlace:
    """Chunk `index` of the model: `length` bytes from `offset` of file number `file_index`."""

    index: int
    file_index: int
    offset: int
    length: int
    digest: Digest


class Layout:
    """All chunks of a model, numbered through the files in manifest order from 0."""

    __slots__ = ("_ends", "_recent", "chunk_lists", "manifest", "model_id")

    def __init__(self, manifest: Manifest, chunk_lists: Sequence[ChunkList]) -> None:
        """Raises `DecodeError` where a list is not the one that the manifest names, or does not fill its file."""
        if len(chunk_lists) != len(manifest.files):
            raise DecodeError("each file needs its chunk list")
        ends, end = array("Q"), 0
        for file, chunks in zip(manifest.files, chunk_lists, strict=True):
            check_chunk_list(file, chunks)
            end += len(chunks)
            ends.append(end)
        self.manifest = manifest
        self.chunk_lists = tuple(chunk_lists)
        self.model_id: ModelId = manifest.model_id
        self._ends = ends
        self._recent: dict[int, ChunkPlace] = {}
        """Places made lately: a chunk on its way is looked at half a dozen times."""

    @property
    def files(self) -> tuple[FileEntry, ...]:
        return self.manifest.files

    def __len__(self) -> int:
        """How many chunks the model has."""
        return self._ends[-1]

    def __getitem__(self, index: int) -> ChunkPlace:
        place = self._recent.get(index)
        if place is not None:
            return place
        if not 0 <= index < len(self):
            raise IndexError(index)
        file_index = bisect_right(self._ends, index)
        chunk = self.chunk_lists[file_index][index - self.first(file_index)]
        place = ChunkPlace(index, file_index, chunk.offset, chunk.length, chunk.digest)
        if len(self._recent) >= _RECENT_MAX:
            self._recent.clear()
        self._recent[index] = place
        return place

    def __iter__(self) -> Iterator[ChunkPlace]:
        return (self[index] for index in range(len(self)))

    def length(self, index: int) -> int:
        """Of chunk `index`, which exists, in bytes: what `self[index].length` is, for a fraction of the time."""
        if (place := self._recent.get(index)) is not None:
            return place.length
        file_index = bisect_right(self._ends, index)
        return self.chunk_lists[file_index].length(index - self.first(file_index))

    def first(self, file_index: int) -> int:
        """The number of the first chunk of a file; for an empty file, where it would be."""
        return self._ends[file_index - 1] if file_index else 0

    def chunks_of(self, file_index: int) -> range:
        return range(self.first(file_index), self._ends[file_index])

    def chunks_holding(self, file_index: int, start: int, stop: int) -> range:
        """The chunks of a file that hold its bytes from `start` up to `stop`; what lies past its end is left out."""
        stop = min(stop, self.files[file_index].size)
        if not 0 <= start < stop:
            return range(0)
        chunks, first = self.chunk_lists[file_index], self.first(file_index)
        return range(first + chunks.at(start), first + chunks.at(stop - 1) + 1)

    def repeated(self) -> list[tuple[int, ...]]:
        """For each hash that stands at several places, the numbers of its chunks, ascending: tied weights, zeros."""
        seen: dict[bytes, int] = {}
        places: dict[bytes, list[int]] = {}
        index = 0
        for chunks in self.chunk_lists:
            for at in range(0, len(chunks.encoded), ENTRY_BYTES):
                digest = chunks.encoded[at : at + 32]
                first = seen.setdefault(digest, index)
                if first != index:
                    places.setdefault(digest, [first]).append(index)
                index += 1
        return [tuple(group) for group in places.values()]

    def hashes(self, bits: int, size_bytes: int = 32) -> list[bytes]:
        """The hashes of these chunks, or that many first bytes of them, in order. Cheap: no `ChunkPlace` is made."""
        found: list[bytes] = []
        for file_index, chunks in enumerate(self.chunk_lists):
            span, encoded = self.chunks_of(file_index), chunks.encoded
            here = bits >> span.start & ((1 << len(span)) - 1)
            found += [encoded[at : at + size_bytes] for at in (index * ENTRY_BYTES for index in iter_bits(here))]
        return found

    def have_map(self, file_indices: Iterable[int] | None = None) -> HaveMap:
        """The chunks of these files (of all files by default)."""
        if file_indices is None:
            return HaveMap.full(len(self))
        bits = 0
        for file_index in file_indices:
            span = self.chunks_of(file_index)
            bits |= ((1 << len(span)) - 1) << span.start
        return HaveMap(len(self), bits)


def check_chunk_list(file: FileEntry, chunks: ChunkList) -> None:
    """Raises `DecodeError` unless `chunks` is the list that `file` names and exactly fills it."""
    if len(chunks) != file.chunk_count or chunks.size != file.size or chunks.digest != file.chunk_list:
        raise DecodeError(f"the chunk list of {file.path.text!r} is not the one that the manifest names")
