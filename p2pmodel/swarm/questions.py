"""What we ask of one peer: each question with an id of its own, not too many at once, and each with a time to answer.

What came back is for `requests.OpenRequests` to say; here it is sent for and waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import TypeVar

from p2pmodel.errors import PeerGoneError
from p2pmodel.limits import (
    CHUNKS_ASKED_PER_MESSAGE_MAX,
    OBJECT_BYTES_MAX,
    REQUEST_DEADLINE_MAX_S,
    REQUESTS_PER_PEER_MAX,
)
from p2pmodel.model import Digest, ModelId, PublicKey
from p2pmodel.net import Channel
from p2pmodel.swarm import wire
from p2pmodel.swarm.greeting import Greeting
from p2pmodel.swarm.requests import ChunkRequest, ObjectRequest, OpenRequests, StatementsRequest

T = TypeVar("T")

_OBJECT_REQUESTS_MAX = REQUESTS_PER_PEER_MAX // 4
"""Objects and statements asked of one peer at once; more wait here, for a peer that is asked for too much hangs up."""


class Questions:
    """`greeting`: what has been sent to the peer already."""

    def __init__(self, channel: Channel, greeting: Greeting | None = None) -> None:
        self.requests = OpenRequests() if greeting is None else greeting.requests
        self._channel = channel
        self._greeting = greeting
        self._turns = asyncio.Semaphore(_OBJECT_REQUESTS_MAX)
        self._unasked: list[wire.RequestChunk] = []
        self._ended = False

    def chunk(self, model_id: ModelId, index: int, digest: Digest, request: ChunkRequest) -> int:
        """Ask for this chunk, together with all others until `ask`."""
        request_id = self.requests.add(request)
        self._unasked.append(wire.RequestChunk(request_id, model_id.raw, digest.raw, request.length, index))
        return request_id

    def ask(self) -> None:
        """Send what `chunk` was called for: one message for all chunks of a model."""
        unasked, self._unasked = self._unasked, []
        if len(unasked) == 1:
            self._send(unasked[0])
            return
        for model, requests in groupby(unasked, lambda request: request.model):
            chunks = [wire.Asked(one.request, one.digest, one.length, one.index) for one in requests]
            for start in range(0, len(chunks), CHUNKS_ASKED_PER_MESSAGE_MAX):
                self._send(wire.RequestChunks(model, chunks[start : start + CHUNKS_ASKED_PER_MESSAGE_MAX]))

    def _send(self, message: wire.AnyMessage) -> None:
        self._channel.send(wire.encode(message))

    def cancel(self, request_id: int) -> None:
        if self.requests.cancel(request_id):
            self.ask()
            self._send(wire.Cancel(request_id))

    async def object(self, digest: Digest, size_bytes_max: int = OBJECT_BYTES_MAX, *, lists_bytes: int = 0) -> bytes:
        """The object; with `lists_bytes`, a bundle of a manifest and chunk lists.

        Raises `PeerGoneError` where the peer does not send it, `CorruptChunkError` where it sends something else.
        """
        if self._greeting is not None and (asked := self._greeting.take_object(digest, lists_bytes)) is not None:
            return await self._wait(asked[0], asked[1].answer, asked[1])
        async with self._turns:
            answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
            request = ObjectRequest(digest, size_bytes_max, answer, lists_bytes)
            request_id = self._open(request)
            self._send(wire.RequestObject(request_id, digest.raw, lists_bytes))
            return await self._wait(request_id, answer, request)

    async def statements(self, model_id: ModelId) -> list[bytes]:
        """Envelopes, not yet verified. Raises `PeerGoneError`."""
        if self._greeting is not None and (asked := self._greeting.take_statements(model_id)) is not None:
            return await self._wait(asked[0], asked[1].answer)
        return await self._list(lambda number: wire.RequestStatements(number, model_id.raw))

    async def name(self, publisher: PublicKey, name: str, revision: str) -> list[bytes]:
        """Envelopes, not yet verified. Raises `PeerGoneError`."""
        return await self._list(lambda number: wire.RequestName(number, publisher.raw, name, revision))

    async def models(self, digests: Sequence[Digest]) -> list[ModelId]:
        """Models in which the peer holds any of these chunks, as it says. Raises `PeerFault`."""
        asked = [digest.raw for digest in digests]
        found = await self._list(lambda number: wire.RequestModels(number, asked))
        return [ModelId(Digest(raw)) for raw in found]

    async def _list(self, message: Callable[[int], wire.AnyMessage]) -> list[bytes]:
        """What one message answers, to the question that `message` makes with its number."""
        async with self._turns:
            answer: asyncio.Future[list[bytes]] = asyncio.get_running_loop().create_future()
            request_id = self._open(StatementsRequest(answer))
            self._send(message(request_id))
            return await self._wait(request_id, answer)

    def _open(self, request: ObjectRequest | StatementsRequest) -> int:
        if self._ended:
            raise PeerGoneError("the connection has ended")
        return self.requests.add(request)

    async def _wait(self, request_id: int, answer: asyncio.Future[T], request: ObjectRequest | None = None) -> T:
        try:
            async with asyncio.timeout(REQUEST_DEADLINE_MAX_S) as patience:
                if request is not None:
                    # How long the bytes may take from then on is for the channel to say.
                    request.begins = lambda: patience.reschedule(None)
                return await answer
        except TimeoutError as error:
            self.cancel(request_id)
            raise PeerGoneError("the peer did not answer in time") from error
        except asyncio.CancelledError:
            self.cancel(request_id)
            raise

    def end(self) -> None:
        """The connection has ended: nothing more can be asked. What is open is for `requests.fail_all`."""
        self._ended = True
