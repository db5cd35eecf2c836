"""A simulated channel. It keeps the promises of `net.Channel`, without TLS and without bytes in between:

messages and answers come in order (a message may overtake an answer that is still leaving), answers take their time on
the sender's line and then on the receiver's, and the end of a connection is known to the other side one latency later.
"""

from __future__ import annotations

import asyncio
import math
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from p2pmodel.errors import P2PModelError, PeerGoneError, ProtocolError
from p2pmodel.limits import BULK_BYTES_PER_S_MIN, BULK_GRACE_S, CONTROL_BYTES_MAX, SEND_QUEUE_BYTES_MAX
from p2pmodel.model import PublicKey
from p2pmodel.net import Address, BulkSink, BulkSource, ChannelHandler, Hello
from p2pmodel.swarm.shelf import SoughtChunk
from p2pmodel.testing.host import Host
from p2pmodel.testing.loop import Process

if TYPE_CHECKING:
    from p2pmodel.testing.internet import Internet

_PROGRESS_S = 0.25
"""How often the receiver of a slow answer sees bytes come in."""
_LONG_MESSAGE_BYTES = 16 * 1024
"""From here on the time that a message takes on the line is counted."""


class SimChannel:
    """One end. `other` is set by whoever makes the pair."""

    other: SimChannel
    runs_ahead = 1
    run_answers = 1

    def __init__(
        self,
        internet: Internet,
        host: Host,
        process: Process,
        *,
        peer: PublicKey,
        address: Address,
        outgoing: bool,
        hello: Hello,
        encrypted: bool,
    ) -> None:
        self.peer = peer
        self.address = address
        self.outgoing = outgoing
        self.hello = hello
        self.encrypted = encrypted
        self.on_wider: Callable[[], None] = lambda: None
        self.bytes_received = 0
        self.bytes_sent = 0
        self.host = host
        self.process = process
        self._internet = internet
        self._handler: ChannelHandler | None = None
        self._closed: P2PModelError | None = None
        self._early: list[Callable[[], None]] = []
        """What came before `start`."""
        self._sequence = 0
        self._arrives_at = 0.0
        """When the last thing that was sent arrives."""
        self._queued_bytes = 0
        self._held_up: list[Callable[[], None]] = []
        """Sent while the other side could not be reached: the kernel repeats it until it can."""
        self._leaving: asyncio.Future[None] | None = None
        self._turn = asyncio.Lock()
        """Answers leave one after the other."""
        self._answers_due: deque[int] = deque()
        """Sequence numbers of answers that have left the other side and are not here yet."""
        self._after_answers: deque[tuple[int, bytes]] = deque()
        self._sinks: dict[int, BulkSink] = {}
        internet.opened(self)

    # --- life ----------------------------------------------------------------------------------------------------

    def start(self, handler: ChannelHandler) -> None:
        self._handler = handler
        early, self._early = self._early, []
        for event in early:
            event()
        if self._closed is not None:
            self._tell_closed()

    @property
    def started(self) -> bool:
        return self._handler is not None

    def expect(self, size_bytes: int) -> int:
        """A simulated line is as wide as it is."""
        return 1

    def yield_line(self, *, sending: bool, receiving: bool) -> None:
        """A simulated line has no queue to be told by."""

    def close(self, reason: P2PModelError) -> None:
        if self._closed is not None:
            return
        self.vanish(silent=False, reason=reason)
        self._tell_closed()

    def vanish(self, *, silent: bool, reason: P2PModelError | None = None) -> None:
        """End without a word to the owner, who may be dead; `silent`: without one to the other side either."""
        if self._closed is not None:
            return
        self._closed = reason or PeerGoneError("this process has died")
        self._internet.closed(self)
        self._held_up.clear()
        if self._leaving is not None and not self._leaving.done():
            self._leaving.set_exception(PeerGoneError("the connection closed"))
        if not silent and self._reachable:
            self._at_other(self._internet.delay_s(self.host, self.other.host), self.other.hung_up)

    def hung_up(self) -> None:
        """The other side has closed the connection."""
        self._when_started(lambda: self.close(PeerGoneError("the peer closed the connection")))

    def healed(self) -> None:
        """The other side may be reachable again."""
        if self._closed is not None or not self._reachable:
            return
        if self.other._closed is not None:
            self._at_other(self._internet.delay_s(self.host, self.other.host), self.hung_up)
        held_up, self._held_up, self._queued_bytes = self._held_up, [], 0
        for send in held_up:
            send()

    def _tell_closed(self) -> None:
        handler, self._handler = self._handler, None
        if handler is not None and self._closed is not None:
            self._loop.call_soon(handler.closed, self._closed, context=self.process.context)

    @property
    def _loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    @property
    def _reachable(self) -> bool:
        return self._internet.connected(self.host, self.other.host)

    # --- sending -------------------------------------------------------------------------------------------------

    def send(self, message: bytes) -> None:
        if self._closed is not None:
            return
        assert 0 < len(message) <= CONTROL_BYTES_MAX
        self._sequence += 1
        sequence = self._sequence
        self.bytes_sent += len(message)
        self._internet.log.add(
            self._internet.now, "message", self.host.number, self.other.host.number, len(message), zlib.crc32(message)
        )
        if self.host.mute:
            return
        if self._internet.watch is not None:
            self._internet.watch.message(self, message)

        def go() -> None:
            delay_s = self._internet.delay_s(self.host, self.other.host)
            if len(message) > _LONG_MESSAGE_BYTES:
                delay_s += self.host.upload.duration_s(len(message)) + self.other.host.download.duration_s(len(message))
            self._at_other(delay_s, self.other.arrived, sequence, message)

        if self._reachable:
            go()
            return
        self._queued_bytes += len(message)
        self._held_up.append(go)
        if self._queued_bytes > SEND_QUEUE_BYTES_MAX:
            self.close(ProtocolError("the peer does not read what it is sent"))

    async def send_run(self, answers: Sequence[tuple[int, BulkSource]]) -> list[bool]:
        try:
            await self._turn.acquire()
        except asyncio.CancelledError:
            for _, source in answers:
                source.release()
            raise
        try:
            return [await self._send_one(request_id, source) for request_id, source in answers]
        except BaseException as error:
            self.close(PeerGoneError(f"an answer was cut off: {error or 'cancelled'}"))
            raise
        finally:
            for _, source in answers:
                source.release()
            self._turn.release()

    async def _send_one(self, request_id: int, source: BulkSource) -> bool:
        if self._closed is not None:
            raise PeerGoneError("the connection closed")
        if not source.open():
            return False
        await self._send_bulk(request_id, source)
        return True

    async def _send_bulk(self, request_id: int, source: BulkSource) -> None:
        assert self._leaving is None
        length, data, now = source.length, content_of(source), self._internet.now
        if self.host.stalls:
            await self._leave(math.inf)
        if self.host.mute:
            await self._leave(now + BULK_GRACE_S + length / BULK_BYTES_PER_S_MIN)
            raise PeerGoneError("nothing leaves this host")
        if self.other.host.deaf:
            await self._leave(now + BULK_GRACE_S + length / BULK_BYTES_PER_S_MIN)
            raise PeerGoneError("an answer left too slowly")
        if self._internet.watch is not None:
            self._internet.watch.answer(self, request_id, data)
        begins_at, ends_at = self.host.upload.reserve(length, now)
        told = ends_at - begins_at > _PROGRESS_S or begins_at > now
        if told:
            self._announce(request_id, length, now, begins_at, ends_at)
        patience_s = BULK_GRACE_S + length / BULK_BYTES_PER_S_MIN
        await self._leave(min(ends_at, now + patience_s))
        if ends_at > now + patience_s:
            raise PeerGoneError("an answer left too slowly")
        self.bytes_sent += length
        self._sequence += 1
        sequence = self._sequence
        other = self.other
        other._answers_due.append(sequence)

        def go() -> None:
            # The other side's line takes the answer while it comes in: it begins with the first byte at the earliest,
            # and where it is the faster one, so late that it ends with the last.
            now, delay_s = self._internet.now, self._internet.delay_s(self.host, other.host)
            line_from = now + delay_s - min(ends_at - begins_at, other.host.download.duration_s(length))
            self._at_other(max(0.0, line_from - now), other.answer_arrives, request_id, length, data, told, line_from)

        if self._reachable:
            go()
        else:
            self._held_up.append(go)

    async def _leave(self, until: float) -> None:
        """Until the line has taken all of it, or the connection ends."""
        self._leaving = self._loop.create_future()
        timer: asyncio.TimerHandle | None = None
        if until < math.inf:
            timer = self._loop.call_at(until, _resolve, self._leaving, context=self._internet.context)
        try:
            await self._leaving
        finally:
            if timer is not None:
                timer.cancel()
            self._leaving = None

    def _announce(self, request_id: int, length: int, now: float, begins_at: float, ends_at: float) -> None:
        """A slow answer: the receiver hears of it when it begins, and sees bytes come in.

        Answers that leave at once share the line in truth, so that the first bytes of each come soon.
        """
        latency_s = self._internet.latency_s(self.host, self.other.host)
        pieces = int((ends_at - begins_at) / _PROGRESS_S)
        loop, other, context = self._loop, self.other, self._internet.context
        loop.call_at(now + latency_s, other.answer_begins, request_id, length, context=context)
        for piece in range(1, pieces + 1):
            at = begins_at + (ends_at - begins_at) * piece / (pieces + 1)
            loop.call_at(at + latency_s, other.came_in, self, length // (pieces + 1), context=context)

    def _at_other(self, delay_s: float, event: Callable[..., None], *args: Any) -> None:
        """In order: nothing arrives before what was sent before it."""
        self._arrives_at = max(self._arrives_at, self._internet.now + delay_s)
        self._loop.call_at(self._arrives_at, event, *args, context=self._internet.context)

    # --- receiving -----------------------------------------------------------------------------------------------

    def arrived(self, sequence: int, message: bytes) -> None:
        if self._answers_due and sequence > self._answers_due[0]:
            self._after_answers.append((sequence, message))
        else:
            self._receive(message)

    def _receive(self, message: bytes) -> None:
        self.bytes_received += len(message)

        def tell() -> None:
            if self._handler is not None:
                self._handler.message_received(message)

        self._when_started(tell)

    def came_in(self, sender: SimChannel, count: int) -> None:
        if self._closed is None and sender._closed is None:
            self.bytes_received += count

    def answer_begins(self, request_id: int, length: int) -> None:
        self._when_started(lambda: self._begin(request_id, length))

    def _begin(self, request_id: int, length: int) -> None:
        assert self._handler is not None
        self._sinks[request_id] = self._handler.bulk_begins(request_id, length)

    def answer_arrives(self, request_id: int, length: int, data: memoryview, told: bool, line_from: float) -> None:
        """It has left the other side. Our line has been taking it since `line_from`, if it was free."""
        if not told:
            self.answer_begins(request_id, length)
        ends_at = max(self._internet.now, self.host.download.reserve(length, line_from)[1])
        self._loop.call_at(ends_at, self._answer_complete, request_id, length, data, context=self._internet.context)

    def _answer_complete(self, request_id: int, length: int, data: memoryview) -> None:
        self._answers_due.popleft()
        self.bytes_received += length
        self._internet.log.add(
            self._internet.now, "answer", self.host.number, self.other.host.number, length, zlib.crc32(data)
        )
        self._when_started(lambda: self._finish(request_id, data))
        while self._after_answers and not (self._answers_due and self._after_answers[0][0] > self._answers_due[0]):
            self._receive(self._after_answers.popleft()[1])

    def _finish(self, request_id: int, data: memoryview) -> None:
        sink = self._sinks.pop(request_id, None)
        if sink is None or self._handler is None:
            return
        error: P2PModelError | None = None
        try:
            sink.consume(data)
        except P2PModelError as fault:
            error = fault
        self._handler.bulk_finished(request_id, error)

    def _when_started(self, event: Callable[[], object]) -> None:
        """Let the owner know, in its own process; what is wrong with what the peer sent ends this channel."""
        if self._closed is not None:
            return

        def guarded() -> None:
            if self._closed is not None:
                return
            try:
                event()
            except P2PModelError as error:
                self.close(error)

        if self._handler is None:
            self._early.append(guarded)
        else:
            self.process.context.run(guarded)


def content_of(source: BulkSource) -> memoryview:
    """The bytes of an answer; of condensed content (see `condensed.py`) the few that stand for them."""
    found = source.found if isinstance(source, SoughtChunk) else source
    condensed: bytes | None = getattr(found, "condensed", None)
    if condensed is not None:
        return memoryview(condensed)
    buffer = bytearray(source.length)
    source.read_into(memoryview(buffer), 0)
    return memoryview(buffer)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
