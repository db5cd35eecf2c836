"""Stands between a client and an endpoint, and cuts one connection in the middle of an answer."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_BLOCK = 64 * 1024


class CuttingProxy:
    """`cut_after`: bytes of one answer; the first that is longer is cut there, once."""

    def __init__(self, target: str, cut_after: int) -> None:
        host, _, port = target.rpartition(":")
        self._target, self._cut_after = (host, int(port)), cut_after
        self.cuts = 0
        self.ranges: list[bytes] = []
        """What was asked for in parts, as the header says it."""
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self._lock = threading.Lock()

    def serve(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            upstream = socket.create_connection(self._target)
            for pump in (self._requests, self._answers):
                threading.Thread(target=pump, args=(client, upstream), daemon=True).start()

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _requests(self, client: socket.socket, upstream: socket.socket) -> None:
        """The endpoint answers under its own name only."""
        ours, theirs = (
            f"Host: {address}".encode() for address in (self.address, f"{self._target[0]}:{self._target[1]}")
        )

        def rename(data: bytes) -> bytes:
            self.ranges += [line for line in data.split(b"\r\n") if line.lower().startswith(b"range:")]
            return data.replace(ours, theirs).replace(ours.lower(), theirs)

        self._pump(client, upstream, rename)

    def _answers(self, client: socket.socket, upstream: socket.socket) -> None:
        passed = 0

        def count(data: bytes) -> bytes:
            nonlocal passed
            passed += len(data)
            with self._lock:
                if passed > self._cut_after and not self.cuts:
                    self.cuts += 1
                    raise OSError("cut")
            return data

        self._pump(upstream, client, count)

    @staticmethod
    def _pump(source: socket.socket, target: socket.socket, change: Callable[[bytes], bytes]) -> None:
        try:
            while data := source.recv(_BLOCK):
                target.sendall(change(data))
        except OSError:
            pass
        for end in (source, target):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            end.close()


@contextmanager
def cutting_proxy(target: str, cut_after: int) -> Iterator[CuttingProxy]:
    proxy = CuttingProxy(target, cut_after)
    threading.Thread(target=proxy.serve, daemon=True).start()
    try:
        yield proxy
    finally:
        proxy.close()
