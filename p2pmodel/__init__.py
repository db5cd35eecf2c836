"""Model weights that travel from peer to peer. Importing this is cheap: every public name loads on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from p2pmodel.errors import P2PModelError
from p2pmodel.version import __version__

if TYPE_CHECKING:
    from p2pmodel.loading.iterating import iter_tensors
    from p2pmodel.loading.metadata import get_safetensors_metadata
    from p2pmodel.loading.safe import safe_open
    from p2pmodel.loading.snapshot import snapshot_download
    from p2pmodel.loading.whole import load_into, load_state_dict
    from p2pmodel.peer import FetchReport, Peer, PeerConfig

__all__ = [
    "FetchReport",
    "P2PModelError",
    "Peer",
    "PeerConfig",
    "__version__",
    "get_safetensors_metadata",
    "iter_tensors",
    "load_into",
    "load_state_dict",
    "safe_open",
    "snapshot_download",
]


def __getattr__(name: str) -> Any:
    if name in ("FetchReport", "Peer", "PeerConfig"):
        return getattr(import_module("p2pmodel.peer"), name)
    if name in __all__:
        return getattr(import_module("p2pmodel.loading"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
