"""Where a peer listens: an IP literal and a port, never a host name, so that nothing a peer sends is ever resolved."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

from p2pmodel.errors import DecodeError, UsageError

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


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
        if isinstance(ip, ipaddress.IPv6Address):
            if ip.scope_id is not None:
                raise DecodeError("an address with a scope means nothing to anyone else")
            if ip.ipv4_mapped is not None:
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
        return cls(str(ipaddress.ip_address(encoded[:-2])), int.from_bytes(encoded[-2:], "big"))

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
        return 1 if self.ip.is_private or self.ip.is_link_local else 0

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
