"""The chunk rule `tensor-1`: where a publisher cuts a file. Receivers never derive it, they read the chunk list.

In files with a tensor header the boundaries depend on the tensors alone, never on the file around them: the header has
chunks of its own, a new chunk begins at every tensor of `SMALL_TENSOR_BYTES` or more, and such a tensor is cut from its
start every `CHUNK_BYTES`, one of `LARGE_TENSOR_BYTES` or more every `CHUNK_BYTES_LARGE`. So a tensor that another model
holds unchanged has the same chunks there, wherever it lies, in however many shards; and one that grew keeps all but its
last. Runs of smaller ones are gathered; which of them opens a new chunk is drawn from the hash of its name, so that one
that is added, gone or of another size spoils its own chunk and not those of all its neighbours. Measured reuse: as good
as content-defined cutting at an eleventh of the chunks. Every other file, and one whose header is not what its name
promises, is cut at a fixed length.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence

from blake3 import blake3

from p2pmodel.errors import UsageError
from p2pmodel.limits import (
    CHUNK_BYTES,
    CHUNK_BYTES_LARGE,
    CHUNKS_PER_FILE_MAX,
    LARGE_FILE_BYTES,
    LARGE_TENSOR_BYTES,
    SMALL_TENSOR_BYTES,
    TENSOR_GROUP_BYTES,
)
from p2pmodel.model.gguf import parse_gguf
from p2pmodel.model.paths import PortablePath
from p2pmodel.model.safetensors import parse_safetensors
from p2pmodel.model.tensors import NeedBytes, TensorHeader, TensorSpan

HeaderParser = Callable[[bytes, int], TensorHeader | NeedBytes]
_PARSERS: dict[str, HeaderParser] = {".safetensors": parse_safetensors, ".gguf": parse_gguf}


def header_parser(path: PortablePath) -> HeaderParser | None:
    """The parser for a file of this name, or None where its kind has no tensor header.

    Call it with the bytes at hand and the size of the file until it answers with something else than `NeedBytes`;
    a `DecodeError` means that the file is not what its name says and has no header.
    """
    _, dot, suffix = path.name.rpartition(".")
    return _PARSERS.get(dot + suffix.lower())


def chunk_lengths(size: int, header: TensorHeader | None = None) -> Sequence[int]:
    """The lengths in bytes of the chunks of a file of `size` bytes, in order; their sum is `size`.

    Raises `UsageError` where the file would have more than `CHUNKS_PER_FILE_MAX` chunks.
    """
    if header is not None:
        for large_from in (LARGE_TENSOR_BYTES, 0):
            lengths = _tensor_lengths(header, large_from)
            if len(lengths) <= CHUNKS_PER_FILE_MAX:
                return lengths
    longest = CHUNK_BYTES_LARGE if size > LARGE_FILE_BYTES else CHUNK_BYTES
    if -(-size // longest) > CHUNKS_PER_FILE_MAX:
        raise UsageError(f"a file of {size} bytes is too large: it would have more than {CHUNKS_PER_FILE_MAX} chunks")
    lengths = array("I")
    _cut(lengths, size, longest)
    return lengths


def _tensor_lengths(header: TensorHeader, large_from: int) -> array[int]:
    lengths = array("I")
    _cut(lengths, header.length, CHUNK_BYTES)
    gathered = 0
    for tensor in header.tensors:
        if tensor.length >= SMALL_TENSOR_BYTES:
            _cut(lengths, gathered, CHUNK_BYTES)
            gathered = 0
            _cut(lengths, tensor.length, CHUNK_BYTES_LARGE if tensor.length >= large_from else CHUNK_BYTES)
            continue
        if gathered + tensor.length > CHUNK_BYTES or _opens_group(tensor):
            _cut(lengths, gathered, CHUNK_BYTES)
            gathered = 0
        gathered += tensor.length
    _cut(lengths, gathered, CHUNK_BYTES)
    return lengths


def _opens_group(tensor: TensorSpan) -> bool:
    """By chance, but always the same for this name: about once in `TENSOR_GROUP_BYTES`, however small they are."""
    drawn = int.from_bytes(blake3(tensor.name.encode("utf-8", "surrogatepass")).digest(4), "big")
    return drawn * TENSOR_GROUP_BYTES < tensor.length << 32


def _cut(lengths: array[int], size: int, longest: int) -> None:
    """Append `size` bytes in pieces of `longest`, the last one shorter; nothing for 0."""
    whole, rest = divmod(size, longest)
    lengths.extend([longest] * whole)
    if rest:
        lengths.append(rest)
