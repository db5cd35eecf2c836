"""The cache of the Hugging Face Hub as a place of models: `models--org--name/snapshots/<commit>/` and around it.

A snapshot's files are links into `blobs/`, whose names say what they hold: SHA-256 for large files, git's SHA-1 for
small ones. The hub's client checks sizes alone, so what a name claims is checked when the file is hashed. A snapshot is
left out while something of it is being downloaded; one that was fetched in part on purpose is taken as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import msgspec

from p2pmodel.errors import P2PModelError
from p2pmodel.limits import MIB
from p2pmodel.store.files import Files
from p2pmodel.store.seeds import Seeds, add_tree, name_of

_PREFIX = "models--"
_OTHERS = ("datasets--", "spaces--", "kernels--")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_TREE_BYTES_MAX = 64 * MIB
_REVISIONS_MAX = 8
"""Names of one snapshot that are signed; a statement each."""


class HubContents(NamedTuple):
    """What the hub says of a revision: its names of contents are SHA-256 of files in LFS, git's id of others."""

    names: Mapping[str, str]
    """Of the files that are here, where it says anything of them."""
    whole: bool
    """Whether these are known to be all files of the revision, as the hub has them."""
    absent: Mapping[str, tuple[int, str]]
    """Size and name of files of the revision that are not here."""


@dataclass(frozen=True, slots=True)
class HubSnapshot:
    """A revision of a model's repository, as the cache has it at `path`."""

    repo_id: str
    commit: str
    path: Path

    @classmethod
    def at(cls, path: Path) -> HubSnapshot | None:
        """What a place says by its name alone; None where it says no such thing."""
        repository = path.parent.parent
        if (
            path.parent.name != "snapshots"
            or not repository.name.startswith(_PREFIX)
            or not _COMMIT.fullmatch(path.name)
        ):
            return None
        return cls(_repo_id(repository), path.name, path)

    @property
    def repository(self) -> Path:
        return self.path.parent.parent

    def is_meant(self, files: Files, revision: str) -> bool:
        """Whether the cache says that this branch or tag stands here."""
        parts = revision.split("/")
        if "\\" in revision or "\0" in revision or any(part in ("", ".", "..") for part in parts):
            return False
        try:
            content = files.read_small(self.repository.joinpath("refs", *parts))
        except P2PModelError:  # a directory, or nothing that a client wrote
            return False
        return content is not None and content.strip() == self.commit.encode()

    def contents(self, files: Files, sha256: Mapping[str, str]) -> HubContents | None:
        """What the hub says of the revision, of which these files are here.

        None where one is known to be another than the hub has there. What lies here in place of a link, somebody may
        have edited: of such a one only its SHA-256 can tell.
        """
        listed = tree.files if (tree := _tree(files, self.repository, self.commit)) is not None else {}
        blobs, told = files.resolve(self.repository / "blobs"), dict[str, str]()
        sure = bool(listed) and listed.keys() == sha256.keys()
        for path, digest in sha256.items():
            blob, file = files.resolve(self.path / path), listed.get(path, _TreeFile())
            linked = blob.name if blob.parent == blobs else ""
            name = file.lfs_sha256 or file.blob_id or linked
            in_lfs = len(name) == len(digest)
            if linked not in ("", name) or (in_lfs and name != digest):
                return None
            sure = sure and (in_lfs or bool(linked))
            if name:
                told[path] = name
        absent = {
            path: (file.size, called)
            for path, file in listed.items()
            if path not in sha256 and file.size is not None and (called := file.lfs_sha256 or file.blob_id)
        }
        return HubContents(told, sure, absent)


def _repo_id(repository: Path) -> str:
    return repository.name.removeprefix(_PREFIX).replace("--", "/")


class _TreeFile(msgspec.Struct):
    size: int | None = None
    blob_id: str | None = None
    lfs_sha256: str | None = None


class _Tree(msgspec.Struct):
    files: dict[str, _TreeFile]


def repositories(files: Files, path: Path) -> list[Path]:
    """The repositories below a cache, below its parent (`HF_HOME`), or `path` itself; none where it is no cache."""
    if _is_repository(files, path):
        return [path]
    for root in (path, path / "hub"):
        status = files.status(root)
        if status is None or status.kind != "directory":
            continue
        found = [root / entry.name for entry in files.entries(root) if entry.name.startswith((_PREFIX, *_OTHERS))]
        if found:
            return found
    return []


def _is_repository(files: Files, path: Path) -> bool:
    status = files.status(path / "snapshots")
    return path.name.startswith(_PREFIX) and status is not None and status.kind == "directory"


def seed_repository(files: Files, repository: Path, seeds: Seeds) -> None:
    if not repository.name.startswith(_PREFIX):
        seeds.leave_out(repository, f"not a model but one of the {repository.name.partition('--')[0]}")
        return
    status = files.status(repository / "snapshots")
    entries = files.entries(repository / "snapshots") if status is not None and status.kind == "directory" else []
    snapshots = [entry.name for entry in entries if _COMMIT.fullmatch(entry.name)]
    if not snapshots:
        seeds.leave_out(repository, "nothing of it has been downloaded")
    for commit in snapshots:
        _seed(files, repository, commit, seeds)


def seed_snapshot(files: Files, path: Path, seeds: Seeds) -> bool:
    """Whether `path` is a snapshot of a repository; then it is taken, or left out."""
    repository = path.parent.parent
    if path.parent.name != "snapshots" or not _is_repository(files, repository):
        return False
    _seed(files, repository, path.name, seeds)
    return True


def _seed(files: Files, repository: Path, commit: str, seeds: Seeds) -> None:
    snapshot = repository / "snapshots" / commit
    repo_id = _repo_id(repository)
    try:
        tree = _tree(files, repository, commit)
        if unfinished := _unfinished(files, repository, tree):
            seeds.leave_out(snapshot, f"{repo_id}: a download is not finished: {unfinished}")
            return
        references = _references(files, repository / "refs", commit)
    except P2PModelError as error:
        seeds.leave_out(snapshot, error)
        return
    name = repo_id.rpartition("/")[2]
    qualified = name_of(repo_id.replace("/", "."))
    shown = references[-1] if references else commit[:12]
    before = len(seeds.found)
    add_tree(
        files,
        snapshot,
        seeds,
        origin="huggingface",
        title=f"{repo_id}@{shown}",
        name=name_of(name),
        qualified_name=qualified,
        revisions=(commit, *references)[-_REVISIONS_MAX:],
    )
    if tree is not None and len(seeds.found) > before:
        here = {file.path.text for file in seeds.found[-1].files}
        if left := len(tree.files.keys() - here):
            note = f"{len(here)} of the {len(here) + left} files of the repository"
            seeds.found[-1] = replace(seeds.found[-1], note=note)


def _tree(files: Files, repository: Path, commit: str) -> _Tree | None:
    """What the hub said is in this revision, where the client has kept it."""
    content = files.read_small(repository / "trees" / f"{commit}.json", bytes_max=_TREE_BYTES_MAX)
    try:
        return msgspec.json.decode(content, type=_Tree) if content is not None else None
    except msgspec.MsgspecError:
        return None


def _unfinished(files: Files, repository: Path, tree: _Tree | None) -> str:
    """The name of a file of this revision that is being downloaded; without a list of its files, of any."""
    status = files.status(repository / "blobs")
    if status is None or status.kind != "directory":
        return ""
    partial = [entry.name for entry in files.entries(repository / "blobs") if entry.name.endswith(".incomplete")]
    if tree is None:
        return partial[0] if partial else ""
    of_blob = {blob: path for path, file in tree.files.items() for blob in (file.lfs_sha256, file.blob_id) if blob}
    return next((of_blob[etag] for name in partial if (etag := name.partition(".")[0]) in of_blob), "")


def _references(files: Files, directory: Path, commit: str) -> list[str]:
    """Names of revisions that lead to this commit, `main` last. One that cannot be a revision here is left out."""
    status = files.status(directory)
    if status is None or status.kind != "directory":
        return []
    found = []
    for entry in files.entries(directory):
        content = files.read_small(directory / entry.name) if entry.status.kind == "file" else None
        if content is not None and content.strip() == commit.encode() and name_of(entry.name) == entry.name:
            found.append(entry.name)
    return sorted(found, key=lambda name: (name == "main", name))
