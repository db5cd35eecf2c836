"""What the kernel knows of a connection, and three things that can be told to it. Linux; elsewhere nothing is known.

Offsets are those of `struct tcp_info` (linux/tcp.h), which only ever grows at its end.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_BYTES_MIN, _BYTES = 152, 232
_RTT, _RCV_RTT = 68, 92
_RETRANSMITTED, _ACKED, _RECEIVED, _MIN_RTT, _OUT_OF_ORDER = 100, 120, 128, 148, 224
_SO_MAX_PACING_RATE = 47
_NO_PACING = 0xFFFFFFFF
_NO_CLAMP_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class TcpInfo:
    """Times in seconds, 0 where there is none yet."""

    rtt_s: float = 0.0
    """From what we have sent and the other side has acknowledged, smoothed."""
    min_rtt_s: float = 0.0
    receiving_rtt_s: float = 0.0
    """From what we have acknowledged and the bytes that came after, smoothed: grows while nothing is sent to us."""
    acked_bytes: int = 0
    received_bytes: int = 0
    retransmitted: int = 0
    """Segments of ours."""
    out_of_order: int = 0
    """Segments that came before one that was sent earlier: that one was lost, as a rule."""

    @classmethod
    def of(cls, sock: socket.socket) -> TcpInfo:
        option = getattr(socket, "TCP_INFO", None)
        if option is None:
            return cls()
        try:
            info = sock.getsockopt(socket.IPPROTO_TCP, option, _BYTES)
        except OSError:
            return cls()
        if len(info) < _BYTES_MIN:
            return cls()
        info = info.ljust(_BYTES, bytes(1))
        rtt, receiving_rtt, min_rtt = (_micro(info, at) for at in (_RTT, _RCV_RTT, _MIN_RTT))
        acked, received = (int(struct.unpack_from("=Q", info, at)[0]) for at in (_ACKED, _RECEIVED))
        lost = _number(info, _RETRANSMITTED), _number(info, _OUT_OF_ORDER)
        return cls(rtt, min_rtt if min_rtt < 4000 else 0.0, receiving_rtt, acked, received, *lost)


def _number(info: bytes, at: int) -> int:
    return int(struct.unpack_from("=I", info, at)[0])


def _micro(info: bytes, at: int) -> float:
    return _number(info, at) / 1e6


def pace(sock: socket.socket, bytes_per_s: float | None) -> None:
    """Let the kernel send no faster than this; None: as it likes. Where it cannot, nothing happens."""
    rate = _NO_PACING if bytes_per_s is None else min(max(int(bytes_per_s), 1), _NO_PACING - 1)
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_MAX_PACING_RATE, struct.pack("=I", rate))
    except OSError:
        pass


def clamp_window(sock: socket.socket, size_bytes: int | None) -> None:
    """Let the other side have no more than this under way to us; None: as the kernel likes. Linux only."""
    option = getattr(socket, "TCP_WINDOW_CLAMP", None)
    if option is None:
        return
    try:
        sock.setsockopt(socket.IPPROTO_TCP, option, _NO_CLAMP_BYTES if size_bytes is None else size_bytes)
    except OSError:
        pass


def shorten(sock: socket.socket) -> None:
    """Let no more be under way from us than the kernel would by itself, where it was allowed more."""
    most = _by_itself_bytes()
    try:
        if most and sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) > most:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, most // 2)  # it doubles what it is asked
    except OSError:
        pass


@cache
def _by_itself_bytes() -> int:
    try:
        return int(Path("/proc/sys/net/ipv4/tcp_wmem").read_text().split()[2])
    except (OSError, ValueError, IndexError):
        return 0
