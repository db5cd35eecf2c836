"""What the command line asks of a peer, carried out by a peer in this process. The daemon serves the same over HTTP."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from p2pmodel.errors import (
    DecodeError,
    FetchTimeoutError,
    NotFoundError,
    UsageError,
)
from p2pmodel.limits import FETCH_MISS_S
from p2pmodel.model import (
    Manifest,
    ModelId,
    Reference,
    SecretKey,
    SignedStatement,
    Statement,
    check_name_part,
    sign_statement,
)
from p2pmodel.net import Address
from p2pmodel.peer.addresses import resolve
from p2pmodel.peer.care import Care, check_absolute, publisher_key
from p2pmodel.peer.fetching import Fetching
from p2pmodel.peer.inventory import ModelDetail, ModelSummary
from p2pmodel.peer.keeping import Keeping
from p2pmodel.peer.kept_limits import keep_limits
from p2pmodel.peer.meter import Meter
from p2pmodel.peer.naming import resolve_name
from p2pmodel.peer.peer import Peer
from p2pmodel.peer.reader import Reader
from p2pmodel.peer.rendering import detail, neighbours, signers, summary
from p2pmodel.peer.reports import FetchReport, Progress, PublishReport, VerifyReport
from p2pmodel.peer.requests import (
    FetchRequest,
    LimitsChange,
    OnProgress,
    PublishRequest,
    ReadRequest,
    ShowRequest,
    VerifyRequest,
)
from p2pmodel.peer.retrieval import Retrieval
from p2pmodel.peer.status import Limits, Neighbour, PeerStatus
from p2pmodel.peer.units import format_duration
from p2pmodel.peer.verifying import Verification
from p2pmodel.store import Published
from p2pmodel.swarm import Link
from p2pmodel.version import __version__

_BEHIND = 0.1
_BEHIND_MIN_S = 60.0
"""Announcing that is late by more than this, and by more than a tenth of its interval, is told of: records live for
two intervals, so that nothing is lost yet."""
_LOOK_S = 0.5
_ANNOUNCE_S = 5.0
"""How long `publish` waits for the root record to be out."""


class LocalService(Keeping, Care):
    """Fills `PeerService`, `LimitsService`, `KeepingService` and `CaringService`."""

    def __init__(self, peer: Peer) -> None:
        super().__init__(peer)
        self._started_at = peer.network.clock.monotonic()
        self._limits_turn = asyncio.Lock()
        self._meter: Meter[Link] = Meter()
        self.http: str | None = None
        """Where the control API listens, for `status`."""

    def _now(self) -> float:
        return self._peer.network.clock.monotonic()

    async def close(self) -> None:
        """Nothing of its own to end: the peer is its owner's."""

    # --- looking -------------------------------------------------------------------------------------------------

    async def status(self) -> PeerStatus:
        peer = self._peer
        overlay = peer.overlay.stats()
        models = await peer.network.offload(peer.store.models)
        cached = await peer.network.offload(peer.store.cache_use)
        warnings = [f"{model.path}: {model.fault}" for model in models if model.fault]
        if peer.config.entry_peers and not overlay.neighbours:
            warnings.append(f"no bootstrap peer has answered yet: {', '.join(peer.config.entry_peers)}")
        if overlay.announce_behind_s > max(_BEHIND_MIN_S, _BEHIND * peer.profile.republish_s):
            warnings.append(
                f"announcing falls behind by {format_duration(overlay.announce_behind_s)}: others may not find all of "
                f"the {overlay.keys_provided:,} keys; the network or this machine is too slow for them"
            )
        return PeerStatus(
            peer_id=peer.peer_id.text,
            listen=str(peer.listen),
            http=self.http,
            data_dir=str(peer.config.data_dir),
            network=peer.config.network.name,
            version=__version__,
            pid=os.getpid(),
            uptime_s=round(self._now() - self._started_at, 3),
            neighbours=overlay.neighbours,
            connections=len(peer.swarm.links),
            models=len(models),
            chunks_held=sum(model.chunks_held for model in models),
            keys_announced=overlay.keys_provided,
            keys_pending=overlay.keys_pending,
            announce_lag_s=round(overlay.announce_lag_s, 3),
            announce_behind_s=round(overlay.announce_behind_s, 3),
            client_only=overlay.client_only,
            reachability=None if overlay.reachability is None else overlay.reachability.value,
            hidden=peer.overlay.hidden,
            connected_from_outside=peer.swarm.connected_from_outside,
            limits=await self.limits(),
            upload_slots=peer.swarm.upload_slots,
            cache_bytes=cached.used_bytes,
            cache_quota_bytes=cached.limits.quota_bytes,
            is_cache=peer.caching is not None,
            background=peer.config.background,
            network_size=round(overlay.network_size),
            records_held=overlay.records_held,
            bytes_sent=peer.swarm.bytes_sent,
            bytes_received=peer.swarm.bytes_received,
            transfers=peer.fetches.under_way,
            warnings=warnings,
        )

    async def neighbours(self) -> list[Neighbour]:
        links = self._peer.swarm.links.values()
        if self._meter.stale(self._now()) and links:
            # Nobody has looked lately: it takes two looks to see a rate.
            self._meter.look(links, self._now())
            await asyncio.sleep(_LOOK_S)
        self._meter.look(links, self._now())
        return neighbours(self._peer, self._meter)

    async def limits(self) -> Limits:
        return Limits(
            upload_bytes_per_s=_whole(self._peer.swarm.upload_limit_bytes_per_s),
            download_bytes_per_s=_whole(self._peer.swarm.download_limit_bytes_per_s),
        )

    async def set_limits(self, change: LimitsChange) -> Limits:
        swarm = self._peer.swarm
        if change.upload_bytes_per_s is not msgspec.UNSET:
            swarm.limit_upload(change.upload_bytes_per_s)
        if change.download_bytes_per_s is not msgspec.UNSET:
            swarm.limit_download(change.download_bytes_per_s)
        if self._peer.config.saved_state == "keep":
            async with self._limits_turn:
                await self._peer.network.offload(keep_limits, self._peer.files, self._peer.config.data_dir, change)
        return await self.limits()

    async def models(self) -> list[ModelSummary]:
        peer = self._peer
        await peer.network.offload(peer.store.check_files)
        models = await peer.network.offload(peer.store.models)
        return [summary(model, await self._names(model.model_id)) for model in models]

    async def _names(self, model_id: ModelId) -> list[SignedStatement]:
        return await self._peer.network.offload(self._peer.store.statements, model_id)

    async def show(self, request: ShowRequest) -> ModelDetail:
        async with time_limit(request.timeout_s):
            await self._enter(request.bootstrap)
            direct = await resolve(request.peers)
            model_id, _ = await self._model(request.ref, direct)
            trust = await self._peer.trust()
            await self._peer.network.offload(self._peer.store.check_files, model_id)
            encoded = await self._peer.network.offload(self._peer.store.object, model_id)
            signed = await self._names(model_id)
            if encoded is None:
                entries = self._entry_peers(request.bootstrap)
                fetching = Fetching(self._peer.rooms, model_id, direct, entry_peers=entries)
                async with fetching.finder() as finder:
                    manifest = await fetching.metadata.manifest(finder)
                    signed = await fetching.metadata.statements(finder, [])
            else:
                manifest = Manifest.decode(encoded)
            return await self._peer.network.offload(detail, self._peer.store, manifest, signers(signed, trust))

    # --- publishing ----------------------------------------------------------------------------------------------

    async def publish(self, request: PublishRequest, on_progress: OnProgress | None = None) -> PublishReport:
        peer, began = self._peer, self._now()
        check_absolute(request.path)
        name, revision = _own_name(request.name)
        key = await publisher_key(peer, request.key_pem)
        published = await self._hash(Path(request.path), request.follow_symlinks, on_progress)
        issued_at = await self._date(key, name)
        signed = sign_statement(Statement(published.model_id, issued_at, name, revision, request.message), key)
        await peer.network.offload(peer.store.add_statement, signed)
        placed = await self._announce(published.model_id)
        return PublishReport(
            model_id=published.model_id.hex,
            path=str(published.path),
            files=published.files,
            bytes_total=published.bytes_total,
            chunks=published.chunks,
            signed_by=key.public.text,
            seconds=round(self._now() - began, 3),
            name=f"{key.public.text}/{name}" if name else "",
            skipped=list(published.skipped),
            announced=placed > 0,
        )

    async def _date(self, key: SecretKey, name: str) -> int:
        """Now, or a second after what this key said last of the name: the newest wins, however soon it follows."""
        store, now = self._peer.store, int(self._peer.network.clock.wall())
        said = await self._peer.network.offload(store.find_name, name, namespace=key.public) if name else []
        return max([now, *(one.statement.issued_at + 1 for one in said)])

    async def _hash(self, path: Path, follow_symlinks: bool, on_progress: OnProgress | None) -> Published:
        loop, stop, began = asyncio.get_running_loop(), threading.Event(), self._now()

        def tell(done: int, total: int, file: str) -> None:
            if on_progress is None:
                return
            rate = done / max(self._now() - began, 1e-3)
            eta = (total - done) / rate if rate else None
            news = Progress(
                phase="hashing", bytes_done=done, bytes_total=total, rate_bytes_per_s=rate, eta_s=eta, file=file
            )
            loop.call_soon_threadsafe(on_progress, news)

        return await self._peer.until_stopped(
            stop, self._peer.store.publish, path, follow_symlinks=follow_symlinks, on_progress=tell, stop=stop
        )

    async def _announce(self, model_id: ModelId) -> int:
        try:
            async with asyncio.timeout(_ANNOUNCE_S):
                return await self._peer.announcer.update(model_id, now=True)
        except TimeoutError:
            return 0

    # --- fetching ------------------------------------------------------------------------------------------------

    async def fetch(self, request: FetchRequest, on_progress: OnProgress | None = None) -> FetchReport:
        check_absolute(request.to)
        retrieval: Retrieval | None = None

        def so_far() -> str:
            return retrieval.so_far() if retrieval is not None else ""

        async with time_limit(request.timeout_s, so_far):
            await self._enter(request.bootstrap)
            direct = await resolve(request.peers)
            trust = await self._peer.trust()
            wanted = [trust.resolve_key(text) for text in request.signed_by]
            model_id, path = await self._model(request.ref, direct)

            entries = self._entry_peers(request.bootstrap)
            fetching = Fetching(self._peer.rooms, model_id, direct, entry_peers=entries, background=request.background)
            retrieval = Retrieval(self._peer, fetching, request, path)
            return await retrieval.run(wanted, on_progress or (lambda _: None))

    # --- reading -------------------------------------------------------------------------------------------------

    async def open_reader(self, request: ReadRequest) -> Reader:
        """As `Peer.open_reader`. A reference that names a file inside opens that one."""
        async with time_limit(request.timeout_s):
            await self._be_known_to(request)
            direct = await resolve(request.peers)
            trust = await self._peer.trust()
            signers = [trust.resolve_key(text) for text in request.signed_by]
            model_id, path = await self._model(request.ref, direct)
            return await self._peer.readings.open(
                model_id,
                files=[*request.files, *([path] if path else [])],
                whole=request.whole,
                direct=direct,
                entry_peers=self._entry_peers(request.bootstrap),
                signers=signers,
            )

    async def _be_known_to(self, request: ReadRequest) -> None:
        """Be in the network, unless all that the request can need is here."""
        model_id = Reference.parse(request.ref).model_id
        here = None if model_id is None else await self._peer.network.offload(self._peer.store.have_map, model_id)
        if here is None or not here.whole or request.bootstrap:
            await self._enter(request.bootstrap)

    # --- verifying -----------------------------------------------------------------------------------------------

    async def verify(self, request: VerifyRequest, on_progress: OnProgress | None = None) -> VerifyReport:
        async with time_limit(request.timeout_s):
            model_id, path = await self._target(request.target)
            if request.repair:
                await self._enter(request.bootstrap)
            direct = await resolve(request.peers)
            entries = self._entry_peers(request.bootstrap)
            progress = on_progress or (lambda _: None)
            checking = Verification(self._peer, model_id, path, progress, direct, entries)
            return await checking.run(repair=request.repair)

    async def _target(self, target: str) -> tuple[ModelId, Path | None]:
        path = Path(target)
        if path.is_absolute():
            model_id = await self._peer.network.offload(self._peer.store.model_at, path)
            if model_id is None:
                raise NotFoundError(f"{target} was neither published nor fetched by this peer")
            return model_id, path
        model_id, _ = await self._model(target, ())
        return model_id, None

    # --- references ----------------------------------------------------------------------------------------------

    async def _enter(self, bootstrap: Sequence[str]) -> None:
        """Be in the network before asking it, or know that nobody answers."""
        if bootstrap:
            await self._peer.bootstrap(bootstrap)
        try:
            async with asyncio.timeout(FETCH_MISS_S):
                await self._peer.joined.wait()
        except TimeoutError:
            pass

    def _entry_peers(self, bootstrap: Sequence[str]) -> tuple[str, ...]:
        return tuple(dict.fromkeys([*bootstrap, *self._peer.config.entry_peers]))

    async def _model(self, ref: str, direct: Sequence[Address]) -> tuple[ModelId, str]:
        reference = Reference.parse(ref)
        if reference.model_id is not None:
            return reference.model_id, reference.path.text if reference.path else ""
        return await resolve_name(self._peer, reference, direct), ""


def _whole(rate: float | None) -> int | None:
    return None if rate is None else round(rate)


def _own_name(text: str) -> tuple[str, str]:
    """`model` or `model@revision` as a publisher gives it. Raises `UsageError`."""
    if not text:
        return "", ""
    name, at, revision = text.partition("@")
    if "/" in name:
        raise UsageError(f"--name {text!r}: the namespace is the publisher's key; give the model's name alone")
    try:
        return check_name_part(name), check_name_part(revision) if at else ""
    except DecodeError as error:
        raise UsageError(f"--name: {error}") from error


@asynccontextmanager
async def time_limit(seconds: float | None, so_far: Callable[[], str] = str) -> AsyncIterator[None]:
    """`FetchTimeoutError` once `seconds` are over; None is no limit. `so_far` says what they went into, or nothing."""
    if seconds is not None and seconds <= 0:
        raise UsageError("a time limit is a positive number of seconds")
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            yield
    except TimeoutError as error:
        if not limit.expired():
            raise
        spent = f" ({text})" if (text := so_far()) else ""
        raise FetchTimeoutError(
            f"not done within {seconds:g} s{spent}; what has arrived is kept, run the same command to resume"
        ) from error
