"""One simulated machine with the daemon's own `Peer` on it: its disk, its line to the network, its life and its deaths.

What runs is what `p2pmodel daemon` runs. Around it everything is simulated: clock, network, disk and dice come from the
seed of the simulation. Calls go through the same service as those of the command line, and return the same reports.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar

from p2pmodel.errors import P2PModelError, UsageError
from p2pmodel.model import Digest, PublicKey, Reference, SecretKey
from p2pmodel.net import Identity
from p2pmodel.peer.config import PeerConfig
from p2pmodel.peer.fetching import default_destination
from p2pmodel.peer.inventory import ModelDetail, ModelSummary
from p2pmodel.peer.keyring import DEFAULT_PUBLISHER
from p2pmodel.peer.peer import Peer
from p2pmodel.peer.reports import FetchReport, VerifyReport
from p2pmodel.peer.requests import FetchRequest, PublishRequest, ShowRequest, VerifyRequest
from p2pmodel.peer.service import LocalService
from p2pmodel.peer.status import PeerStatus
from p2pmodel.testing.disk import SimDisk
from p2pmodel.testing.disk_files import SimFiles
from p2pmodel.testing.host import Host
from p2pmodel.testing.loop import Process
from p2pmodel.testing.network import WALL_START_S, SimNetwork
from p2pmodel.testing.weights import ModelFiles, SimModel

if TYPE_CHECKING:
    from p2pmodel.testing.net import Net

T = TypeVar("T")

PORT = 8764
DATA_DIR = Path("/data")
_MODELS = Path("/models")
_NOTICED_S = 60.0
"""By then a peer has noticed that somebody changed a file that it serves in place."""


class CrashedError(RuntimeError):
    """The simulated process in which a call was running has died."""


class SeededKeys:
    """The keys of one simulated peer, made from the seed of the simulation. Fills `peer.keyring.Keys`."""

    def __init__(self, seed: str) -> None:
        self._seed = seed

    async def node_key(self) -> SecretKey:
        return self._key("node")

    async def publisher_key(self, name: str = DEFAULT_PUBLISHER) -> SecretKey:
        return self._key(f"publisher {name}")

    def _key(self, use: str) -> SecretKey:
        return SecretKey.from_seed(Digest.of(f"{self._seed} {use}".encode()).raw)


@dataclass(frozen=True, slots=True)
class Running:
    """What there is of a peer while its process lives."""

    process: Process
    network: SimNetwork
    files: SimFiles
    peer: Peer
    service: LocalService


class SimPeer:
    """Made by `Net`. `net[3]` is number 3; `peer` is the daemon's own object, for whoever wants to look inside."""

    def __init__(
        self,
        net: Net,
        number: int,
        host: Host,
        *,
        bootstrap: Sequence[str],
        client_only: bool | None,
        disk_bytes: int | None,
        config: Mapping[str, Any],
    ) -> None:
        self.net = net
        self.number = number
        self.host = host
        clock = asyncio.get_running_loop().time
        self.disk = SimDisk(
            Random(f"{net.seed} disk {number}"),
            clock=lambda: WALL_START_S + clock() + host.clock_error_s + host.slept_s,
            **({} if disk_bytes is None else {"capacity_bytes": disk_bytes}),
        )
        """Outlives every crash. Its methods are what another program on this machine might do."""
        self.hostile = False
        """It lies on purpose: what it says and sends proves nothing against the peer under test."""
        self.disk_damaged = False
        """What it reads is not what is there: it cannot know what it says. Set it where you damage `disk` yourself."""
        self._changed_at = -_NOTICED_S
        self.starts = 0
        self._config = PeerConfig(
            data_dir=DATA_DIR,
            http=None,
            bootstrap=tuple(bootstrap),
            network=net.network_config,
            lan=False,
            client_only=client_only,
            **{"listen": f"0.0.0.0:{PORT}", "free_disk_floor_bytes": 0, **config},
        )
        self._running: Running | None = None

    def __repr__(self) -> str:
        return f"<peer {self.number} at {self.address}{'' if self.alive else ', not running'}>"

    # --- what it is --------------------------------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        return self._running is not None

    @property
    def honest(self) -> bool:
        """Whether what it says is to be true: nothing lies, and nothing has been done to its disk behind its back."""
        unnoticed = self.net.internet.now - self._changed_at < _NOTICED_S
        return not self.hostile and not self.disk_damaged and not unnoticed

    @property
    def address(self) -> str:
        """HOST:PORT for `bootstrap` and `peers`."""
        return f"{self.host.ip4}:{PORT}"

    @property
    def running(self) -> Running:
        """Raises `UsageError` where its process does not run."""
        if self._running is None:
            raise UsageError(f"{self!r}: start it first")
        return self._running

    @property
    def peer(self) -> Peer:
        return self.running.peer

    @property
    def peer_id(self) -> PublicKey:
        return self.peer.peer_id

    @property
    def config(self) -> PeerConfig:
        return self._config

    # --- life and death ----------------------------------------------------------------------------------------------

    async def start(self) -> SimPeer:
        """Start its process and wait until it has joined the network, or knows that nobody answers."""
        if self._running is not None:
            raise UsageError(f"{self!r} runs already")
        if not self.host.up:
            self.net.internet.revive(self.host)
        self.starts += 1
        self.hostile = False
        process = self.net.internet.process(self.host)
        files = self.disk.process()
        networks: list[SimNetwork] = []

        def network(identity: Identity) -> SimNetwork:
            networks.append(SimNetwork(self.net.internet, self.host, identity, process))
            return networks[0]

        peer = Peer(
            self._config,
            network=network,
            files=files,
            rng=Random(f"{self.net.seed} peer {self.number} start {self.starts}"),
            keyring=SeededKeys(f"{self.net.seed} {self.number}"),
        )
        self.net.log("start", self.number)
        await self._in(process, peer.__aenter__())
        self._running = running = Running(process, networks[0], files, peer, LocalService(peer))
        self.net.checks.started(self, running)
        await self._in(process, peer.joined.wait())
        return self

    async def stop(self) -> None:
        """End it as `p2pmodel daemon` ends on a signal. What it leaves behind in its process is a violation."""
        running, self._running = self.running, None
        self.net.log("stop", self.number)
        await self._in(running.process, running.peer.__aexit__(None, None, None))
        for _ in range(3):
            await asyncio.sleep(0)  # tasks that have ended tell so a turn later
        self.net.checks.stopped(self, running)
        running.files.crash()
        self.net.checks.raise_broken()

    def crash(self, *, power: bool = False) -> None:
        """Kill the process at once, as `kill -9` does: the kernel closes its connections, and the others notice.

        `power`: the machine goes dark instead. Nobody is told, and the disk keeps only what was synced, and of the rest
        what the dice say.
        """
        running, self._running = self.running, None
        self.net.log("kill", self.number, int(power))
        self.net.checks.disturbed()
        self.net.internet.crash(self.host, silent=power)
        running.files.crash()
        if power:
            self.disk.cut_power()
        self.net.checks.gone(self)

    async def restart(self) -> SimPeer:
        """Start again on the same disk and host, after `stop` or `crash`."""
        self.net.checks.disturbed()
        return await self.start()

    # --- what it is for ----------------------------------------------------------------------------------------------

    async def publish(self, model: ModelFiles | str | Path, *, name: str = "", message: str = "") -> SimModel:
        """Write the files to this disk and publish them in place; a path publishes what is on the disk already."""
        if isinstance(model, ModelFiles):
            path = _MODELS / model.digest.hex[:16]
            for relative, data in model.files.items():
                self.disk.write_file(path / relative, data)
        else:
            path = Path(model)
        request = PublishRequest(path=str(path), name=name, message=message)
        report = await self._call(lambda service: service.publish(request))
        self.net.published[report.model_id] = None
        self.net.log("published", self.number, report.model_id, report.bytes_total, int(report.announced))
        return SimModel(report.model_id, report.path, report)

    async def fetch(
        self,
        model: SimModel | str,
        *,
        to: str | Path | None = None,
        files: Sequence[str] = (),
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        peers: Sequence[SimPeer] = (),
        signed_by: Sequence[str] = (),
        overwrite: bool = False,
        link: bool = False,
        timeout_s: float | None = None,
    ) -> FetchReport:
        """As `Peer.fetch`, which says what is raised; and what it reports as done has been hashed on the disk.

        `CrashedError` where the process dies meanwhile. Times are virtual.
        """
        request = FetchRequest(
            ref=str(model),
            files=list(files),
            include=list(include),
            exclude=list(exclude),
            to=None if to is None else str(to),
            peers=[peer.address for peer in peers],
            signed_by=list(signed_by),
            overwrite=overwrite,
            link=link,
            timeout_s=timeout_s,
        )
        self.net.log("fetch", self.number, request.ref)
        with self.net.checks.fetching(self, request) as watched:
            try:
                report = await self._call(lambda service: service.fetch(request))
            except P2PModelError as error:
                self.net.log("failed", self.number, request.ref, type(error).__name__)
                raise
            watched.delivered(report, self._place(report, request))
        self.net.checks.raise_broken()
        self.net.log("fetched", self.number, report.model_id, report.bytes_fetched, report.bytes_wasted)
        return report

    def _place(self, report: FetchReport, request: FetchRequest) -> Path:
        """The directory in which the files of this report lie."""
        if request.to is not None:
            return Path(request.to)
        model_id = Reference.parse(report.model_id).model_id
        assert model_id is not None
        return default_destination(DATA_DIR, model_id)

    async def verify(self, target: SimModel | str, *, repair: bool = False) -> VerifyReport:
        request = VerifyRequest(target=str(target), repair=repair)
        return await self._call(lambda service: service.verify(request))

    async def show(self, model: SimModel | str, *, timeout_s: float | None = None) -> ModelDetail:
        request = ShowRequest(ref=str(model), timeout_s=timeout_s)
        return await self._call(lambda service: service.show(request))

    async def models(self) -> list[ModelSummary]:
        return await self._call(lambda service: service.models())

    async def status(self) -> PeerStatus:
        return await self._call(lambda service: service.status())

    def holds(self, model: SimModel | str) -> bool:
        """Whether it can serve every chunk of the model, as it believes itself."""
        model_id = Reference.parse(str(model)).model_id
        have = None if model_id is None or self._running is None else self.peer.store.have_map(model_id)
        return have is not None and have.whole

    # --- its disk ----------------------------------------------------------------------------------------------------

    def write(self, path: str | Path, data: bytes) -> None:
        """Make or overwrite a file, as another program on this machine would."""
        self._changed_at = self.net.internet.now
        self.disk.write_file(path, data)

    def read(self, path: str | Path) -> bytes:
        """Raises `FileNotFoundError`."""
        return self.disk.read_file(path)

    # --- inside ------------------------------------------------------------------------------------------------------

    async def run(self, work: Callable[[Peer], Coroutine[Any, Any, T]]) -> T:
        """Do something with the daemon's own object, in its process: a crash takes it. Raises what it raises."""
        __tracebackhide__ = True
        running = self.running
        return await self._in(running.process, work(running.peer))

    async def _call(self, work: Callable[[LocalService], Coroutine[Any, Any, T]]) -> T:
        __tracebackhide__ = True
        running = self.running
        return await self._in(running.process, work(running.service))

    async def _in(self, process: Process, work: Coroutine[Any, Any, T]) -> T:
        """Run in its process, so that a crash takes it; a broken promise anywhere in the network ends it as well."""
        __tracebackhide__ = True
        task = process.context.run(asyncio.get_running_loop().create_task, work)
        try:
            await self.net.checks.until(task)
        except BaseException:
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                task.exception()  # the news is what ended the waiting
            raise
        if task.cancelled() and not process.alive:
            raise CrashedError(f"peer {self.number} crashed")
        return task.result()
