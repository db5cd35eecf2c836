"""A channel over a TCP socket: records in and out of a non-blocking socket, bulk between the wire and reused buffers.

The event loop only moves bytes and opens records; reading files, sealing, hashing and writing run in threads. What a
peer can make us hold: one partial record, one answer's buffer out of a bounded pool (reading pauses while none is
free), and `SEND_QUEUE_BYTES_MAX` of messages that it does not read.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

from p2pmodel.errors import P2PModelError, PeerFault, PeerGoneError, ProtocolError
from p2pmodel.limits import (
    BULK_BYTES_PER_S_MIN,
    BULK_GRACE_S,
    CHUNK_BYTES,
    CONTROL_BYTES_MAX,
    RECORD_BYTES,
    SEND_QUEUE_BYTES_MAX,
)
from p2pmodel.net.address import Address
from p2pmodel.net.buffers import BufferPool
from p2pmodel.net.handshake import Session
from p2pmodel.net.inbound import Bulk, Inbound
from p2pmodel.net.outbox import (
    SEALED_PIECE_BYTES,
    WIRE_RECORD_BYTES,
    Outbox,
    plain_wire_bytes,
    seal_piece,
    send_file_records,
)
from p2pmodel.net.records import BULK_BEGIN, DirectionKeys, Kind
from p2pmodel.net.seam import BulkSink, BulkSource, ChannelHandler

P = ParamSpec("P")
T = TypeVar("T")

SCRATCH_BYTES = 16 * 1024
_READS_PER_WAKE = 16
"""Reads of one socket before the loop looks at the others."""


@dataclass(slots=True)
class Shared:
    """What all channels of one network share."""

    executor: Executor
    receive_buffers: BufferPool
    send_buffers: BufferPool
    scratch: bytearray


class TcpChannel:
    """See `seam.Channel`. Owns the socket from the end of the handshake on."""

    def __init__(
        self, sock: socket.socket, address: Address, session: Session, shared: Shared, *, outgoing: bool
    ) -> None:
        self.peer = session.peer
        self.address = address
        self.outgoing = outgoing
        self.hello = session.hello
        self.encrypted = session.sending is not None
        self.bytes_sent = 0
        self.bytes_received = 0
        self._sock = sock
        self._shared = shared
        self._loop = asyncio.get_running_loop()
        self._handler: ChannelHandler | None = None
        self._closed: P2PModelError | None = None
        self._consuming = 0
        self._borrowed = 0
        """Threads that use the socket's descriptor right now; it is closed when the last returns."""
        self._outbox = Outbox(session.sending)
        self._inbound = Inbound(session.receiving, self)
        self._surplus = session.surplus
        self._reading = False
        self._writing = False
        self._drained: asyncio.Future[None] | None = None
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
        if self._writing:
            self._loop.remove_writer(self._sock)
            self._writing = False
        self._close_socket()
        self._end_receive_deadline()
        bulk, self._inbound.bulk = self._inbound.bulk, None
        if bulk is not None:
            self._shared.receive_buffers.release(bulk.buffer)
        if self._drained is not None and not self._drained.done():
            self._drained.set_exception(PeerGoneError("the connection closed"))
        self._tell_closed()

    def _close_socket(self) -> None:
        if self._borrowed:
            try:
                self._sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        else:
            self._sock.close()

    def _tell_closed(self) -> None:
        # What has fully arrived is still being verified and written; the handler hears of it before the end.
        if self._closed is not None and self._consuming == 0 and self._handler is not None:
            self._loop.call_soon(self._handler.closed, self._closed)
            self._handler = None

    def _check_open(self) -> None:
        if self._closed is not None:
            raise PeerGoneError("the connection closed") from self._closed

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
        self._receive_deadline = self._loop.call_later(_patience_s(length), self._too_slow)
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
        self.close(PeerGoneError("an answer came or left too slowly"))

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

    # --- sending -------------------------------------------------------------------------------------------------

    def send(self, message: bytes) -> None:
        if self._closed is not None:
            return
        assert 0 < len(message) <= CONTROL_BYTES_MAX
        self._outbox.add_message(message)
        if self._outbox.message_bytes > SEND_QUEUE_BYTES_MAX:
            self.close(ProtocolError("the peer does not read what it is sent"))
            return
        if not self._outbox.on_hold:
            self._flush()

    async def send_bulk(self, request_id: int, source: BulkSource) -> None:
        try:
            self._check_open()
            self._outbox.add(Kind.BULK_BEGIN, BULK_BEGIN.pack(request_id, source.length))
            try:
                if self._outbox.keys is not None:
                    await self._send_sealed(source, self._outbox.keys)
                else:
                    with self._send_deadline(source.length):
                        await self._send_plain(source)
            except BaseException as error:
                self.close(PeerGoneError(f"an answer was cut off: {error or 'cancelled'}"))
                raise
        finally:
            source.release()

    @contextmanager
    def _send_deadline(self, length: int) -> Iterator[None]:
        deadline = self._loop.call_later(_patience_s(length), self._too_slow)
        try:
            yield
        finally:
            deadline.cancel()

    async def _send_sealed(self, source: BulkSource, keys: DirectionKeys) -> None:
        buffer = await self._lease_send_buffer()
        try:
            with self._send_deadline(source.length):
                for offset in range(0, source.length, CHUNK_BYTES):
                    await self._drain()
                    # Records leave in the order of their nonces, so messages wait while these are being sealed.
                    with self._outbox.held():
                        size = min(CHUNK_BYTES, source.length - offset)
                        sealed = await self._offload(seal_piece, keys, source, offset, size, memoryview(buffer))
                        self._outbox.add_sealed(memoryview(buffer)[:sealed])
                await self._drain()
        finally:
            self._shared.send_buffers.release(buffer)

    async def _send_plain(self, source: BulkSource) -> None:
        placed = source.file_range()
        if placed is not None:
            await self._send_file(*placed, source.length)
            return
        for offset in range(0, source.length, RECORD_BYTES):
            data = bytearray(min(RECORD_BYTES, source.length - offset))
            await self._offload(source.read_into, memoryview(data), offset)
            self._outbox.add(Kind.BULK_DATA, data)
            await self._drain()

    async def _send_file(self, fd: int, start: int, length: int) -> None:
        at, end = 0, plain_wire_bytes(length)
        await self._drain()
        while at < end:
            with self._outbox.held():
                at = await self._send_records(fd, start, length, at, end)
                # Where the peer is slow, messages may go between records; they cannot go into one.
                while at < end and at % WIRE_RECORD_BYTES:
                    await self._writable()
                    until = min(at - at % WIRE_RECORD_BYTES + WIRE_RECORD_BYTES, end)
                    at = await self._send_records(fd, start, length, at, until)
            if at < end:
                await self._writable()
            await self._drain()

    async def _send_records(self, fd: int, start: int, length: int, at: int, until: int) -> int:
        reached = await self._with_socket(send_file_records, self._sock, fd, start, length, at, until)
        self.bytes_sent += reached - at
        return reached

    async def _with_socket(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run what uses the socket in a thread; the descriptor stays open until it returns."""
        self._check_open()
        self._borrowed += 1
        try:
            return await self._offload(work, *args, **kwargs)
        except OSError as error:
            self.close(PeerGoneError(f"the connection broke: {error.strerror}"))
            raise PeerGoneError("the connection broke") from error
        finally:
            self._borrowed -= 1
            if self._closed is not None and not self._borrowed:
                self._sock.close()

    async def _offload(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        assert not kwargs
        running = self._loop.run_in_executor(self._shared.executor, work, *args)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            # The thread goes on with our buffer, descriptor and nonces: nothing may be given back before it is done,
            # however often we are told to hurry.
            while not running.done():
                try:
                    await asyncio.wait([running])
                except asyncio.CancelledError:
                    continue
            self.close(PeerGoneError("sending was cancelled in the middle of an answer"))
            raise

    async def _lease_send_buffer(self) -> bytearray:
        pool = self._shared.send_buffers
        while (buffer := pool.lease(SEALED_PIECE_BYTES)) is None:
            free = asyncio.Event()
            pool.when_free(free.set)
            await free.wait()
        return buffer

    async def _drain(self) -> None:
        """Until everything queued has left, and the buffers it stood in may be used again."""
        self._flush()
        self._check_open()
        # A message may have been queued between the moment all had left and ours.
        while self._outbox.pending:
            await self._wait_for_writer()

    async def _writable(self) -> None:
        self._check_open()
        if not self._writing:
            self._loop.add_writer(self._sock, self._flush)
            self._writing = True
        await self._wait_for_writer()

    async def _wait_for_writer(self) -> None:
        self._drained = self._loop.create_future()
        try:
            await self._drained
        finally:
            self._drained = None

    def _flush(self) -> None:
        if self._closed is not None:
            return
        while self._outbox.pending:
            try:
                sent = self._sock.send(self._outbox.front)
            except BlockingIOError:
                if not self._writing:
                    self._loop.add_writer(self._sock, self._flush)
                    self._writing = True
                return
            except OSError as error:
                self.close(PeerGoneError(f"the connection broke: {error.strerror}"))
                return
            self.bytes_sent += sent
            self._outbox.sent(sent)
        if self._writing:
            self._loop.remove_writer(self._sock)
            self._writing = False
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)


def _patience_s(length: int) -> float:
    """How long an answer of this length may hold a buffer."""
    return BULK_GRACE_S + length / BULK_BYTES_PER_S_MIN
