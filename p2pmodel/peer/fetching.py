"""Fetching a model from its peers: find them, learn what it is made of (`peer/metadata.py`), bring its chunks.

Nothing that a peer does ends a fetch; it goes on with the others, or waits for new ones, until the files are whole, the
caller's time is over, or nobody who could help has been seen for `FETCH_STALL_S`. What has arrived is always kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from p2pmodel.errors import NoPeersError
from p2pmodel.limits import CLAIM_BYTES, CLAIM_INTERVAL_S, FETCH_PATIENCE_S, FETCH_STALL_S, KIB
from p2pmodel.model import HaveMap, Layout, ModelId, PublicKey
from p2pmodel.model.have_map import bits_of
from p2pmodel.net import Address, cancelled
from p2pmodel.overlay import overlay_key
from p2pmodel.peer.finding import Finder
from p2pmodel.peer.metadata import Metadata
from p2pmodel.peer.near_caches import NearCaches
from p2pmodel.peer.relatives import Relatives
from p2pmodel.peer.reports import Progress
from p2pmodel.peer.requests import OnProgress
from p2pmodel.peer.rooms import Rooms
from p2pmodel.store import Intake, Repair
from p2pmodel.swarm import Account, Download, SmoothRate, Tally

_REPORT_S = 0.2
_WAIT_S = 0.5
_ETA_MEMORY_S = 30.0
_TRICKLE_BYTES = 16 * KIB
"""Less than this in `FETCH_STALL_S` is no progress: half a kilobyte a second."""


@dataclass(slots=True)
class Fetching:
    """The state of one fetch. `progress` is called on the loop, with what a person wants to see."""

    rooms: Rooms
    model_id: ModelId
    direct: Sequence[Address] = ()
    progress: OnProgress = lambda _: None
    entry_peers: Sequence[str] = ()
    """Bootstrap peers that should have led into the network, for the message where none did."""
    background: bool = False
    """It takes only what others leave of the line."""
    tally: Tally = field(default_factory=Tally)
    account: Account[PublicKey] = field(init=False)
    metadata: Metadata = field(init=False)
    _finder: Finder | None = None
    _download: Download | None = None
    _preferred: Sequence[int] = ()
    """Chunks that somebody waits for, in that order."""
    _told: int | None = None
    """Where a transfer asks only for what it is told: those chunks, as bits."""

    def __post_init__(self) -> None:
        self.account = Account(self._now())
        self.metadata = Metadata(self.rooms, self.model_id, entry_peers=self.entry_peers, searching=self._searching)

    def _now(self) -> float:
        return self.rooms.network.clock.monotonic()

    @asynccontextmanager
    async def finder(self) -> AsyncIterator[Finder]:
        """Looks for peers of this model, and asks each at once what will be asked of it anyway."""
        rooms = self.rooms
        await self.metadata.begin()
        async with Finder(
            overlay_key(self.model_id),
            overlay=rooms.overlay,
            swarm=rooms.swarm,
            clock=rooms.network.clock,
            direct=self.direct,
            on_link=self.metadata.greet,
            greeting=self.metadata.greeting,
        ) as finder:
            self._finder = finder
            if rooms.caches is not None:
                finder.spawn(self._suggest_caches(rooms.caches, finder))
            try:
                yield finder
            finally:
                self._finder = None
                await self.metadata.end()
                for link in finder.links:
                    link.expect_no_more(self.model_id)

    def hurry(self) -> None:
        """Somebody waits for it now: in the background no longer."""
        self.background = False
        if self._download is not None:
            self._download.hurry()

    def prefer(self, chunks: Sequence[int]) -> None:
        """Bring these chunks first, in this order: somebody waits for them."""
        self._preferred = chunks
        if self._download is not None:
            self._download.prefer(bits_of(chunks), chunks)

    def want(self, bits: int, dropped: int = 0) -> None:
        """These chunks as well, of a `transfer` that asks for what it is told alone; not for `dropped` any more."""
        self._told = (self._told or 0) & ~dropped | bits
        if self._download is not None:
            self._download.want(bits, dropped)

    def brings(self, bits: int) -> int:
        """Those of these chunks that the transfer under way was begun for; all of them where none is."""
        return bits if self._download is None else bits & self._download.wanted

    def came_otherwise(self, bits: int) -> None:
        """These chunks were found on this disk meanwhile."""
        if self._download is not None:
            self._download.came_otherwise(bits)

    async def _suggest_caches(self, caches: NearCaches, finder: Finder) -> None:
        finder.suggest(await caches.find())

    def ask_also(self, addresses: Sequence[Address]) -> None:
        """Peers that another caller who wants the same named by hand."""
        self.direct = [*self.direct, *(address for address in addresses if address not in self.direct)]
        if self._finder is not None:
            self._finder.ask_also(addresses)

    def _searching(self, finder: Finder, phase: str) -> None:
        self.account.enter("manifest" if finder.links else "discovery", self._now())
        if phase:
            self.progress(Progress(phase=phase, peers=len(finder.links)))

    # --- chunks --------------------------------------------------------------------------------------------------

    async def transfer(
        self, layout: Layout, intake: Intake | Repair, finder: Finder, *, asked: int | None = None
    ) -> None:
        """Pull what the intake misses. Raises `NoPeersError` after a long stall, and whatever our own disk raises.

        `asked`: of what it misses these chunks, and what `want` names, until it is cancelled.
        """
        swarm = self.rooms.swarm
        if asked is not None:
            self._told = (self._told or 0) | asked  # somebody may have wanted more before this began to run
        await self.rooms.announcer.begin(layout)
        download = swarm.open_download(
            layout,
            intake.wanted,
            intake.have,
            intake,
            links=finder.links,
            account=self.account,
            on_peers=finder.suggest,
            background=self.background,
            asked=self._told,
            first=self._preferred,
        )
        self.tally, self._download = download.tally, download
        finder.on_link = download.add_link
        finder.enough = lambda: download.links_enough
        relatives = Relatives(
            layout,
            download,
            finder,
            store=self.rooms.store,
            overlay=self.rooms.overlay,
            swarm=swarm,
            network=self.rooms.network,
            rng=self.rooms.rng,
        )
        searching = asyncio.get_running_loop().create_task(relatives.run())
        claims = asyncio.get_running_loop().create_task(self._claim_now_and_then(intake, download))
        watch = asyncio.get_running_loop().create_task(self._watch(layout, intake, download, finder))
        running = asyncio.get_running_loop().create_task(download.run())
        try:
            # A claim that fails has let go of what it could not prove, and nobody would bring that again.
            await asyncio.wait({running, watch, claims}, return_when=asyncio.FIRST_COMPLETED)
            for task in (claims, watch, running):
                if task.done():
                    task.result()
        finally:
            finder.on_link = lambda link: None
            finder.enough = lambda: False
            download.on_peers = lambda peers: None
            self._download = self._told = None
            await cancelled((claims, watch, running, searching))
            relatives.leave()
            swarm.close_download(download)

    async def _claim_now_and_then(self, intake: Intake | Repair, download: Download) -> None:
        claimed = 0
        last = self._now()
        while True:
            await asyncio.sleep(_REPORT_S)
            fresh = download.tally.bytes_fetched - claimed
            if fresh and (fresh >= CLAIM_BYTES or self._now() - last >= CLAIM_INTERVAL_S):
                claimed += fresh
                await self.rooms.network.offload(intake.claim)
                last = self._now()

    async def _watch(self, layout: Layout, intake: Intake | Repair, download: Download, finder: Finder) -> None:
        total = _size(layout, intake.wanted)
        base = _size(layout, HaveMap(len(layout), intake.wanted.bits & intake.have.bits))
        moved_at, fetched, came = self._now(), 0, 0
        steady = SmoothRate(_ETA_MEMORY_S)
        hopeful_at = moved_at
        while True:
            now = self._now()
            finder.fill_up()
            done = base + download.tally.bytes_fetched + download.tally.bytes_repeated
            rate, peers = download.rate(now)
            # Chunks that are on their way count too: on a slow line they come in groups, with long pauses.
            under_way = min(max(done, base + download.answer_bytes - download.tally.bytes_wasted), total)
            steady_rate = steady.update(under_way, now)
            note = ""
            # A chunk may take minutes on a slow path. A peer that only talks or refuses does not count as moving.
            if download.tally.bytes_fetched > fetched or download.answer_bytes - came > _TRICKLE_BYTES:
                moved_at, fetched, came = now, download.tally.bytes_fetched, download.answer_bytes
            if not download.sources and now - moved_at > _WAIT_S:
                note = f"waiting for a peer that holds {download.missing.bit_count()} missing chunks"
            if download.complete:
                moved_at = now  # nothing is asked for
            if download.sources:
                hopeful_at = now  # its upload limit may make it pause between chunks for longer than a stall lasts
            if now - max(moved_at, hopeful_at) > FETCH_STALL_S or now - moved_at > FETCH_PATIENCE_S:
                raise self.stalled(layout, download, finder)
            self.progress(
                Progress(
                    phase="transfer",
                    bytes_done=min(done, total),
                    bytes_total=total,
                    rate_bytes_per_s=rate,
                    peers=peers,
                    eta_s=(total - under_way) / steady_rate if steady_rate and now - moved_at < _ETA_MEMORY_S else None,
                    bytes_reused=base,
                    note=note,
                )
            )
            await asyncio.sleep(_REPORT_S)

    def stalled(self, layout: Layout, download: Download, finder: Finder) -> NoPeersError:
        left = download.missing.bit_count()
        kept = _size(layout, HaveMap(len(layout), layout.have_map().bits & ~download.missing))
        liars = [served.address for served in download.tally.served.values() if served.rejected]
        dropped = f"; dropped for corrupt chunks: {', '.join(liars)}" if liars else ""
        who = "no reachable peer holds" if not download.sources else "nothing comes any more from the peers that hold"
        return NoPeersError(
            f"{who} the {left} chunks that are missing{dropped}; "
            f"{kept:,} bytes are kept, run the same command to resume"
        )


def _size(layout: Layout, chunks: HaveMap) -> int:
    if chunks.whole:
        return layout.manifest.bytes_total
    return sum(layout[index].length for index in chunks)


def default_destination(data_dir: Path, model_id: ModelId) -> Path:
    """Where a fetch without `--to` puts a model."""
    return data_dir / "models" / model_id.hex
