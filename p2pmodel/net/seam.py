"""The seam between the peer and the world: clock, datagrams, channels, and work done off the event loop.

`real.py` fills it with UDP, TCP and threads; the simulator with virtual time. A *channel* is an authenticated
connection to one peer. It carries small messages, and bulk: the bytes of one chunk or object, announced by the id of
the request that asked for it, so that they can go from the wire into one reused buffer, be checked and written while
they are hot, and never become a Python `bytes`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ParamSpec, Protocol, TypeVar

from p2pmodel.errors import P2PModelError
from p2pmodel.model import PublicKey
from p2pmodel.net.address import Address

P = ParamSpec("P")
T = TypeVar("T")


class Clock(Protocol):
    """Two times in seconds: one that never jumps, for timers, and Unix time, for signed expiry only."""

    def monotonic(self) -> float: ...

    def wall(self) -> float: ...


class Datagrams(Protocol):
    """A bound datagram socket."""

    @property
    def address(self) -> Address: ...

    def send(self, data: bytes, to: Address) -> None:
        """Send or silently lose; never raises for what the network does."""

    def close(self) -> None: ...


DatagramHandler = Callable[[bytes, Address], None]


class BulkSource(Protocol):
    """Bytes to be sent: a range of an open file, or an object in memory."""

    @property
    def length(self) -> int:
        """Known before `open`, so that room for them can be planned."""

    def open(self) -> bool:
        """Make the bytes ready. Called once, first, off the loop; False where they are not here after all."""

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill `buffer` from `offset` of this source. Runs off the loop; raises `P2PModelError` where it cannot."""

    def room(self) -> memoryview | None:
        """All of these bytes where they lie in memory, until `release`, with `RECORD_MARGIN_BYTES` before and behind.

        They are sealed in place: `read_into` is not called any more. None where it has to fetch them.
        """

    def file_range(self) -> tuple[int, int] | None:
        """File descriptor and offset for `sendfile`, where there is a file."""

    def release(self) -> None:
        """Called once, when the source is no longer needed."""


class BulkSink(Protocol):
    """Where the bytes that answer one request go."""

    def consume(self, data: memoryview) -> None:
        """Check and keep the whole of the bytes. Runs off the loop, maybe in a thread; `data` is reused afterwards.

        Raises `CorruptChunkError` where they are not what was asked for, another `P2PModelError` where they cannot
        be kept.
        """


class ChannelHandler(Protocol):
    """What a channel tells its owner, on the event loop but for `bulk_begins`; a `PeerFault` closes the channel."""

    def message_received(self, message: bytes) -> None: ...

    def bulk_begins(self, request_id: int, length: int) -> BulkSink:
        """The sink for an announced answer of `length` bytes; raises `ProtocolError` where none was asked for.

        Called from the thread that receives: quick, thread-safe, and nothing of asyncio in it.
        """

    def bulk_finished(self, request_id: int, error: P2PModelError | None) -> None:
        """The sink has consumed the answer, or failed with `error`."""

    def closed(self, reason: P2PModelError) -> None:
        """Called exactly once, last."""


@dataclass(frozen=True, slots=True)
class Hello:
    """What each side says of itself in the handshake."""

    version: int
    network_id: bytes
    encryption: bool
    port: int
    """Where this peer listens (UDP and TCP), 0 where it cannot be reached."""
    agent: str
    lane: bytes = b""
    """Not a new channel but one more connection of the one whose handshake gave both sides this token."""


class Channel(Protocol):
    """A mutually authenticated connection; `peer` is the key that the other side has proved to hold."""

    peer: PublicKey
    address: Address
    outgoing: bool
    hello: Hello
    encrypted: bool
    on_wider: Callable[[], None]
    """Called when more answers are worth giving than before."""

    @property
    def runs_ahead(self) -> int:
        """How many calls of `send_run` are worth making at a time: what comes next is here while one leaves."""

    @property
    def run_answers(self) -> int:
        """How many answers are worth giving to each, now: one, or as many as leave in a few milliseconds."""

    @property
    def bytes_received(self) -> int: ...

    @property
    def bytes_sent(self) -> int: ...

    def start(self, handler: ChannelHandler) -> None:
        """Begin to read. Nothing is delivered before."""

    def send(self, message: bytes) -> None:
        """Queue a message of at most `CONTROL_BYTES_MAX`. Never blocks, never raises; a closed channel ignores it."""

    async def send_run(self, answers: Sequence[tuple[int, BulkSource]]) -> list[bool]:
        """Send each source as the answer to its request, in order, and release it. Returns when all have left.

        False for a source that had nothing: then nothing was sent of it. Messages may overtake answers, and one run
        another. Raises `PeerGoneError` where the channel has closed, and what
        a source raised; then the channel is closed, because half an answer cannot be taken back.
        """

    def expect(self, size_bytes: int) -> int:
        """About so much will be asked for over this channel, from now on: room for it can be made in time.

        Returns over how many connections it will come.
        """

    def yield_line(self, *, sending: bool, receiving: bool) -> None:
        """From now on let what is sent, or what is received, take only what others leave of the line."""

    def close(self, reason: P2PModelError) -> None:
        """Close at once and tell the handler."""


class Listener(Protocol):
    @property
    def address(self) -> Address: ...

    def close(self) -> None: ...


class Network(Protocol):
    """All that a peer knows of the outside."""

    @property
    def clock(self) -> Clock: ...

    async def open_datagrams(self, host: str, port: int, handler: DatagramHandler) -> Datagrams:
        """Bind; port 0 takes a free one. Raises `NetworkError`."""

    async def listen(self, host: str, port: int, accept: Callable[[Channel], None]) -> Listener:
        """Accept channels; each comes after its handshake. Port 0 takes a free one. Raises `NetworkError`."""

    async def connect(self, address: Address, expected: PublicKey | None, first: Sequence[bytes] = ()) -> Channel:
        """Raises `PeerGoneError` where nobody answers, `HandshakeError` where it is somebody else.

        `first`: messages to send before all others, as soon as the other side has proved its key; maybe before it has
        said its hello, so that the answers come with that.
        """

    async def offload(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run blocking work without holding up the loop. A cancelled call returns only when the work has ended."""

    async def close(self) -> None: ...
