"""How a running peer is, as the person is told: what part it has in the network, what moves, what it may use.

Objects behind `--json` and the control API, as in `peer/reports.py`; keys are stable (docs/cli.md).
"""

from __future__ import annotations

from typing import Literal

import msgspec

from p2pmodel.peer.reports import Progress


class Neighbour(msgspec.Struct, frozen=True, kw_only=True):
    """A line of `peers`: a connection (`kind` "connection") or an entry of the routing table ("overlay")."""

    peer_id: str
    address: str
    kind: Literal["connection", "overlay"]
    direction: str = ""
    agent: str = ""
    encrypted: bool = True
    bytes_sent: int = 0
    bytes_received: int = 0
    connected_s: float = 0.0
    send_rate_bytes_per_s: int = 0
    """Over the last second or few, as the next one."""
    receive_rate_bytes_per_s: int = 0
    requests_out: int = 0
    """What we have asked of it and not got yet."""
    requests_in: int = 0
    """What it has asked of us and not got yet."""
    in_upload_slot: bool = False
    """An answer to it is on its way, or its turn has come."""


class Transfer(msgspec.Struct, frozen=True, kw_only=True):
    """A fetch that is running."""

    model_id: str
    progress: Progress
    callers: int = 1
    """How many wait for it."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a running peer may use of its line at present, in bytes per second; None is no limit."""

    upload_bytes_per_s: int | None = None
    download_bytes_per_s: int | None = None


class PeerStatus(msgspec.Struct, frozen=True, kw_only=True):
    peer_id: str
    listen: str
    http: str | None
    data_dir: str
    network: str
    version: str
    pid: int
    uptime_s: float
    neighbours: int
    """Live entries of the routing table."""
    connections: int
    models: int
    chunks_held: int
    keys_announced: int
    """Keys that this peer provides: models, files, names, chunks."""
    records_held: int
    """Provider records kept for others."""
    bytes_sent: int
    bytes_received: int
    transfers: list[Transfer]
    keys_pending: int = 0
    """Of `keys_announced`, those that no other peer holds a record of (yet)."""
    announce_lag_s: float = 0.0
    """Age of the eldest announcement that stands."""
    announce_behind_s: float = 0.0
    """How late announcing is; 0 where it keeps up."""
    client_only: bool = False
    """It uses the overlay without being a part of it, because it was told to or because others cannot reach it."""
    reachability: Literal["unknown", "reachable", "unreachable"] | None = None
    """What it has found out by asking others to dial it back; None where it was told what to be and does not ask."""
    hidden: bool = False
    """Others cannot reach it, as it was told or has found out: it announces nothing, and tells nobody a port."""
    connected_from_outside: bool = False
    """Somebody with a public address has opened a connection to it."""
    limits: Limits = Limits()
    cache_bytes: int = 0
    """What models take that were fetched without a destination, or for neighbours."""
    cache_quota_bytes: int | None = None
    """What these may take; None is no limit."""
    is_cache: bool = False
    """It fetches what its neighbours ask it for."""
    background: bool = False
    """It takes what CPU and disk time others leave."""
    upload_slots: int = 0
    """Answers that may leave at once at present."""
    network_size: int = 1
    """Estimated number of peers in the overlay, this one included."""
    warnings: list[str] = []
