"""`pin`, `unpin`, `rm`, `gc`: what stays on this peer's disk, carried out by a peer in this process."""

from __future__ import annotations

from collections.abc import Iterable

from p2pmodel.errors import NotFoundError, UsageError
from p2pmodel.model import ModelId, Reference
from p2pmodel.peer.inventory import (
    CollectReport,
    DiskUsage,
    ModelUsage,
    PinReport,
    ReleasedCopy,
    ReleasedLeftover,
    RemoveReport,
)
from p2pmodel.peer.naming import resolve_name
from p2pmodel.peer.peer import Peer
from p2pmodel.peer.rendering import summary
from p2pmodel.peer.requests import CollectRequest, KeepRequest, RemoveRequest
from p2pmodel.store import Released


class Keeping:
    """Fills `KeepingService`."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    async def pin(self, request: KeepRequest) -> PinReport:
        model_id = await self._whole_model(request.ref)
        changed = await self._peer.network.offload(self._peer.store.pin, model_id)
        return PinReport(model_id=model_id.hex, pinned=True, changed=changed)

    async def unpin(self, request: KeepRequest) -> PinReport:
        model_id = await self._whole_model(request.ref)
        changed = await self._peer.network.offload(self._peer.store.unpin, model_id)
        if not changed and await self._peer.network.offload(self._peer.store.model, model_id) is None:
            raise NotFoundError(f"nothing of the model {model_id.hex} is on this disk")
        return PinReport(model_id=model_id.hex, pinned=False, changed=changed)

    async def remove(self, request: RemoveRequest) -> RemoveReport:
        model_id = await self._whole_model(request.ref)
        peer = self._peer
        await peer.closed(model_id)
        gone = await peer.network.offload(peer.store.remove, model_id, pinned=request.pinned)
        if not gone:
            raise NotFoundError(f"nothing of the model {model_id.hex} is on this disk")
        await peer.losses.tell(model_id)
        copies = _copies(gone)
        return RemoveReport(model_id=model_id.hex, copies=copies, bytes_freed=sum(one.bytes_freed for one in copies))

    async def collect(self, request: CollectRequest) -> CollectReport:
        cache, offload = self._peer.store.cache, self._peer.network.offload
        gone = await offload(cache.collect, keep_bytes=request.keep_bytes, dry_run=request.dry_run)
        use, copies = await offload(cache.use), _copies(gone.models)
        beside = [
            ReleasedLeftover(path=str(one.path), bytes_freed=one.bytes_freed, reason=gone.reason) for one in gone.beside
        ]
        return CollectReport(
            released=copies,
            leftovers=beside,
            bytes_freed=sum(one.bytes_freed for one in copies) + sum(one.bytes_freed for one in beside),
            bytes_used=use.used_bytes,
            bytes_pinned=use.pinned_bytes,
            quota_bytes=use.limits.quota_bytes,
            free_floor_bytes=use.limits.free_floor_bytes,
            dry_run=request.dry_run,
        )

    async def usage(self) -> DiskUsage:
        offload, store = self._peer.network.offload, self._peer.store
        found = await offload(store.usage)
        lines = []
        for one in found.models:
            model = await offload(store.model, one.model_id)
            if model is None:
                continue  # it was let go of meanwhile
            about = summary(model, await offload(store.statements, one.model_id))
            lines.append(
                ModelUsage(
                    model_id=about.model_id,
                    name=about.name,
                    path=about.path,
                    pinned=about.pinned,
                    cached=any(place.content == "cached" for place in about.places),
                    places=[place.path for place in about.places],
                    bytes_apparent=one.bytes_apparent,
                    bytes_on_disk=one.bytes_on_disk,
                    bytes_own=one.bytes_own,
                    bytes_shared=one.bytes_shared,
                )
            )
        return DiskUsage(
            models=sorted(lines, key=lambda line: (-line.bytes_on_disk, line.model_id)),
            bytes_apparent=found.bytes_apparent,
            bytes_on_disk=found.bytes_on_disk,
            bytes_saved=found.bytes_saved,
            bytes_repeated=found.bytes_repeated,
        )

    async def _whole_model(self, ref: str) -> ModelId:
        reference = Reference.parse(ref)
        if reference.path is not None:
            raise UsageError(f"{ref!r} names one file; models are kept and let go of as a whole")
        if reference.model_id is not None:
            return reference.model_id
        return await resolve_name(self._peer, reference, ())


def _copies(gone: Iterable[Released]) -> list[ReleasedCopy]:
    return [
        ReleasedCopy(
            model_id=one.model_id.hex,
            path=str(one.path),
            content=one.content,
            chunks=one.chunks,
            bytes_freed=one.bytes_freed,
            whole=one.whole,
            files_stay=one.files_stay,
            reason=one.reason,
        )
        for one in gone
    ]
