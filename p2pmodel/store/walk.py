"""What `publish` takes of a directory: every regular file under its portable name, in sorted order, or a clear refusal.

Nothing is left out in silence: what belongs to other tools (`.git`, download metadata, partial files) is reported,
and what cannot be part of a model on every system (a socket, a link that leads outside, a name that Windows forbids)
ends the publication with its name and the reason.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from p2pmodel.errors import DecodeError, NotFoundError, P2PModelError, UsageError
from p2pmodel.limits import MANIFEST_FILES_MAX
from p2pmodel.model import PortablePath, clash
from p2pmodel.store.files import Files
from p2pmodel.store.values import FileStatus

_HEX = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_SHARED_BLOBS_MARK = ".huggingface-shared-blobs"
_KINDS = {"socket": "a socket", "pipe": "a named pipe", "device": "a device"}


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A regular file: its name in the model and where it really is, links resolved."""

    path: PortablePath
    location: Path
    size: int
    claim: str = ""
    """What its place says of its content: `sha256:<hex>`, or `git:<hex>` for a git object's SHA-1."""


@dataclass(frozen=True, slots=True)
class Tree:
    files: tuple[FoundFile, ...]
    skipped: tuple[str, ...]


def walk(files: Files, path: Path, *, follow_symlinks: bool = False) -> Tree:
    """The files of a directory, or the one file that `path` is.

    Raises `NotFoundError` where there is nothing, `UsageError` where something cannot be published, `RefusedError`
    where something may not be read.
    """
    root = files.resolve(path)
    status = files.status(root)
    if status is None:
        raise NotFoundError(f"{str(path)!r} does not exist")
    if status.kind == "file":
        return Tree((FoundFile(_portable(path.name, path), root, status.identity.size),), ())
    if status.kind != "directory":
        raise UsageError(f"{str(path)!r} is {_KINDS[status.kind]}, neither a file nor a directory")
    walker = _Walker(files, root, follow_symlinks)
    found = sorted(walker.found(), key=lambda file: file.path.text)
    if not found:
        left_out = " but what is never published" if walker.skipped else ""
        raise UsageError(f"{str(path)!r} is an empty directory: there is nothing in it{left_out}")
    if fault := clash(file.path for file in found):
        raise UsageError(f"{str(path)!r} cannot be published: {fault}")
    return Tree(tuple(found), tuple(sorted(walker.skipped)))


class _Walker:
    def __init__(self, files: Files, root: Path, follow_symlinks: bool) -> None:
        self._files, self._root, self._follow = files, root, follow_symlinks
        self._allowed = (root, *_repository_roots(files, root))
        self.skipped: list[str] = []

    def found(self) -> Iterator[FoundFile]:
        count = 0
        # Each directory with its name in the model and the real directories above it, against loops of links.
        waiting: list[tuple[Path, str, frozenset[Path]]] = [(self._root, "", frozenset((self._root,)))]
        while waiting:
            directory, prefix, above = waiting.pop()
            for entry in self._files.entries(directory):
                shown, named = f"{prefix}{entry.name}", directory / entry.name
                if _is_skipped(shown):
                    self.skipped.append(shown)
                    continue
                location, status = named, entry.status
                if status.kind == "link":
                    location, status = self._target(named, entry.target)
                if status.kind == "directory":
                    if location in above:
                        raise UsageError(f"{str(named)!r} is a link to a directory that contains it")
                    _portable(shown, named)
                    waiting.append((location, f"{shown}/", above | {location}))
                elif status.kind == "file":
                    count += 1
                    if count > MANIFEST_FILES_MAX:
                        raise UsageError(f"{str(self._root)!r} has more than {MANIFEST_FILES_MAX} files")
                    yield FoundFile(_portable(shown, named), location, status.identity.size, _claim(entry.target))
                else:
                    raise UsageError(f"{str(named)!r} is {_KINDS[status.kind]} and cannot be published")

    def _target(self, link: Path, says: str) -> tuple[Path, FileStatus]:
        """Where a link leads. Raises `UsageError` unless that is inside, or following was asked for."""
        broken = f"{str(link)!r} is a broken link to {says!r}"
        try:
            target = self._files.resolve(link)
        except UsageError as error:
            raise UsageError(broken) from error
        status = self._files.status(target)
        if status is None:
            raise UsageError(broken)
        if not self._follow and not any(target.is_relative_to(allowed) for allowed in self._allowed):
            raise UsageError(
                f"{str(link)!r} is a link to {str(target)!r}, outside of what is published; "
                "--follow-symlinks publishes what it leads to"
            )
        return target, status


def _claim(target: str) -> str:
    """A link into the blobs of a Hugging Face cache says what it leads to (their names are the hub's ETags)."""
    above, _, name = target.rpartition("/")
    if above.rpartition("/")[2] != "blobs" or not _HEX.fullmatch(name):
        return ""
    return f"{'sha256' if len(name) == 64 else 'git'}:{name}"


def _is_skipped(shown: str) -> bool:
    parts = shown.casefold().split("/")
    return parts[-1] == ".git" or parts[-1].startswith(".p2pmodel") or parts[-2:] == [".cache", "huggingface"]


def _repository_roots(files: Files, root: Path) -> list[Path]:
    """The Hugging Face repository folder around a snapshot, and the hub's shared blobs, to which its links lead."""

    def is_there(path: Path, kind: str) -> bool:
        try:
            status = files.status(path)
        except P2PModelError:
            return False
        return status is not None and status.kind == kind

    for folder in (root, *root.parents):
        if is_there(folder / "snapshots", "directory") and is_there(folder / "blobs", "directory"):
            shared = folder.parent / "blobs"
            return [folder, shared] if is_there(shared / _SHARED_BLOBS_MARK, "file") else [folder]
    return []


def _portable(shown: str, real: Path) -> PortablePath:
    try:
        return PortablePath(unicodedata.normalize("NFC", shown))
    except DecodeError as error:
        raise UsageError(f"{str(real)!r} cannot be published: {error}") from error
