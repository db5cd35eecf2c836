"""The parts of a peer that whatever it does for a model works with."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from p2pmodel.net import Network
from p2pmodel.overlay import Overlay
from p2pmodel.peer.announcing import Announcer
from p2pmodel.peer.near_caches import NearCaches
from p2pmodel.store import Store
from p2pmodel.swarm import Swarm


@dataclass(frozen=True, slots=True)
class Rooms:
    """One peer's."""

    store: Store
    overlay: Overlay
    swarm: Swarm
    network: Network
    announcer: Announcer
    rng: Random
    caches: NearCaches | None = None
    """Where near caches are asked as well."""
