"""One try to get a file from a model that is said to have it: fetched like any other, then hashed as a whole.

A piece at a random place is read from the origin meanwhile: it shows a lie before the whole file has come for nothing,
and how fast the origin is. Where peers are much slower than that, or bring nothing, whoever asked is told.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from p2pmodel.errors import NetworkError, NotFoundError, P2PModelError, RefusedError, VerificationError
from p2pmodel.limits import GATHER_LATE_S, PROBE_BYTES_MAX
from p2pmodel.model import Sha256
from p2pmodel.net import cancelled
from p2pmodel.peer.attention import Attention
from p2pmodel.peer.by_sha256 import Found
from p2pmodel.peer.filling import Read
from p2pmodel.peer.proofs import Proofs

if TYPE_CHECKING:
    from p2pmodel.peer.peer import Peer
    from p2pmodel.peer.reader import Reader

log = logging.getLogger(__name__)

_LOOK_S = 0.1
_SLOWER = 2.0
_PROBE_PART = 100


class Attempt:
    """`on_slow` is called once where peers do not keep up with the origin; the attempt goes on all the same."""

    def __init__(self, peer: Peer, proofs: Proofs, sha256: Sha256, size: int, found: Found, read: Read) -> None:
        self.origin_bytes = 0
        self.on_slow: Callable[[], None] = lambda: None
        self._peer, self._proofs, self._sha256, self._size = peer, proofs, sha256, size
        self._found, self._read = found, read
        self._origin_pace: float | None = None

    async def run(self) -> bool:
        """Whether the file is here now, and proven."""
        peer, found = self._peer, self._found
        before = await peer.network.offload(peer.store.model, found.model_id)
        try:
            right = await self._fetch()
        except (NetworkError, NotFoundError) as error:
            log.info("the file %s did not come from peers: %s", self._sha256, error)
            return False
        except VerificationError as error:
            log.warning("the model %s has not the file that it says it has: %s", found.model_id.hex, error)
            right = False
        if not right and before is None:
            peer.spawn(self._forget())
        return right

    async def _fetch(self) -> bool:
        found, peers = self._found, [self._found.address] if self._found.address else []
        loop = asyncio.get_running_loop()
        patience = loop.call_later(GATHER_LATE_S, lambda: self.on_slow())
        async with await self._peer.open_reader(found.model_id, files=[found.path], peers=peers) as reader:
            patience.cancel()
            hashing = loop.create_task(self._hash(reader))
            probing = loop.create_task(self._probe(reader))
            watching = loop.create_task(self._watch(reader))
            try:
                await asyncio.wait({hashing, probing}, return_when=asyncio.FIRST_COMPLETED)
                if probing.done():
                    probing.result()
                digest = await hashing
            finally:
                await cancelled((hashing, probing, watching))
            if digest != self._sha256.raw:
                raise VerificationError("it has another SHA-256")
            index = next(i for i, file in enumerate(reader.manifest.files) if file.path.text == found.path)
            await self._proofs.note(self._sha256, found.model_id, index)
            return True

    async def _hash(self, reader: Reader) -> bytes:
        hashed = hashlib.sha256()
        async for part in reader.stream(self._found.path):
            await self._peer.network.offload(hashed.update, part)
        return hashed.digest()

    async def _probe(self, reader: Reader) -> None:
        """Raises `VerificationError` where the origin has other bytes there."""
        length = min(PROBE_BYTES_MAX, self._size // _PROBE_PART)
        if not length:
            return
        start = self._peer.rooms.rng.randrange(self._size - length)
        began, told = self._now(), bytearray()
        try:
            async with self._read(start, start + length) as pieces:
                async for piece in pieces:
                    told += piece
        except P2PModelError as error:
            log.info("the origin cannot be asked for a piece to compare: %s", error)
            return
        finally:
            self.origin_bytes += len(told)
        self._origin_pace = length / max(self._now() - began, 1e-3)
        if await reader.read(self._found.path, start, start + length) != told:
            raise VerificationError("the origin has other bytes")

    async def _watch(self, reader: Reader) -> None:
        attention, moved_at, fetched = Attention(self._now), 0.0, 0
        while True:
            await asyncio.sleep(_LOOK_S)
            now = attention.look()
            if reader.bytes_fetched > fetched:
                fetched, moved_at = reader.bytes_fetched, now
            left, pace = self._size - fetched, fetched / now
            still = now - moved_at > GATHER_LATE_S
            late = now > GATHER_LATE_S and left > pace * GATHER_LATE_S
            if still or (late and self._origin_pace is not None and pace * _SLOWER < self._origin_pace):
                self.on_slow()
                return

    def _now(self) -> float:
        return self._peer.network.clock.monotonic()

    async def _forget(self) -> None:
        """What was fetched for this alone, and is not it."""
        store, model_id = self._peer.store, self._found.model_id
        try:
            async with self._peer.only_fetch(model_id):
                await self._peer.network.offload(store.remove, model_id)
        except RefusedError as error:
            log.info("%s", error)
        await self._peer.losses.tell(model_id)
