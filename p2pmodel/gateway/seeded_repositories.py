"""Repositories of a hub out of the Hugging Face caches that are seeded here: under their own names, with no hub to ask.

Commits, and what files are called, are the hub's, so that what a client gets from here and what it gets from there are
the same to its cache. What of a repository was never downloaded is listed, where its cache knows of it, and is not to
be had: clients keep a commit's list for good, and one that is too short would make them take a part for the whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from p2pmodel.errors import NetworkError, RepositoryNotFoundError
from p2pmodel.gateway.git import is_of_lfs
from p2pmodel.gateway.remembered import Remembered
from p2pmodel.gateway.repositories import RepoAddress, RepoFile, Token
from p2pmodel.gateway.swarm_repositories import Content, SwarmRepositories, SwarmRepository
from p2pmodel.peer import Peer
from p2pmodel.peer.hub_snapshots import SeededSnapshot, seeded_snapshot

_BRANCH = "refs/heads/"


class SeededRepositories:
    """Fills `Repositories`. The bytes come through `swarm`, as those of any model that is here."""

    def __init__(self, peer: Peer, swarm: SwarmRepositories, *, beyond_doubt: bool) -> None:
        """`beyond_doubt`: only commits that are asked for by their hash and are known to be whole, so that a hub that
        can be asked has nothing to add."""
        self._peer, self._swarm, self._beyond_doubt = peer, swarm, beyond_doubt
        self._names: Remembered[RepoAddress, SeededSnapshot] = Remembered(peer.network.clock.monotonic)

    async def find(self, address: RepoAddress, token: Token | None = None) -> SeededRepository:
        snapshot = await self._names.get(address, lambda: self._snapshot(address))
        return SeededRepository(address, snapshot, await self._swarm.content(snapshot.model_id))

    async def _snapshot(self, address: RepoAddress) -> SeededSnapshot:
        revision, found = address.revision.removeprefix(_BRANCH), None
        if address.kind == "model":
            found = await seeded_snapshot(self._peer, address.repo_id, revision)
        if found is None or (self._beyond_doubt and not (found.said.whole and found.commit == revision)):
            raise RepositoryNotFoundError(f"no Hugging Face cache that is seeded here has {address.repo_id}")
        return found

    async def whoami(self, token: Token) -> Mapping[str, Any] | None:
        return None

    async def close(self) -> None:
        await self._names.close()


class SeededRepository(SwarmRepository):
    """Fills `Repository`."""

    def __init__(self, address: RepoAddress, snapshot: SeededSnapshot, content: Content) -> None:
        self.address, self._content = address, content
        self.commit, self.last_modified = snapshot.commit, snapshot.changed_at
        self._names = snapshot.said.names
        self._absent = {
            path: RepoFile.in_lfs(path, size, name) if is_of_lfs(name) else RepoFile(path, size, name)
            for path, (size, name) in snapshot.said.absent.items()
        }

    async def paths(self) -> Mapping[str, int]:
        sizes = {**await super().paths(), **{path: file.size for path, file in self._absent.items()}}
        return dict(sorted(sizes.items()))

    async def file(self, path: str) -> RepoFile:
        if path in self._absent:
            raise NetworkError(f"{path[:200]!r} of {self.address.repo_id} was not downloaded here")
        return await super().file(path)

    async def files(self) -> Sequence[RepoFile]:
        return [*await super().files(), *self._absent.values()]

    def _is_in_lfs(self, path: str) -> bool:
        if (name := self._names.get(path)) is None:
            return super()._is_in_lfs(path)
        return is_of_lfs(name, self._content.sizes[path])
