"""A channel over a TCP socket: a receiving half, a sending half, and one end for both.

The loop moves what is small; bulk moves in threads (`receiver.py`, `sender.py`). What a peer can make us hold: one
partial record, one answer's buffer out of a bounded pool (reading pauses while none is free), one sealed record on its
way out, and `SEND_QUEUE_BYTES_MAX` of messages that it does not read.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from p2pmodel.errors import P2PModelError, PeerFault, PeerGoneError
from p2pmodel.net.address import Address
from p2pmodel.net.buffers import Shared
from p2pmodel.net.handshake import Session
from p2pmodel.net.receiver import Receiver
from p2pmodel.net.seam import BulkSink, BulkSource, ChannelHandler
from p2pmodel.net.sender import Sender
from p2pmodel.net.threads import SharedSocket


class TcpChannel:
    """See `seam.Channel`. Owns the socket from the end of the handshake on."""

    answers_ahead = 2

    def __init__(
        self, sock: socket.socket, address: Address, session: Session, shared: Shared, *, outgoing: bool
    ) -> None:
        self.peer = session.peer
        self.address = address
        self.outgoing = outgoing
        self.hello = session.hello
        self.encrypted = session.sending is not None
        self._loop = asyncio.get_running_loop()
        self._handler: ChannelHandler | None = None
        self._closed: P2PModelError | None = None
        self._socket = SharedSocket(sock)
        self._sender = Sender(self._socket, shared, session.sending, self.close)
        self._receiver = Receiver(self._socket, shared, session.receiving, self)
        self._surplus = session.surplus

    @property
    def bytes_received(self) -> int:
        return self._receiver.bytes_received

    @property
    def bytes_sent(self) -> int:
        return self._sender.bytes_sent

    def start(self, handler: ChannelHandler) -> None:
        self._handler = handler
        surplus, self._surplus = self._surplus, b""
        self._receiver.start(surplus)

    def send(self, message: bytes) -> None:
        self._sender.send(message)

    async def send_bulk(self, request_id: int, source: BulkSource) -> bool:
        return await self._sender.send_bulk(request_id, source)

    def close(self, reason: P2PModelError) -> None:
        if self._closed is not None:
            return
        self._closed = reason
        self._receiver.end()
        self._sender.end()
        self._socket.close()
        self.receiver_idle()

    # --- receiver.ReceiverOwner ---------------------------------------------------------------------------------------

    def message_in(self, message: bytes) -> None:
        handler = self._handler
        if handler is not None and self._closed is None:
            self._guard(lambda: handler.message_received(message))

    def sink_of(self, request_id: int, length: int) -> BulkSink:
        handler = self._handler
        if handler is None or self._closed is not None:
            raise PeerGoneError("the connection closed")
        return handler.bulk_begins(request_id, length)

    def answer_in(self, request_id: int, error: P2PModelError | None) -> None:
        # After the end too: what has fully arrived counts.
        handler = self._handler
        if handler is not None:
            self._guard(lambda: handler.bulk_finished(request_id, error))

    def broken(self, error: Exception) -> None:
        if isinstance(error, P2PModelError):
            self.close(error)
            return
        # A bug of ours. The place in the stream is lost, so the channel must not look alive; the loop reports it.
        self.close(PeerGoneError("an unexpected error on this side"))
        raise error

    def receiver_idle(self) -> None:
        # What has fully arrived is still being verified and written; the handler hears of it before the end.
        if self._closed is not None and self._handler is not None and self._receiver.idle:
            self._loop.call_soon(self._handler.closed, self._closed)
            self._handler = None

    def _guard(self, work: Callable[[], None]) -> None:
        try:
            work()
        except PeerFault as fault:
            self.close(fault)
        except P2PModelError as error:
            self.close(error)
        except Exception as error:  # noqa: BLE001  (a bug of ours ends this channel, and is reported)
            self.broken(error)
