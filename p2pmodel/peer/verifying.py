"""`verify`: hash a model's files again, and with `--repair` fetch the chunks that are bad, and only those.

A bad chunk is written over where it stands (`store/repairing.py`). Files of a fetched model that are missing or have
another length are fetched as a whole; a published file of that kind is its owner's business.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from p2pmodel.errors import NoPeersError, NotFoundError
from p2pmodel.limits import FETCH_MISS_S
from p2pmodel.model import ModelId
from p2pmodel.net import Address
from p2pmodel.peer.fetching import Fetching
from p2pmodel.peer.finding import Finder
from p2pmodel.peer.peer import Peer
from p2pmodel.peer.reports import BadRange, Progress, VerifyReport
from p2pmodel.peer.requests import FetchRequest, OnProgress
from p2pmodel.peer.retrieval import Retrieval
from p2pmodel.store import BadRange as Bad
from p2pmodel.store import Repair

_RANGES_NAMED = 5
_LOOK_S = 0.2


@dataclass(slots=True)
class Verification:
    """One check of one model, at `path` or where most of it is."""

    peer: Peer
    model_id: ModelId
    path: Path | None
    progress: OnProgress = lambda _: None
    direct: Sequence[Address] = ()
    entry_peers: Sequence[str] = ()
    bytes_fetched: int = 0
    bytes_reused: int = 0
    _began: float = field(init=False)

    def __post_init__(self) -> None:
        self._began = self.peer.network.clock.monotonic()

    async def run(self, *, repair: bool) -> VerifyReport:
        """Raises `NotFoundError` and `RefusedError` as `Store.verify` does, and `NoPeersError` where a repair finds
        nobody who has what is missing."""
        await self.peer.closed(self.model_id)
        left = bad = await self._check()
        if bad and repair:
            async with self.peer.only_fetch(self.model_id):
                beyond = await self._repair()
            fetched = await self.peer.network.offload(self.peer.store.is_fetched, self.model_id, self.path)
            if beyond and fetched:
                await self._fetch_again(beyond)
                await self.peer.closed(self.model_id)
            left = await self._check()
        await self.peer.announcer.update(self.model_id)
        await self.peer.swarm.tell_state(self.model_id)
        model = await self.peer.network.offload(self.peer.store.model, self.model_id)
        if model is None:
            raise NotFoundError(f"the model {self.model_id.hex} has just been let go of")
        return VerifyReport(
            model_id=self.model_id.hex,
            path=str(self.path or model.path),
            files=model.files,
            bytes_checked=model.bytes_total,
            ok=not left,
            bad=_told(bad),
            left=_told(left),
            repaired=repair and bool(bad) and not left,
            bytes_fetched=self.bytes_fetched,
            bytes_reused=self.bytes_reused,
            seconds=round(self.peer.network.clock.monotonic() - self._began, 3),
        )

    async def mend(self) -> int:
        """Fetch what is known to be bad, without checking anything; the bytes that are right again.

        Raises `NoPeersError` where nobody has it; what came is kept.
        """
        try:
            async with self.peer.only_fetch(self.model_id):
                await self._repair(unasked=True)
        finally:
            await self.peer.announcer.update(self.model_id)
            await self.peer.swarm.tell_state(self.model_id)
        return self.bytes_fetched + self.bytes_reused

    async def _check(self) -> list[Bad]:
        loop, stop = asyncio.get_running_loop(), threading.Event()

        def tell(done: int, total: int, file: str) -> None:
            news = Progress(phase="hashing", bytes_done=done, bytes_total=total, file=file)
            loop.call_soon_threadsafe(self.progress, news)

        store = self.peer.store
        return await self.peer.until_stopped(
            stop, store.verify, self.model_id, path=self.path, on_progress=tell, stop=stop
        )

    async def _repair(self, *, unasked: bool = False) -> list[Bad]:
        """Put right in place what can be; the files that cannot."""
        stop = threading.Event()
        opened: list[Repair] = []

        def open_repair() -> Repair:
            # Kept here and not only returned: a call that is cancelled meanwhile has nobody to return it to.
            opened.append(self.peer.store.open_repair(self.model_id, path=self.path, unasked=unasked, stop=stop))
            return opened[0]

        try:
            repair = await self.peer.until_stopped(stop, open_repair)
            await self.peer.until_stopped(stop, repair.begin, None, stop)
            if repair.missing.held:
                await self._transfer(repair)
            return repair.beyond
        finally:
            for repair in opened:
                self.bytes_reused += repair.bytes_reused
                await self.peer.network.offload(repair.close)

    async def _transfer(self, repair: Repair) -> None:
        fetching = Fetching(self.peer.rooms, self.model_id, self.direct, self.progress, self.entry_peers)
        try:
            async with fetching.finder() as finder:
                await self._meet_somebody(fetching, finder)
                await fetching.transfer(repair.layout, repair, finder)
        except NoPeersError as error:
            raise NoPeersError(f"{_named(repair)} cannot be repaired: {error}") from error
        finally:
            self.bytes_fetched += fetching.tally.bytes_fetched

    async def _meet_somebody(self, fetching: Fetching, finder: Finder) -> None:
        """Raises `NoPeersError` soon, where a transfer would wait for a stall to end."""
        deadline = self.peer.network.clock.monotonic() + FETCH_MISS_S
        while not finder.links:
            if finder.rounds and self.peer.network.clock.monotonic() > deadline:
                raise NoPeersError(str(finder.nobody("no other peer has the model", self.entry_peers)))
            await finder.changed(_LOOK_S)

    async def _fetch_again(self, beyond: Sequence[Bad]) -> None:
        model = await self.peer.network.offload(self.peer.store.model, self.model_id)
        root = str(self.path or (model.path if model is not None else ""))
        files = [bad.file for bad in beyond]
        request = FetchRequest(ref=self.model_id.hex, files=files, to=root, overwrite=True)
        fetching = Fetching(self.peer.rooms, self.model_id, self.direct, self.progress, self.entry_peers)
        report = await Retrieval(self.peer, fetching, request).run([])
        self.bytes_fetched += report.bytes_fetched
        self.bytes_reused += report.bytes_reused


def _told(ranges: Sequence[Bad]) -> list[BadRange]:
    return [BadRange(file=r.file, offset=r.offset, length=r.length, reason=r.reason) for r in ranges]


def _named(repair: Repair) -> str:
    """`model.safetensors bytes 0-1048575 and 12 more`."""
    places = [repair.layout[index] for index in repair.missing]
    named = [
        f"{repair.layout.files[place.file_index].path.text} bytes {place.offset}-{place.offset + place.length - 1}"
        for place in places[:_RANGES_NAMED]
    ]
    more = f" and {len(places) - len(named)} more chunks" if len(places) > len(named) else ""
    return ", ".join(named) + more
