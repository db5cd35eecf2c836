"""Requests that wait for their replies: adaptive timeouts, one repetition, and an end for every one of them.

A request that stays unanswered for a round-trip timeout (RFC 6298; of its peer where that is known, of all otherwise)
is *stalled*: it is sent again under the same message id (handlers do not mind a repetition) and its owner may turn to
others meanwhile. An answer still counts until the request is given up. Replies must come from where the request went.
"""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict
from collections.abc import Callable

from p2pmodel.errors import DecodeError
from p2pmodel.limits import (
    OUTSTANDING_RPC_MAX,
    ROUND_TRIP_PEERS_MAX,
    RPC_GIVE_UP_MIN_S,
    RPC_TIMEOUT_MAX_S,
    RPC_TIMEOUT_MIN_S,
    RPC_TIMEOUT_START_S,
)
from p2pmodel.net import Address, Clock
from p2pmodel.overlay.package import MESSAGE_ID_BYTES, REQUEST, frame
from p2pmodel.overlay.wire import Reply, Request, decode_reply, encode_request


class RoundTrips:
    """Smoothed round-trip time and its variation, in seconds (RFC 6298, section 2)."""

    __slots__ = ("_smoothed", "_variation")

    def __init__(self) -> None:
        self._smoothed = 0.0
        self._variation = 0.0

    def add(self, sample_s: float) -> None:
        if not self._smoothed:
            self._smoothed, self._variation = max(sample_s, 1e-6), sample_s / 2
            return
        self._variation += (abs(sample_s - self._smoothed) - self._variation) / 4
        self._smoothed += (sample_s - self._smoothed) / 8

    @property
    def timeout_s(self) -> float:
        if not self._smoothed:
            return RPC_TIMEOUT_START_S
        return min(max(self._smoothed + 4 * self._variation, RPC_TIMEOUT_MIN_S), RPC_TIMEOUT_MAX_S)


class Call:
    """One request on its way. Exactly one of `on_reply` and `on_failed` follows, unless it is cancelled."""

    __slots__ = (
        "address",
        "datagram",
        "on_failed",
        "on_reply",
        "on_stalled",
        "repeat",
        "request",
        "sent_at",
        "timer",
    )

    def __init__(
        self,
        address: Address,
        request: Request,
        datagram: bytes,
        sent_at: float,
        on_reply: Callable[[Reply], None],
        on_failed: Callable[[], None],
        on_stalled: Callable[[], None] | None,
        repeat: bool,
    ) -> None:
        self.address = address
        self.request = request
        self.datagram = datagram
        self.sent_at = sent_at
        self.on_reply = on_reply
        self.on_failed = on_failed
        self.on_stalled = on_stalled
        self.repeat = repeat
        self.timer: asyncio.TimerHandle | None = None

    @property
    def message_id(self) -> bytes:
        return self.datagram[1 : 1 + MESSAGE_ID_BYTES]


class Calls:
    """All outstanding requests of a node, in the table that the package provides for them."""

    def __init__(
        self,
        outstanding: dict[bytes, Call],
        send: Callable[[bytes, Address], None],
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self._outstanding = outstanding
        self._send = send
        self._clock = clock
        self._rng = rng
        self.round_trips = RoundTrips()
        """Of all peers together."""
        self._of_peer: OrderedDict[Address, RoundTrips] = OrderedDict()

    def __len__(self) -> int:
        return len(self._outstanding)

    def start(
        self,
        address: Address,
        request: Request,
        *,
        on_reply: Callable[[Reply], None],
        on_failed: Callable[[], None],
        on_stalled: Callable[[], None] | None = None,
        repeat: bool = True,
    ) -> Call:
        """Send `request`. The callbacks come from the event loop, never from within this call."""
        loop = asyncio.get_running_loop()
        datagram = frame(REQUEST, self._rng.randbytes(MESSAGE_ID_BYTES), encode_request(request))
        call = Call(address, request, datagram, self._clock.monotonic(), on_reply, on_failed, on_stalled, repeat)
        if len(self._outstanding) >= OUTSTANDING_RPC_MAX:
            call.timer = loop.call_later(0, self._give_up, call)
        else:
            call.timer = loop.call_later(self.timeout_s(address), self._stall, call)
            self._send(datagram, address)
        self._outstanding[call.message_id] = call
        return call

    def knows(self, address: Address) -> bool:
        """Whether it has answered us lately."""
        return address in self._of_peer

    def timeout_s(self, address: Address) -> float:
        return self._of_peer.get(address, self.round_trips).timeout_s

    async def ask(self, address: Address, request: Request, *, repeat: bool = True) -> Reply | None:
        """The reply, or None where none came. Cancelling the caller takes the request back."""
        answer: asyncio.Future[Reply | None] = asyncio.get_running_loop().create_future()

        def settle(reply: Reply | None) -> None:
            if not answer.done():
                answer.set_result(reply)

        call = self.start(address, request, on_reply=settle, on_failed=lambda: settle(None), repeat=repeat)
        try:
            return await answer
        finally:
            self.cancel(call)

    def received(self, message_id: bytes, body: bytes, source: Address) -> None:
        """A reply has come; whether to anything we asked, and from where we asked it, is decided here."""
        call = self._outstanding.get(message_id)
        if call is None or call.address != source:
            return
        self.cancel(call)
        # Repeated requests are measured too, from the first sending. Karn's rule would leave them out, but then a
        # timeout that has become too short would never grow; a sample that is too long fades within a few answers.
        self._measured(source, self._clock.monotonic() - call.sent_at)
        try:
            reply = decode_reply(call.request, body)
        except DecodeError:
            call.on_failed()
            return
        call.on_reply(reply)

    def cancel(self, call: Call) -> None:
        """Forget `call`; none of its callbacks follows."""
        self._outstanding.pop(call.message_id, None)
        if call.timer is not None:
            call.timer.cancel()
            call.timer = None

    def close(self) -> None:
        """Fail whatever is outstanding."""
        for call in list(self._outstanding.values()):
            self._give_up(call)

    def _measured(self, peer: Address, sample_s: float) -> None:
        self.round_trips.add(sample_s)
        known = self._of_peer.get(peer)
        if known is None:
            known = self._of_peer[peer] = RoundTrips()
            if len(self._of_peer) > ROUND_TRIP_PEERS_MAX:
                self._of_peer.popitem(last=False)
        known.add(sample_s)

    def _stall(self, call: Call) -> None:
        timeout_s = self.timeout_s(call.address)
        rest_s = max(2 * timeout_s, RPC_GIVE_UP_MIN_S - timeout_s)
        call.timer = asyncio.get_running_loop().call_later(rest_s, self._give_up, call)
        if call.repeat:
            self._send(call.datagram, call.address)
        if call.on_stalled is not None:
            call.on_stalled()

    def _give_up(self, call: Call) -> None:
        self.cancel(call)
        call.on_failed()
