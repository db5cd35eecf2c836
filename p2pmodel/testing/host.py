"""One simulated machine: its addresses, its translation of them, its two queues to the network."""

from __future__ import annotations

from p2pmodel.errors import NetworkError
from p2pmodel.net import Address
from p2pmodel.testing.conditions import Nat

_MAPPING_S = 120.0
"""How long a translator lets answers in (RFC 4787, REQ-5)."""
_EPHEMERAL_PORTS = 32_768


class Pipe:
    """One direction of a host's line: transmissions go through one after the other at `bytes_per_s` (None: at once)."""

    __slots__ = ("bytes_carried", "bytes_per_s", "free_at")

    def __init__(self, bytes_per_s: float | None) -> None:
        self.bytes_per_s = bytes_per_s
        self.free_at = 0.0
        self.bytes_carried = 0

    def duration_s(self, length: int) -> float:
        return length / self.bytes_per_s if self.bytes_per_s else 0.0

    def reserve(self, length: int, now: float) -> tuple[float, float]:
        """When the transmission begins and ends."""
        self.bytes_carried += length
        if not self.bytes_per_s:
            return now, now
        begins = max(now, self.free_at)
        self.free_at = begins + length / self.bytes_per_s
        return begins, self.free_at


class Host:
    """Made by `Internet.host`. `number` orders hosts; `mix` places it among the others."""

    def __init__(
        self,
        number: int,
        mix: int,
        ip4: str,
        ip6: str | None,
        nat: Nat,
        upload_bytes_per_s: float | None,
        download_bytes_per_s: float | None,
    ) -> None:
        self.number = number
        self.mix = mix
        self.ip4 = ip4
        self.ip6 = ip6
        self.nat = nat
        self.upload = Pipe(upload_bytes_per_s)
        self.download = Pipe(download_bytes_per_s)
        self.up = True
        self.mute = False
        """Takes everything in, keeps its connections open, and says nothing."""
        self.stalls = False
        """Takes every request, and no answer ever leaves."""
        self.deaf = False
        """Takes messages in and no answer: the window of whoever sends it one stays shut."""
        self.clock_error_s = 0.0
        """How far its wall clock is ahead."""
        self.slept_s = 0.0
        """How far its steady clock has jumped, as after a suspension."""
        self.side = 0
        """Which part of a partitioned network it is in."""
        self._next_port = _EPHEMERAL_PORTS
        self._outside: dict[tuple[int, Address], int] = {}
        """Port and destination to the port that the destination sees (symmetric translation only)."""
        self._inside: dict[int, int] = {}
        self._sent_to: dict[tuple[int, Address], float] = {}
        self._opened: set[int] = set()

    def __repr__(self) -> str:
        return f"Host({self.number}, {self.ip4})"

    def ip_for(self, version: int) -> str:
        """Its address of this family. Raises `NetworkError` where it has none."""
        ip = self.ip4 if version == 4 else self.ip6
        if ip is None:
            raise NetworkError(f"{self!r} has no IPv{version} address")
        return ip

    def owns(self, ip: str) -> bool:
        return ip in (self.ip4, self.ip6)

    def free_port(self) -> int:
        self._next_port += 1
        return self._next_port

    # --- translation ---------------------------------------------------------------------------------------------

    def leaving(self, port: int, to: Address, now: float) -> int:
        """The port that `to` sees for a datagram from our `port`."""
        if self.nat is Nat.OPEN:
            return port
        seen = port
        if self.nat is Nat.SYMMETRIC:
            seen = self._outside.get((port, to)) or self.free_port()
            self._outside[port, to] = seen
            self._inside[seen] = port
        self._sent_to[seen, to] = now
        self._opened.add(seen)
        return seen

    def entering(self, port: int, source: Address, now: float) -> int | None:
        """Our own port for a datagram that came to `port`, or None where the translator drops it."""
        if self.nat is Nat.OPEN:
            return port
        if self.nat is Nat.FULL_CONE:
            return port if port in self._opened else None
        if now - self._sent_to.get((port, source), -1e18) > _MAPPING_S:
            return None
        return self._inside.get(port, port)

    @property
    def accepts_connections(self) -> bool:
        return self.nat is Nat.OPEN
