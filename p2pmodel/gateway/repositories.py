"""The seam of the Hugging Face endpoint: where repositories come from, whoever has them.

`Repositories.find` takes what a client names to a `Repository`, which is one revision, with a commit, files, and their
bytes. What it gives out has been verified, and arrives as the client reads it. The swarm fills this interface
(`swarm_repositories.py`); so may anything else that knows repositories. `Chain` asks several in turn.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from p2pmodel.errors import NetworkError, P2PModelError, RepositoryNotFoundError
from p2pmodel.gateway.git import blob_oid, pointer
from p2pmodel.limits import ORIGIN_FRESH_S

Kind = Literal["model", "dataset", "space"]


@dataclass(frozen=True, slots=True)
class RepoAddress:
    """What a client names. `repo_id` is `name` or `namespace/name`; `revision` a branch, a tag or a commit."""

    kind: Kind
    repo_id: str
    revision: str = "main"


@dataclass(frozen=True, slots=True)
class Token:
    """What a client sent to show who it is. It never stands in a text: it is for the hub that gave it, and no log."""

    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class RepoFile:
    """A file of a repository. `git_oid` is git's id of its content, or of its pointer where it is in LFS."""

    path: str
    size: int
    git_oid: str
    sha256: str | None = None
    """Of a file in LFS, and of no other."""

    @classmethod
    def in_lfs(cls, path: str, size: int, sha256: str) -> RepoFile:
        return cls(path, size, blob_oid(pointer(sha256, size)), sha256)

    @property
    def etag(self) -> str:
        """Names the content; clients name the file in their cache after it."""
        return self.sha256 or self.git_oid


class Repository(Protocol):
    """One revision of a repository. `last_modified` is Unix time in seconds."""

    @property
    def address(self) -> RepoAddress: ...

    @property
    def commit(self) -> str:
        """40 lower-case hex digits."""
        ...

    @property
    def last_modified(self) -> float: ...

    async def paths(self) -> Mapping[str, int]:
        """All files, by path, with their sizes, in order of path; asks for no content."""
        ...

    async def file(self, path: str) -> RepoFile:
        """Raises `EntryNotFoundError`."""
        ...

    async def files(self) -> Sequence[RepoFile]:
        """All files in order of path."""
        ...

    def read(self, file: RepoFile, start: int, end: int) -> AsyncGenerator[bytes | memoryview, None]:
        """The bytes from `start` to `end`, verified, as they arrive, in blocks of any length, which stay as they are.

        To end early is no error (`aclose`); the fetch goes on for a while, for whoever comes back. Raises
        `P2PModelError` where the bytes cannot be had.
        """
        ...


class Repositories(Protocol):
    async def find(self, address: RepoAddress, token: Token | None = None) -> Repository:
        """Raises `RepositoryNotFoundError`, `RevisionNotFoundError`, `GatedError`, or `NetworkError`."""
        ...

    async def whoami(self, token: Token) -> Mapping[str, Any] | None:
        """What the hub that gave this token says of its owner; None where there is no such hub, or it does not know."""
        ...

    async def close(self) -> None: ...


class Chain:
    """Several sources of repositories, of which the first that knows one has it."""

    def __init__(self, *links: Repositories, now: Callable[[], float] | None = None) -> None:
        """`now`, the time of a clock that only goes forward, in seconds: with it, a source that could not be reached is
        asked last for a while, so that nobody waits for it who can do without."""
        self._links, self._now = links, now
        self._failed_at: dict[Repositories, float] = {}

    async def find(self, address: RepoAddress, token: Token | None = None) -> Repository:
        """Raises what the first said that knew more than that there is no such repository, else what all said."""
        unknown: dict[str, None] = {}
        told: P2PModelError | None = None
        for link in sorted(self._links, key=self._is_out_of_reach):
            try:
                return await link.find(address, token)
            except RepositoryNotFoundError as error:
                unknown[str(error)] = None
            except P2PModelError as error:
                if self._now is not None and isinstance(error, NetworkError):
                    self._failed_at[link] = self._now()
                told = told or error
        raise told or RepositoryNotFoundError("; ".join(unknown))

    def _is_out_of_reach(self, link: Repositories) -> bool:
        return self._now is not None and self._now() - self._failed_at.get(link, float("-inf")) < ORIGIN_FRESH_S

    async def whoami(self, token: Token) -> Mapping[str, Any] | None:
        for link in self._links:
            if (told := await link.whoami(token)) is not None:
                return told
        return None

    async def close(self) -> None:
        for link in self._links:
            await link.close()
