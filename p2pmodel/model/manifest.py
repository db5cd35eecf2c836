"""The manifest: which files a model has, their hashes, and the hash of each file's chunk list.

Canonical encoding: JSON in the form of RFC 8785 (keys sorted, no white space, UTF-8), so `b3sum` over the bytes gives
the model id. It holds nothing but content: the same files have the same id whoever publishes them; names, messages
and signatures are statements about an id (`statement.py`). `decode` accepts a byte string only where encoding the
result gives that very string again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import msgspec

from p2pmodel.errors import DecodeError
from p2pmodel.limits import (
    CHUNKS_PER_FILE_MAX,
    CHUNKS_PER_MODEL_MAX,
    FILE_BYTES_MAX,
    MANIFEST_BYTES_MAX,
    MANIFEST_FILES_MAX,
)
from p2pmodel.model.digest import Digest, ModelId, Sha256
from p2pmodel.model.paths import PortablePath, clash

MANIFEST_FORMAT = "p2pmodel-manifest-1"
CHUNKER = "tensor-1"
"""The rule of `chunking.py`. Receivers never derive boundaries again; the name tells a publisher how to repeat them."""


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file: its size in bytes, two hashes of the whole, and how many chunks its list (by hash) has."""

    path: PortablePath
    size: int
    blake3: Digest
    sha256: Sha256
    chunk_count: int
    chunk_list: Digest

    def __post_init__(self) -> None:
        if not 0 <= self.size <= FILE_BYTES_MAX:
            raise DecodeError(f"{self.path.text!r}: the size is outside its limits")
        if not 0 <= self.chunk_count <= CHUNKS_PER_FILE_MAX or (self.size == 0) != (self.chunk_count == 0):
            raise DecodeError(f"{self.path.text!r}: the number of chunks does not fit the size")
        if self.chunk_count > self.size:
            raise DecodeError(f"{self.path.text!r}: more chunks than bytes")


class _WireFile(msgspec.Struct, forbid_unknown_fields=True):
    blake3: str
    chunk_list: str
    chunks: int
    path: str
    sha256: str
    size: int


class _WireManifest(msgspec.Struct, forbid_unknown_fields=True):
    chunker: str
    files: list[_WireFile]
    format: str


_decoder = msgspec.json.Decoder(_WireManifest)
_encoder = msgspec.json.Encoder(order="sorted")


@dataclass(frozen=True)
class Manifest:
    """At least one file, in order of path. Valid by construction: raises `DecodeError` otherwise."""

    files: tuple[FileEntry, ...]
    chunker: str = CHUNKER

    def __post_init__(self) -> None:
        if not 0 < len(self.files) <= MANIFEST_FILES_MAX:
            raise DecodeError(f"a manifest has between 1 and {MANIFEST_FILES_MAX} files")
        if not (0 < len(self.chunker) <= 32 and self.chunker.isascii() and self.chunker.isprintable()):
            raise DecodeError("the chunker's name is not printable ASCII of at most 32 characters")
        if any(a.path.text >= b.path.text for a, b in zip(self.files, self.files[1:], strict=False)):
            raise DecodeError("the files of a manifest are in order of path, each once")
        if fault := clash(file.path for file in self.files):
            raise DecodeError(fault)
        if self.chunk_count > CHUNKS_PER_MODEL_MAX:
            raise DecodeError(f"a model has at most {CHUNKS_PER_MODEL_MAX} chunks")

    @classmethod
    def of(cls, files: Iterable[FileEntry]) -> Manifest:
        return cls(tuple(sorted(files, key=lambda file: file.path.text)))

    @property
    def bytes_total(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def chunk_count(self) -> int:
        return sum(file.chunk_count for file in self.files)

    @cached_property
    def model_id(self) -> ModelId:
        return ModelId(Digest.of(self.encode()))

    def encode(self) -> bytes:
        """The canonical form. Raises `DecodeError` where it would pass `MANIFEST_BYTES_MAX`."""
        files = [
            _WireFile(
                path=file.path.text,
                size=file.size,
                blake3=file.blake3.hex,
                sha256=file.sha256.hex,
                chunks=file.chunk_count,
                chunk_list=file.chunk_list.hex,
            )
            for file in self.files
        ]
        encoded = _encoder.encode(_WireManifest(format=MANIFEST_FORMAT, chunker=self.chunker, files=files))
        if len(encoded) > MANIFEST_BYTES_MAX:
            raise DecodeError(f"the manifest is longer than {MANIFEST_BYTES_MAX} bytes")
        return encoded

    @classmethod
    def decode(cls, encoded: bytes) -> Manifest:
        """Parse the canonical form and nothing else. Raises `DecodeError`."""
        if len(encoded) > MANIFEST_BYTES_MAX:
            raise DecodeError(f"a manifest has at most {MANIFEST_BYTES_MAX} bytes")
        try:
            wire = _decoder.decode(encoded)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise DecodeError(f"not a manifest: {error}") from error
        if wire.format != MANIFEST_FORMAT:
            raise DecodeError(f"not a manifest of a known format: {wire.format[:40]!r}")
        manifest = cls(tuple(_entry(file) for file in wire.files), wire.chunker)
        if manifest.encode() != encoded:
            raise DecodeError("not the canonical encoding of this manifest")
        return manifest


def _entry(file: _WireFile) -> FileEntry:
    return FileEntry(
        path=PortablePath(file.path),
        size=file.size,
        blake3=Digest.from_hex(file.blake3),
        sha256=Sha256.from_hex(file.sha256),
        chunk_count=file.chunks,
        chunk_list=Digest.from_hex(file.chunk_list),
    )
