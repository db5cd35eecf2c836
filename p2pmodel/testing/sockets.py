"""Simulated datagram sockets and listeners."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from p2pmodel.model import PublicKey
from p2pmodel.net import Address, Channel, DatagramHandler, Hello
from p2pmodel.testing.host import Host
from p2pmodel.testing.loop import Process

if TYPE_CHECKING:
    from p2pmodel.testing.internet import Internet

Place = tuple[str, int]
"""An IP address, one that only its host knows written with the host's number, and a port."""


def place(host: Host, ip: str, port: int) -> Place:
    return (f"{host.number}/{ip}" if ip in ("127.0.0.1", "::1") else ip, port)


class SimDatagrams:
    """A bound socket. Bound to a wildcard (`0.0.0.0`, `::`) it answers at every address of its host."""

    def __init__(
        self, internet: Internet, host: Host, process: Process, bound: Address, handler: DatagramHandler
    ) -> None:
        self.address = bound
        self.host = host
        self.port = bound.port
        self._internet = internet
        self._process = process
        self._handler = handler
        self._open = True
        self._ips = bound_ips(host, bound)
        self._sources: dict[tuple[bool, bool, int], Address | None] = {}
        for ip in self._ips:
            internet.sockets[place(host, ip, bound.port)] = self
        internet.own(process, self)

    def send(self, data: bytes, to: Address) -> None:
        if self._open:
            self._internet.carry(self, data, to)

    def source_for(self, loopback: bool, ipv6: bool, port: int) -> Address | None:
        """Where a datagram to such an address seems to come from; None where we have none of its family."""
        key = (loopback, ipv6, port)
        if key not in self._sources:
            fitting = [ip for ip in self._ips if (":" in ip) == ipv6 and (ip in ("127.0.0.1", "::1")) == loopback]
            self._sources[key] = Address(fitting[0], port) if fitting else None
        return self._sources[key]

    def deliver(self, data: bytes, source: Address) -> None:
        if self._open:
            self._process.context.run(self._handler, data, source)

    def close(self) -> None:
        self.vanish()
        self._internet.disown(self._process, self)

    def vanish(self) -> None:
        if self._open:
            self._open = False
            for ip in self._ips:
                self._internet.sockets.pop(place(self.host, ip, self.port), None)


class SimListener:
    """Where connections come in. `hello` and `key` are what its owner says and proves in each handshake."""

    def __init__(
        self,
        internet: Internet,
        host: Host,
        process: Process,
        bound: Address,
        key: PublicKey,
        hello: Callable[[], Hello],
        accept: Callable[[Channel], None],
    ) -> None:
        self.address = bound
        self.host = host
        self.process = process
        self.key = key
        self.hello = hello
        self.open = True
        self._internet = internet
        self._accept = accept
        self._ips = bound_ips(host, bound)
        for ip in self._ips:
            internet.listeners[place(host, ip, bound.port)] = self
        internet.own(process, self)

    def accept(self, channel: Channel) -> None:
        self.process.context.run(self._accept, channel)

    def close(self) -> None:
        self.vanish()
        self._internet.disown(self.process, self)

    def vanish(self) -> None:
        if self.open:
            self.open = False
            for ip in self._ips:
                self._internet.listeners.pop(place(self.host, ip, self.address.port), None)


def bound_ips(host: Host, bound: Address) -> tuple[str, ...]:
    """The addresses at which something bound to `bound` is reached."""
    if bound.host == "0.0.0.0":
        return (host.ip4, "127.0.0.1")
    if bound.host == "::":
        return tuple(ip for ip in (host.ip4, host.ip6, "127.0.0.1", "::1") if ip is not None)
    return (bound.host,)
