"""The daemon: overlay, swarm and store composed, with configuration, identity and the control API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from p2pmodel.peer.config import NetworkConfig, PeerConfig
from p2pmodel.peer.reports import FetchReport

if TYPE_CHECKING:
    from p2pmodel.peer.peer import Peer

__all__ = ["FetchReport", "NetworkConfig", "Peer", "PeerConfig"]


def __getattr__(name: str) -> Any:
    # The peer brings TLS, SQLite and the overlay with it; configuration and reports must stay light.
    if name == "Peer":
        from p2pmodel.peer.peer import Peer

        return Peer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
