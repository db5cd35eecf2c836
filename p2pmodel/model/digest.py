"""Content hashes. A `Digest` comes only from 32 bytes or 64 hex digits, so no text from outside ever names a file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NewType, Self

from blake3 import blake3

from p2pmodel.errors import DecodeError

_HEX = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class _Hash256:
    raw: bytes

    def __post_init__(self) -> None:
        if type(self.raw) is not bytes or len(self.raw) != 32:
            raise DecodeError("a digest is exactly 32 bytes")

    def __hash__(self) -> int:
        return hash(self.raw)  # what bytes remember; the generated one makes a tuple each time

    @classmethod
    def from_hex(cls, text: str) -> Self:
        """Parse 64 lower-case hex digits. Raises `DecodeError` for anything else."""
        if not _HEX.fullmatch(text):
            raise DecodeError("a digest is written as 64 lower-case hex digits")
        return cls(bytes.fromhex(text))

    @property
    def hex(self) -> str:
        return self.raw.hex()

    def __str__(self) -> str:
        return self.raw.hex()


class Digest(_Hash256):
    """A BLAKE3-256 hash (the BLAKE3 specification of 2020, default mode, 32 bytes of output)."""

    __slots__ = ()

    @classmethod
    def of(cls, data: bytes | bytearray | memoryview) -> Digest:
        """Hash `data`, which is read and not kept. One thread: two cost more than they bring up to 16 MiB."""
        return cls(blake3(data).digest())

    def is_of(self, data: bytes | bytearray | memoryview) -> bool:
        """Whether this is the hash of `data`: for each chunk that comes or goes."""
        return blake3(data).digest() == self.raw


class Sha256(_Hash256):
    """A SHA-256 hash (FIPS 180-4): what people check by hand and what the hubs publish."""

    __slots__ = ()


ModelId = NewType("ModelId", Digest)
"""The BLAKE3-256 of a canonical manifest."""
