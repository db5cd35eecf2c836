"""One direction of a path with latency and loss: Ethernet frames from one interface to another, later, and not all.

`python -m tests.benchmarks.relay FROM TO --delay-s S --loss P`, in a network namespace of its own; on a line on stdin
it says what it has done so far. Frames come and go with `PACKET_VNET_HDR`, so a frame holds up to 64 KiB that the
kernel has not cut into segments yet: Python can keep up with 1 Gbit/s that way. Loss strikes segments, not frames: what
is left of a frame goes on in several.
"""

from __future__ import annotations

import argparse
import errno
import json
import select
import socket
import struct
import sys
import time
from collections import deque
from random import Random

_ETH_P_ALL = 3
_SOL_PACKET, _PACKET_VNET_HDR, _PACKET_IGNORE_OUTGOING = 263, 15, 23
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_BUFFER_BYTES = 64 * 1024 * 1024
_FRAME_BYTES_MAX = 128 * 1024
_FRAMES_PER_TURN = 64
_VNET = struct.Struct("=BBHHHH")
"""`struct virtio_net_hdr`: flags, kind, length of the headers, segment size, where the checksum starts and is put."""
_GSO_NONE, _GSO_TCPV4, _GSO_ECN = 0, 1, 0x80
_ETHERNET_BYTES = 14
_TCP = 6
_FIN_PSH = 0x09


class Losses:
    """Which segments are lost: each with the same probability, whatever became of the others."""

    def __init__(self, probability: float, rng: Random) -> None:
        self._probability, self._rng = probability, rng

    def kept(self, count: int) -> list[tuple[int, int]]:
        """Of `count` segments the runs that are not lost, each as (first, behind the last)."""
        runs: list[tuple[int, int]] = []
        for index in range(count):
            if self._probability and self._rng.random() < self._probability:
                continue
            if runs and runs[-1][1] == index:
                runs[-1] = (runs[-1][0], index + 1)
            else:
                runs.append((index, index + 1))
        return runs


def segments(frame: bytes) -> int:
    """How many segments this frame will be on a real wire."""
    _, kind, _, segment_bytes, _, _ = _VNET.unpack_from(frame)
    if kind & ~_GSO_ECN != _GSO_TCPV4 or not segment_bytes:
        return 1
    payload = len(frame) - _payload_at(frame)
    return max(-(-payload // int(segment_bytes)), 1)


def _payload_at(frame: bytes) -> int:
    ip: int = _VNET.size + _ETHERNET_BYTES
    tcp = ip + (frame[ip] & 15) * 4
    return tcp + (frame[tcp + 12] >> 4) * 4


def cut(frame: bytes, first: int, end: int) -> bytes:
    """The segments from `first` to before `end` of a frame of TCP over IPv4, as a frame."""
    flags, kind, header_bytes, segment_bytes, checksum_start, checksum_offset = _VNET.unpack_from(frame)
    at = _payload_at(frame)
    payload = frame[at + first * segment_bytes : at + end * segment_bytes]
    head = bytearray(frame[:at])
    if end - first == 1:
        kind, segment_bytes_left = _GSO_NONE, 0
    else:
        segment_bytes_left = segment_bytes
    _VNET.pack_into(head, 0, flags, kind, header_bytes, segment_bytes_left, checksum_start, checksum_offset)
    ip = _VNET.size + _ETHERNET_BYTES
    tcp = ip + (head[ip] & 15) * 4
    total, identity = len(head) - ip + len(payload), struct.unpack_from(">H", head, ip + 4)[0]
    struct.pack_into(">HH", head, ip + 2, total, (identity + first) & 0xFFFF)
    struct.pack_into(">H", head, ip + 10, 0)
    struct.pack_into(">H", head, ip + 10, ~_sum(head[ip:tcp]) & 0xFFFF)
    sequence = struct.unpack_from(">I", head, tcp + 4)[0]
    struct.pack_into(">I", head, tcp + 4, (sequence + first * segment_bytes) & 0xFFFFFFFF)
    if at + end * segment_bytes < len(frame):
        head[tcp + 13] &= ~_FIN_PSH  # they belong to the last segment
    # The sum of the pseudo header alone: whoever takes the frame completes it, or knows that it need not.
    pseudo = head[ip + 12 : ip + 20] + struct.pack(">HH", _TCP, total - (tcp - ip))
    struct.pack_into(">H", head, tcp + 16, _sum(pseudo))
    return bytes(head) + payload


def _sum(data: bytes | bytearray) -> int:
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def _open(interface: str, *, receiving: bool) -> socket.socket:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    sock.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE if receiving else _SO_SNDBUFFORCE, _BUFFER_BYTES)
    if receiving:
        sock.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
    sock.bind((interface, _ETH_P_ALL if receiving else 0))
    sock.setblocking(False)
    return sock


class Relay:
    """Takes frames from one socket and gives them to the other `delay_s` later."""

    def __init__(self, source: socket.socket, target: socket.socket, delay_s: float, losses: Losses) -> None:
        self._source, self._target, self._delay_s, self._losses = source, target, delay_s, losses
        self._waiting: deque[tuple[float, bytes]] = deque()
        self._seen = self._lost = self._refused = 0
        self._late_s = 0.0

    def run(self) -> None:
        while True:
            patience_s = max(self._waiting[0][0] - time.monotonic(), 0.0) if self._waiting else None
            ready, _, _ = select.select([self._source, sys.stdin], [], [], patience_s)
            if sys.stdin in ready:
                if not sys.stdin.readline():
                    return
                self._say()
            if self._source in ready:
                self._take()
            self._give()

    def _take(self) -> None:
        for _ in range(_FRAMES_PER_TURN):
            try:
                frame = self._source.recv(_FRAME_BYTES_MAX)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.EINVAL:  # a frame that this header cannot describe; none of TCP's
                    raise
                continue
            due = time.monotonic() + self._delay_s
            count = segments(frame)
            runs = self._losses.kept(count)
            self._seen += count
            self._lost += count - sum(end - first for first, end in runs)
            for first, end in runs:
                self._waiting.append((due, frame if end - first == count else cut(frame, first, end)))

    def _give(self) -> None:
        while self._waiting and self._waiting[0][0] <= (now := time.monotonic()):
            due, frame = self._waiting.popleft()
            self._late_s = max(self._late_s, now - due)
            try:
                self._target.send(frame)
            except OSError as error:
                if error.errno not in (errno.ENOBUFS, errno.EAGAIN):
                    raise
                self._refused += 1  # the queue before the narrow place is full: a router drops then, too

    def _say(self) -> None:
        said = {"seen": self._seen, "lost": self._lost, "refused": self._refused, "late_s": self._late_s}
        self._seen = self._lost = self._refused = 0
        self._late_s = 0.0
        print(json.dumps(said), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source")
    parser.add_argument("target")
    parser.add_argument("--delay-s", type=float, default=0.0)
    parser.add_argument("--loss", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    losses = Losses(args.loss, Random(args.seed))
    relay = Relay(_open(args.source, receiving=True), _open(args.target, receiving=False), args.delay_s, losses)
    print(json.dumps({"ready": True}), flush=True)
    relay.run()


if __name__ == "__main__":
    main()
