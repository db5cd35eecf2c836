"""The names of a simulated disk: directories as they are seen, as they are durable, and the changes in between.

A new, removed or moved name is durable only once its directory was synced (POSIX promises no more, whatever one file
system does). A power cut keeps any of the other changes that can be kept without those that were lost; a rename is
kept whole or not at all.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from p2pmodel.store.values import FileIdentity, FileStatus, Kind
from p2pmodel.testing.disk_pages import Choices, Contents

if TYPE_CHECKING:
    from p2pmodel.testing.disk_database import SimDatabase

_DEVICE = 1
_LINKS_MAX = 40
"""Links on the way to one file, as in Linux."""


class Inode:
    """A file, a directory, a link, or something that is none of them."""

    def __init__(self, number: int, kind: Kind) -> None:
        self.number, self.kind = number, kind
        self.links = 0
        self.mtime_ns = self.durable_mtime_ns = 0
        self.ctime_ns = 1
        """Of the last change of any kind; where there is no clock, their number."""
        self.contents = Contents()
        self.target = ""
        self.entries: dict[str, Inode] = {}
        self.durable_entries: dict[str, Inode] = {}
        self.database: SimDatabase | None = None
        self.holder: object | None = None
        """Who has it for himself, as with `flock`."""

    def status(self) -> FileStatus:
        size = self.database.size if self.database is not None else self.contents.size
        allocated = self.database.size if self.database is not None else self.contents.allocated_bytes
        identity = FileIdentity(_DEVICE, self.number, size, self.mtime_ns, self.ctime_ns)
        return FileStatus(identity, self.kind, self.links, allocated)


@dataclass(frozen=True, slots=True, eq=False)
class Edit:
    """In `directory` the name led to `before` and leads to `after` now."""

    directory: Inode
    name: str
    before: Inode | None
    after: Inode | None


Change = tuple[Edit, ...]
"""What happens whole or not at all: one edit, or the two of a rename."""


class Names:
    """The tree of names of one disk. Raises `OSError` as system calls do."""

    def __init__(self) -> None:
        self.made = 0
        self.root = self.new("directory")
        self.root.links = 1
        self.pending: list[Change] = []

    def new(self, kind: Kind) -> Inode:
        self.made += 1
        return Inode(self.made, kind)

    # --- look up

    def find(self, path: Path) -> Inode:
        """What a path leads to, links followed."""
        found, _ = self.walk(path)
        if found is None:
            raise _error(errno.ENOENT, path)
        return found

    def walk(self, path: Path) -> tuple[Inode | None, Path]:
        """What a path leads to (None: nothing) and where that really is."""
        waiting = [part for part in reversed(path.parts) if part != "/"]
        above: list[tuple[Inode, str]] = []
        here: Inode | None = self.root
        links = 0
        while waiting:
            part = waiting.pop()
            if here is not None and here.kind != "directory":
                raise _error(errno.ENOTDIR, path)
            if part == "..":
                here = above.pop()[0] if above else self.root
                continue
            found = here.entries.get(part) if here is not None else None
            if found is not None and found.kind == "link":
                links += 1
                if links > _LINKS_MAX:
                    raise _error(errno.ELOOP, path)
                target = Path(found.target)
                if target.is_absolute():
                    above, here = [], self.root
                waiting.extend(part for part in reversed(target.parts) if part != "/")
                continue
            above.append((here if here is not None else self.root, part))
            here = found
        return here, Path("/", *(name for _, name in above))

    # --- change

    def set(self, directory: Inode, name: str, inode: Inode | None) -> None:
        """Let a name lead to a new inode, or to none."""
        self._change((Edit(directory, name, directory.entries.get(name), inode),))

    def rename(self, source: Inode, name: str, target: Inode, new_name: str) -> None:
        inode = source.entries.get(name)
        if inode is None:
            raise _error(errno.ENOENT, name)
        old = target.entries.get(new_name)
        if old is inode:
            return
        if old is not None and old.kind == "directory" and old.entries:
            raise _error(errno.ENOTEMPTY, new_name)
        if old is not None and (old.kind == "directory") != (inode.kind == "directory"):
            raise _error(errno.EISDIR if old.kind == "directory" else errno.ENOTDIR, new_name)
        self._change((Edit(source, name, inode, None), Edit(target, new_name, old, inode)))

    def _change(self, change: Change) -> None:
        for edit in change:
            if edit.before is not None:
                edit.before.links -= 1
                edit.before.ctime_ns += 1
            if edit.after is not None:
                edit.after.links += 1
                edit.after.ctime_ns += 1
                edit.directory.entries[edit.name] = edit.after
            else:
                del edit.directory.entries[edit.name]
        self.pending.append(change)

    # --- the disk below

    def sync(self, directory: Inode, name: str | None = None) -> None:
        """Make durable what changed in a directory (or of one name in it), with what that presupposes elsewhere."""
        wanted: dict[tuple[Inode, str | None], None] = {(directory, name): None}
        chosen: list[Change] = []
        left: list[Change] = []
        for change in reversed(self.pending):
            if any((edit.directory, edit.name) in wanted or (edit.directory, None) in wanted for edit in change):
                for edit in change:
                    wanted[edit.directory, edit.name] = None
                    if edit.before is not None and _is_removed_directory(edit):
                        wanted[edit.before, None] = None  # it was empty before
                chosen.append(change)
            else:
                left.append(change)
        for change in reversed(chosen):
            _make_durable(change)
        self.pending = left[::-1]

    def cut(self, choices: Choices) -> None:
        """Only what is on the disk is left."""
        for change in self.pending:
            if choices.kept():
                _make_durable(change)
        self.pending = []
        found = self.durable()
        for inode in found:
            inode.links = 0
        for inode in found:
            inode.entries = dict(inode.durable_entries)
            for below in inode.entries.values():
                below.links += 1
        self.root.links = 1

    def seen(self) -> list[Inode]:
        """Every inode that a name leads to."""
        return _reachable([self.root], lambda inode: inode.entries.values())

    def durable(self) -> list[Inode]:
        """Every inode that a durable name leads to."""
        return _reachable([self.root], lambda inode: inode.durable_entries.values())

    def everything(self) -> list[Inode]:
        """Every inode that is seen, is durable, or may be found after a power cut."""
        started = [self.root]
        for change in self.pending:
            for edit in change:
                started += [inode for inode in (edit.directory, edit.before, edit.after) if inode is not None]
        return _reachable(started, lambda inode: (*inode.entries.values(), *inode.durable_entries.values()))


def _reachable(started: list[Inode], below: Callable[[Inode], Iterable[Inode]]) -> list[Inode]:
    """By number, each once."""
    known = dict.fromkeys(started)
    waiting = list(known)
    while waiting:
        for inode in below(waiting.pop()):
            if inode not in known:
                known[inode] = None
                waiting.append(inode)
    return sorted(known, key=lambda inode: inode.number)


def _is_removed_directory(edit: Edit) -> bool:
    return edit.after is None and edit.before is not None and edit.before.kind == "directory"


def _make_durable(change: Change) -> None:
    """Unless what it starts from was lost, or a directory that it removes is not empty without what was lost."""
    for edit in change:
        there = edit.directory.durable_entries.get(edit.name)
        if (edit.after is None or edit.before is None) and there is not edit.before:
            return
        if len(change) == 1 and _is_removed_directory(edit) and edit.before and edit.before.durable_entries:
            return
    for edit in change:
        if edit.after is None:
            del edit.directory.durable_entries[edit.name]
        else:
            edit.directory.durable_entries[edit.name] = edit.after


def _error(code: int, path: Path | str) -> OSError:
    return OSError(code, os.strerror(code), str(path))
