"""Records on their way out: sealed in the order in which they leave, which is the order of the nonces."""

from __future__ import annotations

import os
import socket
from collections import deque

from p2pmodel.errors import P2PModelError, PeerGoneError
from p2pmodel.limits import RECORD_BYTES, RECORD_BYTES_SLOW, RECORD_MARGIN_BYTES
from p2pmodel.net.records import HEADER_BYTES, TAG_BYTES, DirectionKeys, Kind, encode_header

_MORE = getattr(socket, "MSG_MORE", 0)
"""More follows at once: a header leaves in one segment with what it announces."""
_VIEWS_PER_CALL = 16

SEND_BUFFER_BYTES = RECORD_MARGIN_BYTES + RECORD_BYTES_SLOW + RECORD_MARGIN_BYTES
"""Room for a piece of a source that has none itself."""
WIRE_RECORD_BYTES = HEADER_BYTES + RECORD_BYTES
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

    def add_data(self, room: memoryview, start: int, size: int) -> None:
        """A record of bulk, of the bytes at `start` of `room`: sealed where they lie, and used until it has left.

        The header is written before them and the tag behind them.
        """
        end = start + size
        header = encode_header(Kind.BULK_DATA, size)
        room[start - HEADER_BYTES : start] = header
        if self.keys is not None:
            end += self.keys.seal_into(header, room[start:end], room[start : end + TAG_BYTES]) - size
        self._queue.append((room[start - HEADER_BYTES : end], 0))

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
    return length + -(-length // RECORD_BYTES) * HEADER_BYTES


def send_file_records(sock: socket.socket, fd: int, start: int, length: int, at: int, until: int) -> int:
    """Send an answer in the clear straight from a file, from byte `at` of its wire form on; returns where it got to.

    In a thread, because the file may have to come from a disk. Ends at `until` or where the socket takes no more.
    Raises `P2PModelError` where the file is shorter than it was, `PeerGoneError` where the connection broke.
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
    except OSError as error:
        raise PeerGoneError(f"the connection broke: {error.strerror}") from error
    return at
