"""The element types of tensor files, and what they are called in each framework."""

from __future__ import annotations

from math import prod

from p2pmodel.errors import MalformedModelError
from p2pmodel.model.gguf import GGML_TYPES
from p2pmodel.model.tensors import TensorSpan

SAFETENSORS: dict[str, tuple[int, str, str]] = {
    "BOOL": (8, "bool", "bool"),
    "U8": (8, "uint8", "uint8"),
    "I8": (8, "int8", "int8"),
    "U16": (16, "uint16", "uint16"),
    "I16": (16, "int16", "int16"),
    "U32": (32, "uint32", "uint32"),
    "I32": (32, "int32", "int32"),
    "U64": (64, "uint64", "uint64"),
    "I64": (64, "int64", "int64"),
    "F16": (16, "float16", "float16"),
    "F32": (32, "float32", "float32"),
    "F64": (64, "float64", "float64"),
    "C64": (64, "complex64", "complex64"),
    "BF16": (16, "bfloat16", "bfloat16"),
    "F8_E4M3": (8, "float8_e4m3fn", "float8_e4m3fn"),
    "F8_E5M2": (8, "float8_e5m2", "float8_e5m2"),
    "F8_E4M3FNUZ": (8, "float8_e4m3fnuz", "float8_e4m3fnuz"),
    "F8_E5M2FNUZ": (8, "float8_e5m2fnuz", "float8_e5m2fnuz"),
    "F8_E8M0": (8, "float8_e8m0fnu", "float8_e8m0fnu"),
}
"""Bits of an element, and its name in torch and in numpy (from `ml_dtypes` where numpy itself has none)."""
GGUF_PLAIN = {0: "F32", 1: "F16", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 30: "BF16"}
"""The ggml types that are no blocks of quantised numbers."""


class ElementType:
    """What a tensor's bytes mean: `name` as in safetensors, or U8 for the raw blocks of a quantised GGUF tensor."""

    __slots__ = ("bits", "name", "shape", "size_bytes")

    def __init__(self, span: TensorSpan) -> None:
        """Raises `MalformedModelError` where type, shape and length contradict each other, or the type is unknown."""
        self.shape = span.shape
        if span.dtype.startswith("ggml:"):
            self.name, self.shape = _of_gguf(span)
        elif span.dtype in SAFETENSORS:
            self.name = span.dtype
        else:
            raise MalformedModelError(f"tensor {span.name!r} has elements of a type that is not known: {span.dtype!r}")
        self.bits = SAFETENSORS[self.name][0]
        self.size_bytes = self.bits // 8 * _count(span, self.shape)
        fits = self.size_bytes <= span.length if span.dtype.startswith("ggml:") else self.size_bytes == span.length
        if not fits:
            raise MalformedModelError(
                f"tensor {span.name!r} has {span.length} bytes; {span.dtype} of {list(self.shape)} is {self.size_bytes}"
            )

    @property
    def item_bytes(self) -> int:
        return self.bits // 8


def _count(span: TensorSpan, shape: tuple[int, ...]) -> int:
    if any(length < 0 for length in shape):
        raise MalformedModelError(f"tensor {span.name!r} has a negative length in its shape")
    return prod(shape)


def _of_gguf(span: TensorSpan) -> tuple[str, tuple[int, ...]]:
    """As the `gguf` package has it: the file's order of dimensions reversed, quantised rows as bytes."""
    number = int(span.dtype.removeprefix("ggml:"))
    shape = tuple(reversed(span.shape))
    if number in GGUF_PLAIN:
        return GGUF_PLAIN[number], shape
    if number not in GGML_TYPES:
        raise MalformedModelError(f"tensor {span.name!r} is of ggml type {number}, which is not known")
    elements, size = GGML_TYPES[number]
    if not shape or shape[-1] % elements:
        raise MalformedModelError(f"rows of tensor {span.name!r} are no whole blocks of {elements} elements")
    return "U8", (*shape[:-1], shape[-1] // elements * size)
