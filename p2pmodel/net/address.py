"""Where a peer listens: an IP literal and a port, never a host name, so that nothing a peer sends is ever resolved."""

from __future__ import annotations

import ipaddress
from bisect import bisect_right
from dataclasses import dataclass, field

from p2pmodel.errors import DecodeError, UsageError

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


def _ranges(*networks: str) -> tuple[list[int], list[int]]:
    """First and last addresses of networks that do not overlap, ascending."""
    parsed = sorted(map(ipaddress.ip_network, networks), key=lambda network: int(network.network_address))
    return [int(one.network_address) for one in parsed], [int(one.broadcast_address) for one in parsed]


_PRIVATE = {
    4: _ranges(
        *("0.0.0.0/8", "10.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/29"),
        *("192.0.0.170/31", "192.0.2.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24"),
        "240.0.0.0/4",
    ),
    6: _ranges("::/127", "::ffff:0:0/96", "100::/64", "2001::/23", "2001:db8::/32", "fc00::/7", "fe80::/10"),
}
"""What is not the internet (IANA's registries of special-purpose addresses). Looked up in a microsecond, and the same
in every version of Python, which `is_private` is not."""


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """An IPv4 or IPv6 literal in canonical spelling and a port from 1 to 65535. Raises `DecodeError` otherwise."""

    host: str
    port: int
    ip: IPAddress = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if type(self.port) is not int or not 0 < self.port <= 65535:
            raise DecodeError("a port is a number from 1 to 65535")
        try:
            ip = ipaddress.ip_address(self.host)
        except ValueError as error:
            raise DecodeError("an address is an IP literal") from error
        if isinstance(ip, ipaddress.IPv6Address) and ip.scope_id is not None:
            raise DecodeError("an address with a scope means nothing to anyone else")
        self._stands_at(ip)

    def _stands_at(self, ip: IPAddress) -> None:
        if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        object.__setattr__(self, "ip", ip)
        object.__setattr__(self, "host", str(ip))

    @classmethod
    def parse(cls, text: str) -> Address:
        """`1.2.3.4:5` or `[::1]:5`. Raises `UsageError`."""
        host, port = split_host_port(text)
        try:
            return cls(host, port)
        except DecodeError as error:
            raise UsageError(f"{text!r} is not an address: {error}") from error

    @classmethod
    def unpack(cls, encoded: bytes) -> Address:
        """Parse the compact form of `pack`. Raises `DecodeError`."""
        if len(encoded) not in (6, 18):
            raise DecodeError("a compact address has 6 or 18 bytes")
        port = int.from_bytes(encoded[-2:], "big")
        if not port:
            raise DecodeError("a port is a number from 1 to 65535")
        # Past the constructor: to write the literal and to parse it again would be most of a hostile message's cost.
        address = object.__new__(cls)
        object.__setattr__(address, "port", port)
        address._stands_at(ipaddress.ip_address(encoded[:-2]))
        return address

    def pack(self) -> bytes:
        """4 or 16 bytes of address and 2 of port, big-endian (BEP 5, BEP 32)."""
        return self.ip.packed + self.port.to_bytes(2, "big")

    @property
    def is_loopback(self) -> bool:
        return self.ip.is_loopback

    @property
    def group(self) -> bytes:
        """The network that one owner is taken to hold: a /24 of IPv4 (3 bytes), a /48 of IPv6 (6 bytes)."""
        return self.ip.packed[:3] if self.ip.version == 4 else self.ip.packed[:6]

    @property
    def scope(self) -> int:
        """How far the address reaches: 0 the internet, 1 a private network, 2 this machine."""
        if self.ip.is_loopback:
            return 2
        starts, ends = _PRIVATE[self.ip.version]
        value = int(self.ip)
        place = bisect_right(starts, value) - 1
        return 1 if place >= 0 and value <= ends[place] else 0

    @property
    def is_routable(self) -> bool:
        """Whether a datagram or connection may be sent there at all: not multicast, unspecified, reserved."""
        return not (self.ip.is_multicast or self.ip.is_unspecified or self.host == "255.255.255.255")

    def reaches(self, other: Address) -> bool:
        """Whether a socket bound to this address can send to `other`: one bound to `::` speaks both families."""
        return self.ip.version == other.ip.version or (self.ip.version == 6 and self.ip.is_unspecified)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if self.ip.version == 6 else f"{self.host}:{self.port}"


def split_host_port(text: str) -> tuple[str, int]:
    """`HOST:PORT` as a person types it, port 0 allowed, host not yet resolved. Raises `UsageError`."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise UsageError(f"{text!r} is not HOST:PORT; write an IPv6 address in brackets, as in [::1]:4000")
    if not colon or not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise UsageError(f"{text!r} is not HOST:PORT with a port from 0 to 65535")
    return host, int(port)
