"""What an origin says of repositories, remembered: where a branch stands, which files a commit has.

A commit never changes, so its tree is asked for once and kept on disk; a branch is asked for again after some seconds,
by the ETag of the last answer, and by one for all who ask at the same time. With the origin gone, what it said last
holds. What it gives only to a token is remembered for that token alone, and never on disk.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from datetime import datetime
from typing import Annotated, Protocol, TypeVar

import msgspec
from msgspec import Meta

from p2pmodel.errors import (
    EntryNotFoundError,
    NetworkError,
    RevisionNotFoundError,
)
from p2pmodel.gateway.origin import Origin, api_path
from p2pmodel.gateway.repositories import RepoAddress, RepoFile, Token
from p2pmodel.limits import (
    FILE_BYTES_MAX,
    ORIGIN_FILES_MAX,
    ORIGIN_FRESH_S,
    ORIGIN_KEPT_REVISIONS,
    ORIGIN_PAGES_MAX,
    ORIGIN_PATH_BYTES_MAX,
)
from p2pmodel.peer.coalescing import Coalesced

log = logging.getLogger(__name__)
T = TypeVar("T")

Commit = Annotated[str, Meta(pattern=r"\A[0-9a-f]{40}\Z")]
Hex64 = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
Size = Annotated[int, Meta(ge=0, le=FILE_BYTES_MAX)]
Text = Annotated[str, Meta(max_length=ORIGIN_PATH_BYTES_MAX)]


class _Info(msgspec.Struct):
    sha: Commit
    private: bool | None = None
    gated: bool | Text | None = None
    lastModified: Text = ""


class _Lfs(msgspec.Struct):
    oid: Hex64
    size: Size


class _Entry(msgspec.Struct):
    type: Text
    path: Text
    oid: Text = ""
    size: Size = 0
    lfs: _Lfs | None = None


class _Kept(msgspec.Struct):
    """A tree on disk: path, size, git id and SHA-256 of each file."""

    files: list[tuple[Text, Size, Commit, Hex64 | None]]


class Head(msgspec.Struct, frozen=True):
    """Where a revision stands. `open`: anybody may have it, without a token."""

    commit: Commit
    open: bool
    last_modified: float = 0.0
    etag: Text = ""


_info = msgspec.json.Decoder(_Info)
_entries = msgspec.json.Decoder(Annotated[list[_Entry], Meta(max_length=ORIGIN_FILES_MAX)])
_kept = msgspec.json.Decoder(_Kept)
_head = msgspec.json.Decoder(Head)


class Keep(Protocol):
    """Small files that are kept between runs."""

    async def read(self, name: str) -> bytes | None: ...

    async def write(self, name: str, content: bytes) -> None:
        """Nothing is raised: it can be asked for again."""


class Trees:
    """`now` is the time of a clock that only goes forward, in seconds."""

    def __init__(self, origin: Origin, keep: Keep, *, now: Callable[[], float]) -> None:
        self._origin, self._keep, self._now = origin, keep, now
        self._heads: OrderedDict[Hashable, tuple[float, Head]] = OrderedDict()
        self._trees: OrderedDict[Hashable, Sequence[RepoFile]] = OrderedDict()
        self._asking_heads: Coalesced[Hashable, Head] = Coalesced()
        self._asking_trees: Coalesced[Hashable, Sequence[RepoFile]] = Coalesced()
        self._secret = secrets.token_bytes(32)

    async def close(self) -> None:
        await self._asking_heads.close()
        await self._asking_trees.close()

    def mark(self, token: Token | None) -> bytes:
        """Stands for a token in memory, so that the token itself does not."""
        return b"" if token is None else hmac.new(self._secret, token.secret.encode(), "sha256").digest()

    # --- where a revision stands

    async def head(self, address: RepoAddress, token: Token | None) -> Head:
        """Raises `RepositoryNotFoundError`, `RevisionNotFoundError`, `GatedError`, `NetworkError`."""
        known = self._known_head(address, token)
        if known is not None and self._now() - known[0] < ORIGIN_FRESH_S:
            return known[1]
        key = address, self.mark(token)
        return await self._asking_heads.get(key, lambda: self._ask_head(address, token, known and known[1]))

    def _known_head(self, address: RepoAddress, token: Token | None) -> tuple[float, Head] | None:
        return self._heads.get((address, b"")) or self._heads.get((address, self.mark(token)))

    async def _ask_head(self, address: RepoAddress, token: Token | None, known: Head | None) -> Head:
        kept = known or await self._kept_head(address)
        try:
            answer = await self._origin.json(
                api_path(address, "revision", address.revision), token, etag=kept.etag if kept else ""
            )
            if answer.unchanged and kept is not None:
                return self._note_head(address, token, kept)
            head = _read_head(answer.body, answer.etag, with_token=token is not None)
        except EntryNotFoundError as error:
            raise RevisionNotFoundError(str(error)) from error
        except NetworkError as error:
            if kept is None:
                raise
            log.warning("%s; going on with what it said before of %s", error, address.repo_id)
            return kept
        if head.open:
            await self._keep.write(_head_name(address), msgspec.json.encode(head))
        elif kept is not None and kept.open:
            await self._forget(address)
        return self._note_head(address, token, head)

    def _note_head(self, address: RepoAddress, token: Token | None, head: Head) -> Head:
        self._heads[address, b"" if head.open else self.mark(token)] = self._now(), head
        while len(self._heads) > ORIGIN_KEPT_REVISIONS:
            self._heads.popitem(last=False)
        return head

    async def _kept_head(self, address: RepoAddress) -> Head | None:
        content = await self._keep.read(_head_name(address))
        try:
            return _head.decode(content) if content else None
        except msgspec.MsgspecError:
            return None

    async def _forget(self, address: RepoAddress) -> None:
        """What was open is so no longer."""
        self._heads.pop((address, b""), None)
        await self._keep.write(_head_name(address), b"")

    # --- what a commit has

    async def files(self, address: RepoAddress, head: Head, token: Token | None) -> Sequence[RepoFile]:
        """All files of the commit where `head` stands, in order of path. Raises as `head` does."""
        at = RepoAddress(address.kind, address.repo_id, head.commit)
        key = at, b"" if head.open else self.mark(token)
        if (known := self._trees.get(key)) is not None:
            self._trees.move_to_end(key)
            return known
        files = await self._asking_trees.get(key, lambda: self._ask_files(at, head, token))
        self._trees[key] = files
        while len(self._trees) > ORIGIN_KEPT_REVISIONS:
            self._trees.popitem(last=False)
        return files

    async def _ask_files(self, at: RepoAddress, head: Head, token: Token | None) -> Sequence[RepoFile]:
        name = _tree_name(at)
        if head.open and (content := await self._keep.read(name)):
            try:
                return [RepoFile(*one) for one in _kept.decode(content).files]
            except msgspec.MsgspecError:
                log.warning("the file list %s is damaged; the origin is asked again", name)
        entries: list[_Entry] = []
        page = api_path(at, "tree", at.revision) + "?recursive=true&expand=false"
        for _ in range(ORIGIN_PAGES_MAX):
            answer = await self._origin.json(page, token)
            entries += _parsed(_entries, answer.body)
            page = answer.following
            if not page or len(entries) > ORIGIN_FILES_MAX:
                break
        if page or len(entries) > ORIGIN_FILES_MAX:
            raise NetworkError(f"the origin names more than {ORIGIN_FILES_MAX} files in {at.repo_id}")
        files = _files(entries)
        if head.open:
            told = [(one.path, one.size, one.git_oid, one.sha256) for one in files]
            await self._keep.write(name, msgspec.json.encode(_Kept(told)))
        return files


def _read_head(body: bytes, etag: str, *, with_token: bool) -> Head:
    info = _parsed(_info, body)
    shut = bool(info.private) or bool(info.gated) or (info.private is None and with_token)
    try:
        changed = datetime.fromisoformat(info.lastModified).timestamp() if info.lastModified else 0.0
    except (ValueError, OverflowError, OSError):
        changed = 0.0
    return Head(info.sha, not shut, changed, etag)


def _parsed(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise NetworkError(f"the origin's answer makes no sense: {str(error)[:200]}") from error


def _files(entries: Sequence[_Entry]) -> Sequence[RepoFile]:
    found: dict[str, RepoFile] = {}
    for entry in entries:
        if entry.type != "file":
            continue
        if not _is_path(entry.path) or not _is_commit(entry.oid):
            raise NetworkError(f"the origin names a file that cannot be: {entry.path[:200]!r}")
        sha256, size = (entry.lfs.oid, entry.lfs.size) if entry.lfs else (None, entry.size)
        found[entry.path] = RepoFile(entry.path, size, entry.oid, sha256)
    return [found[path] for path in sorted(found)]


def _is_path(path: str) -> bool:
    parts = path.split("/")
    return "\0" not in path and "\\" not in path and all(part not in ("", ".", "..") for part in parts)


def _is_commit(text: str) -> bool:
    return len(text) == 40 and set(text) <= set("0123456789abcdef")


def _head_name(address: RepoAddress) -> str:
    return f"head-{_hashed(address)}.json"


def _tree_name(at: RepoAddress) -> str:
    return f"tree-{_hashed(at)}.json"


def _hashed(address: RepoAddress) -> str:
    """A file's name that nothing from outside is in."""
    told = "\0".join((address.kind, address.repo_id, address.revision))
    return hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()
