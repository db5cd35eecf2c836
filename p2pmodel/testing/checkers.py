"""The checkers of a simulated network: always on, and each speaks for every test that is written with it.

What they hold: nobody says "have" without bytes, no unverified byte is delivered, routing tables are consistent, memory
is bounded, fetches go on once the network has healed, and a peer that stops leaves nothing behind. A promise that is
broken ends whatever the test waits for, with the seed and the peer in the message.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p2pmodel.errors import NoPeersError
from p2pmodel.limits import CHUNK_BYTES_MAX, FETCH_STALL_S, KIB
from p2pmodel.model import Digest, Layout, ModelId, PublicKey, Reference
from p2pmodel.peer.reports import FetchReport
from p2pmodel.peer.requests import FetchRequest
from p2pmodel.peer.selection import select_files
from p2pmodel.testing.loop import Process, current_process
from p2pmodel.testing.promises import bad_files, memory_faults, table_faults
from p2pmodel.testing.wire_watch import WireWatch

if TYPE_CHECKING:
    from p2pmodel.testing.net import Net
    from p2pmodel.testing.peers import Running, SimPeer

_LOOK_S = 5.0
"""How often tables, memory and progress are looked at, in virtual time."""
_STUCK_S = 2 * FETCH_STALL_S
"""So long after the last disturbance, and after its last byte, a fetch that has a live holder counts as stuck."""

_TRICKLE_BYTES = 16 * KIB
"""Less than this coming in is no progress."""


class ViolationError(AssertionError):
    """A promise that every network of peers keeps was broken. The message has the seed, the time and the peer."""


@dataclass(slots=True, eq=False)
class WatchedFetch:
    """A fetch that runs on `peer`, and when something of it last came in."""

    checks: Checks
    peer: SimPeer
    request: FetchRequest
    moved_at: float
    fetched: int = 0
    came_in: int = 0

    @property
    def model_id(self) -> ModelId | None:
        """None for a name, which is resolved inside."""
        return Reference.parse(self.request.ref).model_id

    def look(self, now: float) -> None:
        model_id = self.model_id
        download = self.peer.peer.swarm.downloads.get(model_id) if model_id is not None and self.peer.alive else None
        if download is None:
            return
        fetched, came_in = download.tally.bytes_fetched, download.answer_bytes
        # Words are not progress.
        if fetched > self.fetched or came_in - self.came_in > _TRICKLE_BYTES:
            self.fetched, self.came_in, self.moved_at = fetched, came_in, now

    def missing(self) -> int | None:
        """Chunks that it waits for, as bits; None where it does not know yet which there are."""
        model_id = self.model_id
        download = self.peer.peer.swarm.downloads.get(model_id) if model_id is not None else None
        return None if download is None else download.missing

    def delivered(self, report: FetchReport, place: Path) -> None:
        """The fetch says that it is done: every file of it must be on the disk."""
        layout = self.peer.peer.store.layout(ModelId(Digest.from_hex(report.model_id)))
        if layout is None or not report.verified:
            self.checks.fail("a fetch is done and its manifest is not here", self.peer)
            return
        if report.dry_run or not self.peer.honest:
            return
        for sentence in bad_files(self.peer.disk, place, layout, self._files(layout)):
            self.checks.fail(sentence, self.peer)

    def _files(self, layout: Layout) -> list[int]:
        path = Reference.parse(self.request.ref).path
        names = [*self.request.files, *([path.text] if path else [])]
        return select_files(layout.manifest, files=names, include=self.request.include, exclude=self.request.exclude)


class Checks:
    """Of one `Net`. `violations` are all that were found; the first one is raised."""

    def __init__(self, net: Net) -> None:
        self.net = net
        self.violations: list[str] = []
        self.looks = 0
        """How often tables, memory and progress of all peers were looked at."""
        self.watch = WireWatch(net.seed, self._peer_of, self.fail)
        self._processes: dict[Process, SimPeer] = {}
        self._addresses: dict[PublicKey, set[str]] = {}
        self._fetches: dict[WatchedFetch, None] = {}
        self._quiet_since = 0.0
        self._broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._looking = asyncio.get_running_loop().create_task(self._keep_looking())
        self._log = _Faults(self)
        logging.getLogger("p2pmodel").addHandler(self._log)
        net.internet.watch = self.watch

    def close(self) -> None:
        self._looking.cancel()
        self._broken.cancel()
        self.net.internet.watch = None
        logging.getLogger("p2pmodel").removeHandler(self._log)

    # --- what breaks -------------------------------------------------------------------------------------------------

    def fail(self, sentence: str, peer: SimPeer | None = None) -> None:
        """A promise is broken: `raise_broken`, and every wait in `until`, raise it."""
        who = "" if peer is None else f"peer {peer.number} ({peer.address}): "
        now = self.net.internet.now
        self.net.log("violation", sentence)
        self.violations.append(f"{who}{sentence} [seed {self.net.seed}, {now:.3f} s]")
        if not self._broken.done():
            self._broken.set_result(None)

    def raise_broken(self) -> None:
        if self.violations:
            more = f" (and {len(self.violations) - 1} more)" if len(self.violations) > 1 else ""
            raise ViolationError(self.violations[0] + more)

    async def until(self, task: asyncio.Task[Any]) -> None:
        """Wait for the end of `task`. Raises `ViolationError` as soon as a promise is broken."""
        self.raise_broken()
        await asyncio.wait([task, self._broken], return_when=asyncio.FIRST_COMPLETED)
        self.raise_broken()

    # --- what the peers tell ---------------------------------------------------------------------------------------

    def started(self, peer: SimPeer, running: Running) -> None:
        self._processes[running.process] = peer
        host = peer.host
        self._addresses.setdefault(running.peer.peer_id, set()).update(ip for ip in (host.ip4, host.ip6) if ip)

    def gone(self, peer: SimPeer) -> None:
        """Its process was killed, and with it what it was sure of."""
        self.watch.forget(peer)
        self._processes = {process: known for process, known in self._processes.items() if known is not peer}

    def stopped(self, peer: SimPeer, running: Running) -> None:
        """It has ended in order: nothing of it may be left."""
        process, internet = running.process, self.net.internet
        self.gone(peer)
        tasks = [_name(task) for task in process.tasks]
        if tasks:
            self.fail(f"it has stopped and left {len(tasks)} tasks behind: {', '.join(tasks[:5])}", peer)
        if sockets := internet.sockets_of(process):
            self.fail(f"it has stopped and left {len(sockets)} sockets open", peer)
        # One that somebody has opened to it just now is the kernel's until it is accepted, and closed when it is not.
        channels = internet.channels_by_process().get(process, [])
        if channels := [channel for channel in channels if channel.outgoing or channel.started]:
            self.fail(f"it has stopped and left {len(channels)} connections open", peer)
        if opened := running.files.open_paths():
            self.fail(f"it has stopped and left files open: {', '.join(map(str, opened[:5]))}", peer)

    def disturbed(self) -> None:
        """The test has hurt the network: what was going on may take a while to find its way again."""
        self._quiet_since = self.net.internet.now

    @contextmanager
    def fetching(self, peer: SimPeer, request: FetchRequest) -> Iterator[WatchedFetch]:
        watched = WatchedFetch(self, peer, request, self.net.internet.now)
        self._fetches[watched] = None
        try:
            yield watched
        except NoPeersError as error:
            if self._calm_s(watched) > _STUCK_S and self._has_holder(watched):
                self.fail(f"a fetch has given up, though others hold what it misses: {error}", peer)
            raise
        finally:
            del self._fetches[watched]

    def _peer_of(self, process: Process) -> SimPeer | None:
        return self._processes.get(process)

    # --- looking around --------------------------------------------------------------------------------------------

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            self.look()

    def look(self) -> None:
        """Tables, memory and progress of every peer, now."""
        self.looks += 1
        channels = self.net.internet.channels_by_process()
        for process, peer in list(self._processes.items()):
            if peer.hostile or not peer.alive:
                continue
            running = peer.running
            for sentence in table_faults(running.peer.peer_id, running.peer.overlay._protocol.table, self._addresses):
                self.fail(sentence, peer)
            for sentence in memory_faults(running.peer, len(process.tasks), channels.get(process, ())):
                self.fail(sentence, peer)
        now = self.net.internet.now
        for watched in self._fetches:
            watched.look(now)
            if self._calm_s(watched) > self._stuck_s(watched) and self._has_holder(watched):
                self.fail(
                    f"a fetch stands still, though others hold what it misses: {watched.request.ref}", watched.peer
                )
        if now > self.net.options.time_limit_s and not self.violations:
            self.fail(f"it is not over after {now:,.0f} s of virtual time (time_limit_s)")

    def _calm_s(self, watched: WatchedFetch) -> float:
        """For how long nothing has disturbed the network and nothing has come in."""
        return self.net.internet.now - max(self._quiet_since, watched.moved_at)

    def _stuck_s(self, watched: WatchedFetch) -> float:
        """A chunk may take long on a slow line, shared by all who fetch."""
        lines = [peer.host.upload.bytes_per_s for peer in self.net.alive if peer.host.upload.bytes_per_s]
        lines.append(watched.peer.host.download.bytes_per_s or float("inf"))
        return _STUCK_S + 2 * CHUNK_BYTES_MAX * max(1, len(self._fetches)) / min(lines)

    def _has_holder(self, watched: WatchedFetch) -> bool:
        """Whether honest peers that it can reach hold, together, all that it misses."""
        model_id, peer, internet = watched.model_id, watched.peer, self.net.internet
        if model_id is None or not peer.alive or not peer.honest or peer.host.mute:
            return False
        held = count = 0
        for other in self.net.alive:
            if other is peer or not other.honest or other.host.mute:
                continue
            if not internet.connected(peer.host, other.host) or not other.host.accepts_connections:
                continue
            have = other.peer.store.have_map(model_id)
            if have is not None:
                held, count = held | have.bits, have.count
        missing = watched.missing()
        return count > 0 and not (((1 << count) - 1) if missing is None else missing) & ~held


class _Faults(logging.Handler):
    """What a daemon would log as an error of its own, and go on, is a violation here."""

    def __init__(self, checks: Checks) -> None:
        super().__init__(logging.ERROR)
        self._checks = checks

    def emit(self, record: logging.LogRecord) -> None:
        process = current_process()
        peer = self._checks._peer_of(process) if process is not None and process.alive else None
        if peer is not None:
            cause = record.exc_info[1] if record.exc_info else None
            self._checks.fail(f"{record.getMessage()}{'' if cause is None else f': {cause!r}'}", peer)


def _name(task: asyncio.Future[Any]) -> str:
    return getattr(task.get_coro(), "__qualname__", "?") if isinstance(task, asyncio.Task) else "?"
