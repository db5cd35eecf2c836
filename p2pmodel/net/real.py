"""The real network: UDP, TCP, TLS handshakes, wall and monotonic clocks, and a few threads for blocking work."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

from p2pmodel.errors import HandshakeError, NetworkError, PeerGoneError
from p2pmodel.limits import (
    BULK_BUFFER_BYTES_MAX,
    CHUNK_BYTES,
    CHUNK_BYTES_MAX,
    CONNECT_TIMEOUT_S,
    HALF_OPEN_MAX,
    HALF_OPEN_PER_GROUP_MAX,
    HANDSHAKE_TIMEOUT_S,
)
from p2pmodel.model import PublicKey
from p2pmodel.net.address import Address
from p2pmodel.net.admission import Crowd
from p2pmodel.net.buffers import BufferPool, Shared
from p2pmodel.net.handshake import Handshake, Session, tls_context
from p2pmodel.net.identity import Identity
from p2pmodel.net.memory import give_back
from p2pmodel.net.outbox import SEND_BUFFER_BYTES
from p2pmodel.net.receiver import SCRATCH_BYTES
from p2pmodel.net.records import TAG_BYTES
from p2pmodel.net.seam import Channel, Clock, DatagramHandler, Datagrams, Listener
from p2pmodel.net.tcp import TcpChannel
from p2pmodel.net.threads import Mailbox, Threads
from p2pmodel.net.udp import UdpDatagrams, bind, bound_address
from p2pmodel.net.widening import Widening

P = ParamSpec("P")
T = TypeVar("T")

_BACKLOG = 256
_BULK_THREADS = 16
"""Sockets that threads receive from at one time, and as many that they send to; each is left after 20 ms of silence."""
_NOT_SENT_BYTES = 512 * 1024
_SEND_BUFFER_BYTES_MAX = 16 * 1024 * 1024
_ACCEPTS_PER_WAKE = 32
"""Far below `HALF_OPEN_MAX`, so that whoever is accepted gets to answer before a flood can make it the oldest."""
_CROWD = 64
"""After so many connections freed memory is given back, `_CROWD_GONE_S` later."""
_CROWD_GONE_S = 30.0
_ACCEPT_PAUSE_S = 0.5
"""When the process is out of descriptors: the socket stays readable, so trying at once would only burn cycles."""


class SystemClock:
    """See `seam.Clock`."""

    def monotonic(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()


class RealNetwork:
    """See `seam.Network`. One for each peer; `identity.port` is filled in by `listen`."""

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self._clock = SystemClock()
        threads = max(4, (os.cpu_count() or 1) + 2)
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="p2pmodel")
        self._shared: Shared | None = None
        self._tls = tls_context(identity)
        self._widening = Widening(self._dial)

    @property
    def clock(self) -> Clock:
        return self._clock

    @property
    def shared(self) -> Shared:
        """Of all channels; made on the loop, with the first of them."""
        if self._shared is None:
            self._shared = Shared(
                mail=Mailbox(asyncio.get_running_loop()),
                receiving=Threads(_BULK_THREADS, "receive"),
                consuming=Threads(2, "verify"),
                sending=Threads(_BULK_THREADS, "send"),
                receive_buffers=BufferPool((CHUNK_BYTES, CHUNK_BYTES_MAX), BULK_BUFFER_BYTES_MAX, margin=TAG_BYTES),
                send_buffers=BufferPool((SEND_BUFFER_BYTES,), BULK_BUFFER_BYTES_MAX),
                scratch=bytearray(SCRATCH_BYTES),
            )
        return self._shared

    async def open_datagrams(self, host: str, port: int, handler: DatagramHandler) -> Datagrams:
        sock = bind(socket.SOCK_DGRAM, host, port)
        return UdpDatagrams(sock, bound_address(sock), handler)

    async def listen(self, host: str, port: int, accept: Callable[[Channel], None]) -> Listener:
        sock = bind(socket.SOCK_STREAM, host, port)
        try:
            sock.listen(_BACKLOG)
        except OSError as error:
            sock.close()
            raise NetworkError(f"port {port} on {host} is in use by another program") from error
        listener = _TcpListener(self, sock, accept)
        self.identity.port = listener.address.port
        return listener

    async def connect(self, address: Address, expected: PublicKey | None, first: Sequence[bytes] = ()) -> Channel:
        sock, session = await self._dial(address, expected, first=first)
        channel = self._channel(sock, address, session, outgoing=True)
        for message in session.unsent:
            channel.send(message)
        return channel

    async def welcome(self, sock: socket.socket, address: Address) -> Channel | None:
        """Carry out the handshake with whoever has connected. None where it is one more connection of a channel."""
        session = await self._secure(sock, address, partial(Handshake, self.identity, self._tls, outgoing=False))
        if session.hello.lane:
            self._widening.take_in(sock, session)
            return None
        return self._channel(sock, address, session, outgoing=False)

    def _channel(self, sock: socket.socket, address: Address, session: Session, *, outgoing: bool) -> TcpChannel:
        channel = TcpChannel(sock, address, session, self.shared, outgoing=outgoing)
        self._widening.watch(channel, session)
        return channel

    async def _dial(
        self, address: Address, expected: PublicKey | None, lane: bytes = b"", first: Sequence[bytes] = ()
    ) -> tuple[socket.socket, Session]:
        if not address.is_routable:
            raise PeerGoneError(f"{address} is no address to connect to")
        family = socket.AF_INET6 if address.ip.version == 6 else socket.AF_INET
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:
            raise PeerGoneError(f"cannot connect to {address}: {error.strerror}") from error
        sock.setblocking(False)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await asyncio.get_running_loop().sock_connect(sock, (address.host, address.port))
        except (OSError, TimeoutError) as error:
            sock.close()
            reason = getattr(error, "strerror", None) or "no answer"
            raise PeerGoneError(f"cannot connect to {address}: {reason}") from error
        except asyncio.CancelledError:
            sock.close()
            raise
        begin = partial(Handshake, self.identity, self._tls, outgoing=True, expected=expected, lane=lane, first=first)
        return sock, await self._secure(sock, address, begin)

    async def _secure(self, sock: socket.socket, address: Address, begin: Callable[[], Handshake]) -> Session:
        """Carry out the handshake on a connected socket, which is closed where it fails."""
        try:
            _tune(sock, address)
            async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
                return await _shake(sock, begin())
        except TimeoutError as error:
            sock.close()
            raise HandshakeError(f"{address} did not finish its handshake in time") from error
        except OSError as error:
            sock.close()
            raise HandshakeError(f"{address} broke off during the handshake") from error
        except BaseException:
            sock.close()
            raise

    async def offload(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        running = asyncio.get_running_loop().run_in_executor(self._executor, lambda: work(*args, **kwargs))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            # A thread cannot be cancelled. Whoever cleans up behind this call must not do so under the thread's feet.
            await asyncio.wait([running])
            raise

    def spare(self, work: Callable[[], None]) -> None:
        """Do this in a thread at some time, or not at all where this network has ended."""
        try:
            self._executor.submit(work)
        except RuntimeError:
            pass

    async def close(self) -> None:
        await self._widening.close()
        # Waiting for a thread that reads from a slow disk must not hold up the loop.
        await asyncio.get_running_loop().run_in_executor(None, self._end_threads)
        if self._shared is not None:
            self._shared.mail.close()

    def _end_threads(self) -> None:
        if self._shared is not None:
            for threads in (self._shared.receiving, self._shared.sending, self._shared.consuming):
                threads.close()
        self._executor.shutdown()


async def _shake(sock: socket.socket, handshake: Handshake) -> Session:
    loop = asyncio.get_running_loop()
    while True:
        if out := handshake.to_send():
            await loop.sock_sendall(sock, out)
        if handshake.session is not None:
            return handshake.session
        data = await loop.sock_recv(sock, 4096)
        if not data:
            raise HandshakeError("the other side hung up during the handshake")
        handshake.receive(data)


class _TcpListener:
    """Accepts, caps what is half open, and hands over finished channels.

    Nobody is turned away: where there are too many from one group or in all, the eldest of that group or of the fullest
    one makes room. An honest handshake takes milliseconds, so a crowd of sockets that say nothing keeps no others out.
    """

    def __init__(self, network: RealNetwork, sock: socket.socket, accept: Callable[[Channel], None]) -> None:
        self._network = network
        self._sock = sock
        self._accept = accept
        self._address = bound_address(sock)
        self._half_open: Crowd[asyncio.Task[None]] = Crowd(
            total_max=HALF_OPEN_MAX, per_host_max=HALF_OPEN_PER_GROUP_MAX, per_group_max=HALF_OPEN_PER_GROUP_MAX
        )
        self._welcomes: dict[asyncio.Task[None], None] = {}
        """Those of the half-open, and those that are on their way out."""
        self._came = 0
        self._giving_back: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock, self._on_readable)

    @property
    def address(self) -> Address:
        return self._address

    @property
    def half_open(self) -> int:
        return len(self._half_open)

    def close(self) -> None:
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock)
            self._sock.close()
        if self._giving_back is not None:
            self._giving_back.cancel()
        for task in self._welcomes:
            task.cancel()

    def _on_readable(self) -> None:
        for _ in range(_ACCEPTS_PER_WAKE):
            try:
                sock, source = self._sock.accept()
            except BlockingIOError:
                return
            except ConnectionError:
                continue
            except OSError:
                self._loop.remove_reader(self._sock)
                self._loop.call_later(_ACCEPT_PAUSE_S, self._accept_again)
                return
            sock.setblocking(False)
            self._take_in(sock, Address(source[0].partition("%")[0], source[1]))

    def _take_in(self, sock: socket.socket, address: Address) -> None:
        crowded = self._half_open.neighbours(address)
        if not crowded and self._half_open.full:
            crowded = self._half_open.fullest_group()
        if crowded:
            self._half_open.remove(crowded[0])
            crowded[0].cancel()
        task = self._loop.create_task(self._welcome(sock, address))
        self._half_open.add(task, address)
        self._welcomes[task] = None
        task.add_done_callback(partial(self._ended, sock))
        self._count()

    def _count(self) -> None:
        self._came += 1
        if self._came >= _CROWD and self._giving_back is None:
            self._giving_back = self._loop.call_later(_CROWD_GONE_S, self._give_back)

    def _give_back(self) -> None:
        self._came, self._giving_back = 0, None
        self._network.spare(give_back)

    def _accept_again(self) -> None:
        if self._sock.fileno() >= 0:
            self._loop.add_reader(self._sock, self._on_readable)

    def _ended(self, sock: socket.socket, task: asyncio.Task[None]) -> None:
        self._half_open.remove(task)
        self._welcomes.pop(task, None)
        if task.cancelled():
            # A task that is cancelled before its first step has closed nothing.
            sock.close()

    async def _welcome(self, sock: socket.socket, address: Address) -> None:
        try:
            channel = await self._network.welcome(sock, address)
        except HandshakeError:
            return
        if channel is not None:
            self._accept(channel)


def _tune(sock: socket.socket, address: Address) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if not address.is_loopback:
        _lengthen(sock)
    elif (congestion := getattr(socket, "TCP_CONGESTION", None)) is not None:
        # Defaults such as bbr pace even loopback: measured 3 GB/s, 9 with reno. Elsewhere the default stays.
        try:
            sock.setsockopt(socket.IPPROTO_TCP, congestion, b"reno")
        except OSError:
            pass


def _lengthen(sock: socket.socket) -> None:
    """Let more bytes be under way than the kernel gives a socket by itself, where this system allows more.

    A window that the kernel sizes ends at `tcp_wmem` (4 MiB with its bookkeeping: measured 30 MB/s at 80 ms). What has
    not left yet stays short all the same, so that a message never waits behind megabytes of bulk.
    """
    not_sent = getattr(socket, "TCP_NOTSENT_LOWAT", None)
    if not_sent is None or not _LONG_SEND_BUFFER_BYTES:
        return
    try:
        sock.setsockopt(socket.IPPROTO_TCP, not_sent, _NOT_SENT_BYTES)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LONG_SEND_BUFFER_BYTES)
    except OSError:
        pass  # shorter, as without it


def _long_send_buffer_bytes() -> int:
    """What may be asked for, if it is more than the kernel would give by itself; it doubles what it is asked."""
    try:
        most = int(Path("/proc/sys/net/core/wmem_max").read_text())
        by_itself = int(Path("/proc/sys/net/ipv4/tcp_wmem").read_text().split()[2])
    except (OSError, ValueError, IndexError):
        return 0
    return min(most, _SEND_BUFFER_BYTES_MAX) if 2 * most > by_itself else 0


_LONG_SEND_BUFFER_BYTES = _long_send_buffer_bytes()
