"""`fetch --to-hf-cache`: what was fetched, where Hugging Face programs of this user look for it."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import msgspec

from p2pmodel.gateway.hub_cache import CacheEntry, cache_directory, import_into_cache
from p2pmodel.gateway.model_names import OWN_NAMESPACE, commit_of
from p2pmodel.model import Digest, ModelId, Reference
from p2pmodel.peer.hub_snapshots import hub_commit
from p2pmodel.peer.reports import FetchReport
from p2pmodel.peer.requests import PeerService, ShowRequest


async def put_into_hub_cache(service: PeerService, ref: str, report: FetchReport) -> FetchReport:
    """The report, with the path in the cache. Raises as `import_into_cache` does."""
    reference, model_id = Reference.parse(ref), ModelId(Digest.from_hex(report.model_id))
    source = Path(report.path)
    inside = Path(reference.path.text) if reference.path else Path()
    for _ in inside.parts:
        source = source.parent
    shown = await service.show(ShowRequest(ref=report.model_id))
    files = {file.path: (file.size, file.sha256) for file in shown.files}
    cache = cache_directory(os.environ)
    repo_id = f"{reference.namespace}/{reference.name}" if reference.name else f"{OWN_NAMESPACE}/{model_id.hex}"
    hashes = {file.path: file.sha256 for file in shown.files}
    hub = await asyncio.to_thread(hub_commit, shown.model.places, repo_id, hashes)
    if hub is not None and hub.path.is_relative_to(cache.resolve()):
        return msgspec.structs.replace(report, path=str(hub.path / inside))  # it is what is seeded from there
    entry = CacheEntry(
        kind="model",
        repo_id=repo_id,
        commit=commit_of(model_id) if hub is None else hub.commit,
        reference=reference.revision or "main",
        source=source,
        files=files,
        here=[path for path in files if (source / path).is_file()],
        names={} if hub is None else hub.said.names,
        whole=hub is None or hub.said.whole,
    )
    snapshot = await asyncio.to_thread(import_into_cache, cache, entry)
    return msgspec.structs.replace(report, path=str(snapshot / inside))
