"""Finding a file by its SHA-256: the overlay says who provides it, a peer that does says in which model.

What a manifest says of a SHA-256 is a claim until all bytes were hashed. So each peer may name a few models, few are
tried for one file, and who has named one that turned out to be a lie is not asked again.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType

from p2pmodel.errors import DecodeError, PeerFault
from p2pmodel.limits import (
    GATHER_MAX_S,
    GATHER_S,
    HASH_CANDIDATES_MAX,
    HASH_CANDIDATES_PER_PEER_MAX,
    MANIFEST_BYTES_MAX,
)
from p2pmodel.model import Digest, Manifest, ModelId, PublicKey, Sha256
from p2pmodel.net import cancelled
from p2pmodel.overlay import overlay_key
from p2pmodel.peer.attention import Attention
from p2pmodel.peer.finding import Finder
from p2pmodel.peer.rooms import Rooms
from p2pmodel.swarm import Link

log = logging.getLogger(__name__)

_TICK_S = 0.1


@dataclass(frozen=True, slots=True)
class Found:
    """A file of a model that is said to be the one."""

    model_id: ModelId
    path: str
    named_by: PublicKey
    address: str


class HashSearch:
    """One search, as long as it is open; use as `async with`."""

    def __init__(self, sha256: Sha256, size: int, rooms: Rooms) -> None:
        self._sha256, self._size, self._rooms = sha256, size, rooms
        self._found: asyncio.Queue[Found] = asyncio.Queue()
        self._seen: set[ModelId] = set()
        self._distrusted: set[PublicKey] = set()
        self._asking: dict[asyncio.Task[None], None] = {}
        self._stack = AsyncExitStack()
        self._finder: Finder
        self._attention = Attention(rooms.network.clock.monotonic)

    async def __aenter__(self) -> HashSearch:
        rooms = self._rooms
        self._finder = await self._stack.enter_async_context(
            Finder(
                overlay_key(self._sha256),
                overlay=rooms.overlay,
                swarm=rooms.swarm,
                clock=rooms.network.clock,
                on_link=self._ask_soon,
            )
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()
        await cancelled(self._asking)

    async def next(self) -> Found | None:
        """The next candidate; None where none has shown within the time that a miss may take."""
        while True:
            while not self._found.empty():
                found = self._found.get_nowait()
                if found.named_by not in self._distrusted:
                    return found
            waited = self._attention.look()
            if len(self._seen) >= HASH_CANDIDATES_MAX or not self._rooms.overlay.neighbours():
                return None
            looking = not self._finder.rounds or self._finder.dialing or self._asking
            if waited >= (GATHER_MAX_S if looking else GATHER_S):
                return None
            await self._finder.changed(_TICK_S, *self._asking)

    async def later(self) -> Found:
        """The next candidate, however long it takes."""
        while (found := await self._found.get()).named_by in self._distrusted:
            pass
        return found

    def refuse(self, found: Found) -> None:
        """It was a lie, or could not be had."""
        self._distrusted.add(found.named_by)

    def _ask_soon(self, link: Link) -> None:
        task = asyncio.get_running_loop().create_task(self._ask(link))
        self._asking[task] = None
        task.add_done_callback(lambda task: self._asking.pop(task, None))

    async def _ask(self, link: Link) -> None:
        try:
            async with asyncio.timeout(2 * GATHER_S):
                named = await link.questions.models([Digest(self._sha256.raw)])
                for model_id in named[:HASH_CANDIDATES_PER_PEER_MAX]:
                    await self._look_at(model_id, link)
        except (PeerFault, TimeoutError) as fault:
            log.info("peer %s does not say where it has the file: %s", link.peer.text, fault)

    async def _look_at(self, model_id: ModelId, link: Link) -> None:
        if model_id in self._seen or len(self._seen) >= HASH_CANDIDATES_MAX:
            return
        self._seen.add(model_id)
        encoded = await self._rooms.swarm.fetch_object(model_id, [link], size_bytes_max=MANIFEST_BYTES_MAX)
        try:
            manifest = await self._rooms.network.offload(Manifest.decode, encoded)
        except DecodeError:
            return
        for file in manifest.files:
            if file.sha256 == self._sha256 and file.size == self._size:
                where = str(link.listens_at or "")
                await self._found.put(Found(model_id, file.path.text, link.peer, where))
                return
