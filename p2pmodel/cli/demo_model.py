"""The model of the demo: random weights in a real safetensors file, with the small files that come with a model.

safetensors: eight bytes little-endian length of the header, the header as JSON, then the tensors' bytes end to end.
Written by hand because an array library would be a dependency for this alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from p2pmodel.limits import MIB

_BLOCK_BYTES = 4 * MIB
_HIDDEN = 1024
_BF16_BYTES = 2
_TENSOR_BYTES = 16 * MIB
WEIGHTS_NAME = "model.safetensors"


@dataclass(frozen=True, slots=True)
class DemoModel:
    """`sha256` has the hex digest of each file by its name."""

    path: Path
    sha256: dict[str, str]
    bytes_total: int
    tensors: int


def make_model(path: Path, size_bytes: int, on_bytes: Callable[[int], None], stop: threading.Event) -> DemoModel:
    """Fill a new directory with a model of about `size_bytes`. Blocking; returns early with an error on `stop`."""
    path.mkdir(parents=True)
    config = {"model_type": "demo", "hidden_size": _HIDDEN, "torch_dtype": "bfloat16", "vocab_size": 4}
    vocabulary = {"<s>": 0, "</s>": 1, "peer": 2, "model": 3}
    tokenizer = {"version": "1.0", "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<s>"}}
    (path / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (path / "tokenizer.json").write_text(json.dumps(tokenizer, indent=2) + "\n")
    tensors = _write_weights(path / WEIGHTS_NAME, size_bytes, on_bytes, stop)
    files = sorted(path.iterdir())
    return DemoModel(
        path=path,
        sha256={file.name: sha256_of(file) for file in files},
        bytes_total=sum(file.stat().st_size for file in files),
        tensors=tensors,
    )


def _write_weights(path: Path, size_bytes: int, on_bytes: Callable[[int], None], stop: threading.Event) -> int:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    row_bytes = _HIDDEN * _BF16_BYTES
    rows_left, offset, number = max(1, size_bytes // row_bytes), 0, 0
    while rows_left:
        rows = min(rows_left, _TENSOR_BYTES // row_bytes)
        end = offset + rows * row_bytes
        name = f"model.layers.{number}.mlp.weight"
        header[name] = {"dtype": "BF16", "shape": [rows, _HIDDEN], "data_offsets": [offset, end]}
        rows_left, offset, number = rows_left - rows, end, number + 1
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("xb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        left = offset
        while left and not stop.is_set():
            block = min(left, _BLOCK_BYTES)
            file.write(os.urandom(block))
            left -= block
            on_bytes(block)
    return number


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
