"""Answering what one peer asks: chunks in their order, each when it is this peer's turn; what is small, at once.

Nothing runs for a peer that asks for nothing: a task is there as long as there is something to answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple, Protocol

from p2pmodel.errors import DecodeError, P2PModelError, PeerFault, ProtocolError
from p2pmodel.limits import (
    BUNDLED_LISTS_BYTES_MAX,
    BUNDLED_MANIFEST_BYTES_MAX,
    CHUNK_BYTES,
    MODELS_PER_ANSWER_MAX,
    OBJECTS_OUT_BYTES_MAX,
    REQUESTS_PER_PEER_MAX,
    STATEMENTS_PER_ANSWER_BYTES_MAX,
    STATEMENTS_PER_MODEL_MAX,
)
from p2pmodel.model import Digest, Manifest, ModelId, PublicKey, bundled, encode_bundle
from p2pmodel.net import Channel, Network
from p2pmodel.swarm import wire
from p2pmodel.swarm.seeding import Follower, Seeding
from p2pmodel.swarm.shelf import ObjectInMemory, Shelf, SoughtChunk
from p2pmodel.swarm.turns import Served, Turns

SmallRequest = wire.RequestObject | wire.RequestStatements | wire.RequestName | wire.RequestModels
Answer = wire.RequestChunk | SmallRequest


class Asker(Follower, Served, Protocol):
    """The link whose peer asks."""


@dataclass(slots=True)
class Uploads:
    """What all connections of a peer share: where answers come from, whose turn it is, and who is shown what."""

    shelf: Shelf
    network: Network
    turns: Turns
    seeding: Seeding
    objects: ObjectsOut = field(default_factory=lambda: ObjectsOut())


class Named(NamedTuple):
    """An object by its hash, and how much of the chunk lists behind it is asked for."""

    digest: Digest
    lists_bytes: int = 0


class ObjectsOut:
    """Objects on their way out: each is in memory once, whoever asks for it, and all of them are so many bytes."""

    def __init__(self, bytes_max: int = OBJECTS_OUT_BYTES_MAX) -> None:
        self.bytes = 0
        self._bytes_max = bytes_max
        self._held: dict[Named, tuple[bytes, int]] = {}
        self._turn = asyncio.Lock()

    async def take(self, named: Named, read: Callable[[Named], Awaitable[bytes | None]]) -> bytes | None:
        """None where it is not here, or no more may be held. Otherwise `give_back` follows."""
        async with self._turn:
            data, users = self._held.get(named, (None, 0))
            if data is None:
                if self.bytes >= self._bytes_max:
                    return None
                data = await read(named)
                if data is None:
                    return None
                self.bytes += len(data)
            self._held[named] = data, users + 1
            return data

    def give_back(self, named: Named) -> None:
        data, users = self._held.pop(named)
        if users > 1:
            self._held[named] = data, users - 1
        else:
            self.bytes -= len(data)


class UploadQueue:
    """The requests of one peer. `spawn` runs the work of answering until it is done, or the channel closes."""

    def __init__(
        self,
        uploads: Uploads,
        channel: Channel,
        asker: Asker,
        spawn: Callable[[Callable[[], Coroutine[Any, Any, None]]], None],
    ) -> None:
        self._uploads = uploads
        self._channel = channel
        self._asker = asker
        self._spawn = spawn
        self._chunks: dict[int, wire.RequestChunk] = {}
        self._small: dict[int, SmallRequest] = {}
        self._sending_chunks = self._starting = 0
        """Tasks that send chunks, and those of them that have not taken any from `_chunks` yet."""
        self.longest_bytes = CHUNK_BYTES
        """The longest chunk that this peer was sent, at least an ordinary one."""
        self._sending_small = False

    def add(self, *requests: Answer) -> None:
        """Raises `ProtocolError` where the peer asks without measure or uses an id twice."""
        for request in requests:
            if len(self._chunks) + len(self._small) >= REQUESTS_PER_PEER_MAX:
                raise ProtocolError(f"more than {REQUESTS_PER_PEER_MAX} requests at once")
            if request.request in self._chunks or request.request in self._small:
                raise ProtocolError("a request id that is already in use")
            if isinstance(request, wire.RequestChunk):
                self._chunks[request.request] = request
                continue
            self._small[request.request] = request
            if not self._sending_small:
                self._sending_small = True
                self._spawn(self._send_small)
        self._send_more()

    def widened(self) -> None:
        """More may leave at a time than when these requests came."""
        self._send_more()

    def _send_more(self) -> None:
        """Let as many tasks run as the channel can use, and as there are runs of chunks for."""
        channel = self._channel
        while self._chunks and self._sending_chunks < channel.runs_ahead:
            if self._starting and self._starting * channel.run_answers >= len(self._chunks):
                return
            self._sending_chunks += 1
            self._starting += 1
            self._spawn(self._send_chunks)

    @property
    def waiting(self) -> bool:
        """Whether something is asked for and has not left."""
        return self.pending > 0

    @property
    def pending(self) -> int:
        """How much is asked for and has not left."""
        return len(self._chunks) + len(self._small) + self._sending_chunks + self._sending_small

    def cancel(self, request_id: int) -> None:
        self._chunks.pop(request_id, None)
        self._small.pop(request_id, None)

    def let_go(self) -> None:
        """The connection has ended: forget who asked, who knows us as well."""
        self._chunks.clear()
        self._small.clear()
        del self._asker, self._spawn

    def _next(self) -> list[wire.RequestChunk]:
        return list(islice(self._chunks.values(), self._channel.run_answers))

    async def _send_chunks(self) -> None:
        starting = True
        try:
            while self._chunks:
                turn = await self._uploads.turns.take(self._asker, sum(request.length for request in self._next()))
                sent_bytes = 0
                try:
                    requests = self._next()  # maybe not the same: some may have been cancelled meanwhile
                    for request in requests:
                        del self._chunks[request.request]
                    starting, self._starting = False, self._starting - 1
                    sent_bytes = await self._send_run(requests)
                finally:
                    self._uploads.turns.done(turn, sent_bytes)
                    starting, self._starting = True, self._starting + 1
        except PeerFault:
            return
        finally:
            self._sending_chunks -= 1
            self._starting -= starting

    async def _send_run(self, requests: list[wire.RequestChunk]) -> int:
        """Answer these, one way or the other; returns the bytes of chunks that have left."""
        uploads, answers = self._uploads, []
        for request in requests:
            if uploads.seeding.serves(self._asker, request):
                place = ModelId(Digest(request.model)), request.index
                source = SoughtChunk(uploads.shelf, Digest(request.digest), request.length, place)
                answers.append((request, source))
            else:
                self._reject(request, "others have it first")
        if not answers:
            return 0
        sent_bytes = 0
        outcome = await self._channel.send_run([(request.request, source) for request, source in answers])
        for (request, _), sent in zip(answers, outcome, strict=True):
            if not sent:
                self._reject(request, "not held here")
                continue
            sent_bytes += request.length
            self.longest_bytes = max(self.longest_bytes, request.length)
            uploads.seeding.sent(self._asker, request)
        return sent_bytes

    async def _send_small(self) -> None:
        try:
            while self._small:
                request = self._small.pop(next(iter(self._small)))
                if not isinstance(request, wire.RequestObject):
                    await self._send_list(request)
                    continue
                lists_bytes = min(request.lists_bytes, BUNDLED_LISTS_BYTES_MAX)
                await self._send_object(request, Named(Digest(request.digest), lists_bytes))
        except PeerFault:
            return
        finally:
            self._sending_small = False

    async def _send_list(self, request: wire.RequestStatements | wire.RequestName | wire.RequestModels) -> None:
        shelf, offload = self._uploads.shelf, self._uploads.network.offload
        answer: wire.AnyMessage
        match request:
            case wire.RequestStatements(number, model):
                answer = wire.Statements(number, _fitting(await offload(shelf.statements, ModelId(Digest(model)))))
            case wire.RequestName(number, publisher, name, revision):
                named = await offload(shelf.named, PublicKey(publisher), name, revision)
                answer = wire.Statements(number, _fitting(named))
            case wire.RequestModels(number, digests):
                found = await offload(shelf.models, [Digest(raw) for raw in digests])
                answer = wire.Models(number, [model_id.raw for model_id in found[:MODELS_PER_ANSWER_MAX]])
        self._channel.send(wire.encode(answer))

    async def _send_object(self, request: wire.RequestObject, named: Named) -> None:
        objects = self._uploads.objects
        data = await objects.take(named, self._read_object)
        if data is None:
            self._reject(request, "not held here, or too much is asked for")
            return
        try:
            await self._channel.send_run([(request.request, ObjectInMemory(data))])
        finally:
            objects.give_back(named)

    async def _read_object(self, named: Named) -> bytes | None:
        try:
            return await self._uploads.network.offload(_read, self._uploads.shelf, named)
        except P2PModelError:
            # Our disk's trouble is none of the peer's business; it asks elsewhere.
            return None

    def _reject(self, request: wire.RequestChunk | wire.RequestObject, reason: str) -> None:
        self._channel.send(wire.encode(wire.Reject(request.request, reason)))


def _fitting(envelopes: list[bytes]) -> list[bytes]:
    """As many as one message holds, the first ones: others' statements may be as long as they like."""
    room, first = STATEMENTS_PER_ANSWER_BYTES_MAX, []
    for envelope in envelopes[:STATEMENTS_PER_MODEL_MAX]:
        room -= len(envelope)
        if room < 0:
            break
        first.append(envelope)
    return first


def _read(shelf: Shelf, named: Named) -> bytes | None:
    """An object, with the chunk lists behind it that are asked for, if it is a manifest and they are here."""
    data = shelf.object(named.digest)
    if data is None or not named.lists_bytes or len(data) > BUNDLED_MANIFEST_BYTES_MAX:
        return data
    lists = []
    try:
        for file in bundled(Manifest.decode(data), named.lists_bytes):
            encoded = shelf.object(file.chunk_list)
            if encoded is None:
                break
            lists.append(encoded)
    except DecodeError:
        return data
    return encode_bundle(data, lists) if lists else data
