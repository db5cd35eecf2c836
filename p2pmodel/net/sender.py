"""The sending half of a channel: records leave through a non-blocking socket in the order in which they were sealed.

The loop sends messages while nothing else goes on. An answer leaves in a thread, which finds, reads, seals and sends
it in one go, with messages between its records; where the socket takes nothing for `_LINGER_MS` the thread goes on to
others, and comes back when the loop sees room. A thread that uses the socket, a source or a buffer lets go of it.
"""

from __future__ import annotations

import asyncio
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from p2pmodel.errors import P2PModelError, PeerGoneError, ProtocolError
from p2pmodel.limits import (
    CONTROL_BYTES_MAX,
    RECORD_BYTES,
    RECORD_BYTES_SLOW,
    RECORD_MARGIN_BYTES,
    SEND_QUEUE_BYTES_MAX,
    SEND_QUEUES_BYTES_MAX,
)
from p2pmodel.net.buffers import Shared, patience_s
from p2pmodel.net.outbox import (
    SEND_BUFFER_BYTES,
    WIRE_RECORD_BYTES,
    Outbox,
    plain_wire_bytes,
    send_file_records,
)
from p2pmodel.net.records import BULK_BEGIN, TAG_BYTES, DirectionKeys, Kind
from p2pmodel.net.seam import BulkSource
from p2pmodel.net.threads import SharedSocket

_LINGER_MS = 20
RUNS_AHEAD = 2
"""One leaves while the next is here: the thread must not run dry before the loop hears what has left."""
_RUN_S = 0.01
"""Answers that leave within this time are given, waited for and settled together."""
_WHOLE_S = 0.05
"""An answer that leaves within this time is sealed in records as long as can be."""
_RUN_ANSWERS_MAX = 4
_FLUSH_BYTES = 64 * 1024
"""Messages of one turn of the loop leave together, unless there are more than this."""


@dataclass(slots=True, eq=False)
class _Run:
    """Answers that were given together: one outcome for all of them."""

    outcome: asyncio.Future[list[bool]]
    lengths: list[int]
    sent: list[bool] = field(default_factory=list)
    """What became of those that are done; grows in the thread that sends."""
    seen: int = 0
    """How many of them were done when the loop last looked."""
    settled: bool = False
    waiting: list[asyncio.Future[None]] = field(default_factory=list)

    @property
    def patience_s(self) -> float:
        """For the answer that is leaving."""
        return patience_s(self.lengths[min(self.seen, len(self.lengths) - 1)])


@dataclass(slots=True, eq=False)
class _Answer:
    run: _Run
    request_id: int
    source: BulkSource
    placed: tuple[int, int] | None = None
    room: memoryview | None = None
    """See `BulkSource.room`."""
    covered: bytes = b""
    """What stood where the tag of the last record is now."""
    begun: bool = False
    at: int = 0
    """How far it has got, of `end`: bytes of the source, or of the wire form where a file is sent as it is."""
    end: int = 0

    @property
    def between_records(self) -> bool:
        return self.placed is None or self.at % WIRE_RECORD_BYTES == 0


class Sender:
    """The writing side of a socket. `_outbox` and `_current` belong to the loop, or to a thread while `_threaded`."""

    def __init__(
        self,
        sock: SharedSocket,
        shared: Shared,
        keys: DirectionKeys | None,
        close: Callable[[P2PModelError], None],
    ) -> None:
        self.bytes_sent = 0
        self._sock = sock
        self._shared = shared
        self._close = close
        self._loop = asyncio.get_running_loop()
        self._outbox = Outbox(keys)
        self._current: _Answer | None = None
        self._record: bytearray | None = None
        self._lock = threading.Lock()
        """Guards what follows, up to the blank line."""
        self._messages: deque[bytes] = deque()
        self._answers: deque[_Answer] = deque()
        self._threaded = self._parked = self._ended = False
        """`_threaded`: sending is a thread's; `_parked`: none runs now, one will when there is room."""
        self._left_bytes = 0
        """Of messages that a thread has sent and the loop has not taken note of."""

        self._answer_s = self._left_s = 0.0
        """How long an answer takes to leave, of late, and when the last one had left."""
        self._buffered = True
        """False while it is a buffer, not room in the socket, that a parked answer waits for."""
        self._message_bytes = 0
        self._flushing = self._writing = False
        self._due: deque[_Run] = deque()
        """On the loop: runs that have not been settled yet, in order."""
        self._due_at = 0.0
        """When the first of those has to have left, in the loop's time."""
        self._deadline: asyncio.TimerHandle | None = None

    # --- on the loop --------------------------------------------------------------------------------------------------

    @property
    def answers_due(self) -> int:
        """Answers that have not left yet."""
        return sum([len(run.lengths) - len(run.sent) for run in self._due])

    @property
    def run_answers(self) -> int:
        """See `seam.Channel`. A slow peer gets one at a time: what is given cannot be called off any more."""
        return min(max(int(_RUN_S / self._answer_s), 1), _RUN_ANSWERS_MAX) if self._answer_s else 1

    @property
    def message_bytes(self) -> int:
        """Of messages that have not left yet."""
        return self._message_bytes

    def send(self, message: bytes) -> None:
        if self._ended:
            return
        assert 0 < len(message) <= CONTROL_BYTES_MAX
        with self._lock:
            self._messages.append(message)
            threaded = self._threaded
            left, self._left_bytes = self._left_bytes, 0
        self._count(len(message) - left)
        if not threaded and self._message_bytes > _FLUSH_BYTES:
            self._flush()
        elif not threaded and not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)
        crowded = self._shared.queued_bytes > SEND_QUEUES_BYTES_MAX and self._message_bytes > CONTROL_BYTES_MAX
        if crowded or self._message_bytes > SEND_QUEUE_BYTES_MAX:
            self._close(ProtocolError("the peer does not read what it is sent"))

    def _count(self, more: int) -> None:
        self._message_bytes += more
        self._shared.queued_bytes += more

    def _flush(self) -> None:
        self._flushing = False
        if self._ended or self._threaded:
            return
        try:
            self._seal_messages()
            self.bytes_sent += self._outbox.push(self._sock.sock)
        except P2PModelError as error:
            self._close(error)
            return
        with self._lock:
            left, self._left_bytes = self._left_bytes, 0
        self._count(-left - self._outbox.message_bytes_left)
        self._outbox.message_bytes_left = 0
        self._watch(self._outbox.pending)

    def _try_again(self) -> None:
        """A buffer came back."""
        if self._parked and not self._ended and not self._buffered:
            self._run()

    def _watch(self, on: bool) -> None:
        if on and not self._writing:
            self._loop.add_writer(self._sock.sock, self._on_writable)
        elif self._writing and not on:
            self._loop.remove_writer(self._sock.sock)
        self._writing = on

    def _on_writable(self) -> None:
        if self._threaded:
            self._run()
        else:
            self._flush()

    async def send_run(self, answers: Sequence[tuple[int, BulkSource]]) -> list[bool]:
        if self._ended:
            for _, source in answers:
                source.release()
            raise PeerGoneError("the connection closed")
        run = _Run(self._loop.create_future(), [source.length for _, source in answers])
        given = [_Answer(run, request_id, source) for request_id, source in answers]
        with self._lock:
            self._answers.extend(given)
            idle, self._threaded = not self._threaded, True
        self._due.append(run)
        if len(self._due) == 1:
            self._set_deadline()
        if idle:
            self._run()
        try:
            return await run.outcome
        except asyncio.CancelledError:
            await self._take_back(given, run)
            raise

    async def _take_back(self, answers: Sequence[_Answer], run: _Run) -> None:
        """Not to be sent after all. Half an answer cannot be taken back, and ends the channel."""
        with self._lock:
            waits = answers[0] in self._answers  # the first of them leaves first
            for answer in answers if waits else ():
                self._answers.remove(answer)
        if waits:
            for answer in answers:
                answer.source.release()
            self._settle(run, None)
        elif not run.settled:
            self._close(PeerGoneError("sending was cancelled in the middle of an answer"))
        while not run.settled:
            # A thread goes on with the source: nothing is given back before it is done, however often we are hurried.
            gone: asyncio.Future[None] = self._loop.create_future()
            run.waiting.append(gone)
            try:
                await gone
            except asyncio.CancelledError:
                continue

    def _run(self) -> None:
        """Let a thread send; `_threaded` is set."""
        self._parked = False
        self._watch(False)
        self._sock.borrow()
        try:
            self._shared.sending.run(self._burst)
        except RuntimeError:
            self._sock.give_back()
            self._parked = True
            self._close(PeerGoneError("this peer is stopping"))

    def _returned(self) -> None:
        """A thread has let go. Where it is not done it waits for room in the socket, or for a buffer."""
        self._sock.give_back()
        with self._lock:
            parked = self._parked
        if parked and self._ended:
            self._fail_all(PeerGoneError("the connection closed"))
        elif parked and self._buffered:
            self._watch(True)

    def end(self) -> None:
        """Stop sending. What was to be sent is let go of here, or by the thread that is about it."""
        with self._lock:
            self._ended = True
            ours = self._parked or not self._threaded
        self._count(-self._message_bytes)
        self._watch(False)
        if self._deadline is not None:
            self._deadline.cancel()
        if ours:
            self._fail_all(PeerGoneError("the connection closed"))

    def _set_deadline(self) -> None:
        """For the answer that comes first now; a timer that rings earlier is left alone, each answer would cost one."""
        if not self._due or self._ended:
            return
        self._due[0].seen = len(self._due[0].sent)
        self._due_at = self._loop.time() + self._due[0].patience_s
        if self._deadline is None or self._deadline.when() > self._due_at:
            if self._deadline is not None:
                self._deadline.cancel()
            self._deadline = self._loop.call_at(self._due_at, self._too_slow)

    def _too_slow(self) -> None:
        self._deadline = None
        if not self._due:
            return
        if self._loop.time() < self._due_at:
            self._deadline = self._loop.call_at(self._due_at, self._too_slow)
            return
        if len(self._due[0].sent) > self._due[0].seen:
            self._set_deadline()  # for the next of the same run
            return
        # The buffers that answers stand in are shared: one that drips would keep everybody else from getting any.
        self._close(PeerGoneError("an answer left too slowly"))

    def _settle(self, run: _Run, error: BaseException | None) -> None:
        """All answers of a run are done, or will not be."""
        run.settled = True
        head = self._due[0] is run
        self._due.remove(run)
        if head:
            self._set_deadline()
        if not run.outcome.done():
            if error is not None:
                run.outcome.set_exception(error)
            elif len(run.sent) == len(run.lengths):
                run.outcome.set_result(run.sent)
        for gone in run.waiting:
            if not gone.done():
                gone.set_result(None)
        if error is not None:
            self._close(PeerGoneError(f"an answer was cut off: {error}"))

    # --- in a thread --------------------------------------------------------------------------------------------------

    def _burst(self) -> None:
        try:
            self._work()
        except Exception as error:  # noqa: BLE001  (told to whoever waits for the answer)
            with self._lock:
                self._parked = True
            # A socket that was closed here breaks under whoever is about to send: that is not what ended it.
            self._fail_all(PeerGoneError("the connection closed") if self._ended else error)
            if isinstance(error, P2PModelError):
                self._shared.mail.post(self._close, error)
        self._shared.mail.post(self._returned)

    def _work(self) -> None:
        """Send until nothing is left, or nothing more can be sent for now."""
        poll = select.poll()
        poll.register(self._sock.sock, select.POLLOUT)
        self._buffered = True
        while self._push(poll):
            answer = self._current
            if answer is not None and answer.begun and answer.at == answer.end:
                self._finish(answer, sent=True)
            if not self._next():
                return
            if self._current is None or self._current.between_records:
                self._seal_messages()
            if self._current is not None and not self._go_on(self._current, poll):
                break
        with self._lock:
            self._parked = True

    def _next(self) -> bool:
        """Whether there is something to send; otherwise sending is the loop's again."""
        with self._lock:
            if self._ended:
                raise PeerGoneError("the connection closed")
            self._left_bytes += self._outbox.message_bytes_left
            self._outbox.message_bytes_left = 0
            if self._current is None and self._answers:
                self._current = self._answers.popleft()
            if self._current is None and not self._messages:
                self._give_buffer_back()
                self._threaded = False
                return False
            return True

    def _push(self, poll: select.poll) -> bool:
        """Whether all that was sealed has left."""
        answer = self._current
        # An announcement leaves with the beginning of what it announces, also where a file is sent as it is.
        more = answer is not None and answer.placed is not None and answer.begun and not answer.at
        while self._outbox.pending:
            self.bytes_sent += self._outbox.push(self._sock.sock, more=more)
            if self._outbox.pending and (self._ended or not self._room(poll)):
                return False
        return True

    def _room(self, poll: select.poll) -> bool:
        """Whether the socket takes more, within `_LINGER_MS`."""
        return self._shared.mail.delivered_while(poll, _LINGER_MS)

    def _seal_messages(self) -> None:
        while self._messages:
            message = self._messages.popleft()
            self._outbox.add(Kind.MESSAGE, message, counted=len(message))

    def _go_on(self, answer: _Answer, poll: select.poll) -> bool:
        """More of an answer. False where the socket takes no more, or there is no buffer."""
        if not answer.begun:
            if not answer.source.open():
                self._finish(answer, sent=False)
                return True
            self._begin(answer)
            if answer.placed is not None:
                return True  # the announcement leaves first
        if answer.placed is not None:
            return self._send_file(answer, *answer.placed, poll)
        if answer.room is not None:
            self._seal(answer, answer.room)
        elif self._record is not None or self._lease_record():
            assert self._record is not None
            size = min(RECORD_BYTES_SLOW, answer.end - answer.at)
            piece = memoryview(self._record)
            answer.source.read_into(piece[RECORD_MARGIN_BYTES : RECORD_MARGIN_BYTES + size], answer.at)
            self._outbox.add_data(piece, RECORD_MARGIN_BYTES, size)
            answer.at += size
        else:
            return False
        return True

    def _seal(self, answer: _Answer, room: memoryview) -> None:
        """The next record of an answer in memory, where it lies; what was sealed before has left."""
        whole = 0 < self._answer_s <= _WHOLE_S
        size = min(RECORD_BYTES if whole else RECORD_BYTES_SLOW, answer.end - answer.at)
        start = RECORD_MARGIN_BYTES + answer.at
        if answer.covered:
            room[start : start + TAG_BYTES] = answer.covered
        answer.at += size
        answer.covered = bytes(room[start + size : start + size + TAG_BYTES]) if answer.at < answer.end else b""
        self._outbox.add_data(room, start, size)

    def _begin(self, answer: _Answer) -> None:
        answer.begun, answer.end = True, answer.source.length
        if self._outbox.keys is None and (placed := answer.source.file_range()) is not None:
            answer.placed, answer.end = placed, plain_wire_bytes(answer.source.length)
        else:
            answer.room = answer.source.room()
        self._outbox.add(Kind.BULK_BEGIN, BULK_BEGIN.pack(answer.request_id, answer.source.length))

    def _send_file(self, answer: _Answer, fd: int, start: int, poll: select.poll) -> bool:
        if self._outbox.pending:
            return True  # messages first
        until = min(answer.at - answer.at % WIRE_RECORD_BYTES + WIRE_RECORD_BYTES, answer.end)
        reached = send_file_records(self._sock.sock, fd, start, answer.source.length, answer.at, until)
        self.bytes_sent += reached - answer.at
        answer.at = reached
        return reached == until or self._room(poll)

    def _lease_record(self) -> bool:
        self._record = self._shared.send_buffers.lease(SEND_BUFFER_BYTES)
        self._buffered = self._record is not None
        if not self._buffered:
            self._shared.send_buffers.when_free(lambda: self._shared.mail.post(self._try_again))
        return self._buffered

    def _finish(self, answer: _Answer, *, sent: bool) -> None:
        self._current = None
        answer.room = None
        answer.source.release()
        now = time.monotonic()
        self._answer_s += (min(now - self._left_s, 1.0) - self._answer_s) / 4
        self._left_s = now
        run = answer.run
        run.sent.append(sent)
        if len(run.sent) == len(run.lengths):
            self._shared.mail.post_soon(self._settle, run, None)

    # --- in whichever owns the sending --------------------------------------------------------------------------------

    def _fail_all(self, error: Exception) -> None:
        """Let go of everything: whoever waits for the answer that was leaving hears `error`."""
        with self._lock:
            answers, self._answers = self._answers, deque()
        current, self._current = self._current, None
        self._give_buffer_back()
        failed: dict[_Run, Exception] = {}
        if current is not None:
            current.source.release()
            failed[current.run] = error
        for answer in answers:
            answer.source.release()
            failed.setdefault(answer.run, PeerGoneError("the connection closed"))
        for run, fault in failed.items():
            self._shared.mail.post(self._settle, run, fault)

    def _give_buffer_back(self) -> None:
        if self._record is not None:
            self._shared.send_buffers.release(self._record)
            self._record = None
