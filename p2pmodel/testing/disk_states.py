"""Every disk that a power cut at this moment may leave, each once: what makes an exhaustive search of crashes finite.

    for state in crash_states(disk):
        if state.key not in seen:           # most of them have been seen at an earlier call
            with state.disk() as left: ...

A state is a choice of the changes of names that were kept, and for each file that is found then one of its possible
contents, lengths and times; for the index one of the commits that it may go back to. `key` is a hash of all of that,
with the numbers of the inodes, so that equal states of different histories are one. Small files make this tractable: a
file of one page that was written once has three contents (before, after, torn), and only files that differ from the
disk multiply.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

from blake3 import blake3

from p2pmodel.testing.disk import SimDisk
from p2pmodel.testing.disk_faults import Script
from p2pmodel.testing.disk_names import Change, Inode
from p2pmodel.testing.disk_pages import Contents

_Tree = dict[Inode, dict[str, Inode]]
"""The entries of each directory that is found."""

_TELLING = (slice(24), slice(28, 40), slice(44, 92), slice(100, None))
"""An SQLite file without the counters of changes in its header, which differ between equal databases."""


@dataclass(frozen=True, slots=True)
class _Remains:
    """What may be found of one inode. `key` tells it from the other possibilities, and from those of other inodes."""

    key: bytes
    contents: Contents
    mtime_ns: int
    image: bytes | None


@dataclass(frozen=True, slots=True)
class CrashState:
    """One of the disks that a power cut may leave."""

    key: bytes
    _disk: SimDisk
    _tree: _Tree
    _found: dict[Inode, _Remains]

    def disk(self) -> SimDisk:
        """A disk of its own in this state, on which nothing waits to be synced. Later changes of the first do not
        touch it."""
        made = SimDisk(random.Random(0), capacity_bytes=self._disk.capacity_bytes)
        copies = {inode: Inode(inode.number, inode.kind) for inode in self._found}
        for inode, remains in self._found.items():
            copy = copies[inode]
            copy.target, copy.contents = inode.target, remains.contents.copy()
            copy.mtime_ns = copy.durable_mtime_ns = remains.mtime_ns
            if remains.image is not None:
                copy.database = made.add_database(remains.image)
        root = self._disk.names.root
        copies[root].links = 1
        for directory, entries in self._tree.items():
            for name, below in entries.items():
                copies[directory].entries[name] = copies[directory].durable_entries[name] = copies[below]
                copies[below].links += 1
        made.names.root, made.names.made = copies[root], self._disk.names.made
        return made


def crash_states(disk: SimDisk, *, killed: bool = True) -> Iterator[CrashState]:
    """Each state once. `killed` adds the one that SIGKILL leaves: all that was written is there."""
    with disk.guard:
        remains = {inode: list(_remains(inode)) for inode in disk.names.everything()}
        trees = list(_trees(disk))
        if killed:
            whole = _reached(disk.names.root, {inode: inode.entries for inode in disk.names.everything()})
            yield _state(disk, whole, {inode: _as_seen(inode) for inode in _inodes(disk.names.root, whole)})
    for tree in trees:
        inodes = _inodes(disk.names.root, tree)
        for chosen in itertools.product(*(remains[inode] for inode in inodes)):
            yield _state(disk, tree, dict(zip(inodes, chosen, strict=True)))


def _state(disk: SimDisk, tree: _Tree, found: dict[Inode, _Remains]) -> CrashState:
    digest = blake3()
    for inode, remains in found.items():
        digest.update(b"%d %s\0" % (inode.number, remains.key))
        for name, below in sorted(tree.get(inode, {}).items()):
            digest.update(b"%s %d\0" % (name.encode(), below.number))
    return CrashState(digest.digest(), disk, tree, found)


# --- names


def _trees(disk: SimDisk) -> Iterator[_Tree]:
    """What may be found of the names: with any of the pending changes that the others kept allow."""
    states = {_frozen(durable): durable for durable in [_durable(disk)]}
    for change in disk.names.pending:
        for durable in list(states.values()):
            kept = _applied(durable, change)
            if kept is not None:
                states.setdefault(_frozen(kept), kept)
    trees: dict[frozenset[tuple[int, str, int]], _Tree] = {}
    for durable in states.values():
        tree = _reached(disk.names.root, durable)
        trees.setdefault(_frozen(tree), tree)
    yield from trees.values()


def _durable(disk: SimDisk) -> _Tree:
    return {inode: inode.durable_entries for inode in disk.names.everything() if inode.kind == "directory"}


def _frozen(tree: _Tree) -> frozenset[tuple[int, str, int]]:
    return frozenset(
        (directory.number, name, below.number) for directory, entries in tree.items() for name, below in entries.items()
    )


def _applied(durable: _Tree, change: Change) -> _Tree | None:
    """As the disk itself does it (`Names.cut`); None where the change cannot be kept without what was lost."""
    for edit in change:
        there = durable.get(edit.directory, {}).get(edit.name)
        if (edit.after is None or edit.before is None) and there is not edit.before:
            return None
        removed = edit.before if edit.after is None else None
        if len(change) == 1 and removed is not None and removed.kind == "directory" and durable.get(removed):
            return None
    changed = dict(durable)
    for edit in change:
        entries = dict(changed.get(edit.directory, {}))
        if edit.after is None:
            del entries[edit.name]
        else:
            entries[edit.name] = edit.after
        changed[edit.directory] = entries
    return changed


def _reached(root: Inode, durable: _Tree) -> _Tree:
    tree, waiting = {}, [root]
    while waiting:
        directory = waiting.pop()
        tree[directory] = dict(durable.get(directory, {}))
        waiting += [below for below in tree[directory].values() if below.kind == "directory"]
    return tree


def _inodes(root: Inode, tree: _Tree) -> list[Inode]:
    found = {root, *(below for entries in tree.values() for below in entries.values())}
    return sorted(found, key=lambda inode: inode.number)


# --- contents


def _as_seen(inode: Inode) -> _Remains:
    contents, mtime_ns = inode.contents.settled(), inode.mtime_ns if inode.kind != "directory" else 0
    image = inode.database.committed() if inode.database is not None else None
    return _Remains(_key(contents, 0 if image is not None else mtime_ns, image), contents, mtime_ns, image)


def _remains(inode: Inode) -> Iterator[_Remains]:
    if inode.database is not None:
        images = [*inode.database.older, inode.database.committed()]
        for image in dict.fromkeys(images):
            yield _Remains(_key(inode.contents, 0, image), inode.contents.settled(), inode.mtime_ns, image)
        return
    if inode.kind == "directory":  # its time tells nobody anything
        yield _as_seen(inode)
        return
    times = dict.fromkeys((inode.durable_mtime_ns, inode.mtime_ns))
    seen = set()
    script = Script()
    while True:
        contents = inode.contents.copy()
        contents.cut(script)
        for mtime_ns in times:
            key = _key(contents, mtime_ns, None)
            if key not in seen:
                seen.add(key)
                yield _Remains(key, contents, mtime_ns, None)
        if not script.advance():
            return


def _key(contents: Contents, mtime_ns: int, image: bytes | None) -> bytes:
    digest = blake3(b"%d %d %d\0" % (contents.size, contents.reserved, mtime_ns))
    for number, block in sorted(contents.cache.items()):
        digest.update(b"%d %s\0" % (number, block.data.rstrip(b"\0")))
    if image is not None:
        for told in _TELLING:
            digest.update(image[told])
    return digest.digest()
