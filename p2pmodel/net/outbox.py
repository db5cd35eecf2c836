"""Records on their way out: sealed in the order in which they leave, which is the order of the nonces."""

from __future__ import annotations

import os
import socket
from collections import deque

from p2pmodel.errors import P2PModelError, PeerGoneError
from p2pmodel.limits import PLAIN_RECORD_BYTES, RECORD_BYTES
from p2pmodel.net.records import HEADER_BYTES, TAG_BYTES, DirectionKeys, Kind, encode_header
from p2pmodel.net.seam import BulkSource

_MORE = getattr(socket, "MSG_MORE", 0)
"""More follows at once: a header leaves in one segment with what it announces."""
_VIEWS_PER_CALL = 16

SEALED_RECORD_BYTES = HEADER_BYTES + RECORD_BYTES + TAG_BYTES
"""A send buffer: one sealed record."""
WIRE_RECORD_BYTES = HEADER_BYTES + PLAIN_RECORD_BYTES
"""A full record in the clear."""


def make_record(keys: DirectionKeys | None, kind: Kind, body: bytes | bytearray) -> bytes | bytearray:
    """One record as it leaves the socket; in the clear without keys."""
    header = encode_header(kind, len(body))
    if keys is None:
        return header + body
    record = bytearray(HEADER_BYTES + len(body) + TAG_BYTES)
    record[:HEADER_BYTES] = header
    keys.seal_into(header, memoryview(body), memoryview(record)[HEADER_BYTES:])
    return record


class Outbox:
    """What waits to leave through one socket. Belongs to one thread at a time."""

    __slots__ = ("_queue", "keys", "message_bytes_left")

    def __init__(self, keys: DirectionKeys | None) -> None:
        self.keys = keys
        self.message_bytes_left = 0
        """Of messages, since this was last set to 0: bulk is not counted, it waits for the peer by itself."""
        self._queue: deque[tuple[memoryview, int]] = deque()

    @property
    def pending(self) -> bool:
        return bool(self._queue)

    def add(self, kind: Kind, body: bytes | bytearray, *, counted: int = 0) -> None:
        self._queue.append((memoryview(make_record(self.keys, kind, body)), counted))

    def add_data(self, plain: memoryview, into: memoryview) -> None:
        """A record of bulk, built in `into`, which has `SEALED_RECORD_BYTES` and is used until it has left."""
        self._queue.append((self._data_record(plain, into), 0))

    def send_data(self, sock: socket.socket, plain: memoryview, into: memoryview) -> int:
        """The same, and send it at once; nothing is pending. Returns the bytes that left. Raises `PeerGoneError`."""
        record = self._data_record(plain, into)
        try:
            sent = sock.send(record)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise PeerGoneError(f"the connection broke: {error.strerror}") from error
        if sent < len(record):
            self._queue.append((record[sent:], 0))
        return sent

    def _data_record(self, plain: memoryview, into: memoryview) -> memoryview:
        header = encode_header(Kind.BULK_DATA, len(plain))
        into[:HEADER_BYTES] = header
        if self.keys is None:
            into[HEADER_BYTES : HEADER_BYTES + len(plain)] = plain
            size = len(plain)
        else:
            size = self.keys.seal_into(header, plain, into[HEADER_BYTES:])
        return into[: HEADER_BYTES + size]

    def push(self, sock: socket.socket, *, more: bool = False) -> int:
        """Send what the socket takes now; returns the bytes that left. Raises `PeerGoneError`.

        `more` follows at once, in the same segment.
        """
        total, flags = 0, _MORE if more else 0
        while self._queue:
            try:
                if len(self._queue) == 1:
                    sent = sock.send(self._queue[0][0], flags)
                else:
                    views = [view for view, _ in self._queue] if len(self._queue) <= _VIEWS_PER_CALL else self._first()
                    sent = sock.sendmsg(views, [], flags)
            except BlockingIOError:
                return total
            except OSError as error:
                raise PeerGoneError(f"the connection broke: {error.strerror}") from error
            total += sent
            self._left(sent)
        return total

    def _first(self) -> list[memoryview]:
        return [self._queue[at][0] for at in range(_VIEWS_PER_CALL)]

    def _left(self, count: int) -> None:
        while count:
            view, counted = self._queue[0]
            if count < len(view):
                self._queue[0] = (view[count:], counted)
                return
            count -= len(view)
            self._queue.popleft()
            self.message_bytes_left += counted


def plain_wire_bytes(length: int) -> int:
    """How many bytes an answer of `length` bytes is on the wire, in the clear, without its announcement."""
    return length + -(-length // PLAIN_RECORD_BYTES) * HEADER_BYTES


def send_file_records(sock: socket.socket, fd: int, start: int, length: int, at: int, until: int) -> int:
    """Send an answer in the clear straight from a file, from byte `at` of its wire form on; returns where it got to.

    In a thread, because the file may have to come from a disk. Ends at `until` or where the socket takes no more.
    Raises `P2PModelError` where the file is shorter than it was, `PeerGoneError` where the connection broke.
    """
    try:
        while at < until:
            number, within = divmod(at, WIRE_RECORD_BYTES)
            size = min(PLAIN_RECORD_BYTES, length - number * PLAIN_RECORD_BYTES)
            if within < HEADER_BYTES:
                at += sock.send(encode_header(Kind.BULK_DATA, size)[within:], _MORE)
                continue
            done = within - HEADER_BYTES
            sent = os.sendfile(sock.fileno(), fd, start + number * PLAIN_RECORD_BYTES + done, size - done)
            if sent == 0:
                raise P2PModelError("a file shrank while it was being sent")
            at += sent
    except BlockingIOError:
        pass
    except OSError as error:
        raise PeerGoneError(f"the connection broke: {error.strerror}") from error
    return at


def read_record(source: BulkSource, offset: int, plain: memoryview) -> memoryview:
    """The next record's worth of `source`, read into `plain` unless it is in memory already."""
    size = min(RECORD_BYTES, source.length - offset)
    if (here := source.view(offset, size)) is not None:
        return here
    source.read_into(plain[:size], offset)
    return plain[:size]
