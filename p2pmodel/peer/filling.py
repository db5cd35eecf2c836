"""One file from an origin, read once by one for all who want it: leases say who reads what, gatherings pass it on.

Nobody waits for others without bound: who is alone reads all of it in one go; a peer that has a run to read and brings
nothing is relieved; where nothing comes at all, or much slower than from the origin, each reads for itself. So it takes
no longer than the origin alone would, but for the moment in which those who want the same find each other.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from functools import partial

from p2pmodel.errors import NetworkError, P2PModelError
from p2pmodel.limits import (
    FROM_ORIGIN_STREAMS,
    GATHER_LATE_S,
    GATHER_MAX_S,
    GATHER_S,
    GATHERING_LINGERS_S,
    PARTS_PER_RUN,
)
from p2pmodel.model import PublicKey
from p2pmodel.model.have_map import iter_bits
from p2pmodel.net import cancelled
from p2pmodel.overlay import overlay_key
from p2pmodel.peer.attention import Attention
from p2pmodel.peer.draft import Draft
from p2pmodel.peer.finding import Finder
from p2pmodel.peer.gathering import Gathering, Gatherings
from p2pmodel.peer.leases import Leases
from p2pmodel.peer.rooms import Rooms
from p2pmodel.swarm import Link

log = logging.getLogger(__name__)

Read = Callable[[int, int], AbstractAsyncContextManager[AsyncIterator[bytes]]]
"""Opens the file at the origin from one byte to before another."""

_TICK_S = 0.1
_PAUSE_S = 0.01
"""Between two looks at what is to be read: parts come by the hundred."""
_LOOKS = 2
"""The first look-up may come before the others have said that they are there."""
_FAILURES_MAX = 5
"""Readings in a row that brought nothing; then whoever waits is told."""
_BACKOFF_S = (0.1, 0.5, 1.0, 2.0, 4.0)
_SLOWER = 2.0
"""Where others need so many times as long for the rest as the origin would, it is read from there."""
_WORTH_S = 5.0


@dataclass(slots=True)
class _Pace:
    """How fast bytes come from somewhere, over the time in which they do."""

    bytes: int = 0
    seconds: float = 0.0

    def add(self, count: int, seconds: float) -> None:
        self.bytes += count
        self.seconds += seconds

    @property
    def bytes_per_s(self) -> float | None:
        return self.bytes / self.seconds if self.seconds > 0 and self.bytes else None


class Filling:
    """Brings the parts of `draft`. `run` ends when the whole is proven, or the draft was told why it cannot be.

    It raises `NetworkError` where neither the origin nor anybody who gathers the file gives it.
    """

    def __init__(
        self, draft: Draft, read: Read, *, me: PublicKey, rooms: Rooms, gatherings: Gatherings, together: bool
    ) -> None:
        """`together`: with others, who learn by it that this peer wants the file; else from the origin alone."""
        self.draft, self.origin_bytes = draft, 0
        self.wanted = asyncio.Event()
        """Set once it is known that no peer has the file, or none is fast enough; until then others are only met."""
        self._read, self._rooms, self._gatherings, self._together = read, rooms, gatherings, together
        self._attention = Attention(self._now)
        self._leases = Leases(me.raw, draft.parts.gathering_id.raw)
        self.gathering = Gathering(draft, self._leases, now=self._attention.look, rng=rooms.rng)
        self._news = asyncio.Event()
        self._streams: dict[asyncio.Task[None], int] = {}
        """With the parts that each is to bring, as bits."""
        self._pace = _Pace()
        self._began, self._arrived_at = self._now(), 0.0
        self._failures, self._wait_until = 0, 0.0
        self._needed = 0
        """Parts that somebody wants as the origin gives them."""
        draft.on_part = self._arrived
        self._alone_runs = 1
        """To read in one go while nobody else is there: more and more, for somebody may come."""
        self.gathering.on_news = self._news.set
        self.gathering.on_claim = self._claimed

    def _now(self) -> float:
        return self._rooms.network.clock.monotonic()

    def want(self, position: int) -> None:
        """Somebody reads along from this part on."""
        self.gathering.position = position
        self._news.set()

    def need(self, start: int, end: int) -> None:
        """Somebody reads these bytes now, and wants them from the origin."""
        parts = self.draft.parts
        for index in range(parts.at(start), parts.at(end - 1) + 1):
            if not self.draft.believed >> index & 1:
                self._needed |= 1 << index
        self._news.set()

    def _arrived(self, index: int) -> None:
        self._arrived_at = self._attention.look()
        self._needed &= ~(1 << index) | ~self.draft.believed
        if self._together and not self.draft.distrusted:
            self._rooms.swarm.note_have(self.gathering.model_id, 1 << index)
        self._news.set()

    # --- life

    async def run(self) -> None:
        try:
            async with AsyncExitStack() as stack:
                stack.push_async_callback(self._stop_streams)
                if self._together:
                    await self._gather(stack)
                await self.wanted.wait()
                self._arrived_at = self._attention.look()
                await self._fill()
        except NetworkError:
            raise
        except P2PModelError as error:
            self.draft.fail(error)

    async def stands_still(self) -> None:
        """Until no parts come, from wherever."""
        while not self._failures and self._attention.look() - self._arrived_at < GATHER_LATE_S:  # noqa: ASYNC110
            await asyncio.sleep(_TICK_S)

    async def linger(self) -> None:
        """Go on giving parts to those who still gather the file."""
        swarm, gid = self._rooms.swarm, self.gathering.model_id
        until = self._now() + GATHERING_LINGERS_S
        while self._together and self._now() < until:
            if not any(gid in link.interests for link in swarm.links.values()):
                return
            await asyncio.sleep(_TICK_S)

    async def leave(self) -> None:
        """Nobody is given parts any more."""
        self._gatherings.remove(self.gathering)
        self.gathering.leave()

    async def _gather(self, stack: AsyncExitStack) -> None:
        """Say that we want the file, and look for others who do, for a moment; they may come later as well."""
        rooms, gid = self._rooms, self.gathering.model_id
        self._gatherings.enter(self.gathering)
        for link in list(rooms.swarm.links.values()):
            if gid in link.interests:
                self.gathering.add_link(link)
        key = overlay_key(gid)
        rooms.overlay.provide_later([key], roots=True)
        stack.push_async_callback(rooms.overlay.withdraw, [key])
        finder = await stack.enter_async_context(
            Finder(key, overlay=rooms.overlay, swarm=rooms.swarm, clock=rooms.network.clock, on_link=self._found)
        )
        self.gathering.on_peers = finder.suggest
        stack.callback(self._hang_up)
        while rooms.overlay.neighbours():
            waited = self._attention.look()
            looking = finder.rounds < _LOOKS or finder.dialing
            if waited >= (GATHER_MAX_S if looking else GATHER_S):
                return
            await finder.changed(_TICK_S)

    def _found(self, link: Link) -> None:
        self.gathering.add_link(link)

    def _hang_up(self) -> None:
        self.gathering.on_peers = lambda peers: None

    async def _stop_streams(self) -> None:
        await cancelled(self._streams)

    # --- what is read from the origin

    async def _fill(self) -> None:
        draft = self.draft
        while not draft.proven and draft.failed is None:
            self._news.clear()
            while len(self._streams) < FROM_ORIGIN_STREAMS and (span := self._next()) is not None:
                self._start(span)
            if not draft.whole:
                self.gathering.expire()
                self.gathering.fill_all()
            news = asyncio.ensure_future(self._news.wait())
            try:
                await asyncio.wait({news, *self._streams}, timeout=_TICK_S, return_when=asyncio.FIRST_COMPLETED)
            finally:
                await cancelled([news])
            self._reap()
            await asyncio.sleep(_PAUSE_S)

    def _reap(self) -> None:
        for task in [task for task in self._streams if task.done()]:
            del self._streams[task]
            self._note_coming()
            if task.cancelled() or (error := task.exception()) is None:
                continue
            if not isinstance(error, P2PModelError):
                raise error
            if not isinstance(error, NetworkError):
                self.draft.fail(error)  # our own disk, or the origin does not let us
                return
            log.info("reading from the origin: %s", error)
            self._wait_until = self._now() + _BACKOFF_S[min(self._failures, len(_BACKOFF_S) - 1)]
            self._failures += 1
            stands_still = self._attention.look() - self._arrived_at > GATHER_LATE_S
            if self._failures >= _FAILURES_MAX and (stands_still or not self.gathering.held & self.draft.missing):
                raise error

    def _start(self, span: range) -> None:
        bits = (1 << span.stop) - (1 << span.start)
        for run in range(span.start // PARTS_PER_RUN, (span.stop - 1) // PARTS_PER_RUN + 1):
            self.gathering.claim(run)
        task = asyncio.get_running_loop().create_task(self._stream(span))
        self._streams[task] = bits
        self._note_coming()

    def _claimed(self, peer: PublicKey, runs: int) -> None:
        """A member begins runs. Where we have just begun one of them too, one of both leaves it."""
        for task, bits in list(self._streams.items()):
            if bits & (self.draft.have | self._needed):
                continue
            mine = {index // PARTS_PER_RUN for index in iter_bits(bits)}
            if any(runs >> run & 1 and self._leases.goes_before(peer.raw, run) for run in mine):
                task.cancel()

    def _note_coming(self) -> None:
        bits = 0
        for one in self._streams.values():
            bits |= one
        self.gathering.coming = bits

    async def _stream(self, span: range) -> None:
        parts = self.draft.parts
        start, end = parts.span(span.start)[0], parts.span(span.stop - 1)[1]
        index, filled, began = span.start, 0, self._now()
        buffer = bytearray(parts.part_bytes)
        async with self._read(start, end) as pieces:
            async for piece in pieces:
                self.origin_bytes += len(piece)
                view = memoryview(piece)
                while view:
                    first, last = parts.span(index)
                    taken = min(len(view), last - first - filled)
                    buffer[filled : filled + taken] = view[:taken]
                    filled, view = filled + taken, view[taken:]
                    if filled == last - first:
                        await self._take(index, memoryview(buffer)[:filled])
                        now = self._now()
                        self._pace.add(filled, now - began)
                        index, filled, began = index + 1, 0, now

    async def _take(self, index: int, data: memoryview) -> None:
        digest = await self._rooms.network.offload(partial(self.draft.write, index, data, believed=True))
        self.draft.arrived(index, digest, None)
        self._failures = 0

    # --- which of it

    def _next(self) -> range | None:
        """Parts to read from the origin now, in one go; None where others do, or it has to rest."""
        now = self._attention.look()
        if self._now() < self._wait_until:
            return None
        lacking = (self.draft.missing | self._needed) & ~self.gathering.coming
        if not lacking:
            return None
        if self._needed & lacking:
            return self._from(next(iter_bits(self._needed & lacking)), self._needed & lacking, None)
        if not self._together or self.draft.distrusted:
            return self._from(self._first(lacking), lacking, None)
        if not self._leases.members:
            runs, self._alone_runs = self._alone_runs, 2 * self._alone_runs
            return self._from(self._first(lacking), lacking, runs * PARTS_PER_RUN)
        if now - self._arrived_at > GATHER_LATE_S:
            return self._from(self._first(lacking), lacking, PARTS_PER_RUN)  # nothing comes, whatever they say
        nobodys = lacking & ~self.gathering.held
        run_s = self._run_s
        run = self._leases.next(
            self._runs(nobodys), now, run_s=run_s, patience_s=GATHER_LATE_S + 4 * (run_s or 0) / PARTS_PER_RUN
        )
        if run is None and self._slower_than_origin():
            run = self._runs(lacking)[-1]
            nobodys = lacking
        if run is None:
            return None
        indices = [index for index in self.draft.parts.run(run) if nobodys >> index & 1]
        return self._from(indices[0], nobodys, indices[-1] + 1 - indices[0])

    def _first(self, bits: int) -> int:
        ahead = bits >> self.gathering.position << self.gathering.position
        return next(iter_bits(ahead or bits))

    def _from(self, index: int, bits: int, most: int | None) -> range:
        """As much as lies together from `index` on."""
        shifted = bits >> index
        length = (~shifted & (shifted + 1)).bit_length() - 1
        return range(index, index + (length if most is None else min(length, most)))

    def _runs(self, bits: int) -> list[int]:
        """Runs of which some of these parts are, those first that somebody waits for."""
        runs = list(dict.fromkeys(index // PARTS_PER_RUN for index in iter_bits(bits)))
        at = self.gathering.position // PARTS_PER_RUN
        return [run for run in runs if run >= at] + [run for run in runs if run < at]

    @property
    def _run_s(self) -> float | None:
        pace = self._pace.bytes_per_s
        return None if pace is None else self.draft.parts.part_bytes * PARTS_PER_RUN / pace

    def _slower_than_origin(self) -> bool:
        """Whether what is missing would be here much sooner from the origin than at the pace of the others."""
        pace = self._pace.bytes_per_s
        if pace is None:
            return False
        left_bytes = self.draft.missing.bit_count() * self.draft.parts.part_bytes
        theirs = self.gathering.bytes_from_peers / max(self._now() - self._began, 1e-3)
        others_s = left_bytes / max(theirs, 1.0)
        return others_s > _WORTH_S and others_s > _SLOWER * left_bytes / pace
