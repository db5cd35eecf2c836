"""Datagrams over a non-blocking UDP socket. Loss is silent, as the network's own is."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import Any

from p2pmodel.errors import DecodeError, NetworkError
from p2pmodel.net.address import Address
from p2pmodel.net.seam import DatagramHandler

_DATAGRAMS_PER_WAKE = 64
EVERYWHERE = "::"
"""Every address of this machine, of both families; `0.0.0.0` is IPv4 alone, and stands in where there is no IPv6."""
_NO_IPV6 = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
_READ_BYTES = 2048
"""Longer datagrams are cut; whoever handles them drops what is above `DATAGRAM_BYTES_MAX`."""


class UdpDatagrams:
    """See `seam.Datagrams`."""

    def __init__(self, sock: socket.socket, address: Address, handler: DatagramHandler) -> None:
        self._sock = sock
        self._address = address
        self._handler = handler
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock, self._on_readable)

    @property
    def address(self) -> Address:
        return self._address

    def send(self, data: bytes, to: Address) -> None:
        if self._sock.fileno() < 0 or not to.is_routable:
            return
        try:
            self._sock.sendto(data, (self._spelled(to), to.port))
        except OSError:
            # Full buffer, no route, an ICMP error of an earlier datagram: all are loss to the protocol above.
            pass

    def _spelled(self, to: Address) -> str:
        # A socket that listens on `::` takes IPv4 too, but wants such addresses in their mapped form (RFC 4291).
        mapped = self._sock.family is socket.AF_INET6 and to.ip.version == 4
        return f"::ffff:{to.host}" if mapped else to.host

    def close(self) -> None:
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock)
            self._sock.close()

    def _on_readable(self) -> None:
        for _ in range(_DATAGRAMS_PER_WAKE):
            try:
                data, source = self._sock.recvfrom(_READ_BYTES)
            except BlockingIOError:
                return
            except OSError:
                # On Linux an ICMP "port unreachable" for something sent earlier shows up here.
                continue
            try:
                sender = Address(source[0].partition("%")[0], source[1])
            except DecodeError:
                continue
            self._handler(data, sender)
            if self._sock.fileno() < 0:
                return


def bind(kind: socket.SocketKind, host: str, port: int) -> socket.socket:
    """A bound non-blocking socket; `::` takes IPv4 too. Raises `NetworkError` with what a person can do about it."""
    flags = socket.AI_PASSIVE | socket.AI_NUMERICHOST
    try:
        family, *_, target = socket.getaddrinfo(host, port, type=kind, flags=flags)[0]
    except (socket.gaierror, UnicodeError) as error:
        raise NetworkError(f"{host!r} is not an IP address to listen on") from error
    try:
        return _bound(family, kind, target)
    except OSError as error:
        if target[0] == EVERYWHERE and error.errno in _NO_IPV6:
            return bind(kind, "0.0.0.0", port)
        where = f"{host}:{port}"
        if error.errno == errno.EADDRINUSE:
            message = f"port {port} on {host} is in use by another program; choose another with --listen"
        elif error.errno in (errno.EACCES, errno.EPERM):
            message = f"this user may not listen on {where}; ports below 1024 need privileges"
        elif error.errno in _NO_IPV6:
            message = f"{host} is not an address of this machine"
        else:
            message = f"cannot listen on {where}: {error.strerror}"
        raise NetworkError(message) from error


def _bound(family: socket.AddressFamily, kind: socket.SocketKind, target: tuple[Any, ...]) -> socket.socket:
    sock = socket.socket(family, kind)
    try:
        sock.setblocking(False)
        if kind is socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if target[0] == EVERYWHERE:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(target)
    except OSError:
        sock.close()
        raise
    return sock


def bound_address(sock: socket.socket) -> Address:
    host, port = sock.getsockname()[:2]
    return Address(host.partition("%")[0], port)
