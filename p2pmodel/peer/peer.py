"""The peer: overlay, swarm and store put together, with the few things that only the whole can do.

`async with Peer(config) as peer:` locks the data directory, binds one port for UDP and TCP, joins the network through
the entry peers in the background, announces what is on the disk, and undoes all of it at the end. Files that change
under it are noticed and withdrawn.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial, reduce
from operator import or_
from pathlib import Path
from random import Random, SystemRandom
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from p2pmodel.errors import InterruptedFetchError, NetworkError, NoSpaceError, P2PModelError, RefusedError, UsageError
from p2pmodel.limits import STOP_TIMEOUT_S
from p2pmodel.model import Digest, ModelId, PublicKey
from p2pmodel.net import Address, Identity, Network, RealNetwork, cancelled, network_id
from p2pmodel.overlay import CLUSTER, INTERNET, Overlay, Profile
from p2pmodel.peer.addresses import bind, resolve
from p2pmodel.peer.announcing import Announcer
from p2pmodel.peer.caching import Caching
from p2pmodel.peer.config import PeerConfig, absolute
from p2pmodel.peer.flights import Flights
from p2pmodel.peer.gathering import Gatherings
from p2pmodel.peer.keyring import Keyring, Keys
from p2pmodel.peer.leftovers import Leftovers, origin_leftovers
from p2pmodel.peer.losses import Losses
from p2pmodel.peer.near_caches import CACHE_KEY, NearCaches
from p2pmodel.peer.reader import Reader, Readings
from p2pmodel.peer.reports import FetchReport
from p2pmodel.peer.requests import FetchRequest, OnProgress, PublishRequest, ReadRequest
from p2pmodel.peer.rooms import Rooms
from p2pmodel.peer.saved import SavedState
from p2pmodel.peer.shelf import StoreShelf
from p2pmodel.peer.trust import TRUST_NAME, Trust, parse_trust
from p2pmodel.peer.watching import Watch
from p2pmodel.store import OS_FILES, CacheLimits, Files, Intake, Store
from p2pmodel.store.files import Lock
from p2pmodel.swarm import Link, Swarm
from p2pmodel.version import __version__

if TYPE_CHECKING:
    from p2pmodel.peer.retrieval import Retrieval

log = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")

_REJOIN_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_LONG_WORKS_MAX = 2
"""Works of minutes at once (hashing, mostly): the threads that are left serve others meanwhile."""


class Peer:
    """A running peer. `peer_id` is its public key, `listen` its address (UDP and TCP).

    Everything that is not a function of its arguments comes in by keyword, so that a simulation runs this same code:
    clock, sockets and threads with `network`, the disk with `files`, the index with `open_store` (given the data
    directory), dice with `rng`, secrets with `keyring`.
    """

    def __init__(
        self,
        config: PeerConfig,
        *,
        network: Callable[[Identity], Network] = RealNetwork,
        files: Files = OS_FILES,
        rng: Random | None = None,
        keyring: Keys | None = None,
        open_store: Callable[[Path], Store] | None = None,
        lock: Lock | None = None,
    ) -> None:
        """`lock`: the data directory's, where the caller has taken it already; it is released with the peer."""
        self.config = config
        self.files = files
        self.keyring: Keys = keyring or Keyring(config.data_dir)
        self.joined = asyncio.Event()
        """Set once an entry peer has answered, or there is none to ask."""
        self.store: Store
        self.swarm: Swarm
        self.overlay: Overlay
        self.network: Network
        self.announcer: Announcer
        self.saved: SavedState
        self.watch: Watch
        self.leftovers: Leftovers
        self.losses: Losses
        self.peer_id: PublicKey
        self.listen: Address
        self._network_type = network
        self._rng = rng or SystemRandom()
        self._dice = rng or Random(SystemRandom().getrandbits(256))
        """For what is no secret, such as which chunk is asked for next: the system's would cost a call for each."""
        self._near_caches: NearCaches | None = None
        self._open_store = open_store or partial(Store.open, files=files)
        self._stack = AsyncExitStack()
        self._background: dict[asyncio.Task[None], None] = {}
        self._closing: dict[asyncio.Task[None], ModelId] = {}
        self._works: dict[asyncio.Future[Any], threading.Event] = {}
        """Blocking works under way, and what ends each."""
        self._stopping = False
        self._at_length = asyncio.Semaphore(_LONG_WORKS_MAX)
        self._held_lock = lock
        self._model_locks: dict[ModelId, asyncio.Lock] = {}
        self.gatherings = Gatherings()
        """Files that nobody has published, and that this peer gets together with others."""
        self.caching: Caching | None = None
        """Where this peer is a cache."""
        self.fetches: Flights[Retrieval, FetchReport] = Flights()
        self.readings = Readings(self)

    # --- life ----------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Peer:
        """Raises `RefusedError` where another process has the data directory, `NetworkError` for a port in use."""
        try:
            await self._start()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop()

    async def _start(self) -> None:
        config = self.config
        self._stack.enter_context(self._lock())
        key = await self.keyring.node_key()
        self.peer_id = key.public
        this_network = network_id(config.network.name)
        identity = Identity(
            key, this_network, encryption=config.encryption == "required", agent=f"p2pmodel/{__version__}"
        )
        self.network = self._network_type(identity)
        self._stack.push_async_callback(self.network.close)
        self.store = await self.network.offload(self._open_store, config.data_dir)
        self._stack.push_async_callback(self.network.offload, self.store.close)
        self.store.hash_each_read = identity.encryption  # in the clear the kernel sends from the file, unseen by us
        self.leftovers = origin_leftovers(config.data_dir, self.files)
        self.losses = Losses(self)
        cache_limits = CacheLimits(config.cache_quota_bytes, config.free_disk_floor_bytes)
        self.store.watch_cache(cache_limits, self.losses.released, self._known_elsewhere, self.leftovers)
        await self.network.offload(self.store.check_files)  # nobody is told of what went while we were down
        self.swarm = Swarm(
            key=self.peer_id,
            network=self.network,
            shelf=StoreShelf(self.store, self.gatherings),
            rng=self._dice,
            upload_limit_bytes_per_s=config.upload_limit_bytes_per_s,
            download_limit_bytes_per_s=config.download_limit_bytes_per_s,
            upload_slots=config.upload_slots,
            background=config.background,
        )
        self.swarm.on_arrival = self.readings.arrived
        self.swarm.on_interest = self._followed
        self._stack.push_async_callback(self.swarm.stop)
        self.overlay = Overlay(
            key=key,
            network=self.network,
            network_id=this_network,
            rng=self._rng,
            profile=self.profile,
            client_only=True if config.passing else config.client_only,
            reachable=not config.client_only,
        )
        identity.hidden = lambda: self.overlay.hidden
        if config.lan and config.cache_bytes is None:
            self._near_caches = NearCaches(self.overlay, self.network.clock)
        self.announcer = Announcer(self.store, self.overlay, self.network)
        self.saved = SavedState(config.data_dir, config.saved_state, self.files, self.overlay, self.network)
        self.listen, listener = await bind(
            self.network, self.overlay, self.swarm.accept, config.listen, explicit=config.listen_explicit
        )
        self._stack.callback(listener.close)
        self._stack.push_async_callback(self.overlay.stop)
        await self.saved.restore()
        self._stack.push_async_callback(self.saved.save_last)
        self.spawn(self.saved.run())
        self.spawn(self._join(config.entry_peers))
        self.watch = Watch(self)
        self.spawn(self.watch.look())
        if config.saved_state == "keep":
            self._stack.push_async_callback(self.watch.save)
            self.spawn(self.watch.scrub())
            self.spawn(self.watch.tidy())
        if config.cache_bytes is not None:
            self.caching = Caching(self.rooms, self.network, config.cache_bytes)
            self.overlay.provide_later([CACHE_KEY], roots=True)
            self.spawn(self.caching.run())

    def _lock(self) -> Lock:
        if self._held_lock is not None:
            return self._held_lock
        directory = self.config.data_dir
        try:
            return self.files.lock(directory)
        except (RefusedError, NoSpaceError):
            raise
        except P2PModelError as error:
            raise UsageError(f"cannot use the data directory {directory}: {error}") from error

    @property
    def profile(self) -> Profile:
        """The times of the network that this peer is in."""
        return CLUSTER if self.config.network.profile == "cluster" else INTERNET

    async def _stop(self) -> None:
        self._stopping = True
        await self.readings.stop()
        await self.fetches.stop()
        for stopping in self._works.values():
            stopping.set()
        if self._works:
            await asyncio.wait(self._works, timeout=STOP_TIMEOUT_S)
        await cancelled(self._background)
        if self._closing:
            await asyncio.wait(self._closing, timeout=STOP_TIMEOUT_S)
        await self._stack.aclose()

    def spawn(self, work: Coroutine[Any, Any, object]) -> asyncio.Task[None]:
        """Run in the background until done or the peer stops; a failure is logged, with what failed."""
        task = asyncio.get_running_loop().create_task(_supervised(work))
        self._background[task] = None
        task.add_done_callback(lambda task: self._background.pop(task, None))
        # Cancelled before its first step, a task never touches what it was to run.
        task.add_done_callback(lambda _: work.close())
        return task

    def close_soon(self, intake: Intake) -> None:
        """Close a fetch in the background: its barrier and claim take as long as the disk does.

        Not cancelled by a stop, which waits for it; the next fetch or check of the model waits as well.
        """
        model_id = intake.layout.model_id
        task = self.spawn(self.network.offload(intake.close))
        del self._background[task]
        self._closing[task] = model_id
        task.add_done_callback(self._closing.pop)

    async def closed(self, model_id: ModelId) -> None:
        """Until every fetch of this model that has ended is closed."""
        while closing := [task for task, closes in self._closing.items() if closes == model_id]:
            await asyncio.wait(closing)

    async def until_stopped(
        self, stopping: threading.Event, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run blocking work that looks at `stopping` now and then; a cancelled call sets it and waits for the end.

        So does the end of the peer: then, and after it, this raises `InterruptedFetchError`.
        """
        async with self._at_length:
            return await self._until_stopped(stopping, partial(work, *args, **kwargs))

    async def _until_stopped(self, stopping: threading.Event, work: Callable[[], T]) -> T:
        if self._stopping:
            raise InterruptedFetchError("the peer was stopped")
        running = asyncio.ensure_future(self.network.offload(work))
        self._works[running] = stopping
        running.add_done_callback(self._works.pop)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            stopping.set()
            await asyncio.wait([running])
            running.exception()  # that it was stopped is no news
            raise

    async def _join(self, entry_peers: Sequence[str]) -> None:
        """Enter the network, however long the entry peers take to come up; then announce what is here."""
        await self.announcer.update_all()
        attempt = 0
        while entry_peers and not self.overlay.neighbours():
            try:
                if await self.bootstrap(entry_peers):
                    break
            except NetworkError as error:
                log.warning("%s", error)
            else:
                if attempt == 1:
                    log.warning("no bootstrap peer answers (%s); trying again", ", ".join(entry_peers))
            if attempt == 0:
                self.joined.set()
            await asyncio.sleep(_REJOIN_S[min(attempt, len(_REJOIN_S) - 1)])
            attempt += 1
        self.joined.set()
        stopping = threading.Event()
        # Not one of the long works, of which others would have to wait for it: it takes what time they leave.
        await self._until_stopped(stopping, partial(self.store.prove, stop=stopping))
        await self.announcer.update_all()

    async def bootstrap(self, entry_peers: Iterable[str]) -> int:
        """Ask these peers (HOST:PORT) for their neighbours; how many answered. Raises `NetworkError` for bad names."""
        return await self.overlay.bootstrap(await resolve(entry_peers))

    def _followed(self, link: Link, model_id: ModelId) -> None:
        if not self.gatherings.followed(link, model_id) and self.caching is not None:
            self.caching.asked(link, model_id)

    def _known_elsewhere(self, model_id: ModelId) -> int:
        """What other peers are known to hold of a model, as bits; -1 where nothing is known. From any thread."""
        held = [have for link in list(self.swarm.links.values()) if (have := link.held.get(model_id)) is not None]
        if held:
            return reduce(or_, (have.bits for have in held))
        return self.caching.known_elsewhere(model_id) if self.caching is not None else -1

    async def trust(self) -> Trust:
        """Whom this peer's owner believes, as it stands on the disk now. Raises `UsageError` where it is damaged."""
        path = self.config.data_dir / TRUST_NAME
        content = await self.network.offload(self.files.read_small, path)
        return Trust() if content is None else parse_trust(content, path)

    # --- what it is for ------------------------------------------------------------------------------------------

    @property
    def rooms(self) -> Rooms:
        return Rooms(self.store, self.overlay, self.swarm, self.network, self.announcer, self._rng, self._near_caches)

    @asynccontextmanager
    async def only_fetch(self, model_id: ModelId) -> AsyncIterator[None]:
        """One fetch of a model at a time: the second finds on this disk what the first brought."""
        if asyncio.current_task() is not self.readings.worker(model_id):
            await self.readings.give_way(model_id)
        lock = self._model_locks.setdefault(model_id, asyncio.Lock())
        async with lock:
            await self.closed(model_id)
            if self.caching is not None:
                await self.caching.give_way(model_id)
            try:
                yield
            finally:
                if self.caching is not None:
                    self.caching.resume(model_id)

    async def publish(
        self, path: str | os.PathLike[str], *, name: str = "", message: str = "", on_progress: OnProgress | None = None
    ) -> str:
        """Hash, sign and serve a directory or file in place; returns the model id (64 hex digits).

        Raises as `Store.publish` does.
        """
        from p2pmodel.peer.service import LocalService

        request = PublishRequest(path=str(absolute(Path(path))), name=name, message=message)
        return (await LocalService(self).publish(request, on_progress)).model_id

    async def fetch(
        self,
        ref: str | Digest,
        *,
        to: str | os.PathLike[str] | None = None,
        files: Sequence[str] = (),
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        peers: Sequence[str] = (),
        signed_by: Sequence[str] = (),
        overwrite: bool = False,
        link: bool = False,
        timeout_s: float | None = None,
        on_progress: OnProgress | None = None,
    ) -> FetchReport:
        """Find a model and bring its files to `to` (in the data directory by default), verified.

        `link`: equal files of other models here become one with these, wherever they lie; nobody may edit them then.
        Raises `NotFoundError`, `NoPeersError`, `FetchTimeoutError`, `VerificationError`, `SignatureError`,
        `NoSpaceError`, `RefusedError`, `UsageError`. What has arrived is kept, and the next call resumes.
        """
        from p2pmodel.peer.service import LocalService

        request = FetchRequest(
            ref=str(ref),
            files=list(files),
            include=list(include),
            exclude=list(exclude),
            to=None if to is None else str(absolute(Path(to))),
            peers=list(peers),
            signed_by=list(signed_by),
            overwrite=overwrite,
            link=link,
            timeout_s=timeout_s,
        )
        return await LocalService(self).fetch(request, on_progress)

    async def open_reader(
        self,
        ref: str | Digest,
        *,
        files: Sequence[str] = (),
        whole: bool = False,
        peers: Sequence[str] = (),
        signed_by: Sequence[str] = (),
        timeout_s: float | None = None,
    ) -> Reader:
        """Open a model for reading by path and range; what is not here comes as it is wanted.

        `files` are exact paths or directories, all of the model by default. `whole`: bring all of them, what is wanted
        or waited for first; otherwise nothing comes that nobody asked the reader for. What comes stays in the data
        directory, and a file that has become whole there gets its name. Where the model is here, no peer is asked.
        Raises as `fetch` does, as far as it concerns finding the model; `timeout_s` is for that alone.
        """
        from p2pmodel.peer.service import LocalService

        request = ReadRequest(
            ref=str(ref),
            files=list(files),
            whole=whole,
            peers=list(peers),
            signed_by=list(signed_by),
            timeout_s=timeout_s,
        )
        return await LocalService(self).open_reader(request)


async def _supervised(work: Coroutine[Any, Any, object]) -> None:
    try:
        await work
    except P2PModelError as error:
        log.warning("%s", error)
    except Exception:
        log.exception("a background task failed")
