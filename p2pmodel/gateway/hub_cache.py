"""A fetched model as an entry of the Hugging Face cache, where every program of that world finds it without a network.

The order is what makes it safe to be killed at any point: contents under the names that say what they hold, then the
list of the revision's files, then the revision as a whole by one rename, and last the name that leads to it. So what
can be seen is whole, and what is not whole cannot be seen. Files are hard links where that can be (the cache's own
files are never written in place), else copies that are hashed on their way.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from p2pmodel.errors import FetchTimeoutError, NoSpaceError, RefusedError, VerificationError
from p2pmodel.gateway.git import blob_oid, in_lfs, is_of_lfs
from p2pmodel.gateway.repositories import Kind, RepoFile
from p2pmodel.limits import COPY_BYTES, HF_CACHE_LOCK_S, LINKED_FILE_BYTES_MIN

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_TEMPORARY = ".p2pmodel-"
_CACHE_TAG = (
    "Signature: 8a477f597d28d172789f06886806bc55\n# This file is a cache directory tag created by huggingface_hub.\n"
)


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """What is put into the cache: `files` (path, size, SHA-256) of a model, of which `here` lie below `source`."""

    kind: Kind
    repo_id: str
    commit: str
    reference: str
    """`main`, or the revision that was asked for."""
    source: Path
    files: Mapping[str, tuple[int, str]]
    here: Sequence[str]
    names: Mapping[str, str] = field(default_factory=dict)
    """What a hub calls contents, where it is the hub's commit: by their length SHA-256 of files in LFS, or git's id."""
    whole: bool = True
    """Whether `files` are all of the commit; else no list of them is kept, which clients would believe."""

    @property
    def in_lfs(self) -> set[str]:
        ours = in_lfs({path: size for path, (size, _) in self.files.items()})
        names = self.names
        return {
            path
            for path, (size, _) in self.files.items()
            if (is_of_lfs(names[path], size) if path in names else path in ours)
        }


def cache_directory(environment: Mapping[str, str]) -> Path:
    """Where Hugging Face programs keep their cache."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if environment.get(name):
            return Path(environment[name]).expanduser()
    if environment.get("HF_HOME"):
        return Path(environment["HF_HOME"]).expanduser() / "hub"
    base = environment.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "huggingface" / "hub"


def import_into_cache(cache: Path, entry: CacheEntry) -> Path:
    """Returns the directory of the revision.

    Raises `VerificationError` where a file is not what the manifest says, `NoSpaceError`, `RefusedError`, and
    `FetchTimeoutError` where another program keeps a file of the cache locked.
    """
    try:
        return _Import(cache, entry).run()
    except OSError as error:
        what = f"cannot write to the Hugging Face cache {str(cache)!r}: {error.strerror or error}"
        raise (NoSpaceError if error.errno in _NO_SPACE else RefusedError)(what) from error


class _Import:
    def __init__(self, cache: Path, entry: CacheEntry) -> None:
        self._cache, self._entry = cache, entry
        folder = f"{entry.kind}s--{entry.repo_id.replace('/', '--')}"
        self._repository, self._locks = cache / folder, cache / ".locks" / folder
        self._blobs = self._repository / "blobs"
        self._snapshot = self._repository / "snapshots" / entry.commit

    def run(self) -> Path:
        entry = self._entry
        self._cache.mkdir(parents=True, exist_ok=True)
        tag = self._cache / "CACHEDIR.TAG"
        if not tag.exists():
            tag.write_text(_CACHE_TAG)
        for directory in (self._blobs, self._snapshot.parent, self._locks):
            directory.mkdir(parents=True, exist_ok=True)
        with self._locked("p2pmodel"):
            self._remove_leftovers()
            large = entry.in_lfs
            known = {path: self._put(path, large=path in large) for path in entry.here}
            if entry.whole and len(known) == len(entry.files):  # else nobody knows yet what the others are called
                self._write(f"trees/{entry.commit}.json", _tree(known.values()))
            self._show(known)
            # No line ends it: a reference with one is refused by clients.
            self._write(f"refs/{entry.reference}", entry.commit)
        return self._snapshot

    def _remove_leftovers(self) -> None:
        """Of a run that was killed; one that runs has the lock."""
        for found in self._repository.glob(f"{_TEMPORARY}*"):
            if found.is_dir() and not found.is_symlink():
                shutil.rmtree(found, ignore_errors=True)
            else:
                found.unlink(missing_ok=True)

    def _temporary(self) -> Path:
        """In the repository and in none of the directories that clients look into."""
        return self._repository / f"{_TEMPORARY}{secrets.token_hex(8)}"

    def _write(self, name: str, content: str) -> None:
        """Whole or not at all."""
        temporary, path = self._temporary(), self._repository / name
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_text(content, encoding="utf-8")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    # --- contents

    def _put(self, path: str, *, large: bool) -> RepoFile:
        """One file under the name that says what it holds."""
        source, (size, sha256) = self._entry.source / path, self._entry.files[path]
        if large:
            file = RepoFile.in_lfs(path, size, sha256)
        else:
            content = source.read_bytes()
            if hashlib.sha256(content).hexdigest() != sha256:
                raise VerificationError(f"{str(source)!r} is not what the manifest says; run `p2pmodel verify`")
            file = RepoFile(path, size, blob_oid(content))
        with self._locked(file.etag):
            blob = self._blobs / file.etag
            if not _is_it(blob, source, size, sha256):
                self._bring(source, blob, size, sha256)
        return file

    def _bring(self, source: Path, blob: Path, size: int, sha256: str) -> None:
        temporary = self._temporary()
        try:
            if size < LINKED_FILE_BYTES_MIN or not _link(source, temporary):  # small ones people edit
                _copy(source, temporary, sha256)
            if temporary.stat().st_size != size:
                raise VerificationError(f"{str(source)!r} is not as long as the manifest says; run `p2pmodel verify`")
            temporary.replace(blob)
        finally:
            temporary.unlink(missing_ok=True)

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """As the clients do it, so that a download of theirs and this never write the same file."""
        from filelock import FileLock, Timeout

        lock = FileLock(self._locks / f"{name}.lock", timeout=HF_CACHE_LOCK_S)
        try:
            lock.acquire()
        except Timeout as error:
            raise FetchTimeoutError(
                f"another program has had {lock.lock_file!r} for {HF_CACHE_LOCK_S:.0f} s; run the same command again"
            ) from error
        try:
            yield
        finally:
            lock.release()

    # --- the revision

    def _show(self, files: Mapping[str, RepoFile]) -> None:
        """All at once where the revision is new; where something of it is there already, name by name."""
        if not self._snapshot.exists():
            temporary = self._temporary()
            try:
                self._link_all(temporary, files)
                with suppress(OSError):  # somebody else has made it meanwhile
                    temporary.rename(self._snapshot)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        self._link_all(self._snapshot, files)

    def _link_all(self, directory: Path, files: Mapping[str, RepoFile]) -> None:
        directory.mkdir(exist_ok=True)
        for path, file in files.items():
            target, place = f"{'../' * (path.count('/') + 2)}blobs/{file.etag}", directory / path
            if place.is_symlink() and str(place.readlink()) == target:
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            temporary = self._temporary()
            try:
                temporary.symlink_to(target)
                temporary.replace(place)
            finally:
                temporary.unlink(missing_ok=True)


def _tree(files: Iterable[RepoFile]) -> str:
    """As huggingface_hub 2 keeps it: with it, it knows a revision of which a file is missing from a whole one."""
    listed = {
        file.path: {
            "size": file.size,
            "blob_id": file.git_oid,
            "lfs_sha256": file.sha256,
            "lfs_size": file.size if file.sha256 else None,
            "xet_hash": None,
        }
        for file in files
    }
    return json.dumps({"format_version": 1, "files": listed})


def _is_it(blob: Path, source: Path, size: int, sha256: str) -> bool:
    """Whether the cache has the file: clients check its length alone, so its name is not believed."""
    try:
        found = blob.stat()
    except FileNotFoundError:
        return False
    if found.st_size != size:
        return False
    return os.path.samestat(found, source.stat()) or _sha256(blob) == sha256


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _link(source: Path, target: Path) -> bool:
    """False on another file system, or one without links."""
    try:
        target.hardlink_to(source.resolve())
    except OSError:
        return False
    return True


def _copy(source: Path, target: Path, sha256: str) -> None:
    digest = hashlib.sha256()
    with source.open("rb") as reading, target.open("xb") as writing:
        while block := reading.read(COPY_BYTES):
            digest.update(block)
            writing.write(block)
        writing.flush()
        os.fsync(writing.fileno())
    if digest.hexdigest() != sha256:
        raise VerificationError(f"{str(source)!r} is not what the manifest says; run `p2pmodel verify`")
