"""The header of a safetensors file, parsed without IO: given the first bytes, it answers or says how many it needs.

Format (github.com/huggingface/safetensors): an unsigned 64-bit little-endian length, that many bytes of JSON, then the
tensors, whose `data_offsets` count from the end of the JSON and must cover the rest of the file exactly.
"""

from __future__ import annotations

import msgspec

from p2pmodel.errors import DecodeError
from p2pmodel.limits import TENSOR_HEADER_BYTES_MAX, TENSORS_MAX
from p2pmodel.model.tensors import NeedBytes, TensorHeader, TensorSpan

_METADATA = "__metadata__"


class _WireTensor(msgspec.Struct):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


_header_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_tensor_decoder = msgspec.json.Decoder(_WireTensor)
_metadata_decoder = msgspec.json.Decoder(dict[str, str])


def parse_safetensors(prefix: bytes, size: int) -> TensorHeader | NeedBytes:
    """Parse the first bytes of a file of `size` bytes. Raises `DecodeError` where it is no safetensors file."""
    if size < 8:
        raise DecodeError("a safetensors file has at least 8 bytes")
    if len(prefix) < 8:
        return NeedBytes(8)
    json_bytes = int.from_bytes(prefix[:8], "little")
    length = 8 + json_bytes
    if length > min(size, TENSOR_HEADER_BYTES_MAX):
        raise DecodeError("the header of a safetensors file is longer than the file, or than its limit")
    if len(prefix) < length:
        return NeedBytes(length)
    try:
        fields = _header_decoder.decode(memoryview(prefix)[8:length])
        if len(fields) > TENSORS_MAX + 1:
            raise DecodeError(f"more than {TENSORS_MAX} tensors")
        metadata = _metadata_decoder.decode(fields.pop(_METADATA)) if _METADATA in fields else {}
        spans = [_span(name, raw, length) for name, raw in fields.items()]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DecodeError(f"not the header of a safetensors file: {error}") from error
    spans.sort(key=lambda span: (span.offset, span.length))
    end = length
    for span in spans:
        if span.offset != end or span.length < 0:
            raise DecodeError("the tensors of a safetensors file leave a gap or overlap")
        end += span.length
    if end != size:
        raise DecodeError("the tensors of a safetensors file do not fill it")
    return TensorHeader(length, tuple(spans), metadata)


def _span(name: str, raw: msgspec.Raw, data_start: int) -> TensorSpan:
    tensor = _tensor_decoder.decode(raw)
    begin, end = tensor.data_offsets
    return TensorSpan(name, tensor.dtype, tuple(tensor.shape), data_start + begin, end - begin)
