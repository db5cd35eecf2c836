"""Lanes come and go: opened where a channel of ours asks for one, and taken in where a peer opens one to us."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from functools import partial

from p2pmodel.errors import HandshakeError, PeerFault
from p2pmodel.limits import LANES_IN_ALL_MAX
from p2pmodel.model import PublicKey
from p2pmodel.net.address import Address
from p2pmodel.net.handshake import Session
from p2pmodel.net.tasks import cancelled
from p2pmodel.net.tcp import TcpChannel

Dial = Callable[[Address, PublicKey, bytes], Awaitable[tuple[socket.socket, Session]]]


class Widening:
    """`dial` connects to an address, expects a peer there, and says the token in its handshake."""

    def __init__(self, dial: Dial) -> None:
        self._dial = dial
        self._by_token: dict[bytes, TcpChannel] = {}
        """Channels that peers have opened to us and may add lanes to."""
        self._tasks: dict[asyncio.Task[None], TcpChannel] = {}
        """Lanes that are being opened."""

    def watch(self, channel: TcpChannel, session: Session) -> None:
        """Only who opened a channel adds to it: the other side may have no way back."""
        if channel.outgoing:
            channel.on_narrow = partial(self._widen_soon, channel, session.lane_token)
            return
        self._by_token[session.lane_token] = channel
        channel.on_closed = partial(self._forget, session.lane_token)

    def _forget(self, token: bytes) -> None:
        self._by_token.pop(token, None)

    def take_in(self, sock: socket.socket, session: Session) -> None:
        """A connection whose hello carries a token. Raises `HandshakeError` where it belongs to no channel here."""
        channel = self._by_token.get(session.hello.lane)
        in_all = sum(each.lanes - 1 for each in self._by_token.values())
        if channel is None or in_all >= LANES_IN_ALL_MAX or not channel.attach(sock, session):
            sock.close()
            raise HandshakeError("a lane of no channel that is here and has room")

    async def close(self) -> None:
        await cancelled(self._tasks)

    def _widen_soon(self, channel: TcpChannel, token: bytes, lanes: int) -> None:
        opening = sum(other is channel for other in self._tasks.values())
        for _ in range(channel.lanes + opening, lanes):
            task = asyncio.get_running_loop().create_task(self._widen(channel, token))
            self._tasks[task] = channel
            task.add_done_callback(self._tasks.pop)

    async def _widen(self, channel: TcpChannel, token: bytes) -> None:
        try:
            sock, session = await self._dial(channel.address, channel.peer, token)
        except PeerFault:
            channel.on_narrow = lambda lanes: None  # one connection does too, and a peer without room says so only once
            return
        if not channel.attach(sock, session):
            sock.close()
