"""HOW do bytes travel? The seam (clock, datagrams, channels) and the real network that fills it.

Each name loads on first use: a command that asks a daemon needs addresses, and no TLS.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from p2pmodel.net.address import Address, split_host_port
    from p2pmodel.net.admission import Crowd
    from p2pmodel.net.identity import Identity, network_id
    from p2pmodel.net.real import RealNetwork, SystemClock
    from p2pmodel.net.seam import (
        BulkSink,
        BulkSource,
        Channel,
        ChannelHandler,
        Clock,
        DatagramHandler,
        Datagrams,
        Hello,
        Listener,
        Network,
    )
    from p2pmodel.net.tasks import cancelled, ended

_PLACES = {
    "Address": "address",
    "BulkSink": "seam",
    "BulkSource": "seam",
    "Channel": "seam",
    "ChannelHandler": "seam",
    "Clock": "seam",
    "Crowd": "admission",
    "DatagramHandler": "seam",
    "Datagrams": "seam",
    "Hello": "seam",
    "Identity": "identity",
    "Listener": "seam",
    "Network": "seam",
    "RealNetwork": "real",
    "SystemClock": "real",
    "cancelled": "tasks",
    "ended": "tasks",
    "network_id": "identity",
    "split_host_port": "address",
}

__all__ = [
    "Address",
    "BulkSink",
    "BulkSource",
    "Channel",
    "ChannelHandler",
    "Clock",
    "Crowd",
    "DatagramHandler",
    "Datagrams",
    "Hello",
    "Identity",
    "Listener",
    "Network",
    "RealNetwork",
    "SystemClock",
    "cancelled",
    "ended",
    "network_id",
    "split_host_port",
]


def __getattr__(name: str) -> Any:
    place = _PLACES.get(name)
    if place is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{place}"), name)
