"""A network of simulated peers, as a test holds it: make one, let peers publish and fetch, hurt it, look at it.

    async with Net.open(peers=50, latency_ms=(5, 80), loss=0.02, seed=7) as net:
        model = await net[0].publish(net.random_model(size=64 << 20))
        await net.kill(fraction=0.2)
        reports = await net.fetch_all(model)

It needs a `VirtualLoop`: the `swarm` fixture brings one, elsewhere `p2pmodel.testing.run` does. Everything random comes
from the seed. The checkers of `checkers.py` are on all the time.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from random import Random
from typing import Any, TextIO, TypeVar

from p2pmodel.errors import P2PModelError, UsageError
from p2pmodel.net import Clock
from p2pmodel.peer.config import NetworkConfig
from p2pmodel.peer.reports import FetchReport
from p2pmodel.testing.checkers import Checks, ViolationError
from p2pmodel.testing.conditions import Nat
from p2pmodel.testing.events import EventLog, Field
from p2pmodel.testing.hostile_swarm import BoastingShelf, CorruptingShelf
from p2pmodel.testing.internet import Internet
from p2pmodel.testing.loop import VirtualLoop
from p2pmodel.testing.network import SimClock
from p2pmodel.testing.options import NetOptions
from p2pmodel.testing.peers import PORT, CrashedError, SimPeer
from p2pmodel.testing.weights import ModelFiles, SimModel, random_model

T = TypeVar("T")

_MILESTONES = 30
_NAMED_MAX = 3
"""Failed peers whose error stands in the message."""
_START_SPREAD_S = 1.0
"""Peers start within this time of each other: machines never do so in the same microsecond."""


class PeersFailedError(RuntimeError):
    """Several peers were to do the same, and some could not. `errors` has what each raised, by the peer's number."""

    def __init__(self, errors: Mapping[int, P2PModelError], count: int) -> None:
        self.errors = dict(errors)
        named = [f"peer {number}: {error!r}" for number, error in list(errors.items())[:_NAMED_MAX]]
        more = len(errors) - len(named)
        named += [f"and {more} more"] if more else []
        super().__init__(f"{len(errors)} of {count} peers failed; " + "; ".join(named))


class Net:
    """Made by `Net.open` or the `swarm` fixture. `net[0]` is the first peer; iterating gives all, dead ones too."""

    def __init__(self, options: NetOptions, copy_to: TextIO | None = None) -> None:
        self.options = options
        self.rng = Random(f"{options.seed} net")
        """For choices that a scenario leaves to chance."""
        self.internet = Internet(options.seed, options.conditions, EventLog(copy_to=copy_to))
        self.network_config = NetworkConfig(name="simulated", profile=options.profile)
        self.peers: list[SimPeer] = []
        self._loop = asyncio.get_running_loop()
        self._made_at = self._loop.time()
        self.checks = Checks(self)
        self.closed = False
        self.milestones: deque[str] = deque(maxlen=_MILESTONES)
        """The last events that are not traffic, to be read."""
        self.published: dict[str, None] = {}
        """Ids of the models that were published here."""

    @classmethod
    @asynccontextmanager
    async def open(
        cls, options: NetOptions | None = None, *, copy_to: TextIO | None = None, **changes: Any
    ) -> AsyncIterator[Net]:
        """All peers started and joined; in the end stopped, and looked at once more. Options as in `NetOptions`.

        `copy_to` gets every line of the event log.
        """
        net = await cls.start(options or NetOptions(**changes), copy_to=copy_to)
        try:
            yield net
            await net.close()
        finally:
            await net.abandon()

    @classmethod
    async def start(
        cls, options: NetOptions, *, made: Callable[[Net], None] = lambda _: None, copy_to: TextIO | None = None
    ) -> Net:
        """As `open` without its end: `close` must follow. Raises `UsageError` outside of a `VirtualLoop`.

        `made` is told of the network before the first peer starts.
        """
        if not isinstance(asyncio.get_running_loop(), VirtualLoop):
            raise UsageError("a simulated network needs a VirtualLoop: use the swarm fixture, or p2pmodel.testing.run")
        net = cls(options, copy_to)
        made(net)
        try:
            await net.add(options.peers)
        except BaseException:
            await net.abandon()
            raise
        return net

    async def close(self) -> None:
        """Look at everything once more, stop every peer, and see that nothing is left. Raises `ViolationError`.

        What fails leaves everything as it is, to be looked at; `abandon` takes it away.
        """
        if self.closed:
            return
        self.checks.look()
        self.checks.raise_broken()
        await _all(self.alive, SimPeer.stop)
        self.checks.raise_broken()
        await self.abandon()

    async def abandon(self) -> None:
        """Take everything away at once, without a last look. Does nothing to a network that is closed."""
        if self.closed:
            return
        self.closed = True
        self.checks.close()
        for peer in self.alive:
            peer.crash()
        await asyncio.sleep(0)
        for peer in self.peers:
            peer.disk.close()

    # --- its peers ---------------------------------------------------------------------------------------------------

    def __getitem__(self, number: int) -> SimPeer:
        return self.peers[number]

    def __len__(self) -> int:
        return len(self.peers)

    def __iter__(self) -> Iterator[SimPeer]:
        return iter(self.peers)

    @property
    def alive(self) -> list[SimPeer]:
        return [peer for peer in self.peers if peer.alive]

    async def add(
        self,
        count: int = 1,
        *,
        nat: Nat | None = None,
        client_only: bool | None = None,
        upload_bytes_per_s: float | None = None,
        download_bytes_per_s: float | None = None,
        disk_bytes: int | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> list[SimPeer]:
        """New machines that start within a second of each other; returns when all have joined.

        What is not said is as in the options of the network. Who is not made a client only finds out by itself.
        """
        options, first = self.options, len(self.peers)
        kinds = self._kinds(count)
        hosts = [
            self.internet.host(
                nat=drawn if nat is None else nat,
                upload_bytes_per_s=upload_bytes_per_s,
                download_bytes_per_s=download_bytes_per_s,
            )
            for drawn, _ in kinds
        ]
        entries = [f"{host.ip4}:{PORT}" for host in self.internet.hosts[: options.entry]]
        added = [
            SimPeer(
                self,
                number,
                host,
                bootstrap=[entry for entry in entries if entry != f"{host.ip4}:{PORT}"],
                client_only=client_only if client_only is not None else True if drawn else None,
                disk_bytes=options.disk_bytes if disk_bytes is None else disk_bytes,
                config={**options.config, **(config or {})},
            )
            for number, (host, (_, drawn)) in enumerate(zip(hosts, kinds, strict=True), first)
        ]
        self.peers += added
        delays = {peer: 0.0 if peer.number == 0 else self.rng.random() * _START_SPREAD_S for peer in added}
        await _all(added, lambda peer: _start(peer, delays[peer]))
        return added

    def _kinds(self, count: int) -> list[tuple[Nat, bool]]:
        """Of so many new peers: behind what, and whether a client only. Entry nodes are neither."""
        entries = max(0, min(self.options.entry - len(self.peers), count))
        others = count - entries
        behind = [nat for nat, share in self.options.nat.items() for _ in range(round(share * others))][:others]
        behind += [Nat.OPEN] * (others - len(behind))
        clients = [number < round(self.options.client_only * others) for number in range(others)]
        self.rng.shuffle(behind)
        self.rng.shuffle(clients)
        return [(Nat.OPEN, False)] * entries + list(zip(behind, clients, strict=True))

    # --- models ------------------------------------------------------------------------------------------------------

    def random_model(self, size: int = 1 << 20, files: int = 1) -> ModelFiles:
        """`size` bytes of noise in so many safetensors files; another model at each call."""
        return random_model(self.rng, size, files)

    def model_from(self, files: Mapping[str, bytes]) -> ModelFiles:
        """A model of these files, by portable path: `{"config.json": b"{}"}`."""
        return ModelFiles(files)

    async def fetch_all(
        self, model: SimModel | str, *, peers: Sequence[SimPeer] | None = None, timeout_s: float | None = None
    ) -> list[FetchReport]:
        """Let every living peer that does not hold the model fetch it, all at once; reports in the order of peers.

        A peer that the test kills meanwhile is left out. Raises `PeersFailedError` where fetches fail.
        """
        __tracebackhide__ = True
        chosen = [peer for peer in (self.alive if peers is None else peers) if not peer.holds(model)]
        results = await _all(chosen, lambda peer: self._fetch(peer, model, timeout_s))
        return [report for report in results if report is not None]

    async def _fetch(self, peer: SimPeer, model: SimModel | str, timeout_s: float | None) -> FetchReport | None:
        try:
            return await peer.fetch(model, timeout_s=timeout_s)
        except CrashedError:
            return None

    def holders(self, model: SimModel | str) -> list[SimPeer]:
        """Living peers that hold all of it."""
        return [peer for peer in self.alive if peer.holds(model)]

    # --- what can go wrong -------------------------------------------------------------------------------------------

    async def kill(
        self,
        fraction: float | None = None,
        peers: Iterable[SimPeer] = (),
        *,
        silent: bool = False,
        spare: Iterable[SimPeer] = (),
    ) -> list[SimPeer]:
        """Kill a fraction of the living peers, chosen by the seed, or these; returns whom.

        `silent`: their machines lose power, so that nobody is told and what was not synced may be lost; otherwise only
        their processes die. A fraction leaves out who is in `spare`, and never takes the last whole copy of a model
        that was published here: name the peer to do that.
        """
        victims = list(peers)
        if fraction is not None:
            if not 0 <= fraction <= 1:
                raise UsageError(f"fraction={fraction}: expected a number from 0 to 1")
            victims += self._some(fraction, kept=[*victims, *spare])
        for peer in victims:
            peer.crash(power=silent)
        await asyncio.sleep(0)
        return victims

    def _some(self, fraction: float, kept: Sequence[SimPeer]) -> list[SimPeer]:
        alive = self.alive
        candidates = [peer for peer in alive if peer not in kept]
        self.rng.shuffle(candidates)
        chosen: list[SimPeer] = []
        for peer in candidates:
            if len(chosen) >= round(fraction * len(alive)):
                break
            left = [other for other in alive if other is not peer and other not in chosen]
            if all(any(other.holds(model) for other in left) for model in self.published if peer.holds(model)):
                chosen.append(peer)
        return sorted(chosen, key=lambda peer: peer.number)

    async def revive(self, peers: Iterable[SimPeer] | None = None) -> list[SimPeer]:
        """Start dead peers again (all by default), on the disks that they left; returns when they have joined."""
        revived = [peer for peer in (self.peers if peers is None else peers) if not peer.alive]
        await _all(revived, SimPeer.restart)
        return revived

    def partition(self, *sides: float | Iterable[SimPeer]) -> None:
        """Cut the network: peers of different sides do not reach each other, and who is in none is on one more side.

        A number is a fraction of all peers, chosen by the seed: `net.partition(0.5)` cuts it into halves.
        """
        left = list(self.peers)
        self.rng.shuffle(left)
        parts: list[list[SimPeer]] = []
        for side in sides:
            if isinstance(side, int | float):
                count = round(side * len(self.peers))
                parts.append(left[:count])
            else:
                parts.append(list(side))
            left = [peer for peer in left if peer not in parts[-1]]
        self.checks.disturbed()
        self.internet.partition(*[[peer.host for peer in part] for part in parts])

    def heal(self) -> None:
        """The end of a partition, of silence and of failing disks. The dead stay dead: see `revive`."""
        self.checks.disturbed()
        for peer in self.peers:
            peer.host.mute = False
            peer.disk.heal()
            peer.disk_damaged = False
        self.internet.heal()

    def silence(self, *peers: SimPeer) -> None:
        """From now on these take everything in and say nothing, until `heal`."""
        self.checks.disturbed()
        for peer in peers:
            self.log("silence", peer.number)
            peer.host.mute = True

    def corrupt(self, peer: SimPeer, fraction: float = 1.0) -> CorruptingShelf:
        """From now on `peer` serves wrong bytes in this fraction of its answers, until it is started again."""
        shelf = CorruptingShelf(
            peer.peer.swarm._uploads.shelf, fraction, Random(f"{self.options.seed} lies {peer.number}")
        )
        self._lies(peer, shelf)
        return shelf

    def boast(self, peer: SimPeer) -> None:
        """From now on `peer` says that it holds all of every model of which it holds something."""
        self._lies(peer, BoastingShelf(peer.peer.swarm._uploads.shelf))

    def _lies(self, peer: SimPeer, shelf: CorruptingShelf) -> None:
        self.checks.disturbed()
        self.log("lies", peer.number, type(shelf).__name__)
        peer.hostile = True
        peer.peer.swarm._uploads.shelf = shelf

    def fail_disk(self, peer: SimPeer, *, flip_rate: float = 0.0, **fault: Any) -> None:
        """Let calls to the disk of `peer` fail, as `SimDisk.fail_after` takes it, or bits of what is read flip.

        `net.fail_disk(net[3], calls=20, code=errno.ENOSPC, only={"write"}, times=None)`. Until `heal`.
        """
        self.checks.disturbed()
        told = [f"{name}={sorted(value) if isinstance(value, set) else value}" for name, value in sorted(fault.items())]
        self.log("disk", peer.number, flip_rate, *told)
        if flip_rate:
            peer.disk_damaged = True
            peer.disk.flip_rate = flip_rate
        if fault:
            peer.disk.fail_after(**fault)

    # --- time and what happened --------------------------------------------------------------------------------------

    @property
    def seed(self) -> int:
        return self.options.seed

    @property
    def clock(self) -> Clock:
        """Virtual time: `net.clock.monotonic()` began at 0."""
        return SimClock(self.internet.hosts[0])

    @property
    def seconds(self) -> float:
        """Virtual seconds since the network was made."""
        return self._loop.time() - self._made_at

    async def run_for(self, seconds: float) -> None:
        """Let so much virtual time pass. Raises `ViolationError` at once where a promise is broken meanwhile."""
        sleeping = asyncio.get_running_loop().create_task(asyncio.sleep(seconds))
        try:
            await self.checks.until(sleeping)
        finally:
            sleeping.cancel()

    @property
    def event_log(self) -> EventLog:
        """Everything that has happened: `net.event_log.sha256` is the same for the same seed."""
        return self.internet.log

    def log(self, kind: str, *fields: Field) -> None:
        """Add an event of the scenario's own. Fields must be values that repeat."""
        now = self.internet.now
        self.internet.log.add(now, kind, *fields)
        self.milestones.append(f"{now:9.3f} s  {kind} {' '.join(map(_short, fields))}")


def _short(field: Field) -> str:
    """Hashes are told apart by their beginning."""
    text = str(field)
    return f"{text[:12]}..." if len(text) == 64 and " " not in text else text


async def _start(peer: SimPeer, after_s: float) -> None:
    await asyncio.sleep(after_s)
    await peer.start()


async def _all(peers: Sequence[SimPeer], work: Callable[[SimPeer], Coroutine[Any, Any, T]]) -> list[T]:
    """The results, in the order of peers, once all have ended. Raises the first violation, or `PeersFailedError`."""
    __tracebackhide__ = True
    results = await asyncio.gather(*map(work, peers), return_exceptions=True)
    errors = {peer: found for peer, found in zip(peers, results, strict=True) if isinstance(found, BaseException)}
    for error in errors.values():
        if isinstance(error, ViolationError) or not isinstance(error, P2PModelError):
            raise error
    if errors:
        failed = {peer.number: error for peer, error in errors.items() if isinstance(error, P2PModelError)}
        raise PeersFailedError(failed, len(peers)) from next(iter(failed.values()))
    return [found for found in results if not isinstance(found, BaseException)]
