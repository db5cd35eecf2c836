"""`doctor`: what is wrong with this peer, and what to do about it.

Each finding is a sentence and the command that cures it. An *error* keeps something from working or is a loss, a
*warning* will, a *note* is good to know.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from msgspec.structs import replace

from p2pmodel.errors import P2PModelError
from p2pmodel.model import SignedStatement
from p2pmodel.peer.peer import Peer
from p2pmodel.peer.reports import DoctorReport, Finding, Progress
from p2pmodel.peer.requests import DoctorRequest, OnProgress
from p2pmodel.peer.surroundings import directory_findings, error, machine_findings, note, warning
from p2pmodel.peer.units import format_duration, format_size
from p2pmodel.store import OS_FILES, Ailment

_SKEW_S = 600.0
"""What a signed date may lie ahead of our clock: two clocks that are off, and the records of others still hold."""
_SEVERITIES = ("error", "warning", "note")


@dataclass(slots=True)
class Doctor:
    """Looks at one peer. `daemon` says that it is one that stays; else it is there for this look alone."""

    peer: Peer
    daemon: bool
    progress: OnProgress = lambda _: None

    async def look(self, request: DoctorRequest) -> DoctorReport:
        peer, began = self.peer, self.peer.network.clock.monotonic()
        await peer.network.offload(peer.store.check_files)
        bytes_checked = await self._read_all() if request.deep else 0
        ailments = await peer.network.offload(peer.store.health.ailments)
        found = [finding_of(ailment) for ailment in ailments]
        found += await peer.network.offload(lambda: list(self._machine()))
        found += await peer.network.offload(lambda: list(self._cache()))
        found += self._disk()
        found += await self._clock()
        found += self._network() if self.daemon else self._alone()
        if request.deep and (fault := await peer.network.offload(peer.store.health.check_index)):
            found.append(_index(fault))
        return report(found, bytes_checked=bytes_checked, seconds=peer.network.clock.monotonic() - began)

    async def _read_all(self) -> int:
        """Hash every copy again; what is bad then shows in the store."""
        loop, stop, done = asyncio.get_running_loop(), threading.Event(), 0
        store = self.peer.store

        def tell(at: int, total: int, file: str) -> None:
            news = Progress(phase="hashing", bytes_done=at, bytes_total=total, file=file)
            loop.call_soon_threadsafe(self.progress, news)

        for model_id, root, size in await self.peer.network.offload(store.health.places):
            try:
                await self.peer.until_stopped(stop, store.verify, model_id, path=root, on_progress=tell, stop=stop)
                done += size
            except P2PModelError:
                continue  # it is being fetched, or has gone meanwhile
        await self.peer.watch.check_files()
        return done

    def _machine(self) -> Iterator[Finding]:
        if self.peer.files is OS_FILES:  # a simulated peer has no machine
            yield from directory_findings(self.peer.config.data_dir)
            yield from machine_findings()

    def _cache(self) -> Iterator[Finding]:
        use = self.peer.store.cache.use()
        quota = use.limits.quota_bytes
        if quota is not None and use.pinned_bytes >= quota:
            what = f"What is pinned takes {format_size(use.pinned_bytes)}, all of the quota of {format_size(quota)}."
            yield warning("quota", what, "p2pmodel unpin MODEL   # or a larger cache_quota")

    def _disk(self) -> Iterator[Finding]:
        if wrong := self.peer.store.wrong_reads:
            what = f"{wrong} reads came back wrong and, repeated at once, right: a disk, cable or memory is failing."
            yield warning("wrong-reads", what, "smartctl -a DEVICE   # and a test of the memory")

    async def _clock(self) -> list[Finding]:
        """A date that somebody has signed in what is our future."""
        now = self.peer.network.clock.wall()
        models = await self.peer.network.offload(self.peer.store.models)
        signed: list[SignedStatement] = []
        for model in models:
            signed += await self.peer.network.offload(self.peer.store.statements, model.model_id)
        ahead = max((one.statement.issued_at - now for one in signed), default=0.0)
        if ahead <= _SKEW_S:
            return []
        what = f"A signature here is dated {format_duration(ahead)} ahead of this machine's clock."
        return [warning("clock", what, "timedatectl set-ntp true")]

    def _alone(self) -> Iterator[Finding]:
        what = "No daemon runs here: nothing is served, and only fetches enter the network."
        yield note("daemon", what, f"p2pmodel daemon --data-dir {self.peer.config.data_dir}")

    def _network(self) -> Iterator[Finding]:
        peer, stats = self.peer, self.peer.overlay.stats()
        entries = ", ".join(peer.config.entry_peers)
        if not stats.neighbours and entries:
            what = f"No bootstrap peer answers ({entries}): this peer is in no network."
            yield error("bootstrap", what, "p2pmodel daemon --bootstrap HOST:PORT   # is UDP let out?")
        elif not stats.neighbours:
            what = "It knows no other peer, and no bootstrap peer is configured."
            yield note("neighbours", what, "p2pmodel daemon --bootstrap HOST:PORT")
        if stats.reachability is not None and stats.reachability.value == "unreachable":
            what = "Others cannot connect to this peer: it fetches, and serves only where it connects itself."
            cure = f"let UDP and TCP in on port {peer.listen.port}, in the firewall and the router"
            yield warning("reachability", what, cure)
        if stats.announce_behind_s > max(60.0, 0.1 * peer.profile.republish_s):
            behind = format_duration(stats.announce_behind_s)
            what = f"Announcing is {behind} late: others may not find all of the {stats.keys_provided:,} keys."
            yield warning("announcing", what, "p2pmodel status   # what else runs on this machine and line?")


def report(found: list[Finding], *, bytes_checked: int = 0, seconds: float = 0.0) -> DoctorReport:
    """Worst first."""
    return DoctorReport(
        ok=all(finding.severity != "error" for finding in found),
        findings=sorted(found, key=lambda finding: _SEVERITIES.index(finding.severity)),
        bytes_checked=bytes_checked,
        seconds=round(seconds, 3),
    )


def with_more(found: DoctorReport, more: Iterable[Finding]) -> DoctorReport:
    return report([*found.findings, *more], bytes_checked=found.bytes_checked, seconds=found.seconds)


def finding_of(ailment: Ailment) -> Finding:
    """What is wrong with a file, whose it is, and what its owner can do."""
    at, model_id, root = str(ailment.location), ailment.model_id.hex, str(ailment.root)
    cure = f"p2pmodel fetch {model_id} --to {root} --overwrite"
    match ailment.trouble:
        case "damaged":
            count = f"{ailment.chunks} of its {ailment.chunks_total} chunks"
            what = f"{at} is damaged: {count} are not what they were, and are not served."
            cure = f"p2pmodel verify {root} --repair"
        case "vanished":
            what = f"{at} has vanished, and is not served."
            if ailment.published:
                cure = f"put it back, or: p2pmodel publish {root}   # or let go of it: p2pmodel rm {model_id}"
        case "short":
            what = f"{at} is shorter than it was, and is not served."
            if ailment.published:
                cure = f"put it back, or: p2pmodel publish {root}   # or let go of it: p2pmodel rm {model_id}"
        case "changed":
            what = f"{at} changed since it was hashed, and is not served."
            if ailment.published:
                cure = f"p2pmodel publish {root}   # as it is now; as it was: p2pmodel verify {root} --repair"
        case _:
            part = f"{ailment.chunks} of {ailment.chunks_total} chunks are here"
            what = f"A fetch of {model_id} into {root} was not finished: {part}."
            cure = f"p2pmodel fetch {model_id} --to {root}   # or let go of it: p2pmodel rm {model_id}"
    finding = (note if ailment.trouble == "partial" else error)(f"file-{ailment.trouble}", what, cure)
    return replace(finding, path=at, model_id=model_id)


def _index(fault: str) -> Finding:
    cure = "move store.sqlite3 away and publish or fetch again: no model file depends on it"
    return error("index", f"The index is damaged: {fault}.", cure)


def unopened(fault: P2PModelError) -> Finding:
    """The peer could not even start."""
    text = str(fault)
    if "move it away" in text:
        return _index(text)
    cure = {
        7: "make room on the disk: p2pmodel gc, or remove other files",
        8: "stop the other process, or give this one a --data-dir of its own",
    }.get(fault.exit_code, "p2pmodel --debug ls")
    return error("start", f"A peer cannot start here: {text}.", cure)
