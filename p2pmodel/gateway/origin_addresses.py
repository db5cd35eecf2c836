"""Where an origin may send us: never into a network that is nearer to us than the origin itself.

A redirect is followed to wherever it leads on the internet. Into a private network, or to this machine, it is followed
only where the origin stands there as well; to addresses that configure machines (169.254/16, fe80::/10), never. What
counts is the address that is connected to, whatever name, number or mapping it was written as.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

INTERNET, PRIVATE, THIS_MACHINE, NEVER = range(4)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def nearness(host: str) -> int | None:
    """How near an address is; None for a name."""
    try:
        address = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
        address = inner or address
    if address.is_loopback:
        return THIS_MACHINE
    if address.is_link_local or address.is_multicast or address.is_unspecified:
        return NEVER
    return INTERNET if address.is_global else PRIVATE


class GuardedResolver(AbstractResolver):
    """Resolves names, and gives out only addresses that are no nearer than those of the origin at `host`."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._plain: ThreadedResolver | None = None
        self._allowed: int | None = None

    async def allowed(self) -> int:
        """How near an address may be."""
        if self._allowed is None:
            near = nearness(self._host)
            if near is None:
                found = await asyncio.get_running_loop().getaddrinfo(self._host, None, type=socket.SOCK_STREAM)
                near = max(nearness(str(entry[4][0])) or 0 for entry in found)
            self._allowed = min(near, THIS_MACHINE)
        return self._allowed

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self._plain = self._plain or ThreadedResolver()
        allowed = await self.allowed()
        found = await self._plain.resolve(host, port, family)
        good = [one for one in found if (near := nearness(one["host"])) is not None and near <= allowed]
        if not good:
            raise OSError(f"{host} is in a network that an origin may not lead into")
        return good

    async def close(self) -> None:
        if self._plain is not None:
            await self._plain.close()


def proxy_for(url: str) -> str | None:
    """The proxy that this person's environment names for it (`HTTPS_PROXY`, `NO_PROXY`)."""
    parts = urlsplit(url)
    proxies: dict[str, Any] = getproxies()
    proxy = proxies.get(parts.scheme)
    if not proxy or nearness(parts.hostname or "") == THIS_MACHINE or proxy_bypass(parts.netloc):
        return None
    return str(proxy)
