"""Model weights that travel from peer to peer. Importing this is cheap: every public name loads on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from p2pmodel.errors import P2PModelError
from p2pmodel.version import __version__

if TYPE_CHECKING:
    from p2pmodel.peer import FetchReport, Peer, PeerConfig

__all__ = ["FetchReport", "P2PModelError", "Peer", "PeerConfig", "__version__"]


def __getattr__(name: str) -> Any:
    if name in ("FetchReport", "Peer", "PeerConfig"):
        from p2pmodel import peer

        return getattr(peer, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
