"""The chunk rule `tensor-1`: where a publisher cuts a file. Receivers never derive it, they read the chunk list.

In files with a tensor header the boundaries depend on the tensors alone: the header has chunks of its own, a new chunk
begins at every tensor of `SMALL_TENSOR_BYTES` or more, such a tensor is cut every `CHUNK_BYTES`, and runs of smaller
ones are gathered up to that length. So a tensor that another model holds unchanged has the same chunks there, wherever
it lies. Measured reuse: as good as content-defined cutting at a eleventh of the chunks. Every other file, and one whose
header is not what its name promises, is cut at a fixed length.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence

from p2pmodel.errors import UsageError
from p2pmodel.limits import CHUNK_BYTES, CHUNK_BYTES_LARGE, CHUNKS_PER_FILE_MAX, LARGE_FILE_BYTES, SMALL_TENSOR_BYTES
from p2pmodel.model.gguf import parse_gguf
from p2pmodel.model.paths import PortablePath
from p2pmodel.model.safetensors import parse_safetensors
from p2pmodel.model.tensors import NeedBytes, TensorHeader

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
    longest = CHUNK_BYTES_LARGE if size > LARGE_FILE_BYTES else CHUNK_BYTES
    if header is not None:
        lengths = _tensor_lengths(header, longest)
        if len(lengths) <= CHUNKS_PER_FILE_MAX:
            return lengths
    if -(-size // longest) > CHUNKS_PER_FILE_MAX:
        raise UsageError(f"a file of {size} bytes is too large: it would have more than {CHUNKS_PER_FILE_MAX} chunks")
    lengths = array("I")
    _cut(lengths, size, longest)
    return lengths


def _tensor_lengths(header: TensorHeader, longest: int) -> array[int]:
    lengths = array("I")
    _cut(lengths, header.length, longest)
    run = 0
    for tensor in header.tensors:
        if tensor.length < SMALL_TENSOR_BYTES and run + tensor.length <= longest:
            run += tensor.length
            continue
        _cut(lengths, run, longest)
        run = tensor.length if tensor.length < SMALL_TENSOR_BYTES else 0
        if tensor.length >= SMALL_TENSOR_BYTES:
            _cut(lengths, tensor.length, longest)
    _cut(lengths, run, longest)
    return lengths


def _cut(lengths: array[int], size: int, longest: int) -> None:
    """Append `size` bytes in pieces of `longest`, the last one shorter; nothing for 0."""
    whole, rest = divmod(size, longest)
    lengths.extend([longest] * whole)
    if rest:
        lengths.append(rest)
