"""What a peer keeps an eye on: the files that it serves where they lie, and the bytes in them.

Every quarter of a minute each file is looked at (`stat`); what changed or vanished is withdrawn from the overlay, and
the peers that follow it are told. Over weeks every byte is read again, at a pace that nobody feels, more slowly still
while something is served. What is bad is not served any more; copies that were fetched are mended from other peers, and
of published files their owner is told.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from p2pmodel.errors import InterruptedFetchError, P2PModelError
from p2pmodel.limits import MIB, ORIGIN_LEFT_S, SCRUB_PERIOD_S, SCRUB_RECHECK_BYTES_PER_S, SCRUB_STEP_BYTES
from p2pmodel.model import ModelId
from p2pmodel.store import Scrubbed, ScrubPosition

if TYPE_CHECKING:
    from p2pmodel.peer.config import ScrubRate
    from p2pmodel.peer.peer import Peer

log = logging.getLogger(__name__)

LOOK_S = 15.0
"""How soon a file that changed is withdrawn, at most; serving it stops at once."""
SCRUB_NAME = "scrub.json"
_SAVE_S = 300.0
_PAUSE_MAX_S = 60.0
_BUSY_BYTES_PER_S = MIB
"""What moves faster than this is not to be held up by a disk that reads for us."""
_BUSY_PAUSE_S = 5.0
_YIELDS_MAX = 60
"""Steps are put off so often in a row, so that a peer that always serves reads its bytes again as well."""
_MEND_AGAIN_S = 600.0
_TIDY_S = 3600.0


class ScrubPace:
    """When to read on. A plain object: times are arguments."""

    def __init__(self, rate: ScrubRate, now: float) -> None:
        """`rate` in bytes per second; `auto` reads everything once in `SCRUB_PERIOD_S`."""
        self._rate = rate
        self._read_at = self._recheck_at = now
        self._read_bytes = SCRUB_STEP_BYTES  # a daemon that has just started has other things to do
        self._yields = 0

    def rate_bytes_per_s(self, bytes_total: int) -> float:
        if self._rate == "off":
            return 0.0
        return bytes_total / SCRUB_PERIOD_S if self._rate == "auto" else float(self._rate)

    def wait_s(self, bytes_total: int, *, in_doubt: bool, busy: bool, now: float) -> float:
        """How long until something is to be read, 0 for now. Whoever is told 0 says what was `read` or `rechecked`."""
        rate = self.rate_bytes_per_s(bytes_total)
        if not rate:
            return _PAUSE_MAX_S
        due_at = self._recheck_at if in_doubt else self._read_at + self._read_bytes / rate
        if now < due_at:
            return min(due_at - now, _PAUSE_MAX_S)
        if busy and self._yields < _YIELDS_MAX:
            self._yields += 1
            return _BUSY_PAUSE_S
        self._yields = 0
        return 0.0

    def read(self, bytes_read: int, now: float) -> None:
        """A step of the scrub is done. One that read nothing came to the end, or found everything busy."""
        self._read_at, self._read_bytes = now, bytes_read or SCRUB_STEP_BYTES

    def rechecked(self, bytes_read: int, now: float) -> None:
        """A step in a file in doubt is done."""
        self._recheck_at = now + (bytes_read / SCRUB_RECHECK_BYTES_PER_S if bytes_read else _BUSY_PAUSE_S)


class _Saved(msgspec.Struct, frozen=True):
    copy: int
    chunk: int


class Watch:
    """One peer's. `look`, `scrub` and `tidy` run for ever in the background."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._mend_at: dict[tuple[ModelId, Path], float] = {}
        self._mending = asyncio.Lock()
        self.position = ScrubPosition()
        self._saved_position = ScrubPosition()
        self._moved = (0.0, 0)

    def _now(self) -> float:
        return self._peer.network.clock.monotonic()

    # --- files

    async def look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self.check_files()
            except P2PModelError as error:  # a full disk, say: the next look may do better
                log.warning("the files that are served could not all be looked at: %s", error)

    async def check_files(self) -> None:
        """Stat what is served in place; withdraw what changed and tell the peers that follow it."""
        peer = self._peer
        await peer.network.offload(peer.store.check_files)
        for model_id in await peer.announcer.update_all():
            await self._tell(model_id)
        self._mend_soon(await peer.network.offload(peer.store.health.damaged))

    async def _tell(self, model_id: ModelId) -> None:
        peer = self._peer
        model = await peer.network.offload(peer.store.model, model_id)
        fault = (model.fault or "parts of it were lost") if model else "it is gone"
        log.warning("model %s: what is no longer held is withdrawn: %s", model_id.hex, fault)
        await peer.swarm.tell_state(model_id)

    # --- bytes

    @property
    def _path(self) -> Path:
        return self._peer.config.data_dir / SCRUB_NAME

    async def scrub(self) -> None:
        """Read everything again, over and over, from where an earlier run stopped."""
        peer, stop = self._peer, threading.Event()
        pace = ScrubPace(peer.config.scrub_rate, self._now())
        await self._restore()
        saved_at = self._now()
        while True:
            total, in_doubt = await peer.network.offload(self._look_up)
            wait_s = pace.wait_s(total, in_doubt=in_doubt, busy=self._busy(), now=self._now())
            if wait_s:
                await asyncio.sleep(wait_s)
                continue
            try:
                await self._read_on(pace, stop, in_doubt=in_doubt)
            except InterruptedFetchError:
                raise
            except P2PModelError as error:
                log.warning("the scrub could not read on: %s", error)
                await asyncio.sleep(_PAUSE_MAX_S)
            if self._now() - saved_at > _SAVE_S:
                saved_at = self._now()
                await self.save()

    async def _read_on(self, pace: ScrubPace, stop: threading.Event, *, in_doubt: bool) -> None:
        """One step."""
        peer, scrubber = self._peer, self._peer.store.scrubber
        if in_doubt:
            done = await peer.until_stopped(stop, scrubber.recheck, SCRUB_STEP_BYTES, stop)
            pace.rechecked(done.bytes_read, self._now())
        else:
            done = await peer.until_stopped(stop, scrubber.step, self.position, SCRUB_STEP_BYTES, stop)
            self.position = done.position
            pace.read(done.bytes_read, self._now())
        await self._heed(done)

    def _look_up(self) -> tuple[int, bool]:
        scrubber = self._peer.store.scrubber
        return scrubber.bytes_total, scrubber.in_doubt

    def _busy(self) -> bool:
        """Whether bytes have moved quickly since the last time that this was asked."""
        now, moved = self._now(), self._peer.swarm.bytes_sent + self._peer.swarm.bytes_received
        (at, before), self._moved = self._moved, (now, moved)
        return moved - before > _BUSY_BYTES_PER_S * max(now - at, 1e-3)

    async def _heed(self, done: Scrubbed) -> None:
        for model_id in dict.fromkeys((*done.bad, *done.back)):
            await self._peer.announcer.update(model_id)
            if model_id in done.bad:
                await self._tell(model_id)
            else:
                await self._peer.swarm.tell_state(model_id)
        if done.bad:
            self._mend_soon(await self._peer.network.offload(self._peer.store.health.damaged))

    async def _restore(self) -> None:
        try:
            content = await self._peer.network.offload(self._peer.files.read_small, self._path)
            if content is not None:
                found = msgspec.json.decode(content, type=_Saved)
                self.position = self._saved_position = ScrubPosition(found.copy, found.chunk)
        except (P2PModelError, msgspec.MsgspecError) as error:
            log.warning("%s of the last run is of no use, the scrub begins again: %s", self._path, error)

    async def save(self) -> None:
        """Where the scrub has come to, for the next start."""
        at = self.position
        if at == self._saved_position:
            return
        try:
            content = msgspec.json.encode(_Saved(at.copy, at.chunk))
            await self._peer.network.offload(self._peer.files.write_small, self._path, content)
            self._saved_position = at
        except P2PModelError as error:
            log.warning("cannot keep %s for the next start: %s", self._path, error)

    # --- what is left over

    async def tidy(self) -> None:
        """What an origin's readers have left, and nobody came back for, goes: now, and once in a while."""
        peer = self._peer
        while True:
            before = peer.network.clock.wall() - ORIGIN_LEFT_S
            if freed := await peer.network.offload(peer.leftovers.remove_unused, before):
                log.info("%d bytes that nobody came back for were removed from %s", freed, peer.config.data_dir)
            await asyncio.sleep(_TIDY_S)

    # --- mending

    def _mend_soon(self, damaged: Iterable[tuple[ModelId, Path]]) -> None:
        for copy in damaged:
            if self._now() >= self._mend_at.get(copy, 0.0):
                self._mend_at[copy] = self._now() + _MEND_AGAIN_S
                self._peer.spawn(self._mend(*copy))

    async def _mend(self, model_id: ModelId, root: Path) -> None:
        """Fetch what went bad of a copy that was fetched. Where nobody has it, that is tried again later."""
        from p2pmodel.peer.verifying import Verification

        async with self._mending:
            mended = await Verification(self._peer, model_id, root).mend()
            log.warning("model %s: %d bytes that had gone bad in %s are right again", model_id.hex, mended, root)
