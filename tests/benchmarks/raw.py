"""The yardstick: sendfile -> recv_into -> BLAKE3 -> pwrite over a few connections, and nothing else.

`python raw.py serve HOST FILE` and `python raw.py fetch SIZE DIGESTS` speak lines of JSON on stdin and stdout. With
`--sealed` each chunk is one AES-128-GCM record, sealed and opened where it lies, as the peer's own are. No resume, no
peers, no manifest: what a complete program leaves of this speed is the price of being one.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

CHUNK_BYTES = 1024 * 1024
_TAG_BYTES = 16
_KEY = bytes(16)
_RANGE = struct.Struct(">QQ")


def say(**values: object) -> None:
    print(json.dumps(values), flush=True)


def questions() -> Iterator[dict[str, Any]]:
    for line in sys.stdin:
        yield json.loads(line)


def _tune(sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if sock.getpeername()[0].startswith("127."):
        # bbr, where it is the default, paces even loopback.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")


def _receive_exactly(sock: socket.socket, target: memoryview) -> None:
    while target:
        count = sock.recv_into(target)
        if not count:
            raise ConnectionError("cut off")
        target = target[count:]


# --- sender ----------------------------------------------------------------------------------------------------------


def serve(host: str, path: Path, *, sealed: bool, checked: bool) -> None:
    fd = os.open(path, os.O_RDONLY)
    listener = socket.create_server((host, 0))
    say(port=listener.getsockname()[1])
    send = partial(_send_checked, sealed) if checked else _send_sealed if sealed else _send_plain
    while True:
        sock, _ = listener.accept()
        threading.Thread(target=_serve_one, args=(sock, fd, send), daemon=True).start()


def _serve_one(sock: socket.socket, fd: int, send: Callable[[socket.socket, int, int, int], None]) -> None:
    with sock:
        _tune(sock)
        asked = bytearray(_RANGE.size)
        _receive_exactly(sock, memoryview(asked))
        offset, length = _RANGE.unpack(asked)
        send(sock, fd, offset, length)


def _send_plain(sock: socket.socket, fd: int, offset: int, length: int) -> None:
    end = offset + length
    while offset < end:
        offset += os.sendfile(sock.fileno(), fd, offset, end - offset)


def _send_sealed(sock: socket.socket, fd: int, offset: int, length: int) -> None:
    _send_from_memory(sock, fd, offset, length, sealed=True, checked=False)


def _send_checked(sealed: bool, sock: socket.socket, fd: int, offset: int, length: int) -> None:
    """No chunk leaves before it was hashed, in the memory that it leaves from."""
    _send_from_memory(sock, fd, offset, length, sealed=sealed, checked=True)


def _send_from_memory(sock: socket.socket, fd: int, offset: int, length: int, *, sealed: bool, checked: bool) -> None:
    key, room = AESGCM(_KEY), memoryview(bytearray(CHUNK_BYTES + _TAG_BYTES))
    for count, start in enumerate(range(offset, offset + length, CHUNK_BYTES)):
        size = min(CHUNK_BYTES, offset + length - start)
        if os.preadv(fd, [room[:size]], start) != size:
            raise OSError("a short read")
        if checked:
            blake3(room[:size]).digest()
        if sealed:  # in place
            key.encrypt_into(count.to_bytes(12, "big"), room[:size], None, room[: size + _TAG_BYTES])
        sock.sendall(room[: size + _TAG_BYTES if sealed else size])


# --- receiver --------------------------------------------------------------------------------------------------------


class Fetch:
    """One file, a connection to each of `addresses` for an equal run of chunks. `digests` has one for each chunk."""

    def __init__(
        self, addresses: Sequence[tuple[str, int]], size_bytes: int, digests: bytes, destination: Path, *, sealed: bool
    ) -> None:
        self._addresses, self._size_bytes, self._digests, self._sealed = addresses, size_bytes, digests, sealed
        self._destination = destination
        self._errors: list[Exception] = []

    def run(self) -> None:
        """Until the last byte is written. Raises what ended a connection."""
        fd = os.open(self._destination, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        os.posix_fallocate(fd, 0, self._size_bytes)
        chunks = -(-self._size_bytes // CHUNK_BYTES)
        share = -(-chunks // len(self._addresses)) * CHUNK_BYTES
        threads = [
            threading.Thread(target=self._part, args=(address, fd, start, min(start + share, self._size_bytes)))
            for address, start in zip(self._addresses, range(0, self._size_bytes, share), strict=False)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        os.close(fd)
        if self._errors:
            raise self._errors[0]

    def _part(self, address: tuple[str, int], fd: int, start: int, end: int) -> None:
        try:
            self._receive(address, fd, start, end)
        except (OSError, ValueError) as error:
            self._errors.append(error)

    def _receive(self, address: tuple[str, int], fd: int, start: int, end: int) -> None:
        room, key = memoryview(bytearray(CHUNK_BYTES + _TAG_BYTES)), AESGCM(_KEY)
        with socket.create_connection(address) as sock:
            _tune(sock)
            sock.sendall(_RANGE.pack(start, end - start))
            for count, offset in enumerate(range(start, end, CHUNK_BYTES)):
                chunk = room[: min(CHUNK_BYTES, end - offset)]
                if self._sealed:
                    record = room[: len(chunk) + _TAG_BYTES]
                    _receive_exactly(sock, record)
                    key.decrypt_into(count.to_bytes(12, "big"), record, None, chunk)
                else:
                    _receive_exactly(sock, chunk)
                number = offset // CHUNK_BYTES
                if blake3(chunk).digest() != self._digests[32 * number : 32 * number + 32]:
                    raise ValueError(f"chunk {number} is corrupt")
                if os.pwrite(fd, chunk, offset) != len(chunk):
                    raise OSError("a short write")


def fetch(size_bytes: int, digests: Path, *, sealed: bool) -> None:
    known = digests.read_bytes()
    say(ready=True)
    for asked in questions():
        addresses = [(host, port) for host, port in asked["addresses"]]
        began = time.monotonic()
        Fetch(addresses, size_bytes, known, Path(asked["to"]), sealed=sealed).run()
        say(began=began, ended=time.monotonic())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sealed", action="store_true")
    parser.add_argument("--checked", action="store_true", help="the sender hashes each chunk before it leaves")
    modes = parser.add_subparsers(dest="mode", required=True)
    serving = modes.add_parser("serve")
    serving.add_argument("host")
    serving.add_argument("file", type=Path)
    fetching = modes.add_parser("fetch")
    fetching.add_argument("size", type=int)
    fetching.add_argument("digests", type=Path)
    args = parser.parse_args()
    if args.mode == "serve":
        serve(args.host, args.file, sealed=args.sealed, checked=args.checked)
    else:
        fetch(args.size, args.digests, sealed=args.sealed)


if __name__ == "__main__":
    main()
