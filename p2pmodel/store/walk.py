"""What `publish` takes of a directory: every regular file under its portable name, in sorted order, or a clear refusal.

Nothing is left out in silence: what belongs to other tools (`.git`, download metadata, partial files) is reported,
and what cannot be part of a model on every system (a socket, a link that leads outside, a name that Windows forbids)
ends the publication with its name and the reason.
"""

from __future__ import annotations

import os
import stat
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from p2pmodel.errors import DecodeError, NotFoundError, UsageError
from p2pmodel.limits import MANIFEST_FILES_MAX
from p2pmodel.model import PortablePath, clash
from p2pmodel.store.files import os_fault

_SHARED_BLOBS_MARK = ".huggingface-shared-blobs"
_KINDS = (
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A regular file: its name in the model and where it really is, links resolved."""

    path: PortablePath
    location: Path
    size: int


@dataclass(frozen=True, slots=True)
class Tree:
    files: tuple[FoundFile, ...]
    skipped: tuple[str, ...]


def walk(path: Path, *, follow_symlinks: bool = False) -> Tree:
    """The files of a directory, or the one file that `path` is.

    Raises `NotFoundError` where there is nothing, `UsageError` where something cannot be published, `RefusedError`
    where something may not be read.
    """
    try:
        root = path.resolve(strict=True)
        status = root.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFoundError(f"{str(path)!r} does not exist") from error
    except RuntimeError as error:
        raise UsageError(f"{str(path)!r} is a link that leads back to itself") from error
    except OSError as error:
        raise os_fault(error, path, "look at") from error
    if stat.S_ISREG(status.st_mode):
        return Tree((FoundFile(_portable(path.name, path), root, status.st_size),), ())
    if not stat.S_ISDIR(status.st_mode):
        raise UsageError(f"{str(path)!r} is {_kind(status)}, neither a file nor a directory")
    walker = _Walker(root, follow_symlinks)
    files = sorted(walker.files(), key=lambda file: file.path.text)
    if not files:
        left_out = " but what is never published" if walker.skipped else ""
        raise UsageError(f"{str(path)!r} is an empty directory: there is nothing in it{left_out}")
    if fault := clash(file.path for file in files):
        raise UsageError(f"{str(path)!r} cannot be published: {fault}")
    return Tree(tuple(files), tuple(sorted(walker.skipped)))


class _Walker:
    def __init__(self, root: Path, follow_symlinks: bool) -> None:
        self._root, self._follow = root, follow_symlinks
        self._allowed = (root, *_repository_roots(root))
        self.skipped: list[str] = []

    def files(self) -> Iterator[FoundFile]:
        count = 0
        # Each directory with its name in the model and the real directories above it, against loops of links.
        waiting: list[tuple[Path, str, frozenset[Path]]] = [(self._root, "", frozenset((self._root,)))]
        while waiting:
            directory, prefix, above = waiting.pop()
            for entry in _entries(directory):
                shown = f"{prefix}{entry.name}"
                if _is_skipped(shown):
                    self.skipped.append(shown)
                    continue
                location = Path(entry.path)
                if entry.is_symlink():
                    location = self._target(Path(entry.path))
                status = _stat(location)
                if stat.S_ISDIR(status.st_mode):
                    if location in above:
                        raise UsageError(f"{entry.path!r} is a link to a directory that contains it")
                    _portable(shown, Path(entry.path))
                    waiting.append((location, f"{shown}/", above | {location}))
                elif stat.S_ISREG(status.st_mode):
                    count += 1
                    if count > MANIFEST_FILES_MAX:
                        raise UsageError(f"{str(self._root)!r} has more than {MANIFEST_FILES_MAX} files")
                    yield FoundFile(_portable(shown, Path(entry.path)), location, status.st_size)
                else:
                    raise UsageError(f"{entry.path!r} is {_kind(status)} and cannot be published")

    def _target(self, link: Path) -> Path:
        """Where a link leads. Raises `UsageError` unless that is inside, or following was asked for."""
        try:
            target = link.resolve(strict=True)
        except (OSError, RuntimeError) as error:
            raise UsageError(f"{str(link)!r} is a broken link to {str(link.readlink())!r}") from error
        if not self._follow and not any(target.is_relative_to(allowed) for allowed in self._allowed):
            raise UsageError(
                f"{str(link)!r} is a link to {str(target)!r}, outside of what is published; "
                "--follow-symlinks publishes what it leads to"
            )
        return target


def _entries(directory: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise os_fault(error, directory, "read the directory") from error


def _stat(location: Path) -> os.stat_result:
    try:
        return location.lstat()
    except OSError as error:
        raise os_fault(error, location, "look at") from error


def _is_skipped(shown: str) -> bool:
    parts = shown.casefold().split("/")
    return parts[-1] == ".git" or parts[-1].startswith(".p2pmodel") or parts[-2:] == [".cache", "huggingface"]


def _repository_roots(root: Path) -> list[Path]:
    """The Hugging Face repository folder around a snapshot, and the hub's shared blobs, to which its links lead."""
    for folder in (root, *root.parents):
        if (folder / "snapshots").is_dir() and (folder / "blobs").is_dir():
            shared = folder.parent / "blobs"
            return [folder, shared] if (shared / _SHARED_BLOBS_MARK).is_file() else [folder]
    return []


def _portable(shown: str, real: Path) -> PortablePath:
    try:
        return PortablePath(unicodedata.normalize("NFC", shown))
    except DecodeError as error:
        raise UsageError(f"{str(real)!r} cannot be published: {error}") from error


def _kind(status: os.stat_result) -> str:
    return next((name for check, name in _KINDS if check(status.st_mode)), "something special")
