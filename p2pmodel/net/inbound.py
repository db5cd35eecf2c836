"""Records coming in, as a plain object: it says where the next bytes belong, takes them, and reports whole things.

`Inbound` holds at most one partial record and one answer in a buffer that its owner lent. It knows no socket: bytes may
come in pieces of any size, with the same result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from p2pmodel.errors import ProtocolError
from p2pmodel.net.buffers import Buffer
from p2pmodel.net.records import HEADER_BYTES, TAG_BYTES, DirectionKeys, Kind, decode_bulk_begin, decode_header
from p2pmodel.net.seam import BulkSink

_FIRST_BYTES = 16 * 1024
_GROWTH = 4
_NOTHING = memoryview(b"")


@dataclass(slots=True)
class Bulk:
    """An answer that is coming in, and the buffer that was lent for it, with `TAG_BYTES` behind the answer."""

    request_id: int
    length: int
    sink: BulkSink
    buffer: Buffer
    filled: int = 0
    lent: bool = True
    """Whether its buffer counts as lent. Until much has come in from a stranger it does not."""


class InboundOwner(Protocol):
    """Who is told. Each method may raise `PeerFault`, which goes on to whoever fed the bytes."""

    def message_in(self, message: bytes) -> None: ...

    def bulk_begins(self, request_id: int, length: int) -> None:
        """Lend a buffer with `Inbound.lend`, now or later; until then nothing more is parsed."""

    def bulk_complete(self, bulk: Bulk) -> None: ...


class Inbound:
    """The receiving half of a channel. Raises `ProtocolError` for whatever breaks the rules of `records.py`."""

    __slots__ = (
        "_body", "_filled", "_header", "_keys", "_kind", "_owner", "_size", "_stash", "_tag_bytes", "bulk", "stalled",
    )  # fmt: skip

    def __init__(self, keys: DirectionKeys | None, owner: InboundOwner) -> None:
        self.bulk: Bulk | None = None
        self.stalled = False
        """An answer has been announced and waits for a buffer: give no more bytes until `lend`."""
        self._keys = keys
        self._owner = owner
        self._tag_bytes = TAG_BYTES if keys else 0
        self._header = b""
        self._kind: Kind | None = None
        self._body = _NOTHING
        self._filled = 0
        self._size = 0
        """Of the whole body; `_body` may be shorter for now."""
        self._stash = b""

    @property
    def target(self) -> memoryview:
        """Where the rest of the record in progress may be written directly; empty between records."""
        return self._body[self._filled :]

    def wrote(self, count: int, beyond: bytes | memoryview = b"") -> None:
        """`count` bytes were written to `target`, and `beyond` came in after them."""
        self._filled += count
        if beyond or self._filled == len(self._body):
            self.feed(beyond)

    def feed(self, data: bytes | memoryview) -> None:
        """Take the next bytes of the stream. Nothing of `data` is kept by reference."""
        view = memoryview(data)
        while not self.stalled:
            if self._kind is None:
                if not view:
                    return
                missing = HEADER_BYTES - len(self._header)
                self._header += view[:missing]
                if len(view) < missing:
                    return
                view = view[missing:]
                self._kind, length = decode_header(self._header)
                self._begin_body(self._kind, length)
            if view and self._filled < len(self._body):
                taken = min(len(self._body) - self._filled, len(view))
                self._body[self._filled : self._filled + taken] = view[:taken]
                self._filled += taken
                view = view[taken:]
            if self._filled < len(self._body):
                return
            if self._filled < self._size:
                self._grow()
                continue
            self._record_complete()
        self._stash += bytes(view)

    def lend(self, bulk: Bulk) -> None:
        """Give the announced answer its buffer, and parse what had come in meanwhile."""
        assert len(bulk.buffer) >= bulk.length + self._tag_bytes, "no room for the tag of the last record"
        self.bulk = bulk
        self.stalled = False
        stash, self._stash = self._stash, b""
        self.feed(stash)

    def _begin_body(self, kind: Kind, length: int) -> None:
        self._filled, self._size = 0, length + self._tag_bytes
        if kind is Kind.BULK_DATA:
            bulk = self.bulk
            if bulk is None or length > bulk.length - bulk.filled:
                raise ProtocolError("bulk that was not announced")
            # Sealed bytes come to where they are opened; the tag of this record stands where the next one begins.
            self._body = memoryview(bulk.buffer)[bulk.filled : bulk.filled + self._size]
            return
        if kind is Kind.BULK_BEGIN and self.bulk is not None:
            raise ProtocolError("a second answer before the first has ended")
        self._body = memoryview(bytearray(min(self._size, _FIRST_BYTES)))

    def _grow(self) -> None:
        """More has come of a message than there was room for. A length that is only claimed buys no memory."""
        longer = memoryview(bytearray(min(self._size, _GROWTH * len(self._body))))
        longer[: self._filled] = self._body
        self._body = longer

    def _record_complete(self) -> None:
        kind, header, body = self._kind, self._header, self._body
        self._kind, self._header, self._body, self._filled = None, b"", _NOTHING, 0
        if kind is Kind.BULK_DATA:
            self._bulk_data(header, body)
        elif kind is Kind.MESSAGE:
            self._owner.message_in(self._open(header, body))
        else:
            request_id, length = decode_bulk_begin(self._open(header, body))
            self.stalled = True
            self._owner.bulk_begins(request_id, length)

    def _open(self, header: bytes, body: memoryview) -> bytes:
        if self._keys is None:
            return bytes(body)
        plain = bytearray(len(body) - TAG_BYTES)
        self._keys.open_into(header, body, memoryview(plain))
        return bytes(plain)

    def _bulk_data(self, header: bytes, body: memoryview) -> None:
        bulk = self.bulk
        assert bulk is not None
        length = len(body) - self._tag_bytes
        if self._keys is not None:
            self._keys.open_into(header, body, body[:length])
        bulk.filled += length
        if bulk.filled == bulk.length:
            self.bulk = None
            self._owner.bulk_complete(bulk)
