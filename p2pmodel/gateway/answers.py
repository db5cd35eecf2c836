"""What the Hugging Face endpoint says of a repository, in the hub's own JSON, and of an error, in its headers.

Nothing here ever names Xet: a client that reads of it goes there for the bytes, and past us.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from p2pmodel.errors import (
    EntryNotFoundError,
    FetchTimeoutError,
    GatedError,
    NetworkError,
    NoSpaceError,
    NotFoundError,
    P2PModelError,
    RateLimitedError,
    RefusedError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    UsageError,
)
from p2pmodel.gateway.git import pointer
from p2pmodel.gateway.repositories import RepoFile, Repository

Json = dict[str, Any]
_ERRORS: tuple[tuple[type[P2PModelError], int, str], ...] = (
    (EntryNotFoundError, 404, "EntryNotFound"),
    (RevisionNotFoundError, 404, "RevisionNotFound"),
    (RepositoryNotFoundError, 404, "RepoNotFound"),
    (GatedError, 403, "GatedRepo"),
    (NotFoundError, 404, ""),
    (UsageError, 400, ""),
    (RefusedError, 403, ""),
    (FetchTimeoutError, 504, ""),
    (RateLimitedError, 429, ""),
    (NetworkError, 504, ""),
    (NoSpaceError, 507, ""),
)
"""The first that fits; anything else is 500. Clients try 429, 500 and 504 again, and show what else is said at once."""


def error_of(error: P2PModelError) -> tuple[int, dict[str, str]]:
    """Status and headers, from which clients choose what to raise and to show."""
    status, code = next(((status, code) for kind, status, code in _ERRORS if isinstance(error, kind)), (500, ""))
    headers = {"X-Error-Message": header_text(str(error))}
    if code:
        headers["X-Error-Code"] = code
    if isinstance(error, RateLimitedError):
        headers["Retry-After"] = f"{error.retry_after_s:.0f}"
    return status, headers


def header_text(text: str) -> str:
    """As a header may hold it: one line of printable ASCII, and not without end."""
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in " ".join(text.split()))[:1000]


def iso_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def repository_info(repository: Repository, files: Sequence[RepoFile] | Mapping[str, int]) -> Json:
    """`files`: paths where names are all that is asked for, or with their blobs."""
    when, repo_id = iso_time(repository.last_modified), repository.address.repo_id
    told: Json = {
        "_id": repository.commit[:24],
        "id": repo_id,
        "author": repo_id.partition("/")[0] if "/" in repo_id else None,
        "private": False,
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [],
        "sha": repository.commit,
        "lastModified": when,
        "createdAt": when,
        "siblings": [{"rfilename": path} for path in files] if isinstance(files, Mapping) else list(_siblings(files)),
    }
    if repository.address.kind == "model":
        told["modelId"] = repo_id
    return told


def _siblings(files: Iterable[RepoFile]) -> Iterable[Json]:
    for file in files:
        sibling: Json = {"rfilename": file.path, "size": file.size, "blobId": file.git_oid}
        if file.sha256:
            sibling["lfs"] = {"sha256": file.sha256, **_lfs_sizes(file)}
        yield sibling


def _lfs_sizes(file: RepoFile) -> Json:
    return {"size": file.size, "pointerSize": len(pointer(file.sha256 or "", file.size))}


def tree_paths(paths: Iterable[str], directory: str, *, recursive: bool) -> list[tuple[str, bool]]:
    """What lies in a directory ("" is the root): path, and whether it is a directory. Raises `EntryNotFoundError`."""
    prefix = f"{directory}/" if directory else ""
    found: dict[str, bool] = {}
    for path in paths:
        if not path.startswith(prefix):
            continue
        parts = path[len(prefix) :].split("/")
        for depth in range(1, len(parts)):
            found[prefix + "/".join(parts[:depth])] = True
            if not recursive:
                break
        if recursive or len(parts) == 1:
            found[path] = False
    if not found and directory:
        raise EntryNotFoundError(f"there is no directory {directory!r} at this revision")
    return sorted(found.items())


def file_entry(repository: Repository, file: RepoFile, *, expand: bool) -> Json:
    entry: Json = {"type": "file", "oid": file.git_oid, "size": file.size, "path": file.path}
    if file.sha256:
        entry["lfs"] = {"oid": file.sha256, **_lfs_sizes(file)}
    return {**entry, **_last_commit(repository)} if expand else entry


def directory_entry(repository: Repository, path: str, *, expand: bool) -> Json:
    # No git tree stands behind it, so its id is one that nothing else has.
    oid = hashlib.sha1(f"{repository.commit}/{path}".encode(), usedforsecurity=False).hexdigest()
    entry: Json = {"type": "directory", "oid": oid, "size": 0, "path": path}
    return {**entry, **_last_commit(repository)} if expand else entry


def _last_commit(repository: Repository) -> Json:
    return {"lastCommit": {"id": repository.commit, "title": "", "date": iso_time(repository.last_modified)}}


def commits(repository: Repository) -> list[Json]:
    when = iso_time(repository.last_modified)
    return [{"id": repository.commit, "title": "", "message": "", "authors": [], "date": when}]


def references(repository: Repository) -> Json:
    main = {"name": "main", "ref": "refs/heads/main", "targetCommit": repository.commit}
    return {"branches": [main], "tags": [], "converts": []}
