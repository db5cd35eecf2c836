"""What a simulated network is like: delays, losses, speeds, and the kinds of address translation."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from p2pmodel.errors import UsageError


class Nat(Enum):
    """How a host can be reached (the classes of RFC 4787, as far as they matter to a peer)."""

    OPEN = "open"
    """Has a public address; everybody reaches it."""
    FULL_CONE = "full cone"
    """Once it has sent a datagram to anybody, everybody reaches that port by datagrams. No connections come in."""
    RESTRICTED = "restricted"
    """Only whom it has sent a datagram to (address and port) within two minutes gets one through. A firewall too."""
    SYMMETRIC = "symmetric"
    """As restricted, and each destination sees another port."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """Of every path, unless a host says otherwise. Raises `UsageError` for what no network is like."""

    latency_ms: tuple[float, float] = (10.0, 50.0)
    """One way; each pair of hosts has its own, evenly distributed over this range and the same in both directions."""
    jitter: float = 0.1
    """Each datagram takes longer by up to this fraction of its latency."""
    loss: float = 0.0
    """Of datagrams; on a connection, which repeats what was lost, it costs time."""
    duplicate: float = 0.0
    reorder: float = 0.0
    """The fraction of datagrams that take up to twice as long again, so that later ones overtake them."""
    upload_bytes_per_s: float | None = None
    download_bytes_per_s: float | None = None

    def __post_init__(self) -> None:
        low, high = self.latency_ms
        if not 0 <= low <= high < 60_000:
            raise UsageError(f"latency_ms={self.latency_ms}: expected a range of milliseconds, the smaller first")
        for name in ("loss", "duplicate", "reorder"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"{name}={getattr(self, name)}: expected a fraction from 0 to below 1")
        if self.jitter < 0:
            raise UsageError(f"jitter={self.jitter}: expected a fraction of the latency")
        for rate in (self.upload_bytes_per_s, self.download_bytes_per_s):
            if rate is not None and rate <= 0:
                raise UsageError("a bandwidth is a positive number of bytes per second")
