"""The simulated network as one peer's process sees it: fills `net.Network`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

from p2pmodel.errors import HandshakeError, NetworkError, PeerGoneError
from p2pmodel.limits import CONNECT_TIMEOUT_S
from p2pmodel.model import PublicKey
from p2pmodel.net import Address, Channel, Clock, DatagramHandler, Datagrams, Hello, Identity, Listener
from p2pmodel.testing.channel import SimChannel
from p2pmodel.testing.host import Host
from p2pmodel.testing.internet import Internet
from p2pmodel.testing.loop import Process, running_loop
from p2pmodel.testing.sockets import SimDatagrams, SimListener, bound_ips, place

P = ParamSpec("P")
T = TypeVar("T")

WALL_START_S = 1_800_000_000.0
"""Unix time at the beginning of every simulation: in January 2027."""


class SimClock:
    """Virtual time; the clocks are wrong by what the host's are."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def monotonic(self) -> float:
        return running_loop().now + self._host.slept_s

    def wall(self) -> float:
        return WALL_START_S + self.monotonic() + self._host.clock_error_s


class SimNetwork:
    """One process's view. `identity` is needed by whoever listens or connects, not for datagrams."""

    def __init__(
        self, internet: Internet, host: Host, identity: Identity | None = None, process: Process | None = None
    ) -> None:
        self.internet = internet
        self.host = host
        self.identity = identity
        self.process = process or internet.process(host)
        self._clock = SimClock(host)

    @property
    def clock(self) -> Clock:
        return self._clock

    async def open_datagrams(self, host: str, port: int, handler: DatagramHandler) -> Datagrams:
        bound = self._bind(host, port, self.internet.sockets)
        return SimDatagrams(self.internet, self.host, self.process, bound, handler)

    async def listen(self, host: str, port: int, accept: Callable[[Channel], None]) -> Listener:
        identity = self._identified()
        bound = self._bind(host, port, self.internet.listeners)
        identity.port = bound.port
        key = identity.key.public
        return SimListener(self.internet, self.host, self.process, bound, key, self._hello, accept)

    def _bind(self, host: str, port: int, taken: object) -> Address:
        bound = Address(host, port or self.host.free_port())
        if not bound.ip.is_unspecified and not bound.is_loopback and not self.host.owns(bound.host):
            raise NetworkError(f"{self.host!r} has no address {bound.host}")
        assert isinstance(taken, dict)
        if any(place(self.host, ip, bound.port) in taken for ip in bound_ips(self.host, bound)):
            raise NetworkError(f"port {bound.port} on {bound.host} is in use by another program")
        return bound

    def _identified(self) -> Identity:
        if self.identity is None:
            raise NetworkError("a simulated peer without an identity has datagrams only")
        return self.identity

    def _hello(self) -> Hello:
        return self._identified().hello()

    async def connect(self, address: Address, expected: PublicKey | None, first: Sequence[bytes] = ()) -> Channel:
        """A TCP handshake and a TLS one take two round trips; who is not reached is given up after the real time."""
        internet, ours = self.internet, self._identified()
        far = self.host if address.is_loopback else internet.at(address.host)
        if not address.is_routable or far is None or not self._reaches(far):
            await asyncio.sleep(CONNECT_TIMEOUT_S)
            raise PeerGoneError(f"cannot connect to {address}: no answer")
        internet.log.add(internet.now, "connect", self.host.number, far.number, address.port)
        await asyncio.sleep(2 * internet.delay_s(self.host, far))
        listener = internet.listeners.get(place(far, address.host, address.port))
        if listener is None:
            raise PeerGoneError(f"cannot connect to {address}: Connection refused")
        await asyncio.sleep(2 * internet.delay_s(self.host, far))
        if not listener.open or not self._reaches(far):
            raise HandshakeError(f"{address} broke off during the handshake")
        hello = listener.hello()
        if listener.key == ours.key.public:
            raise HandshakeError("that is ourselves")
        if expected is not None and listener.key != expected:
            raise HandshakeError(f"expected peer {expected.text}, met {listener.key.text}")
        if hello.network_id != ours.network_id:
            raise HandshakeError("the peer belongs to another network")
        channel = self._join(listener, address, hello)
        for message in first:
            channel.send(message)
        return channel

    def _reaches(self, far: Host) -> bool:
        return self.internet.connected(self.host, far) and (far is self.host or far.accepts_connections)

    def _join(self, listener: SimListener, address: Address, hello: Hello) -> SimChannel:
        """Make both ends; the listener has its own one latency later."""
        internet, ours = self.internet, self._identified()
        encrypted = hello.encryption or ours.encryption
        source = address.host if address.is_loopback else self.host.ip_for(address.ip.version)
        near = SimChannel(
            internet,
            self.host,
            self.process,
            peer=listener.key,
            address=address,
            outgoing=True,
            hello=hello,
            encrypted=encrypted,
        )
        far = SimChannel(
            internet,
            listener.host,
            listener.process,
            peer=ours.key.public,
            address=Address(source, self.host.free_port()),
            outgoing=False,
            hello=self._hello(),
            encrypted=encrypted,
        )
        near.other, far.other = far, near
        delay_s = internet.delay_s(self.host, listener.host)
        asyncio.get_running_loop().call_later(delay_s, self._accept, listener, far, context=internet.context)
        return near

    def _accept(self, listener: SimListener, channel: SimChannel) -> None:
        if listener.open:
            listener.accept(channel)
        else:
            channel.close(PeerGoneError("nobody listens any more"))

    async def offload(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """In place, and then others have a turn, as with a thread."""
        result = work(*args, **kwargs)
        await asyncio.sleep(0)
        return result

    async def close(self) -> None:
        """What is open was closed by its owner."""
