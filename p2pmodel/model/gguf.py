"""The header of a GGUF file, parsed without IO: given the first bytes, it answers or says how many it needs.

Format (ggml's docs/gguf.md, versions 2 and 3, little-endian): magic, version, number of tensors, number of metadata
pairs, the pairs, a description of each tensor, padding to `general.alignment`, then the tensors, each padded likewise.
A tensor's span runs to the start of the next one, so the sizes of the ggml types need not be known. Nothing is
allocated by a declared length: every count is first held against the bytes that it would take.
"""

from __future__ import annotations

import struct

from p2pmodel.errors import DecodeError
from p2pmodel.limits import GGUF_DEPTH_MAX, TENSOR_HEADER_BYTES_MAX, TENSORS_MAX
from p2pmodel.model.tensors import NeedBytes, TensorHeader, TensorSpan

MAGIC = b"GGUF"
DIMENSIONS_MAX = 8
"""ggml itself has four."""
ALIGNMENT_DEFAULT = 32
ALIGNMENT_MAX = 1 << 16
GGML_TYPES: dict[int, tuple[int, int]] = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 40),
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292),
    16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82),
    23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2),
    34: (256, 54), 35: (256, 66), 39: (32, 17), 40: (64, 36), 41: (128, 18),
}  # fmt: skip
"""Elements and bytes of a block, by the number of the ggml type (ggml.h)."""
_FIRST_READ_BYTES = 64 * 1024
_UINT32, _STRING, _ARRAY = 4, 8, 9
_FIXED_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")
_PAIR_BYTES_MIN, _TENSOR_BYTES_MIN, _STRING_BYTES_MIN, _ARRAY_BYTES_MIN = 13, 24, 8, 12


class _Short(Exception):
    """The bytes at hand end before the field that is being read."""

    def __init__(self, needed: int) -> None:
        self.needed = needed


class _Cursor:
    __slots__ = ("at", "data", "limit")

    def __init__(self, data: bytes, limit: int) -> None:
        self.data, self.limit, self.at = data, limit, 0

    def skip(self, length: int) -> int:
        """Move over `length` bytes and return where they start."""
        start, end = self.at, self.at + length
        if end > len(self.data):
            if end > self.limit:
                raise DecodeError("a GGUF field runs past the end of the file, or the header past its limit")
            raise _Short(end)
        self.at = end
        return start

    def u32(self) -> int:
        value: int = _U32.unpack_from(self.data, self.skip(4))[0]
        return value

    def u64(self) -> int:
        value: int = _U64.unpack_from(self.data, self.skip(8))[0]
        return value

    def count(self, item_bytes: int, items_max: int | None = None) -> int:
        """A number of items that each take at least `item_bytes`."""
        items = self.u64()
        if self.at + items * item_bytes > self.limit or (items_max is not None and items > items_max):
            raise DecodeError("a GGUF header declares more items than the file or the limits hold")
        return items

    def string(self) -> bytes:
        length = self.u64()
        start = self.skip(length)
        return self.data[start : start + length]


def parse_gguf(prefix: bytes, size: int) -> TensorHeader | NeedBytes:
    """Parse the first bytes of a file of `size` bytes. Raises `DecodeError` where it is no GGUF file that we know.

    Where more bytes are needed the answer asks for at least twice as many, so that parsing again from the start
    costs no more than twice the whole.
    """
    limit = min(size, TENSOR_HEADER_BYTES_MAX)
    try:
        return _parse(_Cursor(prefix, limit), size)
    except _Short as short:
        return NeedBytes(max(short.needed, min(limit, max(2 * len(prefix), _FIRST_READ_BYTES))))


def _parse(cursor: _Cursor, size: int) -> TensorHeader:
    start = cursor.skip(4)
    if cursor.data[start : start + 4] != MAGIC:
        raise DecodeError("a GGUF file begins with its magic")
    if cursor.u32() not in (2, 3):
        raise DecodeError("only little-endian GGUF of versions 2 and 3 is understood")
    tensor_count = cursor.count(_TENSOR_BYTES_MIN, TENSORS_MAX)
    pair_count = cursor.count(_PAIR_BYTES_MIN)
    alignment = ALIGNMENT_DEFAULT
    for _ in range(pair_count):
        key = cursor.string()
        kind = cursor.u32()
        if key == b"general.alignment" and kind == _UINT32:
            alignment = cursor.u32()
        else:
            _skip_value(cursor, kind)
    if not 0 < alignment <= ALIGNMENT_MAX or alignment & (alignment - 1):
        raise DecodeError("the alignment of a GGUF file is a power of two")
    infos = sorted((_tensor_info(cursor) for _ in range(tensor_count)), key=lambda info: info[3])
    data_start = -(-cursor.at // alignment) * alignment
    if not infos or infos[0][3] != 0 or data_start + infos[-1][3] > size:
        raise DecodeError("the tensors of a GGUF file lie outside it")
    ends = [data_start + offset for _, _, _, offset in infos[1:]] + [size]
    spans = [
        TensorSpan(name, dtype, shape, data_start + offset, end - data_start - offset)
        for (name, dtype, shape, offset), end in zip(infos, ends, strict=True)
    ]
    return TensorHeader(data_start, tuple(spans), {})


def _skip_value(cursor: _Cursor, kind: int) -> None:
    """Skip one metadata value; nested arrays are walked with a stack, never by recursion."""
    open_arrays: list[list[int]] = [[kind, 1]]
    while open_arrays:
        kind, remaining = open_arrays[-1]
        if remaining == 0:
            open_arrays.pop()
        elif kind in _FIXED_BYTES:
            cursor.skip(_FIXED_BYTES[kind] * remaining)
            open_arrays.pop()
        elif kind == _STRING:
            for _ in range(remaining):
                cursor.skip(cursor.u64())
            open_arrays.pop()
        elif kind == _ARRAY:
            open_arrays[-1][1] -= 1
            if len(open_arrays) > GGUF_DEPTH_MAX:
                raise DecodeError(f"GGUF metadata is nested deeper than {GGUF_DEPTH_MAX}")
            inner = cursor.u32()
            least = {_STRING: _STRING_BYTES_MIN, _ARRAY: _ARRAY_BYTES_MIN}.get(inner) or _FIXED_BYTES.get(inner, 1)
            open_arrays.append([inner, cursor.count(least)])
        else:
            raise DecodeError("GGUF metadata of an unknown type")


def _tensor_info(cursor: _Cursor) -> tuple[str, str, tuple[int, ...], int]:
    name = cursor.string()
    dimensions = cursor.u32()
    if dimensions > DIMENSIONS_MAX:
        raise DecodeError(f"a GGUF tensor has more than {DIMENSIONS_MAX} dimensions")
    shape = tuple(cursor.u64() for _ in range(dimensions))
    kind, offset = cursor.u32(), cursor.u64()
    return name.decode("utf-8", "replace"), f"ggml:{kind}", shape, offset
