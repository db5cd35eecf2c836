"""The sending half of a channel: records leave through a non-blocking socket in the order in which they were sealed.

The loop sends what the socket takes; reading a file, sealing and `sendfile` run in threads. A thread that uses the
socket's descriptor or a buffer is waited for before either is given back, whatever is cancelled meanwhile.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from p2pmodel.errors import P2PModelError, PeerGoneError, ProtocolError
from p2pmodel.limits import CHUNK_BYTES, CONTROL_BYTES_MAX, RECORD_BYTES, SEND_QUEUE_BYTES_MAX
from p2pmodel.net.buffers import Shared, patience_s
from p2pmodel.net.outbox import (
    SEALED_PIECE_BYTES,
    WIRE_RECORD_BYTES,
    Outbox,
    plain_wire_bytes,
    seal_piece,
    send_file_records,
)
from p2pmodel.net.records import BULK_BEGIN, DirectionKeys, Kind
from p2pmodel.net.seam import BulkSource

P = ParamSpec("P")
T = TypeVar("T")


class Sender:
    """Owns the socket's writing side and its end. `close` is the channel's, and calls `end` in turn."""

    def __init__(
        self, sock: socket.socket, shared: Shared, keys: DirectionKeys | None, close: Callable[[P2PModelError], None]
    ) -> None:
        self.bytes_sent = 0
        self.outbox = Outbox(keys)
        self._sock = sock
        self._shared = shared
        self._close = close
        self._loop = asyncio.get_running_loop()
        self._ended = False
        self._borrowed = 0
        """Threads that use the socket's descriptor right now; it is closed when the last returns."""
        self._writing = False
        self._drained: asyncio.Future[None] | None = None

    def end(self) -> None:
        """Stop sending and close the socket."""
        self._ended = True
        if self._writing:
            self._loop.remove_writer(self._sock)
            self._writing = False
        if self._borrowed:
            try:
                self._sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        else:
            self._sock.close()
        if self._drained is not None and not self._drained.done():
            self._drained.set_exception(PeerGoneError("the connection closed"))

    def _check_open(self) -> None:
        if self._ended:
            raise PeerGoneError("the connection closed")

    def _too_slow(self) -> None:
        # The buffers that answers stand in are shared: one that drips would keep everybody else from getting any.
        self._close(PeerGoneError("an answer left too slowly"))

    def send(self, message: bytes) -> None:
        if self._ended:
            return
        assert 0 < len(message) <= CONTROL_BYTES_MAX
        self.outbox.add_message(message)
        if self.outbox.message_bytes > SEND_QUEUE_BYTES_MAX:
            self._close(ProtocolError("the peer does not read what it is sent"))
            return
        if not self.outbox.on_hold:
            self._flush()

    async def send_bulk(self, request_id: int, source: BulkSource) -> bool:
        try:
            self._check_open()
            if not await self._offload(source.open):
                return False
            self.outbox.add(Kind.BULK_BEGIN, BULK_BEGIN.pack(request_id, source.length))
            try:
                if self.outbox.keys is not None:
                    await self._send_sealed(source, self.outbox.keys)
                else:
                    with self._send_deadline(source.length):
                        await self._send_plain(source)
            except BaseException as error:
                self._close(PeerGoneError(f"an answer was cut off: {error or 'cancelled'}"))
                raise
            return True
        finally:
            source.release()

    @contextmanager
    def _send_deadline(self, length: int) -> Iterator[None]:
        deadline = self._loop.call_later(patience_s(length), self._too_slow)
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
                    with self.outbox.held():
                        size = min(CHUNK_BYTES, source.length - offset)
                        sealed = await self._offload(seal_piece, keys, source, offset, size, memoryview(buffer))
                        self.outbox.add_sealed(memoryview(buffer)[:sealed])
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
            self.outbox.add(Kind.BULK_DATA, data)
            await self._drain()

    async def _send_file(self, fd: int, start: int, length: int) -> None:
        at, end = 0, plain_wire_bytes(length)
        await self._drain()
        while at < end:
            with self.outbox.held():
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
            self._close(PeerGoneError(f"the connection broke: {error.strerror}"))
            raise PeerGoneError("the connection broke") from error
        finally:
            self._borrowed -= 1
            if self._ended and not self._borrowed:
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
            self._close(PeerGoneError("sending was cancelled in the middle of an answer"))
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
        while self.outbox.pending:
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
        if self._ended:
            return
        while self.outbox.pending:
            try:
                sent = self._sock.send(self.outbox.front)
            except BlockingIOError:
                if not self._writing:
                    self._loop.add_writer(self._sock, self._flush)
                    self._writing = True
                return
            except OSError as error:
                self._close(PeerGoneError(f"the connection broke: {error.strerror}"))
                return
            self.bytes_sent += sent
            self.outbox.sent(sent)
        if self._writing:
            self._loop.remove_writer(self._sock)
            self._writing = False
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
