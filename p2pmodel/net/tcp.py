"""A channel over a TCP socket: records in and out of a non-blocking socket, bulk between the wire and reused buffers.

The event loop only moves bytes and opens records; reading files, sealing, hashing and writing run in threads. What a
peer can make us hold: one partial record, one answer's buffer out of a bounded pool (reading pauses while none is
free), and `SEND_QUEUE_BYTES_MAX` of messages that it does not read.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from concurrent.futures import Future
from typing import ParamSpec, TypeVar

from p2pmodel.errors import P2PModelError, PeerFault, PeerGoneError
from p2pmodel.net.address import Address
from p2pmodel.net.buffers import Shared, patience_s
from p2pmodel.net.handshake import Session
from p2pmodel.net.inbound import Bulk, Inbound
from p2pmodel.net.seam import BulkSink, BulkSource, ChannelHandler
from p2pmodel.net.sender import Sender

P = ParamSpec("P")
T = TypeVar("T")

SCRATCH_BYTES = 16 * 1024
_READS_PER_WAKE = 16
"""Reads of one socket before the loop looks at the others."""


class TcpChannel:
    """See `seam.Channel`. Owns the socket from the end of the handshake on."""

    answers_ahead = 1

    def __init__(
        self, sock: socket.socket, address: Address, session: Session, shared: Shared, *, outgoing: bool
    ) -> None:
        self.peer = session.peer
        self.address = address
        self.outgoing = outgoing
        self.hello = session.hello
        self.encrypted = session.sending is not None
        self.bytes_received = 0
        self._sock = sock
        self._shared = shared
        self._loop = asyncio.get_running_loop()
        self._handler: ChannelHandler | None = None
        self._closed: P2PModelError | None = None
        self._consuming = 0
        self._sender = Sender(sock, shared, session.sending, self.close)
        self._inbound = Inbound(session.receiving, self)
        self._surplus = session.surplus
        self._reading = False
        self._receive_deadline: asyncio.TimerHandle | None = None

    # --- life ----------------------------------------------------------------------------------------------------

    def start(self, handler: ChannelHandler) -> None:
        self._handler = handler
        surplus, self._surplus = self._surplus, b""
        self._resume()
        self._guard(self._inbound.feed, surplus)

    def close(self, reason: P2PModelError) -> None:
        if self._closed is not None:
            return
        self._closed = reason
        self._pause()
        self._sender.end()
        self._end_receive_deadline()
        bulk, self._inbound.bulk = self._inbound.bulk, None
        if bulk is not None:
            self._shared.receive_buffers.release(bulk.buffer)
        self._tell_closed()

    def _tell_closed(self) -> None:
        # What has fully arrived is still being verified and written; the handler hears of it before the end.
        if self._closed is not None and self._consuming == 0 and self._handler is not None:
            self._loop.call_soon(self._handler.closed, self._closed)
            self._handler = None

    @property
    def bytes_sent(self) -> int:
        return self._sender.bytes_sent

    def send(self, message: bytes) -> None:
        self._sender.send(message)

    async def send_bulk(self, request_id: int, source: BulkSource) -> bool:
        return await self._sender.send_bulk(request_id, source)

    # --- receiving -----------------------------------------------------------------------------------------------

    def _resume(self) -> None:
        if self._closed is None and not self._reading:
            self._loop.add_reader(self._sock, self._on_readable)
            self._reading = True

    def _pause(self) -> None:
        if self._reading:
            self._loop.remove_reader(self._sock)
            self._reading = False

    def _on_readable(self) -> None:
        for _ in range(_READS_PER_WAKE):
            if not self._reading:
                return
            scratch = memoryview(self._shared.scratch)
            target = self._inbound.target
            try:
                count = self._sock.recvmsg_into([target, scratch])[0] if target else self._sock.recv_into(scratch)
            except BlockingIOError:
                return
            except OSError as error:
                self.close(PeerGoneError(f"the connection broke: {error.strerror}"))
                return
            if count == 0:
                self.close(PeerGoneError("the peer closed the connection"))
                return
            self.bytes_received += count
            direct = min(count, len(target))
            self._guard(self._inbound.wrote, direct, scratch[: count - direct])
            if count < len(target):
                return

    def _guard(self, work: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        """Whatever is wrong with what the peer sent ends this channel and nothing else."""
        if self._closed is not None:
            return
        try:
            work(*args, **kwargs)
        except P2PModelError as error:
            self.close(error)
        except Exception:
            # A bug of ours. The place in the stream is lost, so the channel must not look alive; the loop reports it.
            self.close(PeerGoneError("an unexpected error on this side"))
            raise

    def message_in(self, message: bytes) -> None:
        if self._handler is not None and self._closed is None:
            self._handler.message_received(message)

    def bulk_begins(self, request_id: int, length: int) -> None:
        if self._handler is None or self._closed is not None:
            return
        sink = self._handler.bulk_begins(request_id, length)
        if not self._lend(request_id, length, sink):
            self._pause()

    def _lend(self, request_id: int, length: int, sink: BulkSink) -> bool:
        if self._closed is not None:
            return True
        buffer = self._shared.receive_buffers.lease(length)
        if buffer is None:
            self._shared.receive_buffers.when_free(lambda: self._lend_later(request_id, length, sink))
            return False
        self._receive_deadline = self._loop.call_later(patience_s(length), self._too_slow)
        self._inbound.lend(Bulk(request_id, length, sink, buffer))
        return True

    def _lend_later(self, request_id: int, length: int, sink: BulkSink) -> None:
        def lend() -> None:
            if self._lend(request_id, length, sink):
                self._resume()

        self._guard(lend)

    def _end_receive_deadline(self) -> None:
        if self._receive_deadline is not None:
            self._receive_deadline.cancel()
            self._receive_deadline = None

    def _too_slow(self) -> None:
        # The buffers that answers stand in are shared: one that drips would keep everybody else from getting any.
        self.close(PeerGoneError("an answer came too slowly"))

    def bulk_complete(self, bulk: Bulk) -> None:
        self._end_receive_deadline()
        try:
            work = self._shared.executor.submit(bulk.sink.consume, memoryview(bulk.buffer)[: bulk.length])
        except RuntimeError as error:
            self._shared.receive_buffers.release(bulk.buffer)
            raise PeerGoneError("this peer is stopping") from error
        self._consuming += 1
        work.add_done_callback(lambda done: self._loop.call_soon_threadsafe(self._consumed, bulk, done))

    def _consumed(self, bulk: Bulk, done: Future[None]) -> None:
        self._consuming -= 1
        self._shared.receive_buffers.release(bulk.buffer)
        error = done.exception()
        if error is not None and not isinstance(error, P2PModelError):
            # A bug of ours. Whoever asked must hear of it, or would wait for ever.
            unexpected, error = error, P2PModelError(f"a chunk could not be kept: {error!r}")
            error.__cause__ = unexpected
        if self._handler is not None:
            try:
                self._handler.bulk_finished(bulk.request_id, error)
            except PeerFault as fault:
                self.close(fault)
        self._tell_closed()
