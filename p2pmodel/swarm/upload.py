"""Answering what one peer asks: a bounded queue of requests, served one after the other.

TCP's own back-pressure paces the queue; fairness between peers comes from each having one answer on its way at a time.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from p2pmodel.errors import P2PModelError, PeerFault, ProtocolError
from p2pmodel.limits import REQUEST_DEADLINE_MAX_S, REQUESTS_PER_PEER_MAX
from p2pmodel.model import Digest
from p2pmodel.net import BulkSource, Channel, Network
from p2pmodel.swarm import wire
from p2pmodel.swarm.pace import Pace
from p2pmodel.swarm.shelf import ObjectInMemory, Shelf

Answer = wire.RequestChunk | wire.RequestObject | wire.RequestStatements | wire.RequestName


_SIGN_OF_LIFE_S = REQUEST_DEADLINE_MAX_S / 4


@dataclass(slots=True)
class Uploads:
    """What all connections of a peer share: where answers come from, and how fast they may leave."""

    shelf: Shelf
    network: Network
    pace: Pace
    bytes_sent: int = 0


class UploadQueue:
    """The requests of one peer. `run` is the task that answers them until the channel closes."""

    def __init__(self, uploads: Uploads, channel: Channel, statements: Callable[[Answer], Awaitable[None]]) -> None:
        self._uploads = uploads
        self._channel = channel
        self._answer_statements = statements
        self._waiting: OrderedDict[int, Answer] = OrderedDict()
        self._wake = asyncio.Event()

    def add(self, request: Answer) -> None:
        """Raises `ProtocolError` where the peer asks without measure or uses an id twice."""
        if len(self._waiting) >= REQUESTS_PER_PEER_MAX:
            raise ProtocolError(f"more than {REQUESTS_PER_PEER_MAX} requests at once")
        if request.request in self._waiting:
            raise ProtocolError("a request id that is already in use")
        self._waiting[request.request] = request
        self._wake.set()

    def cancel(self, request_id: int) -> None:
        self._waiting.pop(request_id, None)

    async def run(self) -> None:
        while True:
            while self._waiting:
                _, request = self._waiting.popitem(last=False)
                try:
                    await self._answer(request)
                except PeerFault:
                    return
            self._wake.clear()
            await self._wake.wait()

    async def _answer(self, request: Answer) -> None:
        if not isinstance(request, wire.RequestChunk | wire.RequestObject):
            await self._answer_statements(request)
            return
        finding = asyncio.ensure_future(self._uploads.network.offload(self._find, request))
        try:
            source = await asyncio.shield(finding)
        except asyncio.CancelledError:
            # The thread finds it all the same, and somebody has to give it back.
            await asyncio.wait([finding])
            _release_found(finding)
            raise
        except P2PModelError:
            # Our disk's trouble is none of the peer's business; it asks elsewhere.
            source = None
        if source is None:
            self._channel.send(wire.encode(wire.Reject(request.request, "not held here")))
            return
        wait_s = self._uploads.pace.take(source.length, self._uploads.network.clock.monotonic())
        try:
            await self._pause(wait_s)
        except asyncio.CancelledError:
            self._uploads.pace.give_back(source.length)
            source.release()
            raise
        self._uploads.bytes_sent += source.length
        await self._channel.send_bulk(request.request, source)

    async def _pause(self, wait_s: float) -> None:
        """Wait as our limit demands, and let the peer know that it waits for somebody who is alive."""
        while wait_s > 0:
            await asyncio.sleep(min(wait_s, _SIGN_OF_LIFE_S))
            wait_s -= _SIGN_OF_LIFE_S
            if wait_s > 0:
                self._channel.send(wire.encode(wire.Ping()))

    def _find(self, request: wire.RequestChunk | wire.RequestObject) -> BulkSource | None:
        digest = Digest(request.digest)
        if isinstance(request, wire.RequestObject):
            data = self._uploads.shelf.object(digest)
            return None if data is None else ObjectInMemory(data)
        source = self._uploads.shelf.chunk(digest)
        if source is not None and source.length != request.length:
            source.release()
            return None
        return source


def _release_found(finding: asyncio.Future[BulkSource | None]) -> None:
    if not finding.cancelled() and finding.exception() is None and (source := finding.result()) is not None:
        source.release()
