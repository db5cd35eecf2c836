"""Answering what one peer asks: a bounded queue of requests, served one after the other.

TCP's own back-pressure paces the queue; fairness between peers comes from each having one answer on its way at a time.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from p2pmodel.errors import P2PModelError, PeerFault, ProtocolError
from p2pmodel.limits import REQUEST_DEADLINE_MAX_S, REQUESTS_PER_PEER_MAX
from p2pmodel.model import Digest, ModelId
from p2pmodel.net import BulkSource, Channel, Network
from p2pmodel.swarm import wire
from p2pmodel.swarm.pace import Pace
from p2pmodel.swarm.seeding import Follower, Seeding
from p2pmodel.swarm.shelf import ObjectInMemory, Shelf, SoughtChunk

Answer = wire.RequestChunk | wire.RequestObject | wire.RequestStatements | wire.RequestName


_SIGN_OF_LIFE_S = REQUEST_DEADLINE_MAX_S / 4


@dataclass(slots=True)
class Uploads:
    """What all connections of a peer share: where answers come from, and how fast they may leave."""

    shelf: Shelf
    network: Network
    pace: Pace
    seeding: Seeding
    bytes_sent: int = 0
    limit_raised: asyncio.Event = field(default_factory=asyncio.Event)
    """Set, and replaced by a new one, when more may be sent: who waits because of the limit goes on."""

    def limit(self, rate_bytes_per_s: float | None) -> None:
        if self.pace.change(rate_bytes_per_s):
            self.limit_raised.set()
            self.limit_raised = asyncio.Event()


class UploadQueue:
    """The requests of one peer. `run` is the task that answers them until the channel closes."""

    def __init__(
        self,
        uploads: Uploads,
        channel: Channel,
        statements: Callable[[Answer], Awaitable[None]],
        follower: Follower,
    ) -> None:
        self._uploads = uploads
        self._channel = channel
        self._answer_statements = statements
        self._follower = follower
        self._waiting: OrderedDict[int, Answer] = OrderedDict()
        self._answering = False
        self._wake = asyncio.Event()

    def add(self, request: Answer) -> None:
        """Raises `ProtocolError` where the peer asks without measure or uses an id twice."""
        if len(self._waiting) >= REQUESTS_PER_PEER_MAX:
            raise ProtocolError(f"more than {REQUESTS_PER_PEER_MAX} requests at once")
        if request.request in self._waiting:
            raise ProtocolError("a request id that is already in use")
        self._waiting[request.request] = request
        self._wake.set()

    @property
    def waiting(self) -> bool:
        """Whether something is asked for and has not left."""
        return bool(self._waiting) or self._answering

    @property
    def pending(self) -> int:
        """How much is asked for and has not left."""
        return len(self._waiting) + self._answering

    def cancel(self, request_id: int) -> None:
        self._waiting.pop(request_id, None)

    async def run(self) -> None:
        while True:
            while self._waiting:
                _, request = self._waiting.popitem(last=False)
                self._answering = True
                try:
                    await self._answer(request)
                except PeerFault:
                    return
                finally:
                    self._answering = False
            self._wake.clear()
            await self._wake.wait()

    async def _answer(self, request: Answer) -> None:
        if not isinstance(request, wire.RequestChunk | wire.RequestObject):
            await self._answer_statements(request)
            return
        seeding = self._uploads.seeding
        chunk = request if isinstance(request, wire.RequestChunk) else None
        if chunk is not None and not seeding.serves(self._follower, chunk):
            self._channel.send(wire.encode(wire.Reject(request.request, "others will have it first")))
            return
        source = await self._source(request)
        if source is None or not await self._send(request.request, source):
            self._channel.send(wire.encode(wire.Reject(request.request, "not held here")))
        elif chunk is not None:
            seeding.sent(self._follower, chunk)

    async def _source(self, request: wire.RequestChunk | wire.RequestObject) -> BulkSource | None:
        shelf, digest = self._uploads.shelf, Digest(request.digest)
        if isinstance(request, wire.RequestChunk):
            return SoughtChunk(shelf, digest, request.length, (ModelId(Digest(request.model)), request.index))
        try:
            data = await self._uploads.network.offload(shelf.object, digest)
        except P2PModelError:
            return None
        return None if data is None else ObjectInMemory(data)

    async def _send(self, request_id: int, source: BulkSource) -> bool:
        wait_s = self._uploads.pace.take(source.length, self._uploads.network.clock.monotonic())
        try:
            await self._pause(wait_s)
        except asyncio.CancelledError:
            self._uploads.pace.give_back(source.length)
            source.release()
            raise
        sent = await self._channel.send_bulk(request_id, source)
        if sent:
            self._uploads.bytes_sent += source.length
        else:
            self._uploads.pace.give_back(source.length)
        return sent

    async def _pause(self, wait_s: float) -> None:
        """Wait as our limit demands, and let the peer know that it waits for somebody who is alive."""
        while wait_s > 0:
            try:
                async with asyncio.timeout(min(wait_s, _SIGN_OF_LIFE_S)):
                    await self._uploads.limit_raised.wait()
                return
            except TimeoutError:
                pass
            wait_s -= _SIGN_OF_LIFE_S
            if wait_s > 0:
                self._channel.send(wire.encode(wire.Ping()))
