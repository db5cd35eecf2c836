"""The receiving half of a channel: bytes from the socket into records, answers into buffers that are lent.

The loop reads what is small. Once an answer is coming in, a thread takes the socket over and reads until nothing has
come for `_LINGER_MS`: receiving, opening records, hashing and writing all let go of the interpreter's lock, and no byte
waits for the loop. Where all threads are busy the loop goes on reading, a little at a time.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
import time
from typing import Protocol

from p2pmodel.errors import P2PModelError, PeerGoneError
from p2pmodel.net.buffers import Shared, patience_s
from p2pmodel.net.inbound import Bulk, Inbound
from p2pmodel.net.records import DirectionKeys
from p2pmodel.net.seam import BulkSink
from p2pmodel.net.threads import SharedSocket, Work

SCRATCH_BYTES = 16 * 1024
_READS_PER_WAKE = 16
"""Reads of one socket before the loop looks at the others."""
_LINGER_MS = 20
_AHEAD_BYTES = 256
"""What a thread reads past the end of a record: the next header, or a message, not a part of the next body."""
_BACKLOG_BYTES = 256 * 1024
"""Messages that have been read and not yet told to the owner; beyond it the rest stays in the socket."""
_MESSAGE_COST_BYTES = 256
"""What a message takes besides its bytes while it waits."""
_WORTH_WAITING_BYTES = 64 * 1024
_WAKE_BYTES = 256 * 1024
_WINDOW_OPEN_BYTES = 32 * 1024 * 1024
"""Three times what is under way at 1 Gbit/s and 80 ms."""
_CPUS = os.cpu_count() or 1


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

    Without it a record of 256 KiB comes in some ten pieces, and each costs two turns of the interpreter's lock.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._low = 1

    def wait(self, wanted: int, received: int) -> bool:
        """Until `wanted` bytes, or nearly, are there, or the connection has ended; False after `_LINGER_MS`.

        0: until there are any. So it is on a connection that has `received` little: its window opens as bytes are read,
        and a sender that finds it shut in slow start loses round trips (measured: 2.3 for the first MiB, at 80 ms).
        """
        low = min(wanted, _WAKE_BYTES)
        if wanted < _WORTH_WAITING_BYTES or received < _WINDOW_OPEN_BYTES:
            self.reset()
        elif not low // 2 <= self._low <= low:
            self._set(low - _AHEAD_BYTES)
        return bool(self._poll.poll(_LINGER_MS))

    def reset(self) -> None:
        if self._low != 1:
            self._set(1)

    def _set(self, low: int) -> None:
        try:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, low)
            self._low = low
        except OSError:
            self._low = 1  # a closed socket, or a system without it: woken more often


class Receiver:
    """At any time either the loop reads or one thread does; `_inbound` belongs to that one."""

    def __init__(self, sock: SharedSocket, shared: Shared, keys: DirectionKeys | None, owner: ReceiverOwner) -> None:
        self.bytes_received = 0
        self._sock = sock
        self._shared = shared
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._inbound = Inbound(keys, self)
        self._watching = self._threaded = self._ended = self._broken = False
        self._unlent: tuple[int, int, BulkSink] | None = None
        """An announced answer for which no buffer was free."""
        self._deadline_s = 0.0
        """When the answer that is coming in has to be whole, in monotonic seconds."""
        self._timer: asyncio.TimerHandle | None = None
        self._posted_bytes = self._told_bytes = 0
        """Of messages: the first is written by whoever reads, the second by the loop."""
        self._complete = self._settled = 0
        """Answers that came in whole, and of those the ones that the owner has been told of."""

    @property
    def idle(self) -> bool:
        return not self._threaded and self._complete == self._settled

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
        """Decide who reads next."""
        if self._ended or self._broken or self._unlent is not None:
            self._watch(False)
            return
        if self._inbound.bulk is not None and self._hand_over():
            self._watch(False)
            self._set_timer(None)
            return
        self._watch(True)
        self._set_timer(self._deadline_s if self._inbound.bulk is not None else None)

    def _hand_over(self) -> bool:
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
        scratch = memoryview(self._shared.scratch)

        def read() -> None:
            for _ in range(_READS_PER_WAKE):
                if self._ended or self._unlent is not None or self._backlogged or not self._read(scratch):
                    return
                if self._inbound.bulk is not None and self._shared.receiving.load < self._shared.receiving.count:
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
            self._shared.receive_buffers.release(bulk.buffer)

    def _lend_again(self) -> None:
        """Buffers came back, maybe enough for the answer that waits here."""
        if self._threaded or self._ended or self._unlent is None:
            return
        (request_id, length, sink), self._unlent = self._unlent, None
        self._guard(lambda: self._lend(request_id, length, sink))
        self._arrange()

    def _tell(self, message: bytes) -> None:
        self._told_bytes += len(message) + _MESSAGE_COST_BYTES
        self._owner.message_in(message)

    def _consumed(self, request_id: int, error: P2PModelError | None) -> None:
        self._settled += 1
        self._owner.answer_in(request_id, error)
        self._owner.receiver_idle()

    # --- in whichever thread reads -----------------------------------------------------------------------------------

    def _guard(self, work: Work) -> None:
        """Whatever is wrong with what the peer sent ends this channel and nothing else."""
        try:
            work()
        except Exception as error:  # noqa: BLE001  (the owner tells faults of the peer from bugs of ours)
            self._broken = True
            self._shared.mail.post(self._owner.broken, error)

    def _burst(self) -> None:
        with self._inbound.reusing_a_record():
            self._guard(self._read_on)
        self._shared.mail.post(self._returned)

    def _read_on(self) -> None:
        scratch = memoryview(bytearray(_AHEAD_BYTES))
        waking = _Waking(self._sock.sock)
        try:
            while not (self._ended or self._unlent is not None or self._backlogged):
                if not waking.wait(len(self._inbound.target), self.bytes_received):
                    return
                if self._inbound.bulk is not None and time.monotonic() > self._deadline_s:
                    self._too_slow()
                self._read(scratch)
        finally:
            waking.reset()

    def _read(self, scratch: memoryview) -> bool:
        """Take what is there; False where nothing is left. Raises `P2PModelError`."""
        target = self._inbound.target
        try:
            sock = self._sock.sock
            count = sock.recvmsg_into([target, scratch])[0] if target else sock.recv_into(scratch)
        except BlockingIOError:
            return False
        except OSError as error:
            raise PeerGoneError(f"the connection broke: {error.strerror}") from error
        if not count:
            raise PeerGoneError("the peer closed the connection")
        self.bytes_received += count
        direct = min(count, len(target))
        self._inbound.wrote(direct, scratch[: count - direct])
        return bool(count >= len(target))

    def _too_slow(self) -> None:
        # The buffers that answers stand in are shared: one that drips would keep everybody else from getting any.
        raise PeerGoneError("an answer came too slowly")

    # --- inbound.InboundOwner -----------------------------------------------------------------------------------------

    def message_in(self, message: bytes) -> None:
        self._posted_bytes += len(message) + _MESSAGE_COST_BYTES
        self._shared.mail.post(self._tell, message)

    def bulk_begins(self, request_id: int, length: int) -> None:
        self._lend(request_id, length, self._owner.sink_of(request_id, length))

    def _lend(self, request_id: int, length: int, sink: BulkSink) -> None:
        buffer = self._shared.receive_buffers.lease(length)
        if buffer is None:
            self._unlent = request_id, length, sink
            self._shared.receive_buffers.when_free(lambda: self._shared.mail.post(self._lend_again))
            return
        self._deadline_s = time.monotonic() + patience_s(length)
        self._inbound.lend(Bulk(request_id, length, sink, buffer))

    def bulk_complete(self, bulk: Bulk) -> None:
        self._complete += 1
        consuming = self._shared.consuming
        if self._threaded and (self._shared.receiving.load >= _CPUS or consuming.load >= consuming.count):
            # Every CPU has enough to do. Bytes that wait for another thread would only grow cold, and hold buffers.
            self._consume(bulk)
            return
        try:
            consuming.run(lambda: self._consume(bulk))
        except RuntimeError as error:
            self._complete -= 1
            self._shared.receive_buffers.release(bulk.buffer)
            raise PeerGoneError("this peer is stopping") from error

    def _consume(self, bulk: Bulk) -> None:
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
            self._shared.receive_buffers.release(bulk.buffer)
        self._shared.mail.post(self._consumed, bulk.request_id, error)
