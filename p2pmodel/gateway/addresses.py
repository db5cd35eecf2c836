"""What the path of a request to the Hugging Face endpoint means. Parsed from its raw form: `%2F` inside a revision is
not a `/`, and a file's name may hold whatever a manifest allows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from urllib.parse import unquote

from p2pmodel.errors import RepositoryNotFoundError, UsageError
from p2pmodel.gateway.repositories import Kind, RepoAddress

_KINDS: dict[str, Kind] = {"models": "model", "datasets": "dataset", "spaces": "space"}
_REPO_PART = re.compile(r"[\w\-.]{1,96}", re.ASCII)


class Call(Enum):
    """What a request is about."""

    WHOAMI = "whoami-v2"
    INFO = "revision"
    TREE = "tree"
    PATHS_INFO = "paths-info"
    REFS = "refs"
    COMMITS = "commits"
    XET_TOKEN = "xet-read-token"
    RESOLVE = "resolve"
    UPLOAD = "upload"
    UNKNOWN = ""


_OF_REPOSITORY = {call.value: call for call in (Call.INFO, Call.TREE, Call.PATHS_INFO, Call.REFS, Call.COMMITS,
                                                Call.XET_TOKEN)}  # fmt: skip
_UPLOADS = {"preupload", "commit", "xet-write-token", "branch", "tag", "settings", "discussions", "super-squash",
            "lfs-files"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Target:
    """`repo` is None where the call is about no repository. `path` is a file or directory in it."""

    call: Call
    repo: RepoAddress | None = None
    path: str = ""


def parse_target(raw_path: str) -> Target:
    """`raw_path` is what follows the endpoint's own prefix, percent-encoded, without its query.

    Raises `RepositoryNotFoundError` for what cannot be the name of a repository, `UsageError` for bytes that are not
    UTF-8.
    """
    parts = raw_path.strip("/").split("/")
    try:
        parts = [unquote(part, errors="strict") for part in parts]
    except UnicodeDecodeError as error:
        raise UsageError("the path is not UTF-8") from error
    if parts[0] == "api":
        return _of_api(parts[1:])
    kind: Kind = "model"
    if parts[0] in ("datasets", "spaces") and len(parts) > 1:
        kind, parts = _KINDS[parts[0]], parts[1:]
    for length in (1, 2):
        if len(parts) > length + 2 and parts[length] in ("resolve", "raw"):
            repo_id = _repo_id(parts[:length])
            return Target(Call.RESOLVE, RepoAddress(kind, repo_id, parts[length + 1]), "/".join(parts[length + 2 :]))
    if any(part.endswith(".git") for part in parts[:2]):
        return Target(Call.UPLOAD)
    return Target(Call.UNKNOWN)


def _of_api(parts: list[str]) -> Target:
    if parts == [Call.WHOAMI.value]:
        return Target(Call.WHOAMI)
    if parts[0] == "repos" or parts[-1] == "validate-yaml":
        return Target(Call.UPLOAD)
    if parts[0] not in _KINDS or len(parts) < 2:
        return Target(Call.UNKNOWN)
    kind, rest = _KINDS[parts[0]], parts[1:]
    # One segment where a verb follows it, so `org/tree` is a repository and `org/tree/main` a tree of `org`: as there.
    length = 1 if len(rest) == 1 or (len(rest) > 2 and _is_verb(rest[1])) or rest[1:] == ["refs"] else 2
    repo_id, verb, rest = _repo_id(rest[:length]), rest[length : length + 1], rest[length + 1 :]
    if not verb:
        return Target(Call.INFO, RepoAddress(kind, repo_id))
    if verb[0] in _UPLOADS:
        return Target(Call.UPLOAD)
    call = _OF_REPOSITORY.get(verb[0], Call.UNKNOWN)
    revision, path = rest[0] if rest else "main", "/".join(rest[1:])
    return Target(call, RepoAddress(kind, repo_id, revision or "main"), path)


def _is_verb(part: str) -> bool:
    return part in _OF_REPOSITORY or part in _UPLOADS


def _repo_id(parts: list[str]) -> str:
    for part in parts:
        if not _REPO_PART.fullmatch(part) or ".." in part or "--" in part:
            raise RepositoryNotFoundError(f"{'/'.join(parts)[:200]!r} is not the name of a repository")
    return "/".join(parts)
