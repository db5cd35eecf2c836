"""Repositories of an origin hub: it says what is in them, peers bring the bytes, and what no peer has it is asked for.

Everything that an origin gives without a token is shared with other peers, and goes on working when the origin is gone.
What it gives to a token only is asked for with that token by each client, and stays with this peer.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import AsyncGenerator, Hashable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Any

import msgspec

from p2pmodel.errors import EntryNotFoundError, NetworkError, P2PModelError, RefusedError, VerificationError
from p2pmodel.gateway.git import blob_oid
from p2pmodel.gateway.origin import Origin
from p2pmodel.gateway.origin_trees import Head, Trees
from p2pmodel.gateway.repositories import RepoAddress, RepoFile, Token
from p2pmodel.limits import ORIGIN_ACCESS_S, ORIGIN_KEPT_REVISIONS, ORIGIN_TREE_BYTES_MAX, PLAIN_FILE_BYTES_MAX
from p2pmodel.model import Sha256
from p2pmodel.peer import Peer
from p2pmodel.peer.coalescing import Coalesced
from p2pmodel.peer.filling import Read
from p2pmodel.peer.supply import Supplies, Wanted

log = logging.getLogger(__name__)


class OriginRepositories:
    """Fills `Repositories` with those of the hub at `url`."""

    def __init__(self, peer: Peer, url: str) -> None:
        self._peer = peer
        self.origin = Origin(url)
        self.supplies = Supplies(peer)
        self._kept = _KeptFiles(peer)
        self._trees = Trees(self.origin, self._kept, now=peer.network.clock.monotonic)
        self._access: OrderedDict[Hashable, float] = OrderedDict()
        self._plain: Coalesced[Hashable, bytes] = Coalesced()

    async def find(self, address: RepoAddress, token: Token | None = None) -> OriginRepository:
        head = await self._trees.head(address, token)
        return OriginRepository(self, address, head, token)

    async def whoami(self, token: Token) -> Mapping[str, Any] | None:
        try:
            answer = await self.origin.json("/api/whoami-v2", token)
            told = msgspec.json.decode(answer.body, type=dict[str, Any])
        except (RefusedError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None
        return told

    async def close(self) -> None:
        await self.supplies.close()
        await self._plain.close()
        await self._trees.close()
        await self.origin.close()

    async def files(self, address: RepoAddress, head: Head, token: Token | None) -> Sequence[RepoFile]:
        return await self._trees.files(address, head, token)

    # --- bytes

    async def read(
        self, at: RepoAddress, head: Head, token: Token | None, file: RepoFile, start: int, end: int
    ) -> AsyncGenerator[bytes, None]:
        if not head.open:
            await self._check_access(at, file, token)
        if file.sha256 is None:
            key = file.git_oid, head.open or (self._trees.mark(token), at)
            content = await self._plain.get(key, lambda: self._whole(at, head, token, file))
            yield content[start:end]
            return
        wanted = Wanted(Sha256.from_hex(file.sha256), file.size, file.path, private=not head.open)
        async with aclosing(self.supplies.read(wanted, self._source(at, token, file), start, end)) as blocks:
            async for block in blocks:
                yield block

    def _source(self, at: RepoAddress, token: Token | None, file: RepoFile) -> Read:
        return partial(self.origin.content, at, file.path, token)

    async def _check_access(self, at: RepoAddress, file: RepoFile, token: Token | None) -> None:
        """Whether whoever has this token may have what lies in this repository, as the origin says now."""
        key, now = (at.kind, at.repo_id, self._trees.mark(token)), self._peer.network.clock.monotonic()
        if now - self._access.get(key, float("-inf")) < ORIGIN_ACCESS_S:
            return
        self._access.pop(key, None)
        await self.origin.allows(at, file.path, token)
        self._access[key] = now
        while len(self._access) > ORIGIN_KEPT_REVISIONS:
            self._access.popitem(last=False)

    async def _whole(self, at: RepoAddress, head: Head, token: Token | None, file: RepoFile) -> bytes:
        """A small file that is not in LFS: checked by the id that git gives it, kept where it is open to all."""
        if file.size > PLAIN_FILE_BYTES_MAX:
            raise NetworkError(f"the origin has a file of {file.size} bytes that is not in LFS: {file.path[:200]!r}")
        if not file.size:
            return b""
        name = f"blob-{file.git_oid}"
        if head.open and (kept := await self._kept.read(name)) and blob_oid(kept) == file.git_oid:
            return kept
        content = bytearray()
        async with self.origin.content(at, file.path, token, 0, file.size) as pieces:
            async for piece in pieces:
                content += piece
        self.supplies.origin_bytes += len(content)
        whole = bytes(content)
        if blob_oid(whole) != file.git_oid:
            raise VerificationError(f"the origin's {file.path[:200]!r} is not the file that it names")
        if head.open:
            await self._kept.write(name, whole)
        return whole


class OriginRepository:
    """Fills `Repository`."""

    def __init__(self, source: OriginRepositories, address: RepoAddress, head: Head, token: Token | None) -> None:
        self.address, self.commit, self.last_modified = address, head.commit, head.last_modified
        self._source, self._head, self._token = source, head, token
        self._at = replace(address, revision=head.commit)

    async def paths(self) -> Mapping[str, int]:
        return {file.path: file.size for file in await self.files()}

    async def file(self, path: str) -> RepoFile:
        found = next((file for file in await self.files() if file.path == path), None)
        if found is None:
            raise EntryNotFoundError(f"{self.address.repo_id} has no file {path[:200]!r}")
        return found

    async def files(self) -> Sequence[RepoFile]:
        return await self._source.files(self.address, self._head, self._token)

    def read(self, file: RepoFile, start: int, end: int) -> AsyncGenerator[bytes, None]:
        return self._source.read(self._at, self._head, self._token, file, start, end)


class _KeptFiles:
    """Fills `Keep` with files in the peer's data directory."""

    def __init__(self, peer: Peer) -> None:
        self._peer, self._directory = peer, peer.config.data_dir / "origin" / "small"

    async def read(self, name: str) -> bytes | None:
        try:
            path = self._directory / name
            return await self._peer.network.offload(self._peer.files.read_small, path, ORIGIN_TREE_BYTES_MAX)
        except P2PModelError as error:
            log.warning("%s", error)
            return None

    async def write(self, name: str, content: bytes) -> None:
        try:
            await self._peer.network.offload(self._peer.files.write_small, self._directory / name, content)
        except P2PModelError as error:
            log.warning("%s", error)
