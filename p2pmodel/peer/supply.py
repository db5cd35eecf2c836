"""A file by its SHA-256, wherever it comes from: this disk, a peer that has it, or an origin, read once for all.

Nothing counts as the file before its SHA-256 was computed here from all of its bytes. What was proven stays as a model
of one file in the cache, announced and served like any other; what is private stays a file of this peer alone.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from p2pmodel.errors import DecodeError, NetworkError, P2PModelError, StaleBytesError, VerificationError
from p2pmodel.limits import (
    DRAFTS_OPEN_MAX,
    FETCH_MISS_S,
    HELD_BACK_BYTES,
    PROOFS_MAX,
    SUPPLY_LINGERS_S,
)
from p2pmodel.model import Layout, PortablePath, Sha256
from p2pmodel.model.parts import Parts
from p2pmodel.net import cancelled
from p2pmodel.peer.attempt import Attempt
from p2pmodel.peer.by_sha256 import HashSearch
from p2pmodel.peer.draft import Draft
from p2pmodel.peer.filling import Filling, Read
from p2pmodel.peer.leftovers import DRAFTS_NAME, ORIGIN_NAME, PRIVATE_NAME
from p2pmodel.peer.peer import Peer
from p2pmodel.peer.proofs import Proofs, read_chunk

log = logging.getLogger(__name__)

_LOOK_S = 0.25


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file as an origin names it."""

    sha256: Sha256
    size: int
    name: str
    private: bool = False
    """Nobody may learn that this peer has it."""

    @property
    def key(self) -> tuple[Sha256, bool]:
        return self.sha256, self.private

    @property
    def kept_name(self) -> PortablePath:
        """Its name in a model of its own; the chunks depend on its suffix."""
        try:
            return PortablePath(self.name.rpartition("/")[2])
        except DecodeError:
            return PortablePath(self.sha256.hex)


class Supplies:
    """All files that this peer knows by their SHA-256; those on their way, and those that are here."""

    def __init__(self, peer: Peer) -> None:
        self.directory = peer.config.data_dir / ORIGIN_NAME
        self.proofs = Proofs(self.directory, peer)
        self.origin_bytes = 0
        """Read from the origin since the start."""
        self.peer = peer
        self._running: dict[tuple[Sha256, bool], Supply] = {}
        self._all: dict[Supply, None] = {}
        """Those too that give the last parts to others."""
        self._tainted: dict[Sha256, None] = {}

    async def close(self) -> None:
        await cancelled([supply.task for supply in self._all])
        await self.proofs.close()

    async def read(self, wanted: Wanted, source: Read, start: int, end: int) -> AsyncGenerator[bytes, None]:
        """The bytes from `start` to `end` as they arrive. `source` opens the file at the origin.

        Raises `StaleBytesError` where somebody who has the bytes before `start` may have been given wrong ones, and
        has to begin anew; `VerificationError` where what was given out turns out to be wrong.
        """
        self._note_taint(wanted)
        if start and wanted.sha256 in self._tainted:
            raise StaleBytesError("bytes of this file that were sent before were wrong; begin anew")
        while start < end:
            held = None if wanted.private else await self.proofs.held(wanted.sha256)
            blocks = self._held_bytes(*held, start, end) if held else self._supply(wanted, source).read(start, end)
            async with aclosing(blocks):
                try:
                    async for block in blocks:
                        start += len(block)
                        yield block
                except VerificationError:
                    self._note_taint(wanted)
                    raise

    def _note_taint(self, wanted: Wanted) -> None:
        supply = self._running.get(wanted.key)
        if supply is not None and supply.tainted:
            self._tainted[wanted.sha256] = None

    async def _held_bytes(self, layout: Layout, file: int, start: int, end: int) -> AsyncGenerator[bytes, None]:
        for index in layout.chunks_holding(file, start, end):
            place = layout[index]
            block = await self.peer.network.offload(read_chunk, self.peer, layout, index)
            yield block[max(0, start - place.offset) : end - place.offset]

    def _supply(self, wanted: Wanted, source: Read) -> Supply:
        key = wanted.key
        supply = self._running.get(key)
        if supply is None or supply.over or supply.failed:
            if len(self._running) >= DRAFTS_OPEN_MAX:
                raise NetworkError("too many files are on their way at once; ask again later")
            ending = [one.task for one in self._all if one.wanted.key == key and not one.entered]
            supply = self._running[key] = Supply(self, wanted, source, ending)
            self._all[supply] = None
            supply.task.add_done_callback(lambda _: self._all.pop(supply, None))
        return supply

    def ended(self, supply: Supply) -> None:
        """Called by a supply: whoever asks from now on begins another, or finds the file."""
        if supply.tainted:
            self._tainted[supply.wanted.sha256] = None
            while len(self._tainted) > PROOFS_MAX:
                del self._tainted[next(iter(self._tainted))]
        if self._running.get(supply.wanted.key) is supply:
            del self._running[supply.wanted.key]


class _ElsewhereError(P2PModelError):
    """Not here any more: whoever reads goes on in the model that the file is in."""


class Supply:
    """One file on its way. It goes on for a while when nobody reads any more."""

    def __init__(
        self, supplies: Supplies, wanted: Wanted, source: Read, ending: Sequence[asyncio.Task[None]] = ()
    ) -> None:
        """`ending`: of others of this file, which close or remove what this one goes on from, or begins anew."""
        self.wanted, self.over, self._mixed, self._source = wanted, False, False, source
        self._ending = ending
        self._supplies, self._peer = supplies, supplies.peer
        directory = supplies.directory / (PRIVATE_NAME if wanted.private else DRAFTS_NAME)
        parts, room = Parts(wanted.sha256, wanted.size), self._peer.store.cache.room_beside
        self._draft = Draft(parts, directory, self._peer.files, self._peer.network, room)
        self._used = self._draft.path.with_suffix("")
        self._peer.leftovers.use(self._used)
        self._filling = Filling(
            self._draft,
            source,
            me=self._peer.peer_id,
            rooms=self._peer.rooms,
            gatherings=self._peer.gatherings,
            together=not wanted.private,
        )
        self._readers, self.entered, self._attempting = 0, False, False
        self._deserted, self._read_again = asyncio.Event(), asyncio.Event()
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.task = asyncio.get_running_loop().create_task(self._supervised())
        self.task.add_done_callback(lambda _: self._peer.leftovers.let_go(self._used))

    @property
    def tainted(self) -> bool:
        """Somebody may have been given wrong bytes."""
        return self._mixed or self._draft.tainted

    @property
    def failed(self) -> bool:
        return self._draft.failed is not None

    # --- reading along

    async def read(self, start: int, end: int) -> AsyncGenerator[bytes, None]:
        """May end before `end` where the file has come to lie elsewhere."""
        self._readers += 1
        self._deserted.clear()
        self._read_again.set()
        try:
            await asyncio.shield(self._opened)
            if isinstance(self._draft.failed, _ElsewhereError):
                return
            draft, size = self._draft, self.wanted.size
            # Whoever asks for a piece out of the middle is never seen to have all of it, so nothing can be held back.
            believed = size <= HELD_BACK_BYTES or (start > 0 and end < size)
            if believed and start > 0 and not draft.proven:
                self._filling.need(start, end)
            async with aclosing(draft.stream(start, end, believed=believed)) as blocks:
                async for block in blocks:
                    self._filling.want(draft.parts.at(start))
                    start += len(block)
                    yield bytes(block)
        except _ElsewhereError:
            if self._draft.given_out:  # right bytes must not follow others unseen
                self._mixed = True
                raise VerificationError("the file came whole from elsewhere; begin anew") from None
        except P2PModelError:
            if not (self.entered and self.over):  # it was proven, and lies in the model that it has become
                raise
        finally:
            self._readers -= 1
            if not self._readers:
                self._read_again.clear()
                self._deserted.set()

    # --- its course

    async def _supervised(self) -> None:
        draft = self._draft
        try:
            await self._run()
        except P2PModelError as error:
            draft.fail(error)
            if not self._opened.done():
                self._opened.set_exception(error)
        except Exception as error:
            log.exception("the supply of a file failed")
            draft.fail(P2PModelError(f"internal error: {type(error).__name__}: {error}"))
        finally:
            self.over = True
            if not self._opened.done():
                self._opened.set_exception(NetworkError("this peer is stopping"))
            self._opened.exception()
            if not draft.proven and draft.failed is None:
                draft.fail(NetworkError("this peer is stopping"))
            self._supplies.ended(self)
            await self._filling.leave()
            await draft.close(remove=self.entered or isinstance(draft.failed, VerificationError))

    async def _run(self) -> None:
        draft = self._draft
        if self._ending:
            await asyncio.wait(self._ending)
        self._ending = ()
        await draft.open()
        if self.wanted.private or draft.have:
            self._begin_filling()
        if not draft.proven and await self._race():
            self._elsewhere()
            return
        if not draft.proven:
            return
        if self.wanted.private:
            await self._until_deserted(asyncio.Event().wait())
            return
        await self._enter()
        await self._until_deserted(self._filling.linger())

    def _begin_filling(self) -> None:
        """From the origin, then: what has come of it is read along."""
        self._filling.wanted.set()
        if not self._opened.done():
            self._opened.set_result(None)

    def _elsewhere(self) -> None:
        """The file came from a peer that has it."""
        self._draft.fail(_ElsewhereError("the file is here"))
        if not self._opened.done():
            self._opened.set_result(None)

    async def _race(self) -> bool:
        """Peers that have the file against the origin. Whether it came from the former.

        Raises `NetworkError` where it comes from neither.
        """
        filling = asyncio.ensure_future(self._until_deserted(self._filling.run()))
        searching = None if self.wanted.private else asyncio.ensure_future(self._search())
        running = [task for task in (filling, searching) if task is not None]
        now = self._peer.network.clock.monotonic
        failed_at: float | None = None
        try:
            while True:
                if searching is not None and searching.done():
                    searching.result()
                    return True
                if filling.done():
                    failed_at = failed_at or now()
                    # With the origin gone there may be somebody who has the file and was not found at once.
                    waits = searching is not None and (self._attempting or now() - failed_at < FETCH_MISS_S)
                    if filling.exception() is None or not waits:
                        filling.result()
                        return False
                waiting = [task for task in running if not task.done()]
                await asyncio.wait(waiting, timeout=_LOOK_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await cancelled(running)
            self._supplies.origin_bytes += self._filling.origin_bytes

    async def _search(self) -> None:
        """Return when the file is here, from a peer that had it. Goes on for ever otherwise."""
        wanted = self.wanted
        async with HashSearch(wanted.sha256, wanted.size, self._peer.rooms) as search:
            while True:
                found = await search.next()
                if found is None:
                    self._begin_filling()
                    found = await search.later()
                    await self._filling.stands_still()  # else it would come twice
                attempt = Attempt(self._peer, self._supplies.proofs, wanted.sha256, wanted.size, found, self._source)
                attempt.on_slow = self._begin_filling
                self._attempting = True
                try:
                    if await attempt.run():
                        return
                finally:
                    self._attempting = False
                    self._supplies.origin_bytes += attempt.origin_bytes
                search.refuse(found)

    async def _until_deserted(self, work: Coroutine[Any, Any, object]) -> None:
        """Until it is done, or nobody has read for a while."""
        task = asyncio.ensure_future(work)
        try:
            while not task.done():
                deserted = asyncio.ensure_future(self._left_alone())
                try:
                    await asyncio.wait({task, deserted}, return_when=asyncio.FIRST_COMPLETED)
                    if deserted.done() and not task.done():
                        return
                finally:
                    await cancelled([deserted])
            task.result()
        finally:
            await cancelled([task])

    async def _left_alone(self) -> None:
        while True:
            await self._deserted.wait()
            try:
                async with asyncio.timeout(SUPPLY_LINGERS_S):
                    await self._read_again.wait()
            except TimeoutError:
                return

    async def _enter(self) -> None:
        """It becomes a model of this peer's."""
        peer, wanted, stop = self._peer, self.wanted, threading.Event()
        layout = await peer.until_stopped(
            stop, peer.store.enter, self._draft.path, wanted.kept_name, wanted.sha256, stop=stop
        )
        self.entered = True
        await self._supplies.proofs.note(wanted.sha256, layout.model_id, 0)
        self._supplies.ended(self)  # from now on it is read from there
        await peer.announcer.update(layout.model_id)
