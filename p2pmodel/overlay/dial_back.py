"""Dialling back: a node asks neighbours to send it a datagram from a port to which it has never sent one.

The helper's side is no tool against others: it sends only to where the request came from, after a token bound to that
address and port has come back from there; its answer and its dial-back together are no longer than the request; and
how much it sends is limited for each address, each address group and in all. A dial-back is never answered.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from p2pmodel.errors import DecodeError, NetworkError
from p2pmodel.limits import (
    DATAGRAM_SOURCES_MAX,
    DIAL_BACKS_AT_ONCE,
    DIAL_BACKS_PER_GROUP_AT_ONCE,
    DIAL_BACKS_PER_GROUP_PER_S,
    DIAL_BACKS_PER_S,
    DIAL_BACKS_PER_SOURCE_AT_ONCE,
    DIAL_BACKS_PER_SOURCE_PER_S,
)
from p2pmodel.net import Address, Datagrams, Network, cancelled
from p2pmodel.overlay.node_id import NONCE_BYTES, address_group
from p2pmodel.overlay.package import MESSAGE_ID_BYTES, REPLY, REQUEST, frame
from p2pmodel.overlay.rate import Allowances
from p2pmodel.overlay.tokens import TOKEN_BYTES, Tokens
from p2pmodel.overlay.wire import (
    BUSY,
    DIALLED,
    WRONG_TOKEN,
    DialBackReply,
    DialBackRequest,
    DialledRequest,
    encode_reply,
    encode_request,
)

NO_TOKEN = bytes(TOKEN_BYTES)
"""What to show a helper at first, to get the right one."""
SendAside = Callable[[bytes, Address], bool]
"""Sends from another port than the node's own; False where that is not possible (yet)."""


class DialBacks:
    """The helper's side."""

    def __init__(self, network_id: bytes, rng: random.Random, send_aside: SendAside, open_aside: Callable[[], None]):
        self._network_id = network_id
        self._rng = rng
        self._send_aside = send_aside
        self._open_aside = open_aside
        self._tokens = Tokens(rng.randbytes(32), with_port=True)
        self._per_source = Allowances(DIAL_BACKS_PER_SOURCE_PER_S, DIAL_BACKS_PER_SOURCE_AT_ONCE, DATAGRAM_SOURCES_MAX)
        self._per_group = Allowances(DIAL_BACKS_PER_GROUP_PER_S, DIAL_BACKS_PER_GROUP_AT_ONCE, DATAGRAM_SOURCES_MAX)
        self._in_all = Allowances(DIAL_BACKS_PER_S, DIAL_BACKS_AT_ONCE, 1)

    def answer(self, request: DialBackRequest, source: Address, asked_bytes: int, now: float) -> DialBackReply:
        """Dial `source` back where its token is right. Raises `DecodeError` for a request shorter than its answers."""
        token = self._tokens.issue(source, now)
        if not self._tokens.check(request.token, source, now):
            self._open_aside()  # the asker comes back at once
            return DialBackReply(WRONG_TOKEN, token)
        reply = DialBackReply(DIALLED, token)
        notice = DialledRequest(self._network_id, request.nonce)
        datagram = frame(REQUEST, self._rng.randbytes(MESSAGE_ID_BYTES), encode_request(notice))
        if asked_bytes < len(datagram) + len(frame(REPLY, bytes(MESSAGE_ID_BYTES), encode_reply(reply))):
            raise DecodeError("a request that is shorter than its answers")
        if not self._allowed(source, now) or not self._send_aside(datagram, source):
            return DialBackReply(BUSY, token)
        return reply

    def _allowed(self, source: Address, now: float) -> bool:
        group = address_group(source.host) or source.ip.packed
        return (
            self._per_source.charge(source.ip.packed, 1.0, now)
            and self._per_group.charge(group, 1.0, now)
            and self._in_all.charge(b"", 1.0, now)
        )


class Aside:
    """Another port of the same node, opened when it is first asked for. What comes in there is not read."""

    def __init__(self, network: Network, host: Callable[[], str]) -> None:
        self._network = network
        self._host = host
        self._datagrams: Datagrams | None = None
        self._opening: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Soon; a port that cannot be had is tried for again with the next call."""
        if self._datagrams is None and (self._opening is None or self._opening.done()):
            self._opening = asyncio.get_running_loop().create_task(self._open(), name="overlay second port")

    def send(self, datagram: bytes, to: Address) -> bool:
        if self._datagrams is None:
            return False
        self._datagrams.send(datagram, to)
        return True

    async def close(self) -> None:
        if self._opening is not None:
            await cancelled([self._opening])
        if self._datagrams is not None:
            self._datagrams.close()
            self._datagrams = None

    async def _open(self) -> None:
        try:
            self._datagrams = await self._network.open_datagrams(self._host(), 0, lambda data, source: None)
        except NetworkError:
            pass  # we help nobody then


class Awaited:
    """The asker's side: dial-backs that may come, by their nonce."""

    def __init__(self) -> None:
        self._waiting: dict[bytes, tuple[Callable[[Address], bool], asyncio.Event]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def expect(self, rng: random.Random, known: Callable[[Address], bool]) -> tuple[bytes, asyncio.Event]:
        """A fresh nonce, and what is set once it has come from an address that is not `known`."""
        nonce, came = rng.randbytes(NONCE_BYTES), asyncio.Event()
        self._waiting[nonce] = known, came
        return nonce, came

    def forget(self, nonce: bytes) -> None:
        del self._waiting[nonce]

    def received(self, nonce: bytes, source: Address) -> None:
        """From where we have sent to, even a translator that lets nobody in lets it pass: that proves nothing."""
        waiting = self._waiting.get(nonce)
        if waiting is not None and not waiting[0](source):
            waiting[1].set()
