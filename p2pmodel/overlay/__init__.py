"""WHO has it? Kademlia: joining, finding the providers of a key, announcing what this peer provides."""

from p2pmodel.overlay.node_id import node_id, overlay_key
from p2pmodel.overlay.overlay import LookupTrace, Overlay, OverlayStats, Provider
from p2pmodel.overlay.profile import CLUSTER, INTERNET, Profile
from p2pmodel.overlay.reachability import Reach

__all__ = [
    "CLUSTER",
    "INTERNET",
    "LookupTrace",
    "Overlay",
    "OverlayStats",
    "Profile",
    "Provider",
    "Reach",
    "node_id",
    "overlay_key",
]
