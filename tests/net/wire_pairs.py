"""Two ends of a wire: identities that repeat, handshakes without sockets, and handlers that keep what they are told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from p2pmodel.errors import P2PModelError, PeerFault, ProtocolError
from p2pmodel.limits import RECORD_MARGIN_BYTES
from p2pmodel.model import SecretKey
from p2pmodel.net import BulkSink, Channel, Identity, network_id
from p2pmodel.net.handshake import Handshake, tls_context
from p2pmodel.net.inbound import Bulk, Inbound
from p2pmodel.net.records import TAG_BYTES

NETWORK = network_id("tests")
PATIENCE_S = 10.0
"""How long a test waits for something that should come at once, before it says so."""


def identity(number: int, **options) -> Identity:
    return Identity(SecretKey.from_seed(bytes([number]) * 32), options.pop("network", NETWORK), **options)


def handshake(who: Identity, *, outgoing: bool, **options) -> Handshake:
    return Handshake(who, tls_context(who), outgoing=outgoing, **options)


def shake(client: Handshake, server: Handshake, *, piece_bytes: int = 1 << 20) -> None:
    """Carry bytes between the two in pieces until neither has anything to say."""
    while True:
        moved = False
        for one, other in ((client, server), (server, client)):
            out = one.to_send()
            for start in range(0, len(out), piece_bytes):
                other.receive(out[start : start + piece_bytes])
                moved = True
        if not moved:
            return


class Keeps:
    """A sink that keeps what it is given, after doing whatever the test wants done in the thread."""

    def __init__(self, before: Callable[[], None] = lambda: None) -> None:
        self.data = b""
        self._before = before

    def consume(self, data: memoryview) -> None:
        self._before()
        self.data = bytes(data)


class Handler:
    """A `ChannelHandler` that keeps everything in the order in which it came."""

    def __init__(
        self, sink: Callable[[int], BulkSink] | None = None, on_message: Callable[[bytes], None] | None = None
    ):
        self.events: list[tuple] = []
        self.sinks: dict[int, BulkSink] = {}
        self._sink = sink or (lambda request_id: Keeps())
        self._on_message = on_message
        self._news = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def message_received(self, message: bytes) -> None:
        self._note("message", message)
        if self._on_message is not None:
            self._on_message(message)

    def bulk_begins(self, request_id: int, length: int) -> BulkSink:
        self._note("begins", request_id, length)
        self.sinks[request_id] = self._sink(request_id)
        return self.sinks[request_id]

    def bulk_finished(self, request_id: int, error: P2PModelError | None) -> None:
        self._note("finished", request_id, error)
        if isinstance(error, PeerFault):
            raise error

    def closed(self, reason: P2PModelError) -> None:
        self._note("closed", reason)

    def _note(self, *event) -> None:
        self.events.append(event)
        self._loop.call_soon_threadsafe(self._news.set)  # "begins" comes from whichever thread receives

    def of(self, kind: str) -> list:
        return [event[1] for event in self.events if event[0] == kind]

    @property
    def messages(self) -> list[bytes]:
        return self.of("message")

    async def until(self, holds: Callable[[], object]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not holds():
                self._news.clear()
                await self._news.wait()

    async def until_closed(self) -> P2PModelError:
        await self.until(lambda: self.of("closed"))
        assert len(self.of("closed")) == 1 and self.events[-1][0] == "closed"
        return self.of("closed")[0]


@dataclass
class Source:
    """A `BulkSource` over bytes. `reading` is called in the thread, with the offset, before each read."""

    data: bytes
    reading: Callable[[int], None] = lambda offset: None
    fd: int | None = None
    in_memory: bool = False
    """With room to be sealed where it lies."""
    released: int = 0

    @property
    def length(self) -> int:
        return len(self.data)

    def open(self) -> bool:
        return True

    def read_into(self, buffer: memoryview, offset: int) -> None:
        self.reading(offset)
        buffer[:] = self.data[offset : offset + len(buffer)]

    def room(self) -> memoryview | None:
        margin = bytes(RECORD_MARGIN_BYTES)
        return memoryview(bytearray(margin + self.data + margin)) if self.in_memory else None

    def file_range(self) -> tuple[int, int] | None:
        return None if self.fd is None else (self.fd, 0)

    def release(self) -> None:
        self.released += 1


@dataclass
class Received:
    """The owner of an `Inbound` without a socket: lends at once, keeps whole things."""

    keys: object = None
    events: list[tuple] = field(default_factory=list)
    lends: bool = True
    inbound: Inbound = field(init=False)
    announced: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        self.inbound = Inbound(self.keys, self)

    def message_in(self, message: bytes) -> None:
        self.events.append(("message", message))

    def bulk_begins(self, request_id: int, length: int) -> None:
        self.announced = request_id, length
        if self.lends:
            self.lend()

    def lend(self) -> None:
        request_id, length = self.announced
        self.inbound.lend(Bulk(request_id, length, Keeps(), bytearray(length + TAG_BYTES)))

    def bulk_complete(self, bulk: Bulk) -> None:
        self.events.append(("bulk", bulk.request_id, bytes(bulk.buffer[: bulk.length])))


def feed_fails(received: Received, data: bytes) -> bool:
    try:
        received.inbound.feed(data)
    except ProtocolError:
        return True
    return False


@dataclass
class Pair:
    """Both ends of one open connection, each with its handler."""

    near: Channel
    far: Channel
    near_handler: Handler
    far_handler: Handler


async def comes_true(holds: Callable[[], object]) -> None:
    """For what happens inside a channel, of which its handler is not told."""
    async with asyncio.timeout(PATIENCE_S):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.001)
