"""What waits to leave through one socket, in the order in which it was sealed: the order of the nonces."""

from __future__ import annotations

import os
import socket
from collections import deque

from p2pmodel.errors import P2PModelError
from p2pmodel.limits import CHUNK_BYTES, RECORD_BYTES
from p2pmodel.net.records import HEADER_BYTES, TAG_BYTES, DirectionKeys, Kind, encode_header
from p2pmodel.net.seam import BulkSource

_MORE = getattr(socket, "MSG_MORE", 0)
"""More follows at once: a header leaves in one segment with what it announces."""

SEALED_PIECE_BYTES = CHUNK_BYTES + CHUNK_BYTES // RECORD_BYTES * (HEADER_BYTES + TAG_BYTES)
"""A send buffer: a chunk's worth of sealed records."""


class Outbox:
    """Records waiting to leave, in the order in which they were sealed."""

    __slots__ = ("_deferred", "_held", "_queue", "keys", "message_bytes")

    def __init__(self, keys: DirectionKeys | None) -> None:
        self.keys = keys
        self.message_bytes = 0
        """Queued, deferred ones too; bulk is not counted, it waits for the peer by itself."""
        self._queue: deque[tuple[memoryview, int]] = deque()
        self._deferred: deque[bytes] = deque()
        self._held = False

    @property
    def pending(self) -> bool:
        return bool(self._queue)

    @property
    def front(self) -> memoryview:
        return self._queue[0][0]

    def sent(self, count: int) -> None:
        view, counted = self._queue[0]
        if count == len(view):
            self._queue.popleft()
            self.message_bytes -= counted
        else:
            self._queue[0] = (view[count:], counted)

    @property
    def on_hold(self) -> bool:
        return self._held

    def add_message(self, message: bytes) -> None:
        self.message_bytes += len(message)
        if self._held:
            self._deferred.append(message)
        else:
            self.add(Kind.MESSAGE, message, counted=len(message))

    def add(self, kind: Kind, body: bytes | bytearray, *, counted: int = 0) -> None:
        header = encode_header(kind, len(body))
        if self.keys is None:
            self._queue.append((memoryview(header + body), counted))
            return
        record = bytearray(HEADER_BYTES + len(body) + TAG_BYTES)
        record[:HEADER_BYTES] = header
        self.keys.seal_into(header, memoryview(body), memoryview(record)[HEADER_BYTES:])
        self._queue.append((memoryview(record), counted))

    def add_raw(self, data: bytes) -> None:
        self._queue.append((memoryview(data), 0))

    def add_sealed(self, records: memoryview) -> None:
        self._queue.append((records, 0))

    def held(self) -> Held:
        """A context in which messages are put off: a piece of bulk is being sealed, or is leaving by `sendfile`."""
        return Held(self)

    def hold(self) -> None:
        self._held = True

    def release(self) -> None:
        self._held = False
        while self._deferred:
            message = self._deferred.popleft()
            self.add(Kind.MESSAGE, message, counted=len(message))


class Held:
    """See `Outbox.held`."""

    __slots__ = ("_outbox",)

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox

    def __enter__(self) -> None:
        self._outbox.hold()

    def __exit__(self, *_: object) -> None:
        self._outbox.release()


def seal_piece(keys: DirectionKeys, source: BulkSource, offset: int, size: int, out: memoryview) -> int:
    """Read `size` bytes from `offset` and seal them as records into `out`; returns the bytes written. In a thread."""
    plain = memoryview(bytearray(min(size, RECORD_BYTES)))
    at = 0
    for start in range(0, size, RECORD_BYTES):
        length = min(RECORD_BYTES, size - start)
        view = plain[:length]
        source.read_into(view, offset + start)
        header = encode_header(Kind.BULK_DATA, length)
        out[at : at + HEADER_BYTES] = header
        at += HEADER_BYTES
        at += keys.seal_into(header, view, out[at:])
    return at


WIRE_RECORD_BYTES = HEADER_BYTES + RECORD_BYTES
"""A full record in the clear."""


def plain_wire_bytes(length: int) -> int:
    """How many bytes an answer of `length` bytes is on the wire, in the clear, without its announcement."""
    return length + -(-length // RECORD_BYTES) * HEADER_BYTES


def send_file_records(sock: socket.socket, fd: int, start: int, length: int, at: int, until: int) -> int:
    """Send an answer in the clear straight from a file, from byte `at` of its wire form on; returns where it got to.

    In a thread, because the file may have to come from a disk. Ends at `until` or where the socket takes no more.
    Raises `P2PModelError` where the file is shorter than it was, `OSError` where the connection broke.
    """
    try:
        while at < until:
            number, within = divmod(at, WIRE_RECORD_BYTES)
            size = min(RECORD_BYTES, length - number * RECORD_BYTES)
            if within < HEADER_BYTES:
                at += sock.send(encode_header(Kind.BULK_DATA, size)[within:], _MORE)
                continue
            done = within - HEADER_BYTES
            sent = os.sendfile(sock.fileno(), fd, start + number * RECORD_BYTES + done, size - done)
            if sent == 0:
                raise P2PModelError("a file shrank while it was being sent")
            at += sent
    except BlockingIOError:
        pass
    return at
