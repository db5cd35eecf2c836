"""What reading from an origin leaves beside the cache: files that are not whole yet, and private ones.

They count as the cache's. Nobody knows whether a client comes back for one, so each stays for a while after it was used
last; where room is needed it goes before any model does, what was not used for longest first. What is in use stays.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from p2pmodel.errors import P2PModelError
from p2pmodel.store import Directory, DirectoryEntry, Files, ReleasedFile

log = logging.getLogger(__name__)

ORIGIN_NAME, DRAFTS_NAME, PRIVATE_NAME = "origin", "drafts", "private"
_GONE = ".gone"
"""Ends the name of what is about to be removed; a crash may leave it so."""


@dataclass(slots=True)
class _Left:
    """A file with what belongs to it: names that differ after their dot only, and those of what is being written."""

    path: Path
    names: list[str] = field(default_factory=list)
    used_at: float = 0.0
    allocated_bytes: int = 0

    def add(self, entry: DirectoryEntry) -> None:
        self.names.append(entry.name)
        self.used_at = max(self.used_at, entry.status.identity.mtime_ns / 1e9)
        self.allocated_bytes += entry.status.allocated_bytes


def origin_leftovers(data_dir: Path, files: Files) -> Leftovers:
    """What an origin's readers have left in this data directory, whether there is an origin now or not."""
    return Leftovers([data_dir / ORIGIN_NAME / name for name in (DRAFTS_NAME, PRIVATE_NAME)], files)


class Leftovers:
    """Of these directories. Fills `store.cache.Beside`. Thread-safe."""

    def __init__(self, directories: Sequence[Path], files: Files) -> None:
        self._directories, self._files = directories, files
        self._used: Counter[Path] = Counter()
        self._lock = threading.Lock()

    def use(self, path: Path) -> None:
        """The file of this path, without what follows the dot, stays until `let_go`."""
        with self._lock:
            self._used[path] += 1

    def let_go(self, path: Path) -> None:
        with self._lock:
            self._used[path] -= 1
            if not self._used[path]:
                del self._used[path]

    def used_bytes(self) -> int:
        """What all of it takes on the disk."""
        return sum(left.allocated_bytes for left in self._found())

    def releasable_bytes(self) -> int:
        return sum(self._releasable(left) for left in self._found())

    def release(self, lacking_bytes: int, *, dry_run: bool = False) -> list[ReleasedFile]:
        """Remove what was not used for longest, until so much is free. Returns what went, or would go."""
        gone: list[ReleasedFile] = []
        for left in self._found():
            if lacking_bytes <= 0:
                break
            freed = self._releasable(left) if dry_run else self._remove(left)
            if freed:
                gone.append(ReleasedFile(left.path, freed))
            lacking_bytes -= freed
        return gone

    def _releasable(self, left: _Left) -> int:
        return 0 if left.path in self._used else left.allocated_bytes

    def remove_unused(self, before: float) -> int:
        """Remove what was used last before this moment (Unix time, seconds). Returns the bytes freed."""
        return sum(self._remove(left) for left in self._found() if left.used_at < before or left.path.suffix == _GONE)

    def _found(self) -> list[_Left]:
        """What was not used for longest first."""
        found: dict[Path, _Left] = {}
        for directory in self._directories:
            for entry in self._entries(directory):
                if entry.status.kind == "file":
                    # What is half removed belongs to nothing any more.
                    gone, owner = entry.name.endswith(_GONE), entry.name.removeprefix(".").partition(".")[0]
                    path = directory / (entry.name if gone else owner)
                    found.setdefault(path, _Left(path)).add(entry)
        return sorted(found.values(), key=lambda left: left.used_at)

    def _entries(self, directory: Path) -> list[DirectoryEntry]:
        try:
            return self._files.entries(directory)
        except P2PModelError:
            return []  # nothing was ever put there

    def _remove(self, left: _Left) -> int:
        """Returns the bytes freed; none where another was first, or the disk does not let it go."""
        try:
            directory = self._files.open_directory(left.path.parent)
            if directory is None:
                return 0
            with closing(directory):
                return self._remove_from(directory, left)
        except P2PModelError as error:
            log.warning("%s", error)
            return 0

    def _remove_from(self, directory: Directory, left: _Left) -> int:
        gone, freed = [], 0
        with self._lock:  # renaming is quick; to remove a long file takes a while
            if left.path in self._used:
                return 0
            for name in left.names:
                if (status := directory.status(name)) is None:
                    continue
                freed += status.allocated_bytes
                gone.append(name if name.endswith(_GONE) else f"{name}{_GONE}")
                if name != gone[-1]:
                    directory.rename(name, directory, gone[-1])
        for name in gone:
            directory.remove(name)
        return freed
