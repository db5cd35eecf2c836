"""The simulated network: hosts, the paths between them, and what happens to a datagram or a connection on the way.

Everything random comes from one seeded source, everything that happens goes into the event log. What a node sends
leaves its host (translated where there is a translator), takes the latency of its path, and arrives unless it is lost,
the network is partitioned between the two, or the other side is gone.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterable
from contextvars import Context
from typing import Protocol

from p2pmodel.errors import NetworkError
from p2pmodel.net import Address
from p2pmodel.testing.channel import SimChannel
from p2pmodel.testing.conditions import Conditions, Nat
from p2pmodel.testing.events import EventLog
from p2pmodel.testing.host import Host
from p2pmodel.testing.loop import Process, running_loop
from p2pmodel.testing.sockets import Place, SimDatagrams, SimListener, place

_MASK = (1 << 64) - 1
_RETRANSMISSION_S = 0.2
"""What TCP waits for before it repeats, at least (RFC 6298 says a second; Linux says 0.2)."""
_FIRST_NETWORK = 20
"""Hosts get addresses from 20.0.7.9 up, each in a /16 of its own: nobody shares an address group unless told to."""


class Watch(Protocol):
    """Sees what is said on connections, from the end that says it, and must not change anything."""

    def message(self, channel: SimChannel, message: bytes) -> None: ...

    def answer(self, channel: SimChannel, request_id: int, data: memoryview) -> None: ...


class Internet:
    """All hosts of one simulation. Use on a `VirtualLoop`."""

    def __init__(self, seed: int = 0, conditions: Conditions | None = None, log: EventLog | None = None) -> None:
        self.seed = seed
        self.conditions = conditions or Conditions()
        self.log = log if log is not None else EventLog()
        self.rng = random.Random(seed)
        self.context = Context()
        """In which things happen on the way, so that they belong to no process."""
        self.hosts: list[Host] = []
        self.watch: Watch | None = None
        self.datagrams = 0
        """Sent, whatever became of them."""
        self.datagram_bytes = 0
        self.sockets: dict[Place, SimDatagrams] = {}
        self.listeners: dict[Place, SimListener] = {}
        self._by_ip: dict[str, Host] = {}
        self._processes: dict[Host, list[Process]] = {}
        self._channels: dict[SimChannel, None] = {}
        self._sockets_by_process: dict[Process, list[SimDatagrams | SimListener]] = {}

    # --- hosts ---------------------------------------------------------------------------------------------------

    def host(
        self,
        ip: str | None = None,
        *,
        ip6: str | None = None,
        nat: Nat = Nat.OPEN,
        upload_bytes_per_s: float | None = None,
        download_bytes_per_s: float | None = None,
    ) -> Host:
        """A machine at a public address of its own, or at `ip`. Raises `NetworkError` where that is taken."""
        number = len(self.hosts)
        ip4 = ip or f"{_FIRST_NETWORK + number // 250}.{number % 250}.7.9"
        if ip4 in self._by_ip or (ip6 is not None and ip6 in self._by_ip):
            raise NetworkError(f"there is a host at {ip4} already")
        host = Host(
            number,
            self.rng.getrandbits(64),
            ip4,
            ip6,
            nat,
            upload_bytes_per_s or self.conditions.upload_bytes_per_s,
            download_bytes_per_s or self.conditions.download_bytes_per_s,
        )
        self.hosts.append(host)
        self._by_ip[ip4] = host
        if ip6 is not None:
            self._by_ip[ip6] = host
        return host

    def at(self, ip: str) -> Host | None:
        return self._by_ip.get(ip)

    def process(self, host: Host) -> Process:
        """A new process on `host`: run a node's start in its context, so that `crash` can take all of it."""
        process = Process(f"{host.ip4}#{len(self._processes.setdefault(host, []))}")
        self._processes[host].append(process)
        return process

    def crash(self, host: Host, *, silent: bool = False) -> None:
        """Kill the processes of `host`. Its kernel closes their connections, unless `silent`: then the power is gone.

        Nothing that their clean-up still tries reaches anybody. The host itself is up again after `revive`.
        """
        self.log.add(self.now, "crash", host.number, int(silent))
        host.up = not silent
        for process in self._processes.pop(host, []):
            for socket in self._sockets_by_process.pop(process, []):
                socket.vanish()
            for channel in [channel for channel in self._channels if channel.process is process]:
                channel.vanish(silent=silent)
            process.kill()

    def revive(self, host: Host) -> None:
        """Power is back; start a new process with `network`."""
        self.log.add(self.now, "revive", host.number)
        host.up = True
        for channel in list(self._channels):
            channel.healed()

    def partition(self, *sides: Iterable[Host]) -> None:
        """Hosts of different sides cannot reach each other; whoever is in none is in a side with all such."""
        for host in self.hosts:
            host.side = 0
        for number, side in enumerate(sides, 1):
            for host in side:
                host.side = number
        self.log.add(self.now, "partition", *[host.side for host in self.hosts])

    def heal(self) -> None:
        """One network again. Connections that outlived the partition get what was held up."""
        for host in self.hosts:
            host.side = 0
        self.log.add(self.now, "heal")
        for channel in list(self._channels):
            channel.healed()

    # --- paths ---------------------------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        return running_loop().now

    def latency_s(self, a: Host, b: Host) -> float:
        """One way between two hosts, always the same."""
        if a is b:
            return 1e-5
        low, high = self.conditions.latency_ms
        mixed = ((a.mix ^ b.mix) * 0x9E3779B97F4A7C15) & _MASK
        mixed ^= mixed >> 29
        return (low + (high - low) * ((mixed * 0xBF58476D1CE4E5B9 & _MASK) / 2.0**64)) / 1000

    def connected(self, a: Host, b: Host) -> bool:
        return a.up and b.up and a.side == b.side

    def delay_s(self, a: Host, b: Host) -> float:
        """What one segment of a connection takes: what is lost comes again, later."""
        delay_s = self.latency_s(a, b)
        conditions = self.conditions
        if conditions.jitter:
            delay_s *= 1 + conditions.jitter * self.rng.random()
        while conditions.loss and self.rng.random() < conditions.loss:
            delay_s += max(_RETRANSMISSION_S, 2 * self.latency_s(a, b))
        return delay_s

    # --- datagrams -----------------------------------------------------------------------------------------------

    def carry(self, socket: SimDatagrams, data: bytes, to: Address) -> None:
        sender, local = socket.host, False
        receiver = self._by_ip.get(to.host)
        if receiver is None:  # only then is it worth asking what kind of address that is
            if not to.is_routable:
                return
            local = to.is_loopback
            receiver = sender if local else None
        now = self.now
        self.datagrams += 1
        self.datagram_bytes += len(data)
        self.log.add(now, "datagram", sender.number, socket.port, to.host, to.port, len(data), zlib.crc32(data))
        port = socket.port if local else sender.leaving(socket.port, to, now)
        source = socket.source_for(local, ":" in to.host, port)
        if receiver is None or source is None or sender.mute or not self.connected(sender, receiver):
            return
        conditions, rng = self.conditions, self.rng
        if conditions.loss and receiver is not sender and rng.random() < conditions.loss:
            return
        self._deliver_later(receiver, sender, data, source, to)
        if conditions.duplicate and rng.random() < conditions.duplicate:
            self._deliver_later(receiver, sender, data, source, to)

    def _deliver_later(self, receiver: Host, sender: Host, data: bytes, source: Address, to: Address) -> None:
        conditions, rng = self.conditions, self.rng
        delay_s = self.latency_s(sender, receiver)
        if conditions.jitter:
            delay_s *= 1 + conditions.jitter * rng.random()
        if conditions.reorder and rng.random() < conditions.reorder:
            delay_s *= 1 + rng.random()
        running_loop().call_later(delay_s, self._deliver, receiver, data, source, to, context=self.context)

    def _deliver(self, receiver: Host, data: bytes, source: Address, to: Address) -> None:
        port: int | None = to.port
        if receiver.nat is not Nat.OPEN and not to.is_loopback:
            port = receiver.entering(to.port, source, self.now)
        if port is None or not receiver.up:
            return
        socket = self.sockets.get(place(receiver, to.host, port))
        if socket is not None:
            socket.deliver(data, source)

    # --- kept by the sockets -------------------------------------------------------------------------------------

    def own(self, process: Process, socket: SimDatagrams | SimListener) -> None:
        self._sockets_by_process.setdefault(process, []).append(socket)

    def disown(self, process: Process, socket: SimDatagrams | SimListener) -> None:
        owned = self._sockets_by_process.get(process, [])
        if socket in owned:
            owned.remove(socket)

    def opened(self, channel: SimChannel) -> None:
        self._channels[channel] = None

    def closed(self, channel: SimChannel) -> None:
        self._channels.pop(channel, None)

    def sockets_of(self, process: Process) -> list[SimDatagrams | SimListener]:
        return list(self._sockets_by_process.get(process, ()))

    def channels_of(self, host: Host) -> list[SimChannel]:
        return [channel for channel in self._channels if channel.host is host]

    def channels_by_process(self) -> dict[Process, list[SimChannel]]:
        """Every open end of a connection."""
        found: dict[Process, list[SimChannel]] = {}
        for channel in self._channels:
            found.setdefault(channel.process, []).append(channel)
        return found
