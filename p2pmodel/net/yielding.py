"""Connections in the background: the thin shell around `scavenger.Scavenger`, one for each socket and direction.

What we send is paced by the kernel at a window for each round trip; what we receive is bounded by the window that the
kernel offers. Both only ever lower what TCP would do by itself, so losses count as before.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Sequence

from p2pmodel.net.scavenger import Scavenger
from p2pmodel.net.tcp_info import TcpInfo, clamp_window, pace

_LOOK_S = 0.02
_LOOK_IDLE_S = 0.25
"""While nothing moves."""


class Yielding:
    """Of one channel. `sockets` are its connections, of which there may be more later."""

    def __init__(self, sockets: Callable[[], Sequence[socket.socket]]) -> None:
        self._sockets = sockets
        self._sending: dict[socket.socket, Scavenger] | None = None
        self._receiving: dict[socket.socket, Scavenger] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._moved_bytes = 0

    def change(self, *, sending: bool, receiving: bool) -> None:
        for sock in self._sockets():
            if self._sending is not None and not sending:
                pace(sock, None)
            if self._receiving is not None and not receiving:
                clamp_window(sock, None)
        self._sending = (self._sending or {}) if sending else None
        self._receiving = (self._receiving or {}) if receiving else None
        if (sending or receiving) and self._timer is None:
            self._look()
        elif not (sending or receiving):
            self.end()

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        now, moved_bytes = time.monotonic(), 0
        infos = {sock: TcpInfo.of(sock) for sock in self._sockets()}
        if self._sending is not None:
            self._sending = {sock: self._sending.get(sock) or Scavenger(paced=True) for sock in infos}
            for sock, scavenger in self._sending.items():
                info = infos[sock]
                moved_bytes += info.acked_bytes
                scavenger.decide(now, info.rtt_s, info.acked_bytes, info.retransmitted)
                pace(sock, scavenger.bytes_per_s)
        if self._receiving is not None:
            self._receiving = {sock: self._receiving.get(sock) or Scavenger() for sock in infos}
            for sock, scavenger in self._receiving.items():
                info = infos[sock]
                moved_bytes += info.received_bytes
                scavenger.decide(now, info.receiving_rtt_s, info.received_bytes, info.out_of_order)
                clamp_window(sock, int(scavenger.window_bytes))
        idle, self._moved_bytes = moved_bytes == self._moved_bytes, moved_bytes
        self._timer = asyncio.get_running_loop().call_later(_LOOK_IDLE_S if idle else _LOOK_S, self._look)
