"""One plain TCP flow for a while: what shares a line with a transfer in the background.

`python flow.py serve HOST CONGESTION` and `python flow.py get HOST PORT` speak lines of JSON on stdin and stdout; the
second answers `{"for_s": 8}` with the bytes it got meanwhile.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time

_BLOCK_BYTES = 256 * 1024


def serve(host: str, congestion: str) -> None:
    listener = socket.create_server((host, 0))
    print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
    while True:
        sock, _ = listener.accept()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion.encode())
        threading.Thread(target=_pour, args=(sock,), daemon=True).start()


def _pour(sock: socket.socket) -> None:
    block = bytes(_BLOCK_BYTES)
    with sock:
        try:
            while True:
                sock.sendall(block)
        except OSError:
            return  # it has had enough


def get(host: str, port: int) -> None:
    print(json.dumps({"ready": True}), flush=True)
    block = bytearray(_BLOCK_BYTES)
    for line in sys.stdin:
        for_s, count = json.loads(line)["for_s"], 0
        with socket.create_connection((host, port)) as sock:
            began = time.monotonic()
            while time.monotonic() - began < for_s:
                count += sock.recv_into(block)
        print(json.dumps({"bytes": count, "seconds": time.monotonic() - began}), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2], sys.argv[3])
    else:
        get(sys.argv[2], int(sys.argv[3]))
