"""USE it: tensors straight from the swarm, snapshots, a file system. Every public name loads on first use."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_WHERE = {
    "get_safetensors_metadata": "metadata",
    "iter_tensors": "iterating",
    "load_into": "whole",
    "load_state_dict": "whole",
    "safe_open": "safe",
    "snapshot_download": "snapshot",
}

__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(f"p2pmodel.loading.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
