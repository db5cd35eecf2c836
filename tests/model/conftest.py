"""Makers of synthetic model files, small but with the shape of real ones."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping

import pytest

GGUF_U32, GGUF_STRING, GGUF_ARRAY = 4, 8, 9


def safetensors_bytes(tensors: Mapping[str, bytes], metadata: Mapping[str, str] | None = None) -> bytes:
    """What `safetensors.save_file` writes: the tensors in the given order, the header padded to eight bytes."""
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name, data in tensors.items():
        header[name] = {"dtype": "U8", "shape": [len(data)], "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(tensors.values())


def gguf_string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def gguf_bytes(
    tensors: Mapping[str, bytes], *, metadata: Mapping[str, bytes] | None = None, alignment: int = 32, version: int = 3
) -> bytes:
    """A GGUF file; `metadata` maps keys to values that carry their type number already."""
    pairs = {"general.alignment": struct.pack("<II", GGUF_U32, alignment), **(metadata or {})}
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(pairs))
    head += b"".join(gguf_string(key) + value for key, value in pairs.items())
    body = b""
    for name, data in tensors.items():
        head += gguf_string(name) + struct.pack("<IQIQ", 1, len(data), 24, len(body))
        body += data + bytes(-len(data) % alignment)
    return head + bytes(-len(head) % alignment) + body


@pytest.fixture
def make_safetensors():
    return safetensors_bytes


@pytest.fixture
def make_gguf():
    return gguf_bytes
