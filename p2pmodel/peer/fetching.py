"""One fetch from reference to files: find peers, manifest, signatures, chunks, final names.

Nothing that a peer does ends a fetch; it goes on with the others, or waits for new ones, until the files are whole, the
caller's time is over, or nobody who could help has been seen for `FETCH_STALL_S`. What has arrived is always kept.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from random import Random

from p2pmodel.errors import (
    CorruptChunkError,
    DecodeError,
    NoPeersError,
    NotFoundError,
    P2PModelError,
    PeerFault,
    SignatureError,
    VerificationError,
)
from p2pmodel.limits import (
    BUNDLED_LISTS_BYTES_MAX,
    CLAIM_BYTES,
    CLAIM_INTERVAL_S,
    FETCH_MISS_S,
    FETCH_PATIENCE_S,
    FETCH_STALL_S,
    KIB,
    MANIFEST_BYTES_MAX,
)
from p2pmodel.model import (
    Bundle,
    ChunkList,
    Digest,
    FileEntry,
    HaveMap,
    Layout,
    Manifest,
    ModelId,
    PublicKey,
    SignedStatement,
    check_chunk_list,
    open_statement,
)
from p2pmodel.model.chunk_list import ENTRY_BYTES
from p2pmodel.model.have_map import bits_of
from p2pmodel.net import Address, Network, cancelled
from p2pmodel.overlay import Overlay, overlay_key
from p2pmodel.peer.announcing import Announcer
from p2pmodel.peer.finding import Finder
from p2pmodel.peer.near_caches import NearCaches
from p2pmodel.peer.relatives import Relatives
from p2pmodel.peer.reports import Progress
from p2pmodel.peer.requests import OnProgress
from p2pmodel.store import Intake, Repair, Store
from p2pmodel.swarm import Account, Download, Greeting, Link, SmoothRate, Swarm, Tally

log = logging.getLogger(__name__)

_REPORT_S = 0.2
_WAIT_S = 0.5
_ETA_MEMORY_S = 30.0
_TRICKLE_BYTES = 16 * KIB
"""Less than this in `FETCH_STALL_S` is no progress: half a kilobyte a second."""
_MANIFEST_ASKS = 2
"""Peers of whom the manifest is asked before they have said hello; where they have none, it costs the others a round
trip more, and where many were asked, it would come many times."""


@dataclass(frozen=True, slots=True)
class Rooms:
    """The parts of a peer that a fetch works with."""

    store: Store
    overlay: Overlay
    swarm: Swarm
    network: Network
    announcer: Announcer
    rng: Random
    caches: NearCaches | None = None
    """Where near caches are asked as well."""


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
    _began: float = 0.0
    _finder: Finder | None = None
    _corrupt_from: set[PublicKey] = field(default_factory=set)
    _statements: dict[Link, asyncio.Task[list[SignedStatement]]] = field(default_factory=dict)
    """Asked for as soon as there is a connection: an answer costs a round trip, and nobody should wait for two."""
    _download: Download | None = None
    _preferred: Sequence[int] = ()
    """Chunks that somebody waits for, in that order."""
    _told: int | None = None
    """Where a transfer asks only for what it is told: those chunks, as bits."""
    _manifest_asks: int = 0
    """Of how many more peers the manifest is asked for with the greeting."""

    def __post_init__(self) -> None:
        self._began = self._now()
        self.account = Account(self._began)

    def _now(self) -> float:
        return self.rooms.network.clock.monotonic()

    @asynccontextmanager
    async def finder(self) -> AsyncIterator[Finder]:
        """Looks for peers of this model, and asks each at once what will be asked of it anyway."""
        rooms = self.rooms
        if await rooms.network.offload(rooms.store.object, self.model_id) is None:
            self._manifest_asks = _MANIFEST_ASKS
        async with Finder(
            overlay_key(self.model_id),
            overlay=rooms.overlay,
            swarm=rooms.swarm,
            clock=rooms.network.clock,
            direct=self.direct,
            on_link=self._greet,
            greeting=self._greeting,
        ) as finder:
            self._finder = finder
            if rooms.caches is not None:
                finder.spawn(self._suggest_caches(rooms.caches, finder))
            try:
                yield finder
            finally:
                self._finder = None
                await cancelled(self._statements.values())
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

    def _greeting(self) -> Greeting:
        self._manifest_asks -= 1
        return Greeting(self.model_id, manifest=self._manifest_asks >= 0)

    def ask_also(self, addresses: Sequence[Address]) -> None:
        """Peers that another caller who wants the same named by hand."""
        self.direct = [*self.direct, *(address for address in addresses if address not in self.direct)]
        if self._finder is not None:
            self._finder.ask_also(addresses)

    def _greet(self, link: Link) -> None:
        """What will be asked of every peer goes out with the first question."""
        link.expect(self.model_id)
        if link not in self._statements:
            self._statements[link] = asyncio.get_running_loop().create_task(self._statements_of(link))

    # --- manifest and chunk lists --------------------------------------------------------------------------------

    async def layout(self, finder: Finder) -> Layout:
        """The model's manifest and chunk lists, from this disk or from peers.

        Raises `NotFoundError` or `NoPeersError` after `FETCH_MISS_S` without anybody, `VerificationError` where every
        answer was corrupt or the id is not that of a manifest.
        """
        held = await self.rooms.network.offload(self.rooms.store.layout, self.model_id)
        if held is not None:
            return held
        manifest, lists = await self._manifest(finder)
        of_each = await asyncio.gather(*(self._chunk_list(file, finder, lists) for file in manifest.files))
        return Layout(manifest, of_each)

    async def manifest(self, finder: Finder) -> Manifest:
        """Raises as `layout` does."""
        return (await self._manifest(finder))[0]

    async def _manifest(self, finder: Finder) -> tuple[Manifest, Mapping[Digest, bytes]]:
        """With the chunk lists that came with it."""
        offload, store = self.rooms.network.offload, self.rooms.store
        encoded = await offload(store.object, self.model_id)
        lists: Mapping[Digest, bytes] = {}
        if encoded is None:
            data = await self._from_peers(
                self.model_id, finder, MANIFEST_BYTES_MAX, "lookup", lists_bytes=BUNDLED_LISTS_BYTES_MAX
            )
            bundle = Bundle.decode(data, self.model_id)
            encoded, lists = bundle.manifest, bundle.lists
            await offload(store.put_object, encoded)
        try:
            return Manifest.decode(encoded), lists
        except DecodeError as error:
            raise VerificationError(f"the object {self.model_id.hex} is not a manifest: {error}") from error

    async def _chunk_list(self, file: FileEntry, finder: Finder, came: Mapping[Digest, bytes]) -> ChunkList:
        size = file.chunk_count * ENTRY_BYTES
        if not size:
            return ChunkList(b"")
        # Kept with the intake, all lists in one transaction: thousands of files would be as many commits.
        encoded = came.get(file.chunk_list)
        if encoded is None:
            encoded = await self.rooms.network.offload(self.rooms.store.object, file.chunk_list)
        if encoded is None:
            encoded = await self._from_peers(file.chunk_list, finder, size, "manifest")
        try:
            chunks = ChunkList(encoded)
            check_chunk_list(file, chunks)
        except DecodeError as error:
            raise VerificationError(f"the publisher's manifest contradicts itself: {error}") from error
        return chunks

    async def _from_peers(
        self, digest: Digest, finder: Finder, size_bytes_max: int, phase: str, *, lists_bytes: int = 0
    ) -> bytes:
        """From any peer that the finder brings, until one has it.

        Whoever is found later is asked at once, so that one who answers by drops holds nobody up.
        """
        asked: set[Link] = set()
        asking: dict[asyncio.Task[bytes], list[Link]] = {}
        try:
            while True:
                if fresh := [link for link in finder.links if link not in asked]:
                    asked.update(fresh)
                    work = self.rooms.swarm.fetch_object(
                        digest, fresh, size_bytes_max=size_bytes_max, lists_bytes=lists_bytes
                    )
                    asking[asyncio.get_running_loop().create_task(work)] = fresh
                for task in [task for task in asking if task.done()]:
                    links = asking.pop(task)
                    try:
                        return task.result()
                    except CorruptChunkError:
                        self._corrupt_from.update(link.peer for link in links)
                    except PeerFault:
                        continue
                if not asking:
                    self._give_up_early(finder)
                self._note_search(finder)
                self.progress(Progress(phase=phase, peers=len(finder.links)))
                await finder.changed(_WAIT_S, *asking)
        finally:
            await cancelled(asking)

    def _note_search(self, finder: Finder) -> None:
        self.account.enter("manifest" if finder.links else "discovery", self._now())

    def _give_up_early(self, finder: Finder) -> None:
        """Raise where there was time enough to find a holder, and none was found."""
        if self._now() - self._began < FETCH_MISS_S or finder.rounds == 0:
            return
        if self._corrupt_from:
            names = ", ".join(sorted(peer.text[:12] for peer in self._corrupt_from))
            raise VerificationError(
                f"the manifest that peers sent does not have the hash {self.model_id.hex}; refused ({names})"
            )
        raise self.nobody(finder, f"no peer has the model {self.model_id.hex}")

    def nobody(self, finder: Finder, what: str) -> P2PModelError:
        """The error for `what`, with what a person can do about it."""
        if self.rooms.overlay.neighbours() or finder.links:
            return NotFoundError(f"{what}; {self._asked(finder)}")
        tried = [f"{address}: {reason}" for address, reason in finder.failures.items()]
        tried += [f"bootstrap peer {address} does not answer" for address in self.entry_peers]
        hint = (
            "; ".join(tried[:3])
            or "name a peer of the network with --bootstrap HOST:PORT, or the publisher with --peer HOST:PORT"
        )
        return NoPeersError(f"{what}, and no other peer could be reached ({hint})")

    def _asked(self, finder: Finder) -> str:
        count = len(self.rooms.overlay.neighbours())
        asked = f"{count} overlay peer{'s' if count != 1 else ''} asked"
        if finder.failures:
            address, reason = next(iter(finder.failures.items()))
            return f"{asked}, and {address} could not be reached: {reason}"
        return asked

    # --- signatures ----------------------------------------------------------------------------------------------

    async def statements(self, finder: Finder, wanted: Sequence[PublicKey]) -> list[SignedStatement]:
        """What publishers have signed about the model, verified; asks peers until every `wanted` key is among them.

        Raises `SignatureError` where one is not.
        """
        store, offload = self.rooms.store, self.rooms.network.offload
        held = {one.signer: one for one in await offload(store.statements, self.model_id)}
        asked: set[Link] = set()
        while True:
            fresh = [link for link in finder.links if link not in asked]
            missing = [key for key in wanted if key not in held]
            if not fresh and (not missing or self._settled(finder)):
                break
            self._note_search(finder)
            asked.update(fresh)
            # All at once: peers that do not answer must not make a fetch wait for each of them in turn.
            for link in fresh:
                self._greet(link)
            for one in chain.from_iterable([await self._statements[link] for link in fresh]):
                held.setdefault(one.signer, one)
                await offload(store.add_statement, one, durable=False)
            if not fresh:
                await finder.changed(_WAIT_S)
        if missing:
            by = ", ".join(key.text for key in held) or "nobody"
            raise SignatureError(f"the model is not signed by {missing[0].text}; it is signed by {by}")
        return list(held.values())

    def _settled(self, finder: Finder) -> bool:
        return self._now() - self._began > FETCH_MISS_S and finder.rounds > 0

    async def _statements_of(self, link: Link) -> list[SignedStatement]:
        try:
            async with asyncio.timeout(FETCH_MISS_S):
                envelopes = await link.questions.statements(self.model_id)
        except (PeerFault, TimeoutError):
            return []
        signed = []
        for envelope in envelopes:
            try:
                one = open_statement(envelope)
            except (DecodeError, SignatureError) as error:
                log.warning("peer %s sent a statement that does not hold: %s", link.peer.text, error)
                continue
            if one.statement.model_id == self.model_id:
                signed.append(one)
        return signed

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
            await asyncio.wait({running, watch}, return_when=asyncio.FIRST_COMPLETED)
            for task in (watch, running):
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
