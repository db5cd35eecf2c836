"""A fetch as a person asks for it: which files, where to, what is here already; then `Fetching` brings the rest."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Collection, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec

from p2pmodel.model import Layout, PublicKey, SignedStatement
from p2pmodel.peer.explaining import explain
from p2pmodel.peer.fetching import Fetching, default_destination
from p2pmodel.peer.finding import Finder
from p2pmodel.peer.flights import Flight
from p2pmodel.peer.peer import Peer
from p2pmodel.peer.rendering import fetch_report
from p2pmodel.peer.reports import FetchReport, Progress
from p2pmodel.peer.requests import FetchRequest, OnProgress
from p2pmodel.peer.selection import select_files
from p2pmodel.store import Intake, Reuse
from p2pmodel.swarm import Account, Cause


@dataclass(slots=True)
class Retrieval:
    """One `FetchRequest` for a model whose id is known. `path` is the one file that the reference named, or empty."""

    peer: Peer
    fetching: Fetching
    request: FetchRequest
    path: str = ""
    _began: float | None = None
    _intake: Intake | None = None
    """While its files come."""
    _lead: Retrieval | None = None
    """Whose work this caller waits for: its own, or that of another who asked for the same before."""

    async def run(self, signers: Sequence[PublicKey], on_progress: OnProgress | None = None) -> FetchReport:
        """Raises as `Peer.fetch` does. Who asks for the same meanwhile waits for the same work (`peer/flights.py`)."""
        request, flights, progress = self.request, self.peer.fetches, self.fetching.progress
        wanted = tuple(tuple(sorted(names)) for names in (request.files, request.include, request.exclude))
        how = (request.overwrite, request.link, request.dry_run, frozenset(signers))
        key = (self.fetching.model_id, self._destination, self.path, *wanted, *how)
        for flight in flights.of(self.fetching.model_id):
            flight.lead.fetching.ask_also(self.fetching.direct)
            if not request.background:
                flight.lead.fetching.hurry()
        flight, joined = flights.enter(key, self.fetching.model_id, self, partial(self._fly, signers=signers))
        self._lead = flight.lead
        report = await flights.wait(key, flight, on_progress or progress)
        if not joined or report.dry_run:
            return report
        return msgspec.structs.replace(
            report,
            bytes_fetched=0,
            bytes_wasted=0,
            bytes_reused=report.bytes_total,
            reused={"in_place": report.bytes_total},
            chunks_rejected=0,
            peers=[],
            joined=True,
        )

    async def _fly(self, flight: Flight[Retrieval, FetchReport], signers: Sequence[PublicKey]) -> FetchReport:
        """One at a time for each model: the next finds on this disk what this brought."""
        self.fetching.progress = flight.tell
        async with AsyncExitStack() as turn:
            with self.peer.fetches.following(flight):
                await turn.enter_async_context(self.peer.only_fetch(self.fetching.model_id))
            began = self.peer.network.clock.monotonic()
            account: Account[PublicKey] = Account(began)
            self.fetching.account = account
            self._began = began
            async with self.fetching.finder() as finder:
                layout = await self.fetching.metadata.layout(finder)
                signed = await self.fetching.metadata.statements(finder, signers)
                indices = self._files(layout)
                if self.request.dry_run:
                    return await self._dry_run(layout, indices, signed, began)
                try:
                    reused = await self._bring(layout, indices, finder)
                except BaseException:
                    # What was announced when the fetch began may not have come true.
                    self.peer.spawn(self.peer.announcer.update(layout.model_id))
                    raise
            account.note(self.peer.network.clock.monotonic())
            seconds = self.peer.network.clock.monotonic() - began
            await self.peer.announcer.update(layout.model_id)
            await self.peer.swarm.tell_state(layout.model_id)
            return fetch_report(layout, indices, self._shown, self.fetching.tally, reused, seconds, signed, account)

    def _files(self, layout: Layout) -> list[int]:
        names = [*self.request.files, *([self.path] if self.path else [])]
        return select_files(layout.manifest, files=names, include=self.request.include, exclude=self.request.exclude)

    @property
    def _destination(self) -> Path:
        if self.request.to:
            return Path(self.request.to)
        return default_destination(self.peer.config.data_dir, self.fetching.model_id)

    @property
    def _shown(self) -> Path:
        """What is printed: the file where the reference named one, else the directory."""
        return self._destination / self.path if self.path else self._destination

    def so_far(self) -> str:
        """What its time went into, in a sentence without its full stop; empty before its turn has come."""
        if self._lead is not None and self._lead is not self:
            return self._lead.so_far()
        if self._began is None:
            return ""
        now = self.peer.network.clock.monotonic()
        self.fetching.account.note(now)
        return explain(self.fetching.account, self.fetching.tally, now - self._began).summary.removesuffix(".")

    def _enter(self, phase: Cause) -> None:
        self.fetching.account.enter(phase, self.peer.network.clock.monotonic())

    async def _bring(self, layout: Layout, indices: Sequence[int], finder: Finder) -> dict[Reuse, int]:
        """Adopt, transfer, place. Returns the bytes that were on this disk already, by how they came to be here."""
        offload, loop = self.peer.network.offload, asyncio.get_running_loop()

        def tell(done: int, total: int, file: str) -> None:
            news = Progress(phase="placing", bytes_done=done, bytes_total=total, file=file)
            loop.call_soon_threadsafe(self.fetching.progress, news)

        stop = threading.Event()
        opened: list[Intake] = []

        def open_intake() -> Intake:
            # Kept here and not only returned: a call that is cancelled meanwhile has nobody to return it to.
            asked = self.request
            opened.append(
                self.peer.store.open_intake(
                    layout, indices, self._destination, overwrite=asked.overwrite, link=asked.link, stop=stop
                )
            )
            return opened[0]

        self._enter("checking")
        try:
            intake = await self.peer.until_stopped(stop, open_intake)
            await self.peer.until_stopped(stop, intake.adopt, tell, stop)
            self._intake = intake
            reused = intake.reused
            if intake.missing.held:
                await self.fetching.transfer(layout, intake, finder)
            self._enter("placing")
            await offload(intake.finish)
            return reused
        finally:
            self._intake = None
            for intake in opened:
                self.peer.close_soon(intake)

    async def name_whole(self, file_indices: Collection[int]) -> bool:
        """Give those of these files that are whole their final names now: somebody waits for them.

        False where one has to wait for a late write. Raises what the disk raises, and `RefusedError` where a file of
        another has the name.
        """
        if self._intake is None:
            return True
        return not await self.peer.network.offload(self._intake.place_whole, file_indices)

    async def _dry_run(
        self, layout: Layout, indices: Sequence[int], signed: Sequence[SignedStatement], began: float
    ) -> FetchReport:
        reused = await self.peer.network.offload(self.peer.store.would_reuse, layout, indices)
        seconds = self.peer.network.clock.monotonic() - began
        return fetch_report(layout, indices, self._shown, None, reused, seconds, signed)
