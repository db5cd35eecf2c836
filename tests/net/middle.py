"""A man in the middle of TCP connections: he sees every byte, and cuts, alters, repeats or keeps what he likes.

He stands on real sockets between two real peers and needs no key: TLS records are told from our own by their first
byte (20 to 23 against 1 to 3), and both carry their length in the clear.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from asyncio import FIRST_EXCEPTION
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from p2pmodel.net import Address

UP, DOWN = "up", "down"
"""From the side that dialled, and to it."""
DIRECTIONS = (UP, DOWN)
TLS_KINDS = (20, 21, 22, 23)


class End(Enum):
    RESET = "reset"
    CLOSE = "close"
    STALL = "stall"


@dataclass(frozen=True)
class Seen:
    """One record on its way. `number` counts those of its direction and layer from 0."""

    direction: str
    tls: bool
    number: int
    data: bytes


Meddle = Callable[[Seen], "list[bytes | tuple[str, bytes] | End]"]
"""What goes on in place of a record: bytes in its direction, bytes in another one, or an end of the connection."""


def passes(seen: Seen) -> list:
    return [seen.data]


@dataclass
class Cut:
    """End the connection once so many bytes have gone in one direction."""

    direction: str
    after_bytes: int
    how: End = End.RESET


def records(buffer: bytearray, tag_bytes: int) -> list[tuple[bool, bytes]]:
    """Take whole records off the front, each with whether it is TLS's."""
    taken = []
    while len(buffer) >= 5 or (buffer and buffer[0] not in TLS_KINDS and len(buffer) >= 4):
        tls = buffer[0] in TLS_KINDS
        size = 5 + int.from_bytes(buffer[3:5], "big") if tls else 4 + int.from_bytes(buffer[1:4], "big") + tag_bytes
        if len(buffer) < size:
            break
        taken.append((tls, bytes(buffer[:size])))
        del buffer[:size]
    return taken


class Carried:
    """One connection through the middle."""

    def __init__(self, near: socket.socket, far: socket.socket, middle: Middle) -> None:
        self.seen: list[Seen] = []
        self.bytes = dict.fromkeys(DIRECTIONS, 0)
        self._sockets = {UP: (near, far), DOWN: (far, near)}
        self._middle = middle
        self._counts = {(direction, tls): 0 for direction in DIRECTIONS for tls in (True, False)}
        self._stalled = asyncio.Event()
        self.ended = False

    async def run(self) -> None:
        roads = [asyncio.ensure_future(self._road(direction)) for direction in DIRECTIONS]
        try:
            moved = None
            while moved != self.bytes:
                moved = dict(self.bytes)
                _, going_on = await asyncio.wait(roads, timeout=self._middle.silence_s, return_when=FIRST_EXCEPTION)
                if not going_on or any(road.done() and road.exception() for road in roads):
                    break
        finally:
            # Nobody may still wait at a descriptor when it is closed: the next socket gets the same number.
            for road in roads:
                road.cancel()
            ends = await asyncio.gather(*roads, return_exceptions=True)
            for sock in self._sockets[UP]:
                if any(isinstance(end, _Ended) and end.how is End.RESET for end in ends):
                    reset(sock)
                sock.close()
            self.ended = True

    async def _road(self, direction: str) -> None:
        loop, (source, target) = asyncio.get_running_loop(), self._sockets[direction]
        buffer = bytearray()
        try:
            while data := await loop.sock_recv(source, 1 << 16):
                if self._middle.meddle is passes:
                    await self._give(direction, data)
                    continue
                buffer += data
                for tls, record in records(buffer, self._middle.tag_bytes):
                    await self._pass_on(direction, tls, record)
            await self._give(direction, bytes(buffer))
            target.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise _Ended(End.CLOSE) from error

    async def _pass_on(self, direction: str, tls: bool, record: bytes) -> None:
        seen = Seen(direction, tls, self._counts[direction, tls], record)
        self._counts[direction, tls] += 1
        self.seen.append(seen)
        for part in self._middle.meddle(seen):
            if isinstance(part, End):
                await self._end(part)
            else:
                await self._give(*(part if isinstance(part, tuple) else (direction, part)))

    async def _give(self, direction: str, data: bytes) -> None:
        cut = self._middle.cut
        room = len(data)
        if cut is not None and cut.direction == direction:
            room = min(room, cut.after_bytes - self.bytes[direction])
        if room:
            await asyncio.get_running_loop().sock_sendall(self._sockets[direction][1], data[:room])
        self.bytes[direction] += room
        if cut is not None and cut.direction == direction and self.bytes[direction] >= cut.after_bytes:
            await self._end(cut.how)

    async def _end(self, how: End) -> None:
        if how is End.STALL:
            await self._stalled.wait()
        raise _Ended(how)


class _Ended(Exception):
    """This connection is over."""

    def __init__(self, how: End) -> None:
        super().__init__(how)
        self.how = how


@dataclass
class Middle:
    """Listens at `address` and carries every connection to `to`. `cut` and `meddle` may be changed between two."""

    to: Address
    tag_bytes: int = 16
    meddle: Meddle = passes
    cut: Cut | None = None
    silence_s: float | None = None
    """End connections on which nothing has gone either way for so long."""
    carried: list[Carried] = field(default_factory=list)
    address: Address = field(init=False)

    async def __aenter__(self) -> Middle:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.setblocking(False)
        self.address = Address(*self._listening.getsockname())
        self._tasks: set[asyncio.Task[None]] = set()
        self._accepting = asyncio.ensure_future(self._accept())
        return self

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            near, _ = await loop.sock_accept(self._listening)
            near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            task = loop.create_task(self._carry(near))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _carry(self, near: socket.socket) -> None:
        far = socket.socket()
        try:
            far.setblocking(False)
            await asyncio.get_running_loop().sock_connect(far, (self.to.host, self.to.port))
            far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            carried = Carried(near, far, self)
            self.carried.append(carried)
            await carried.run()
        finally:
            near.close()
            far.close()

    async def __aexit__(self, *_: object) -> None:
        for task in (self._accepting, *self._tasks):
            task.cancel()
        await asyncio.gather(self._accepting, *self._tasks, return_exceptions=True)
        self._listening.close()


def reset(sock: socket.socket) -> None:
    """Closing it will send RST, not FIN."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
