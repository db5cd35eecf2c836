"""Models for the tests of loading: arrays, and the files that they make."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

MIB = 1 << 20


def safetensors_file(tensors: dict[str, np.ndarray], tmp_path: Path, metadata: dict[str, str] | None = None) -> bytes:
    path = tmp_path / "made.safetensors"
    save_file(tensors, path, metadata=metadata)
    return path.read_bytes()


def weights(count: int, rows: int = 256, columns: int = 1024, seed: int = 0) -> dict[str, np.ndarray]:
    """Matrices of float32, each `rows` by `columns`."""
    dice = np.random.default_rng(seed)
    return {f"layers.{n}.weight": dice.random((rows, columns), dtype=np.float32) for n in range(count)}


def sharded(tensors: dict[str, np.ndarray], shards: int, tmp_path: Path) -> dict[str, bytes]:
    """A model in so many files with an index."""
    names, files, weight_map = list(tensors), {}, {}
    for number in range(shards):
        path = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: tensors[name] for name in names[number::shards]}
        files[path] = safetensors_file(part, tmp_path)
        weight_map |= dict.fromkeys(part, path)
    total = sum(array.nbytes for array in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    return {**files, "model.safetensors.index.json": json.dumps(index).encode(), "config.json": b"{}"}
