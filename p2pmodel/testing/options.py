"""What a simulated network is made with: every option, and what a test gets that does not mention it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any

from p2pmodel.errors import UsageError
from p2pmodel.peer.config import Profile
from p2pmodel.testing.conditions import Conditions, Nat


@dataclass(frozen=True, slots=True, kw_only=True)
class NetOptions:
    """Raises `UsageError` for what makes no sense together."""

    peers: int = 10
    seed: int = 0
    entry: int = 3
    """The first so many peers are the entry nodes of all: what `peers.toml` is to a real network."""
    latency_ms: tuple[float, float] = (10.0, 50.0)
    """One way; each pair of hosts has its own value from this range."""
    jitter: float = 0.1
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    upload_bytes_per_s: float | None = None
    """Of each host's line; None is unlimited."""
    download_bytes_per_s: float | None = None
    nat: Mapping[Nat, float] = field(default_factory=dict)
    """The fraction of peers (other than entry nodes) behind each kind of address translation."""
    client_only: float = 0.0
    """The fraction of peers (other than entry nodes) that ask the overlay without being part of it."""
    profile: Profile = "cluster"
    """"cluster" forgets dead peers in minutes, "internet" keeps records for hours."""
    disk_bytes: int | None = None
    """Of each machine; None is more than enough."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """More fields of every peer's `PeerConfig`: `{"upload_limit_bytes_per_s": 1_000_000}`."""
    time_limit_s: float = 24 * 3600.0
    """A test that is not over by then, in virtual time, fails."""

    def __post_init__(self) -> None:
        if self.peers < 1 or self.entry < 1:
            raise UsageError(f"a network of {self.peers} peers with {self.entry} entry nodes: at least one of each")
        shares = [*self.nat.values(), self.client_only]
        if any(not 0 <= share <= 1 for share in shares) or sum(self.nat.values()) > 1:
            raise UsageError("fractions of the peers are from 0 to 1, and so is the sum of those behind translators")
        if self.time_limit_s <= 0:
            raise UsageError("time_limit_s is a positive number of seconds")
        _ = self.conditions

    @property
    def conditions(self) -> Conditions:
        return Conditions(
            latency_ms=self.latency_ms,
            jitter=self.jitter,
            loss=self.loss,
            duplicate=self.duplicate,
            reorder=self.reorder,
            upload_bytes_per_s=self.upload_bytes_per_s,
            download_bytes_per_s=self.download_bytes_per_s,
        )

    def __str__(self) -> str:
        """As it is written in a call, defaults too: what a failing test shows."""
        return ", ".join(f"{each.name}={_shown(getattr(self, each.name))}" for each in fields(self))


def _shown(value: object) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_shown(key)}: {_shown(one)}" for key, one in value.items()) + "}"
    return str(value) if isinstance(value, Enum) else repr(value)
