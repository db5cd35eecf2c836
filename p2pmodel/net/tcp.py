"""A channel over TCP: lanes of a receiving and a sending half each, one handler, and one end for all.

The loop moves what is small; bulk moves in threads (`receiver.py`, `sender.py`). Messages go over the first lane,
answers over the one that has least to do. What a peer can make us hold, on each lane: one partial record, one answer's
buffer out of a bounded pool (reading pauses while none is free), one sealed record on its way out; and in all
`SEND_QUEUE_BYTES_MAX` of messages that it does not read.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ParamSpec

from p2pmodel.errors import P2PModelError, PeerFault, PeerGoneError
from p2pmodel.limits import LANES_PER_CHANNEL_MAX
from p2pmodel.net.address import Address
from p2pmodel.net.buffers import Shared
from p2pmodel.net.handshake import Session
from p2pmodel.net.lanes import LanePlan, share_a_window
from p2pmodel.net.receiver import Receiver
from p2pmodel.net.seam import BulkSink, BulkSource, ChannelHandler
from p2pmodel.net.sender import RUNS_AHEAD, Sender
from p2pmodel.net.tcp_info import TcpInfo, shorten
from p2pmodel.net.threads import SharedSocket
from p2pmodel.net.yielding import Yielding

P = ParamSpec("P")


@dataclass(slots=True)
class _Lane:
    socket: SharedSocket
    sender: Sender
    receiver: Receiver
    surplus: bytes


class TcpChannel:
    """See `seam.Channel`. Owns its sockets from the end of their handshakes on."""

    def __init__(
        self, sock: socket.socket, address: Address, session: Session, shared: Shared, *, outgoing: bool
    ) -> None:
        self.peer = session.peer
        self.address = address
        self.outgoing = outgoing
        self.hello = session.hello
        self.encrypted = session.sending is not None
        self.on_narrow: Callable[[int], None] = lambda lanes: None
        """Called with how many lanes there should be; whoever can open more gives each to `attach`."""
        self.on_closed: Callable[[], None] = lambda: None
        self.on_wider: Callable[[], None] = lambda: None
        self._shared = shared
        self._loop = asyncio.get_running_loop()
        self._handler: ChannelHandler | None = None
        self._closed: P2PModelError | None = None
        self._lanes: list[_Lane] = []
        self._moved_bytes = 0, 0
        """In and out, by lanes that are no more."""
        self._add_lane(sock, session)
        self._plan = LanePlan(time.monotonic(), 0)
        lanes = self._lanes
        self._yielding = Yielding(lambda: [lane.socket.sock for lane in lanes])

    def _add_lane(self, sock: socket.socket, session: Session) -> _Lane:
        shared_socket = SharedSocket(sock)
        sender = Sender(shared_socket, self._shared, session.sending, self.close)
        known = any(lane.receiver.known for lane in self._lanes)
        receiver = Receiver(shared_socket, self._shared, session.receiving, self, known=known)
        lane = _Lane(shared_socket, sender, receiver, session.surplus)
        self._lanes.append(lane)
        return lane

    @property
    def lanes(self) -> int:
        return len(self._lanes)

    @property
    def runs_ahead(self) -> int:
        return RUNS_AHEAD * len(self._lanes)

    @property
    def run_answers(self) -> int:
        return min([lane.sender.run_answers for lane in self._lanes], default=1)

    @property
    def bytes_received(self) -> int:
        return self._moved_bytes[0] + sum([lane.receiver.bytes_received for lane in self._lanes])

    @property
    def bytes_sent(self) -> int:
        return self._moved_bytes[1] + sum([lane.sender.bytes_sent for lane in self._lanes])

    def start(self, handler: ChannelHandler) -> None:
        if self._closed is not None:
            self._loop.call_soon(handler.closed, self._closed)
            return
        self._handler = handler
        for lane in self._lanes:
            self._start(lane)

    def _start(self, lane: _Lane) -> None:
        surplus, lane.surplus = lane.surplus, b""
        lane.receiver.start(surplus)

    def attach(self, sock: socket.socket, session: Session) -> bool:
        """One more connection to the same peer; False where it is not wanted, and whoever brought it closes it."""
        fits = session.peer == self.peer and (session.sending is not None) == self.encrypted
        if not fits or self._closed is not None or len(self._lanes) >= LANES_PER_CHANNEL_MAX:
            return False
        lane = self._add_lane(sock, session)
        if share_a_window(len(self._lanes), TcpInfo.of(self._lanes[0].socket.sock).min_rtt_s):
            for each in self._lanes:
                shorten(each.socket.sock)
        if self._handler is not None:
            self._start(lane)
        self.on_wider()
        return True

    def send(self, message: bytes) -> None:
        if self._closed is None:
            self._lanes[0].sender.send(message)

    async def send_run(self, answers: Sequence[tuple[int, BulkSource]]) -> list[bool]:
        if self._closed is not None:
            for _, source in answers:
                source.release()
            raise PeerGoneError("the connection closed")
        lane = min(self._lanes, key=lambda lane: lane.sender.answers_due)
        try:
            return await lane.sender.send_run(answers)
        finally:
            self._look()

    def _look(self) -> None:
        """Does the path need more lanes? Asked after each answer."""
        if self._closed is None and self._plan.due(time.monotonic()):
            self._widen()

    def _widen(self) -> int:
        moved = self.bytes_received + self.bytes_sent
        wanted = self._plan.lanes(time.monotonic(), moved, TcpInfo.of(self._lanes[0].socket.sock).rtt_s)
        if wanted > len(self._lanes):
            self.on_narrow(wanted)
        return max(wanted, len(self._lanes))

    def expect(self, size_bytes: int) -> int:
        if self._closed is not None:
            return len(self._lanes)
        self._plan.expect(size_bytes)
        return self._widen()

    def yield_line(self, *, sending: bool, receiving: bool) -> None:
        if self._closed is None:
            self._yielding.change(sending=sending, receiving=receiving)

    def close(self, reason: P2PModelError) -> None:
        if self._closed is not None:
            return
        self._closed = _without_frames(reason)
        self._yielding.end()
        for lane in self._lanes:
            lane.receiver.end()
            lane.sender.end()
            lane.socket.close()
        self.on_closed()
        self.on_closed, self.on_narrow, self.on_wider = lambda: None, lambda lanes: None, lambda: None
        if self._handler is None:
            self._forget_lanes()
        self.receiver_idle()

    def _forget_lanes(self) -> None:
        """They know us and we knew them: nothing of a crowd that has gone waits for the garbage collector."""
        self._moved_bytes = self.bytes_received, self.bytes_sent
        self._lanes.clear()

    # --- receiver.ReceiverOwner ---------------------------------------------------------------------------------------

    def message_in(self, message: bytes) -> None:
        handler = self._handler
        if handler is not None and self._closed is None:
            self._guard(handler.message_received, message)

    def sink_of(self, request_id: int, length: int) -> BulkSink:
        handler = self._handler
        if handler is None or self._closed is not None:
            raise PeerGoneError("the connection closed")
        return handler.bulk_begins(request_id, length)

    def answer_in(self, request_id: int, error: P2PModelError | None) -> None:
        # After the end too: what has fully arrived counts.
        handler = self._handler
        if handler is not None:
            self._guard(handler.bulk_finished, request_id, error)

    def broken(self, error: Exception) -> None:
        if isinstance(error, P2PModelError):
            self.close(error)
            return
        # A bug of ours. The place in the stream is lost, so the channel must not look alive; the loop reports it.
        self.close(PeerGoneError("an unexpected error on this side"))
        raise error

    def receiver_idle(self) -> None:
        self._look()
        # What has fully arrived is still being verified and written; the handler hears of it before the end.
        if self._closed is None or self._handler is None or not all(lane.receiver.idle for lane in self._lanes):
            return
        self._forget_lanes()
        self._loop.call_soon(self._handler.closed, self._closed)
        self._handler = None

    def _guard(self, work: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            work(*args, **kwargs)
        except PeerFault as fault:
            self.close(fault)
        except P2PModelError as error:
            self.close(error)
        except Exception as error:  # noqa: BLE001  (a bug of ours ends this channel, and is reported)
            self.broken(error)


def _without_frames(reason: P2PModelError) -> P2PModelError:
    """The same error. Its traceback would keep everything alive that the calls knew: this channel, which keeps it."""
    seen: BaseException | None = reason
    while seen is not None:
        seen.__traceback__ = None
        seen = seen.__cause__ or seen.__context__
    return reason
