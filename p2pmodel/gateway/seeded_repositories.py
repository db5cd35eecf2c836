"""Repositories of a hub out of the Hugging Face caches that are seeded here: under their own names, with no hub to ask.

Commits, and what files are called, are the hub's, so that what a client gets from here and what it gets from there are
the same to its cache. What of a repository was never downloaded is not there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from p2pmodel.errors import RepositoryNotFoundError
from p2pmodel.gateway.remembered import Remembered
from p2pmodel.gateway.repositories import RepoAddress, Token
from p2pmodel.gateway.swarm_repositories import Content, SwarmRepositories, SwarmRepository
from p2pmodel.limits import PLAIN_FILE_BYTES_MAX
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
        if found is None or (self._beyond_doubt and not (found.whole and found.commit == revision)):
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
        self._names = snapshot.contents

    def _is_in_lfs(self, path: str) -> bool:
        if (name := self._names.get(path)) is None:
            return super()._is_in_lfs(path)
        return (
            len(name) == len(self._content.entries[path].sha256.hex) or self._content.sizes[path] > PLAIN_FILE_BYTES_MAX
        )
