"""Repositories out of the swarm: every model that this peer or any other holds, by its id or by a publisher's name.

What a repository is, its manifest says, and so it is known before a byte of it is here. Only small files that go by
git's id are read for it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any

from p2pmodel.errors import EntryNotFoundError, NotFoundError, RepositoryNotFoundError
from p2pmodel.gateway.git import blob_oid, in_lfs
from p2pmodel.gateway.model_names import Meant, commit_of, find_model
from p2pmodel.gateway.remembered import Remembered
from p2pmodel.gateway.repositories import RepoAddress, RepoFile, Token
from p2pmodel.limits import HUB_GRACE_S, HUB_REPOSITORIES_KEPT
from p2pmodel.model import FileEntry, Manifest, ModelId
from p2pmodel.peer import Peer
from p2pmodel.peer.coalescing import Coalesced
from p2pmodel.peer.fetching import Fetching
from p2pmodel.peer.reader import Reader


class SwarmRepositories:
    """Fills `Repositories`."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._names: Remembered[RepoAddress, Meant] = Remembered(peer.network.clock.monotonic)
        self._manifests: Coalesced[ModelId, Content] = Coalesced()
        self._contents: OrderedDict[ModelId, Content] = OrderedDict()

    async def find(self, address: RepoAddress, token: Token | None = None) -> SwarmRepository:
        meant = await self._names.get(address, lambda: find_model(self._peer, address))
        return SwarmRepository(address, meant, await self.content(meant.model_id))

    async def content(self, model_id: ModelId) -> Content:
        """Raises `RepositoryNotFoundError` and `NetworkError` where its manifest is not to be had."""
        content = self._contents.get(model_id)
        if content is not None:
            self._contents.move_to_end(model_id)
            return content
        try:
            return await self._manifests.get(model_id, lambda: self._look_up(model_id))
        except NotFoundError as error:
            raise RepositoryNotFoundError(str(error)) from error

    async def whoami(self, token: Token) -> Mapping[str, Any] | None:
        return None

    async def close(self) -> None:
        await self._names.close()
        await self._manifests.close()
        for content in self._contents.values():
            await content.close()

    async def _look_up(self, model_id: ModelId) -> Content:
        fetching = Fetching(self._peer.rooms, model_id, entry_peers=self._peer.config.entry_peers)
        async with fetching.finder() as finder:
            manifest = await fetching.metadata.manifest(finder)
        content = self._contents[model_id] = Content(self._peer, manifest)
        idle = [known for known, other in self._contents.items() if not other.in_use and other is not content]
        for known in idle[: max(0, len(self._contents) - HUB_REPOSITORIES_KEPT)]:
            del self._contents[known]
        return content


class SwarmRepository:
    """Fills `Repository`."""

    def __init__(self, address: RepoAddress, meant: Meant, content: Content) -> None:
        self.address, self._content = address, content
        self.commit, self.last_modified = commit_of(meant.model_id), meant.said_at

    async def paths(self) -> Mapping[str, int]:
        return self._content.sizes

    async def file(self, path: str) -> RepoFile:
        entry = self._content.entries.get(path)
        if entry is None:
            raise EntryNotFoundError(f"{self.address.repo_id} has no file {path[:200]!r}")
        return await self._content.file(entry, in_lfs=self._is_in_lfs(path))

    async def files(self) -> Sequence[RepoFile]:
        entries = self._content.entries.items()
        return await asyncio.gather(*(self._content.file(one, in_lfs=self._is_in_lfs(path)) for path, one in entries))

    def _is_in_lfs(self, path: str) -> bool:
        return path in self._content.in_lfs

    def read(self, file: RepoFile, start: int, end: int) -> AsyncGenerator[memoryview, None]:
        return self._content.read(self._content.entries[file.path], start, end)


class Content:
    """One model, under whatever name it is asked for. What is read of it is kept open for as long as clients come."""

    def __init__(self, peer: Peer, manifest: Manifest) -> None:
        self._peer, self._model_id = peer, manifest.model_id
        self.entries = {file.path.text: file for file in manifest.files}
        self.sizes = {path: file.size for path, file in self.entries.items()}
        self.in_lfs = in_lfs(self.sizes)
        """Files that go by their SHA-256, where no hub says which do."""
        self._plain: dict[str, RepoFile] = {}
        self._naming: Coalesced[str, RepoFile] = Coalesced()
        self._opening = asyncio.Lock()
        self._reader: Reader | None = None
        self._users = 0
        self._ending: asyncio.TimerHandle | None = None

    @property
    def in_use(self) -> bool:
        return self._reader is not None or bool(self._users)

    async def close(self) -> None:
        await self._naming.close()
        self._end()

    async def file(self, entry: FileEntry, *, in_lfs: bool) -> RepoFile:
        """By its SHA-256, or else by git's id, for which it is read."""
        path = entry.path.text
        if in_lfs:
            return RepoFile.in_lfs(path, entry.size, entry.sha256.hex)
        if path not in self._plain:
            self._plain[path] = await self._naming.get(path, lambda: self._name(entry))
        return self._plain[path]

    async def _name(self, entry: FileEntry) -> RepoFile:
        async with self._open() as reader:
            content = await reader.read(entry.path.text)
        return RepoFile(entry.path.text, entry.size, blob_oid(content))

    async def read(self, entry: FileEntry, start: int, end: int) -> AsyncGenerator[memoryview, None]:
        async with self._open() as reader, aclosing(reader.stream(entry.path.text, start, end)) as parts:
            async for part in parts:
                yield part

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[Reader]:
        """What was wanted goes on coming for a while after the last client has gone: it may come back for it."""
        self._users += 1
        self._stay()
        try:
            async with self._opening:
                if self._reader is None:
                    self._reader = await self._peer.open_reader(self._model_id)
            yield self._reader
        finally:
            self._users -= 1
            if not self._users and self._reader is not None:
                self._ending = asyncio.get_running_loop().call_later(HUB_GRACE_S, self._end)

    def _stay(self) -> None:
        if self._ending is not None:
            self._ending.cancel()
            self._ending = None

    def _end(self) -> None:
        self._stay()
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()
