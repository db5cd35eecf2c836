"""What we have asked of one peer and not yet got: each request id with the place where its answer belongs.

An answer is accepted only for an id that is open, and only in the length that was asked for; so nothing that a peer
sends unasked is ever given a buffer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from p2pmodel.errors import CorruptChunkError, P2PModelError, PeerGoneError, ProtocolError
from p2pmodel.limits import OBJECT_BYTES_MAX
from p2pmodel.model import FOOTER_BYTES, Bundle, Digest
from p2pmodel.net import BulkSink

T = TypeVar("T")

_CANCELLED_MAX = 1024
"""Cancelled ids that are remembered, because their answers may be under way."""


@dataclass(slots=True)
class ChunkRequest:
    """A chunk of a download. `sink` verifies and writes; `settle` is told the outcome on the loop."""

    length: int
    sink: BulkSink
    settle: Callable[[P2PModelError | None], None]


@dataclass(slots=True)
class ObjectRequest:
    """A manifest or chunk list, verified by its hash as it is kept; or a bundle, which is verified in all its parts."""

    digest: Digest
    size_bytes_max: int
    answer: asyncio.Future[bytes]
    lists_bytes: int = 0
    """How much of chunk lists may come behind the manifest; `data` is a bundle then."""
    data: bytes = field(default=b"", init=False)
    begins: Callable[[], None] = field(default=lambda: None, init=False)
    """Called when the answer is announced."""

    def consume(self, data: memoryview) -> None:
        if self.lists_bytes:
            Bundle.decode(data, self.digest)
        elif not self.digest.is_of(data):
            raise CorruptChunkError(f"the object {self.digest} came with other bytes")
        self.data = bytes(data)

    def fail(self, error: P2PModelError) -> None:
        _resolve(self.answer, error, b"")


@dataclass(slots=True)
class StatementsRequest:
    """What is answered by a list in one message: statements, or the ids of models."""

    answer: asyncio.Future[list[bytes]]

    def fail(self, error: P2PModelError) -> None:
        _resolve(self.answer, error, [])


class _Discard:
    """The sink of an answer that is no longer wanted."""

    def consume(self, data: memoryview) -> None:
        pass


class OpenRequests:
    """The requests that one connection has open."""

    def __init__(self) -> None:
        self._next_id = 1
        self._open: dict[int, ChunkRequest | ObjectRequest | StatementsRequest] = {}
        self._cancelled: dict[int, int] = {}
        self._begun: dict[int, int] = {}
        """Ids whose answers are coming in or being verified, with their lengths: a second answer is one too many."""
        self.wasted_bytes = 0
        """Bytes of answers that came after they had been cancelled."""

    def __len__(self) -> int:
        return len(self._open)

    @property
    def answer_begun(self) -> bool:
        """Whether an answer is coming in, or being verified."""
        return bool(self._begun)

    def add(self, request: ChunkRequest | ObjectRequest | StatementsRequest) -> int:
        request_id = self._next_id
        self._next_id = (self._next_id + 1) % (1 << 32)
        self._open[request_id] = request
        return request_id

    def cancel(self, request_id: int) -> bool:
        """Whether it was open. Its answer is thrown away if it comes all the same."""
        request = self._open.pop(request_id, None)
        if request is None:
            return False
        length = request.length if isinstance(request, ChunkRequest) else OBJECT_BYTES_MAX
        self._cancelled[request_id] = length
        while len(self._cancelled) > _CANCELLED_MAX:
            del self._cancelled[next(iter(self._cancelled))]
        return True

    def sink(self, request_id: int, length: int) -> BulkSink:
        """Where an announced answer goes. Raises `ProtocolError` for one that was not asked for."""
        if request_id in self._begun:
            raise ProtocolError("a second answer to one request")
        sink = self._sink(request_id, length)
        self._begun[request_id] = length
        return sink

    def _sink(self, request_id: int, length: int) -> BulkSink:
        request = self._open.get(request_id)
        if isinstance(request, ChunkRequest):
            if length != request.length:
                raise ProtocolError(f"a chunk of {length} bytes where {request.length} were asked for")
            return request.sink
        if isinstance(request, ObjectRequest):
            most = request.size_bytes_max + (request.lists_bytes + FOOTER_BYTES if request.lists_bytes else 0)
            if length > most:
                raise ProtocolError(f"an object of {length} bytes where {most} are the most")
            request.begins()
            return request
        limit = self._cancelled.get(request_id, 0)
        if length > limit:
            raise ProtocolError("an answer that was not asked for")
        return _Discard()

    def finished(self, request_id: int, error: P2PModelError | None) -> None:
        """The answer has been consumed, or its sink failed. Raises the error where it is the peer's fault."""
        length = self._begun.pop(request_id, 0)
        # Counted when it is here: a slow answer that was cancelled may never come to its end.
        if self._cancelled.pop(request_id, None) is not None:
            self.wasted_bytes += length
        request = self._open.pop(request_id, None)
        if isinstance(request, ChunkRequest):
            request.settle(error)
        elif isinstance(request, ObjectRequest):
            _resolve(request.answer, error, request.data)
        if isinstance(error, CorruptChunkError):
            raise error

    def rejected(self, request_id: int, reason: str) -> None:
        request = self._open.pop(request_id, None)
        self._cancelled.pop(request_id, None)
        error = PeerGoneError(f"the peer refused: {reason}")
        if isinstance(request, ChunkRequest):
            request.settle(error)
        elif request is not None:
            request.fail(error)

    def statements(self, request_id: int, envelopes: list[bytes]) -> None:
        request = self._open.get(request_id)
        if not isinstance(request, StatementsRequest):
            if request_id in self._cancelled:
                return
            raise ProtocolError("statements that were not asked for")
        del self._open[request_id]
        _resolve(request.answer, None, envelopes)

    def fail_all(self, error: P2PModelError) -> None:
        """The connection has ended."""
        opened, self._open = self._open, {}
        for request in opened.values():
            if isinstance(request, ChunkRequest):
                request.settle(error)
            else:
                request.fail(error)


def _resolve(answer: asyncio.Future[T], error: P2PModelError | None, result: T) -> None:
    if answer.done():
        return
    if error is not None:
        answer.set_exception(error)
    else:
        answer.set_result(result)
