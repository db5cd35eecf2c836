"""What the hub for tests has: repositories, their commits, and files as git and LFS name them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from p2pmodel.gateway.git import blob_oid

LFS_SUFFIXES = (".safetensors", ".gguf", ".bin", ".parquet", ".zip")


def in_lfs(path: str) -> bool:
    return path.endswith(LFS_SUFFIXES)


class RepoContent:
    """A file's content, and its names, computed once."""

    def __init__(self, data: bytes) -> None:
        self.data, self.oid, self.sha256 = data, blob_oid(data), hashlib.sha256(data).hexdigest()


@dataclass(slots=True)
class Repo:
    """`commits` have files by path; `refs` are the names of commits."""

    kind: str
    repo_id: str
    private: bool
    gated: str
    commits: dict[str, dict[str, RepoContent]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, revision: str) -> str | None:
        found = self.refs.get(revision, revision)
        return found if found in self.commits else None
