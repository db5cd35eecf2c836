"""Networks of peers in one process and in virtual time: the daemon's own code on simulated hosts, paths and disks.

Importing this is cheap: every public name loads on first use. `docs/simulation.md` shows how to use it in tests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from p2pmodel.testing.checkers import ViolationError
    from p2pmodel.testing.conditions import Conditions, Nat
    from p2pmodel.testing.disk import SimDisk
    from p2pmodel.testing.events import EventLog
    from p2pmodel.testing.fixture import Swarm
    from p2pmodel.testing.internet import Internet
    from p2pmodel.testing.keys import quick_keys
    from p2pmodel.testing.loop import VirtualLoop, run
    from p2pmodel.testing.net import Net, PeersFailedError
    from p2pmodel.testing.network import SimNetwork
    from p2pmodel.testing.options import NetOptions
    from p2pmodel.testing.peers import CrashedError, SimPeer
    from p2pmodel.testing.weights import ModelFiles, SimModel

_PLACES = {
    "Conditions": "conditions",
    "CrashedError": "peers",
    "EventLog": "events",
    "Internet": "internet",
    "ModelFiles": "weights",
    "Nat": "conditions",
    "Net": "net",
    "NetOptions": "options",
    "PeersFailedError": "net",
    "SimDisk": "disk",
    "SimModel": "weights",
    "SimNetwork": "network",
    "SimPeer": "peers",
    "Swarm": "fixture",
    "ViolationError": "checkers",
    "VirtualLoop": "loop",
    "quick_keys": "keys",
    "run": "loop",
}

__all__ = [
    "Conditions",
    "CrashedError",
    "EventLog",
    "Internet",
    "ModelFiles",
    "Nat",
    "Net",
    "NetOptions",
    "PeersFailedError",
    "SimDisk",
    "SimModel",
    "SimNetwork",
    "SimPeer",
    "Swarm",
    "ViolationError",
    "VirtualLoop",
    "quick_keys",
    "run",
]


def __getattr__(name: str) -> Any:
    place = _PLACES.get(name)
    if place is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{place}"), name)
