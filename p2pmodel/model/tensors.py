"""Where the tensors of a file lie: what the header parsers of `safetensors.py` and `gguf.py` find out."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TensorSpan:
    """`length` bytes from byte `offset` of the file. The padding after a GGUF tensor belongs to it."""

    name: str
    dtype: str
    """As the file spells it: `F16`, `BF16`; for GGUF the number of the ggml type, `ggml:12`."""
    shape: tuple[int, ...]
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class TensorHeader:
    """A file of `length` bytes of header, then the tensors, which cover the rest without gap or overlap, in order."""

    length: int
    tensors: tuple[TensorSpan, ...]
    metadata: dict[str, str]
    """Free text of the file's author; only safetensors files have it here."""


@dataclass(frozen=True, slots=True)
class NeedBytes:
    """The parser cannot finish before it is given the first `prefix_bytes` bytes of the file."""

    prefix_bytes: int
