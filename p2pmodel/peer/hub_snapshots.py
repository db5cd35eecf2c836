"""What is served out of a Hugging Face cache of this machine, by the names that the hub has for it.

A place of a published model says by its path which repository and commit it is; which branch stands there the cache
says itself, now. Its owner is believed in that, as in all of his own disk; the bytes are held against the manifest.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from p2pmodel.errors import RevisionNotFoundError
from p2pmodel.model import ModelId
from p2pmodel.peer.inventory import ModelPlace
from p2pmodel.peer.peer import Peer
from p2pmodel.store import OS_FILES, Store, StoredModel
from p2pmodel.store.hugging_face import HubContents, HubSnapshot

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SeededSnapshot:
    """A revision of a repository, and the model that it is here. `changed_at` is Unix time in seconds."""

    model_id: ModelId
    commit: str
    changed_at: float
    said: HubContents


def is_published_as_itself(model: StoredModel, name: str) -> bool:
    """Whether somebody published the model here, and not the cache of a hub where `name` is another one's."""
    places = [place for place in model.places if place.state == "published"]
    return any((found := HubSnapshot.at(place.path)) is None or found.repo_id != name for place in places)


@dataclass(frozen=True, slots=True)
class HubCommit:
    """The hub's own commit that a model is, where it lies, and what the hub says of it."""

    commit: str
    path: Path
    said: HubContents


def hub_commit(places: Iterable[ModelPlace], repo_id: str, sha256: Mapping[str, str]) -> HubCommit | None:
    """Of a model, of files with these hashes, that is served out of a Hugging Face cache as this repository. Blocks."""
    for place in places:
        found = HubSnapshot.at(Path(place.path)) if place.state == "published" else None
        if found is not None and found.repo_id == repo_id and (told := found.contents(OS_FILES, sha256)) is not None:
            return HubCommit(found.commit, found.path, told)
    return None


async def seeded_snapshot(peer: Peer, repo_id: str, revision: str) -> SeededSnapshot | None:
    """`revision`: a branch, a tag or a commit. None where no cache that is seeded here has the repository.

    Raises `RevisionNotFoundError`.
    """
    return await peer.network.offload(_find, peer, repo_id, revision)


def _find(peer: Peer, repo_id: str, revision: str) -> SeededSnapshot | None:
    known = list(_snapshots(peer.store, repo_id))
    for model_id, snapshot in known:
        if snapshot.commit != revision and not snapshot.is_meant(peer.files, revision):
            continue
        layout, status = peer.store.layout(model_id), peer.files.status(snapshot.path)
        if layout is None or status is None:
            continue
        sha256 = {file.path.text: file.sha256.hex for file in layout.files}
        told = snapshot.contents(peer.files, sha256)
        if told is None:
            log.warning("%s: a file of it is not what the hub has there", snapshot.path)
            continue
        return SeededSnapshot(model_id, snapshot.commit, status.identity.mtime_ns / 1e9, told)
    if not known:
        return None
    commits = ", ".join(sorted({snapshot.commit[:12] for _, snapshot in known}))
    raise RevisionNotFoundError(f"of {repo_id} {commits} is seeded here; {revision[:100]!r} is not")


def _snapshots(store: Store, repo_id: str) -> Iterator[tuple[ModelId, HubSnapshot]]:
    """Those that are whole. Others' models are not looked at: every request for whatever name comes by here."""
    for model_id, root in store.published_roots():
        if (found := HubSnapshot.at(root)) is None or found.repo_id != repo_id:
            continue
        model = store.model(model_id)
        if model is not None and any(place.state == "published" and place.path == root for place in model.places):
            yield model_id, found
