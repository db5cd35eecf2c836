"""What `get_safetensors_metadata` of huggingface_hub tells, of a model in the swarm, under the same names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

from p2pmodel.loading.opened import open_model
from p2pmodel.loading.tables import TensorTable, read_table


@dataclass(frozen=True)
class TensorInfo:
    """`data_offsets` count from the end of the file's header."""

    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]
    parameter_count: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "parameter_count", prod(self.shape))


@dataclass(frozen=True)
class SafetensorsFileMetadata:
    metadata: dict[str, str]
    tensors: dict[str, TensorInfo]
    parameter_count: dict[str, int] = field(init=False)
    """By element type."""

    def __post_init__(self) -> None:
        counts: dict[str, int] = {}
        for tensor in self.tensors.values():
            counts[tensor.dtype] = counts.get(tensor.dtype, 0) + tensor.parameter_count
        object.__setattr__(self, "parameter_count", counts)


@dataclass(frozen=True)
class SafetensorsRepoMetadata:
    metadata: dict[str, Any] | None
    sharded: bool
    weight_map: dict[str, str]
    files_metadata: dict[str, SafetensorsFileMetadata]
    parameter_count: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        counts: dict[str, int] = {}
        for file in self.files_metadata.values():
            for dtype, count in file.parameter_count.items():
                counts[dtype] = counts.get(dtype, 0) + count
        object.__setattr__(self, "parameter_count", counts)


def get_safetensors_metadata(
    reference: str,
    *,
    revision: str | None = None,
    peers: Sequence[str] = (),
    signed_by: Sequence[str] = (),
    bootstrap: Sequence[str] = (),
    data_dir: str | os.PathLike[str] | None = None,
) -> SafetensorsRepoMetadata:
    """Types, shapes and places of all tensors; only headers are fetched. Raises as `safe_open` does."""
    with open_model(
        reference, revision=revision, peers=peers, signed_by=signed_by, bootstrap=bootstrap, data_dir=data_dir
    ) as model:
        table = read_table(model, model.path)
        for path in table.paths:
            model.want(path, 0, min(8, model.size(path)))
        files = {path: _file(table, path) for path in table.paths}
        return SafetensorsRepoMetadata(
            metadata=dict(table.index_metadata) if table.sharded else None,
            sharded=table.sharded,
            weight_map=table.weight_map(),
            files_metadata=files,
        )


def _file(table: TensorTable, path: str) -> SafetensorsFileMetadata:
    header = table.header(path)
    tensors = {
        span.name: TensorInfo(
            span.dtype, list(span.shape), (span.offset - header.length, span.offset + span.length - header.length)
        )
        for span in header.tensors
    }
    return SafetensorsFileMetadata(dict(header.metadata), tensors)
