"""Where a peer listens, and where those are whom it is told of by name."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable
from itertools import chain

from p2pmodel.errors import NetworkError
from p2pmodel.net import Address, Channel, Listener, Network, split_host_port
from p2pmodel.overlay import Overlay

_PORT_TRIES = 16


async def bind(
    network: Network, overlay: Overlay, accept: Callable[[Channel], None], listen: str, *, explicit: bool
) -> tuple[Address, Listener]:
    """One port for TCP and UDP: the overlay is started there. Unless it is `explicit`, one that is taken gives way to a
    free one. Raises `NetworkError`."""
    host, port = split_host_port(listen)
    host = (await _addresses(host, port or 1))[0].host
    try:
        return await _bind_both(network, overlay, accept, host, port)
    except NetworkError:
        if explicit:
            raise
    return await _bind_both(network, overlay, accept, host, 0)


async def _bind_both(
    network: Network, overlay: Overlay, accept: Callable[[Channel], None], host: str, port: int
) -> tuple[Address, Listener]:
    for attempt in range(_PORT_TRIES):
        listener = await network.listen(host, port, accept)
        try:
            return await overlay.start(host, listener.address.port), listener
        except NetworkError:
            # With port 0 the free TCP port may be somebody's UDP port: take another.
            listener.close()
            if port or attempt == _PORT_TRIES - 1:
                raise
    raise AssertionError("unreachable")


async def resolve(peers: Iterable[str]) -> list[Address]:
    """All addresses of these peers (HOST:PORT), of both families. Raises `NetworkError` where one has none."""
    found = [await _addresses(*split_host_port(text)) for text in peers]
    return list(dict.fromkeys(chain.from_iterable(found)))


async def _addresses(host: str, port: int) -> list[Address]:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise NetworkError(f"cannot find the address of {host!r}: {error.strerror}") from error
    # A scope (`fe80::1%eth0`) means nothing to anybody else.
    return list(dict.fromkeys(Address(str(entry[4][0]).partition("%")[0], port) for entry in found))
