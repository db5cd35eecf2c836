"""How patient a network is: the times and replica counts that differ between a cluster and the open internet."""

from __future__ import annotations

from dataclasses import dataclass

from p2pmodel.limits import LOOKUP_PATHS_MAX, RECORD_TTL_MAX_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Times in seconds. A record outlives two announcements (`ttl_s` > 2 `republish_s`), so that one may be lost."""

    republish_s: float
    """One round of announcing, in a network whose nodes stay."""
    ttl_s: int
    refresh_s: float
    """A bucket through which no lookup of ours went for this long gets one."""
    tick_s: float
    """How often the upkeep looks whether something is due."""
    republish_min_s: float = 60.0
    """One round where nodes do not stay: holders are watched, and a round is as short as their lives ask for."""
    replicas: int
    """Nodes that hold a key announced by `provide`."""
    sweep_replicas: int
    """Nodes that hold a key announced in bulk. Fewer than for a root: a lost chunk record costs one other way to
    find a chunk, a lost root costs the model."""
    group_nodes_max: int
    """Nodes of one address group (/24, /48) in a bucket and among the closest of a lookup; 0 for no limit."""
    group_table_nodes_max: int = 0
    """The same in the whole table, as long as that knows few groups; then each has one place (`RoutingTable`).
    Loopback and private addresses are exempt from both."""
    paths: int = 1
    """Disjoint paths of a lookup of providers."""

    def __post_init__(self) -> None:
        assert 2 * self.republish_s < self.ttl_s <= RECORD_TTL_MAX_S
        assert 0 < self.sweep_replicas <= self.replicas
        assert 1 <= self.paths <= LOOKUP_PATHS_MAX


INTERNET = Profile(
    republish_s=22 * 3600.0,  # Kubo's interval and validity
    ttl_s=48 * 3600,
    refresh_s=3600.0,  # section 2.3 of the Kademlia paper
    tick_s=10.0,
    replicas=20,
    sweep_replicas=12,
    group_nodes_max=2,  # Kubo's limits: two for a bucket, three for a table (here, for a small one)
    group_table_nodes_max=3,
    paths=3,
)
CLUSTER = Profile(
    republish_s=600.0,  # a cluster complains about records of dead peers sooner than about traffic (Spegel: 15 minutes)
    ttl_s=1500,
    refresh_s=900.0,
    tick_s=5.0,
    replicas=20,
    sweep_replicas=12,
    group_nodes_max=0,
)
