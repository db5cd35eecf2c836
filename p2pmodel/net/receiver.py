"""The receiving half of a channel: bytes from the socket into records, answers into buffers that are lent.

The loop reads what is small. Once an answer is coming in, a thread takes the socket over and reads until nothing has
come for `_LINGER_MS`: receiving, opening records, hashing and writing all let go of the interpreter's lock, and no byte
waits for the loop. Where all threads are busy the loop goes on reading, a little at a time; so it does where an answer
comes slowly, because a thread that waits for a peer that drips is one less for the others.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol
from weakref import proxy

from p2pmodel.errors import P2PModelError, PeerGoneError
from p2pmodel.limits import BULK_BLANK_BYTES, BULK_STRANGERS_PART
from p2pmodel.net.buffers import Shared, patience_s
from p2pmodel.net.inbound import Bulk, Inbound
from p2pmodel.net.records import DirectionKeys
from p2pmodel.net.seam import BulkSink
from p2pmodel.net.tempo import FAST_BYTES, Gulp, Tempo
from p2pmodel.net.threads import Mailbox, SharedSocket, Work

SCRATCH_BYTES = 16 * 1024
_READS_PER_WAKE = 16
"""Reads of one socket before the loop looks at the others."""
_LINGER_MS = 20
_AHEAD_BYTES = 256
"""What a thread reads past the end of a record: the next header, or a message, not a part of the next body."""
_BACKLOG_BYTES = 256 * 1024
"""Messages that have been read and not yet told to the owner; beyond it the rest stays in the socket."""
_TELL_S = 0.002
"""For so long one connection's messages are dealt with before others have a turn: the dearest take half a ms each."""
_MESSAGE_COST_BYTES = 256
"""What a message takes besides its bytes while it waits."""
_WORTH_WAITING_BYTES = 64 * 1024
_WINDOW_OPEN_BYTES = 32 * 1024 * 1024
"""Three times what is under way at 1 Gbit/s and 80 ms."""
_SLOW_WAKE_BYTES = 4 * 1024
"""Of a record that comes slowly, before the loop is woken: a byte at a time would cost it a turn each."""
_ROOM_AGAIN_S = 0.1
_CPUS = os.cpu_count() or 1
_NOTHING = memoryview(bytearray())


class ReceiverOwner(Protocol):
    """The channel. All but `sink_of` is called on the loop."""

    def message_in(self, message: bytes) -> None: ...

    def sink_of(self, request_id: int, length: int) -> BulkSink:
        """From any thread. Raises `PeerFault`."""

    def answer_in(self, request_id: int, error: P2PModelError | None) -> None: ...

    def broken(self, error: Exception) -> None:
        """Nothing more can be read: the connection's end, the peer's fault, or a bug of ours."""

    def receiver_idle(self) -> None:
        """No thread reads or verifies any more what came in here; called after `end` as well."""


class _Waking:
    """Waits for a socket, and not to be woken for a part of what is worth reading.

    Without it a record comes in pieces of some 25 KiB, and each costs two turns of the interpreter's lock.
    """

    def __init__(self, sock: socket.socket, mail: Mailbox) -> None:
        self._sock = sock
        self._mail = mail
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._low = 1
        self._gulp = Gulp()

    def wait(self, wanted: int, received: int) -> bool:
        """Until `wanted` bytes or a gulp, or nearly, are there, or the connection has ended; False after `_LINGER_MS`.

        0: until there are any. So it is on a connection that has `received` little: its window opens as bytes are read,
        and a sender that finds it shut in slow start loses round trips (measured: 2.3 for the first MiB, at 80 ms).
        """
        if wanted < _WORTH_WAITING_BYTES or received < _WINDOW_OPEN_BYTES:
            if self._low != 1:
                self._set(1)
        else:
            low = min(wanted, self._gulp.bytes)
            if not low // 2 <= self._low <= low:
                self._set(low - _AHEAD_BYTES)
            began = time.monotonic()
            come = self._mail.delivered_while(self._poll, _LINGER_MS)
            self._gulp.waited(time.monotonic() - began)
            return come
        return self._mail.delivered_while(self._poll, _LINGER_MS)

    def reset(self) -> None:
        self.expect(1)

    def expect(self, low: int) -> None:
        """From now on the socket is readable when so many bytes are there, or it has ended."""
        if self._low != low:
            self._set(low)

    def _set(self, low: int) -> None:
        try:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, low)
            self._low = low
        except OSError:
            self._low = 1  # a closed socket, or a system without it: woken more often


class Receiver:
    """At any time either the loop reads or one thread does; `_inbound` belongs to that one."""

    def __init__(
        self,
        sock: SharedSocket,
        shared: Shared,
        keys: DirectionKeys | None,
        owner: ReceiverOwner,
        *,
        known: bool = False,
    ) -> None:
        """`known`: the peer has brought whole answers already, over another connection."""
        self.bytes_received = 0
        self._known = known
        self._sock = sock
        self._shared = shared
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._inbound = Inbound(keys, proxy(self))
        self._waking = _Waking(sock.sock, shared.mail)
        self._tempo = Tempo()
        self._watching = self._threaded = self._ended = self._broken = False
        self._unlent: Work | None = None
        """What to do once more when a buffer comes back: there was none for an answer that is announced, or coming."""
        self._counts_at = 0
        """When so much has been received, the buffer of the answer that is coming in has to be counted; 0: it is."""
        self._deadline_s = 0.0
        """When the answer that is coming in has to be whole, in monotonic seconds."""
        self._timer: asyncio.TimerHandle | None = None
        self._untold: deque[bytes] = deque()
        """Messages that whoever reads has put here for the loop."""
        self._telling = False
        self._error: Exception | None = None
        """What the channel ends with once the messages before it are told."""
        self._posted_bytes = self._told_bytes = 0
        """Of messages: the first is written by whoever reads, the second by the loop."""
        self._wants_room = False
        self._done: deque[tuple[int, P2PModelError | None]] = deque()
        """Answers that the owner has not been told of."""
        self._settling = False
        self._complete = self._settled = 0
        """Answers that came in whole, and of those the ones that the owner has been told of."""

    @property
    def idle(self) -> bool:
        return not self._threaded and self._complete == self._settled

    @property
    def known(self) -> bool:
        """Whether the peer has brought a whole answer: one that has not is lent as little as may be."""
        return self._known or self._complete > 0

    @property
    def _backlogged(self) -> bool:
        return self._posted_bytes - self._told_bytes >= _BACKLOG_BYTES

    @property
    def waits_for_a_buffer(self) -> bool:
        return self._unlent is not None

    def start(self, surplus: bytes) -> None:
        """`surplus` came in with the end of the handshake."""
        self._guard(lambda: self._inbound.feed(surplus))
        self._arrange()

    def end(self) -> None:
        self._ended = True
        if not self._threaded:
            self._let_go()

    # --- on the loop ----------------------------------------------------------------------------------------------

    def _arrange(self) -> None:
        """Decide who reads next, unless a thread does already: two would tear the stream apart."""
        if self._threaded:
            return
        if self._ended or self._broken or self._unlent is not None or self._backlogged:
            self._watch(False)
            return
        bulk = self._inbound.bulk is not None
        if bulk and self._tempo.fast and self._hand_over():
            self._watch(False)
            self._set_timer(None)
            return
        slow = bulk and not self._tempo.fast
        # Before the record is whole nothing can be done with it.
        self._waking.expect(max(1, min(len(self._inbound.target), _SLOW_WAKE_BYTES)) if slow else 1)
        self._watch(True)
        self._set_timer(self._deadline_s if bulk else None)

    def _hand_over(self) -> bool:
        self._waking.reset()
        self._sock.borrow()
        self._threaded = True
        try:
            if self._shared.receiving.try_run(self._burst):
                return True
        except RuntimeError:
            pass  # this peer is stopping; the loop reads what it still can
        self._threaded = False
        self._sock.give_back()
        return False

    def _returned(self) -> None:
        """The thread has let go of the socket."""
        self._threaded = False
        self._sock.give_back()
        if self._ended:
            self._let_go()
        else:
            self._lend_again()
            self._arrange()
        self._owner.receiver_idle()

    def _watch(self, on: bool) -> None:
        if on and not self._watching:
            self._loop.add_reader(self._sock.sock, self._on_readable)
        elif self._watching and not on:
            self._loop.remove_reader(self._sock.sock)
        self._watching = on

    def _on_readable(self) -> None:
        scratch, receiving = memoryview(self._shared.scratch), self._shared.receiving

        def read() -> None:
            for _ in range(_READS_PER_WAKE):
                if self._ended or self._unlent is not None or self._backlogged:
                    return
                target = self._inbound.target
                count = self._read(target, scratch)
                if not count or count < len(target):
                    return
                fast = self._tempo.look(time.monotonic(), self.bytes_received)
                if fast and self._inbound.bulk is not None and receiving.load < receiving.count:
                    return

        self._guard(read)
        self._arrange()

    def _set_timer(self, at: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if at is not None:
            self._timer = self._loop.call_later(at - time.monotonic(), self._guard, self._too_slow)

    def _let_go(self) -> None:
        self._watch(False)
        self._set_timer(None)
        self._unlent = None
        bulk, self._inbound.bulk = self._inbound.bulk, None
        if bulk is not None:
            self._shared.holders.let_go(self)
            self._release(bulk)

    def _lend_again(self) -> None:
        """Buffers came back, maybe enough for the answer that waits here."""
        if self._threaded or self._ended or self._unlent is None:
            return
        again, self._unlent = self._unlent, None
        self._guard(again)
        self._arrange()

    def _make_room(self) -> None:
        """An answer waits here for a buffer: the slowest of those who hold one gives it up, where that is too slow."""
        self._wants_room = self._unlent is not None and not self._ended
        if not self._wants_room:
            return
        holders = self._shared.holders
        received = {holder: holder.bytes_received for holder in holders.holders}
        slowest = holders.slowest(time.monotonic(), received)
        if slowest is not None:
            slowest._give_way()
        self._loop.call_later(_ROOM_AGAIN_S, self._make_room)

    def _give_way(self) -> None:
        self._shared.holders.let_go(self)
        self._owner.broken(PeerGoneError("an answer came too slowly, and others waited for its buffer"))

    def _want_room(self) -> None:
        if not self._wants_room:
            self._make_room()

    def _tell(self) -> None:
        """Messages that are here, for a moment; the rest in the next turn, so that no flood keeps others waiting."""
        self._telling = False  # before the first look, as in `Mailbox`
        until, paused = time.monotonic() + _TELL_S, self._backlogged
        while self._untold:
            message = self._untold.popleft()
            self._told_bytes += len(message) + _MESSAGE_COST_BYTES
            self._owner.message_in(message)
            if time.monotonic() >= until:
                break
        if self._untold:
            self._tell_soon()
        elif self._error is not None:
            error, self._error = self._error, None
            self._owner.broken(error)
        if paused and not self._threaded and not self._backlogged:
            self._arrange()

    def _settle(self) -> None:
        self._settling = False  # before the first look, as in `Mailbox`
        try:
            while self._done:
                request_id, error = self._done.popleft()
                self._settled += 1
                self._owner.answer_in(request_id, error)
        finally:
            if self._done:  # a bug of ours in what one of them is for
                self._settle_with(self._shared.mail.post)
            self._owner.receiver_idle()

    # --- in whichever thread reads -----------------------------------------------------------------------------------

    def _guard(self, work: Work) -> None:
        """Whatever is wrong with what the peer sent ends this channel and nothing else."""
        try:
            work()
        except Exception as error:  # noqa: BLE001  (the owner tells faults of the peer from bugs of ours)
            self._broken, self._error = True, error
            self._tell_soon()

    def _tell_soon(self) -> None:
        if not self._telling:
            self._telling = True
            self._shared.mail.post(self._tell)

    def _burst(self) -> None:
        self._guard(self._read_on)
        self._shared.mail.post(self._returned)

    def _read_on(self) -> None:
        scratch, inbound, count = memoryview(bytearray(_AHEAD_BYTES)), self._inbound, 0
        try:
            while not (self._ended or self._unlent is not None or self._backlogged):
                target = inbound.target
                if not self._waking.wait(len(target), self.bytes_received):
                    self._tempo.pause()
                    return
                if count < FAST_BYTES:  # else what it waits for by now came fast
                    now = time.monotonic()
                    if inbound.bulk is not None and now > self._deadline_s:
                        self._too_slow()
                    if not self._tempo.look(now, self.bytes_received):
                        return
                count = self._read(target, scratch)
        finally:
            self._waking.reset()

    def _read(self, target: memoryview, scratch: memoryview) -> int:
        """Take what is there for `target` and a little more; returns how much. Raises `P2PModelError`."""
        sock = self._sock.sock
        if self._counts_at and target:
            # Much may be there by now: no more is written than may be before the buffer counts.
            target, scratch = target[: self._counts_at - self.bytes_received], _NOTHING
        try:
            count: int = sock.recvmsg_into([target, scratch])[0] if target else sock.recv_into(scratch)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise PeerGoneError(f"the connection broke: {error.strerror}") from error
        if not count:
            raise PeerGoneError("the peer closed the connection")
        self.bytes_received += count
        beyond = count - len(target)
        if beyond <= 0:
            self._inbound.wrote(count)
        else:
            self._inbound.wrote(len(target), scratch[:beyond])
        if self._counts_at and self.bytes_received >= self._counts_at:
            self._count()
        return count

    def _too_slow(self) -> None:
        # The buffers that answers stand in are shared: one that drips would keep everybody else from getting any.
        raise PeerGoneError("an answer came too slowly")

    # --- inbound.InboundOwner -----------------------------------------------------------------------------------------

    def message_in(self, message: bytes) -> None:
        self._posted_bytes += len(message) + _MESSAGE_COST_BYTES
        self._untold.append(message)
        self._tell_soon()

    def bulk_begins(self, request_id: int, length: int) -> None:
        self._lend(request_id, length, self._owner.sink_of(request_id, length))

    def _lend(self, request_id: int, length: int, sink: BulkSink) -> None:
        buffers, known = self._shared.receive_buffers, self.known
        buffer = buffers.lease(length) if known else buffers.blank(length)
        if buffer is None:
            self._want_buffer(lambda: self._lend(request_id, length, sink))
            return
        now = time.monotonic()
        self._deadline_s = now + patience_s(length)
        self._tempo.begin(now, self.bytes_received, known=known)
        if known:
            self._shared.holders.take(self, now, self.bytes_received)
        else:
            self._counts_at = self.bytes_received + BULK_BLANK_BYTES
        self._inbound.lend(Bulk(request_id, length, sink, buffer, lent=known))

    def _count(self) -> None:
        """So much has come of a stranger's answer that its buffer counts, or nothing more is read of it for now."""
        bulk = self._inbound.bulk
        if bulk is None:
            return
        if not self._shared.receive_buffers.count(bulk.buffer, BULK_STRANGERS_PART):
            self._want_buffer(self._count)
            return
        bulk.lent, self._counts_at = True, 0
        self._shared.holders.take(self, time.monotonic(), self.bytes_received)

    def _want_buffer(self, again: Work) -> None:
        self._unlent = again
        self._shared.receive_buffers.when_free(lambda: self._shared.mail.post(self._lend_again))
        self._shared.mail.post(self._want_room)

    def _release(self, bulk: Bulk) -> None:
        if bulk.lent:
            self._shared.receive_buffers.release(bulk.buffer)

    def bulk_complete(self, bulk: Bulk) -> None:
        self._shared.holders.let_go(self)
        self._counts_at = 0
        self._complete += 1
        consuming = self._shared.consuming
        if self._threaded and self._shared.receiving.load + consuming.load >= _CPUS:
            # Every CPU has enough to do. Bytes that wait for another thread grow cold, and two threads that write to
            # one file wait for each other, spinning.
            self._consume(bulk, self._shared.mail.post_soon)
            return
        try:
            consuming.run(lambda: self._consume(bulk, self._shared.mail.post))
        except RuntimeError as error:
            self._complete -= 1
            self._release(bulk)
            raise PeerGoneError("this peer is stopping") from error

    def _consume(self, bulk: Bulk, post: Callable[..., None]) -> None:
        error: P2PModelError | None = None
        try:
            bulk.sink.consume(memoryview(bulk.buffer)[: bulk.length])
        except P2PModelError as fault:
            error = fault
        except Exception as unexpected:  # noqa: BLE001
            # A bug of ours. Whoever asked must hear of it, or would wait for ever.
            error = P2PModelError(f"a chunk could not be kept: {unexpected!r}")
            error.__cause__ = unexpected
        finally:
            self._release(bulk)
        self._done.append((bulk.request_id, error))
        self._settle_with(post)

    def _settle_with(self, post: Callable[..., None]) -> None:
        if not self._settling:
            self._settling = True
            post(self._settle)
