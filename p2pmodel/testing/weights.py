"""Models made up for a test: files in memory, real safetensors where there is room for a header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from types import MappingProxyType

from p2pmodel.errors import UsageError
from p2pmodel.model import Digest, PortablePath
from p2pmodel.peer.reports import PublishReport

_TENSOR_BYTES = 8 * 1024 * 1024
_HEADER_ROOM_BYTES = 4096
"""Below this a file is plain bytes: a header would be most of it."""


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """What `SimPeer.publish` puts on a disk: portable paths and their bytes. Raises `DecodeError` for other paths."""

    files: Mapping[str, bytes]

    def __post_init__(self) -> None:
        for path in self.files:
            PortablePath(path)
        object.__setattr__(self, "files", MappingProxyType(dict(self.files)))

    @property
    def bytes_total(self) -> int:
        return sum(map(len, self.files.values()))

    @property
    def digest(self) -> Digest:
        """Names the content: two of the same paths and bytes have the same."""
        return Digest.of(b"".join(path.encode() + b"\0" + Digest.of(data).raw for path, data in self.files.items()))


@dataclass(frozen=True, slots=True)
class SimModel:
    """A model that a simulated peer has published. `str(model)` is its id, which every method takes as well."""

    model_id: str
    path: str
    """Where it lies on the publisher's disk."""
    report: PublishReport

    def __str__(self) -> str:
        return self.model_id

    @property
    def size(self) -> int:
        return self.report.bytes_total


def random_model(rng: Random, size: int, files: int = 1) -> ModelFiles:
    """`size` bytes of noise in so many files, split evenly: safetensors with tensors of at most 8 MiB."""
    if size < 0 or files < 1:
        raise UsageError(f"a model of {size} bytes in {files} files: expected at least one file and no negative size")
    shares = [size // files + (number < size % files) for number in range(files)]
    made = {}
    for number, share in enumerate(shares, 1):
        if share < _HEADER_ROOM_BYTES:
            made[f"weights-{number:05d}-of-{files:05d}.bin"] = rng.randbytes(share)
        else:
            made[f"model-{number:05d}-of-{files:05d}.safetensors"] = _safetensors(rng, share)
    return ModelFiles(made)


def _safetensors(rng: Random, size: int) -> bytes:
    """A file of exactly `size` bytes: length of the header, header padded with spaces, tensors of bytes."""
    count = -(-size // _TENSOR_BYTES)
    head_bytes = min(size // 2, 1024 + 128 * count)
    room = size - 8 - head_bytes
    header, start = {}, 0
    for number in range(count):
        end = room * (number + 1) // count
        header[f"layers.{number}.weight"] = {"dtype": "U8", "shape": [end - start], "data_offsets": [start, end]}
        start = end
    head = json.dumps(header).encode().ljust(head_bytes)
    assert len(head) == head_bytes
    return head_bytes.to_bytes(8, "little") + head + rng.randbytes(room)
