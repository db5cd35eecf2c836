"""What the store tells about the models it keeps, and the marks by which it knows a file again."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Literal

from p2pmodel.model import Layout, ModelId

_IDENTITY = struct.Struct(">QQQqq")
_WITHOUT_CTIME = struct.Struct(">QQQq")
"""As indexes of version 1 have it."""


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """The marks of a file that has not been written since: the same as those of git's index and of rsync.

    Two are equal where all but `ctime_ns` is: that changes with a write, which no program can hide, but with a new mode
    or name as well. So where it alone differs, the file is in doubt until it has been hashed again.
    """

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int = field(default=0, compare=False)
    """0: in doubt."""

    def pack(self) -> bytes:
        return _IDENTITY.pack(self.device, self.inode, self.size, self.mtime_ns, self.ctime_ns)

    @classmethod
    def unpack(cls, packed: bytes) -> FileIdentity:
        layout = _IDENTITY if len(packed) == _IDENTITY.size else _WITHOUT_CTIME
        return cls(*layout.unpack(packed))

    def untouched(self, other: FileIdentity) -> bool:
        """Whether nothing at all was done to the file between these two looks."""
        return self == other and self.ctime_ns == other.ctime_ns

    def same_place(self, other: FileIdentity) -> bool:
        """Whether both name the same file at the same length, whenever it was last written."""
        return (self.device, self.inode, self.size) == (other.device, other.inode, other.size)

    def could_have_been(self, other: FileIdentity) -> bool:
        """Whether `other` may be an earlier state of this file: the same one, not longer and not younger."""
        same = (self.device, self.inode) == (other.device, other.inode)
        return same and other.size <= self.size and other.mtime_ns <= self.mtime_ns


Kind = Literal["file", "directory", "link", "pipe", "socket", "device"]


@dataclass(frozen=True, slots=True)
class FileStatus:
    """What `stat` says, as far as the store asks. `allocated_bytes` is what the file takes on disk already."""

    identity: FileIdentity
    kind: Kind
    links: int
    allocated_bytes: int


@dataclass(frozen=True, slots=True)
class DirectoryEntry:
    """A line of a directory. The status is that of a link itself, and `target` what the link says."""

    name: str
    status: FileStatus
    target: str = ""


@dataclass(frozen=True, slots=True)
class Extent:
    """A run of bytes of a file where it lies on the device; `shared` where other files may have it too."""

    physical: int
    length: int
    shared: bool


class FileState(Enum):
    """How far a file of a copy is on its way; the order of the states is the order on disk."""

    PARTIAL = "partial"
    """In the partial directory. The copy's bitmap says which chunks are proven."""
    PLACED = "placed"
    """Under its final name, not yet known to be durable; after a restart it is hashed before it counts."""
    PROVEN = "proven"
    """Durable, or somebody else's file that was hashed in place. Held as long as its identity is unchanged."""


Reuse = Literal["in_place", "resumed", "linked", "reflinked", "copied"]
"""How bytes of a fetch came to be on this disk without the network: they stood in whole files at the destination; an
earlier run had brought them; a whole file of another model got one more name; blocks are shared with another file; they
were copied from one."""


Content = Literal["published", "fetched", "cached"]
"""Whose a copy is: its owner's files, which are never touched; a user's, whom they were fetched for; the cache's."""


@dataclass(frozen=True, slots=True)
class StoredPlace:
    """A directory or file where a model, or a part of it, lies."""

    path: Path
    state: Literal["published", "fetched", "partial", "broken"]
    content: Content
    chunks_held: int
    bytes_held: int
    fault: str = ""


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model of which something is on this disk, at the place where most of it is."""

    model_id: ModelId
    path: Path
    state: Literal["published", "fetched", "partial", "broken"]
    files: int
    bytes_total: int
    bytes_held: int
    chunks: int
    chunks_held: int
    fault: str = ""
    """Which file changed or vanished, where one did."""
    pinned: bool = False
    cached: bool = False
    """Whether the cache may let go of the copy at `path`, unless it is pinned."""
    places: tuple[StoredPlace, ...] = ()
    """All of them, that at `path` first."""


@dataclass(frozen=True, slots=True)
class FilePlace:
    """Where a file of a model can be read on this disk, by byte offsets of the model's own file.

    A whole one has its final name and is read by whoever likes; of one that is not, some chunks only are there.
    """

    path: Path
    whole: bool
    identity: FileIdentity


@dataclass(frozen=True, slots=True)
class Released:
    """A copy of a model, or chunks of it, that was let go of, or would be."""

    model_id: ModelId
    path: Path
    content: Content
    chunks: int
    bytes_freed: int
    whole: bool
    """Whether nothing of this copy is left in the store."""
    files_stay: bool = False
    """The files are not the store's to remove: they stay where they are, and are not served any more."""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ReleasedFile:
    """A file beside the models that was let go of, or would be. `path` has no ending: several may belong together."""

    path: Path
    bytes_freed: int


@dataclass(frozen=True, slots=True)
class Collected:
    """What went, or would go, to bring the cache within its limits; `beside` goes before any model."""

    models: list[Released]
    beside: list[ReleasedFile]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class CacheLimits:
    """How much the cache may take. `quota_bytes` None is no limit; `free_floor_bytes` stay free on the disk."""

    quota_bytes: int | None = None
    free_floor_bytes: int = 0


@dataclass(frozen=True, slots=True)
class CacheUse:
    """What the cache takes at present; `pinned_bytes` of it are not for it to let go of."""

    used_bytes: int
    pinned_bytes: int
    limits: CacheLimits


@dataclass(frozen=True, slots=True)
class ModelUsage:
    """What one model takes, over all the places where it lies."""

    model_id: ModelId
    bytes_apparent: int
    """Of its chunks that are here, in each place of it."""
    bytes_on_disk: int
    """Blocks of its files, those that it shares with other models as well."""
    bytes_own: int
    """Of these, what no other model has: what would be free without it."""
    bytes_shared: int
    """Of its chunks, those that other models here have too, by hash; the disk may hold them several times."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What all models take together."""

    models: tuple[ModelUsage, ...]
    bytes_apparent: int
    bytes_on_disk: int
    bytes_saved: int
    """Blocks that would be taken besides if no two models had a file or blocks in common."""
    bytes_repeated: int
    """Chunks that are here more often than once, each time with blocks of their own."""


@dataclass(frozen=True, slots=True)
class Published:
    """The outcome of `Store.publish`."""

    layout: Layout
    path: Path
    skipped: tuple[str, ...]
    """Relative names of what was left out on purpose: `.git`, download metadata, partial files."""
    bytes_hashed: int
    """Less than the model's size where unchanged files had been hashed before."""

    @property
    def model_id(self) -> ModelId:
        return self.layout.model_id

    @property
    def files(self) -> int:
        return len(self.layout.files)

    @property
    def bytes_total(self) -> int:
        return self.layout.manifest.bytes_total

    @property
    def chunks(self) -> int:
        return len(self.layout)


@dataclass(frozen=True, slots=True)
class BadRange:
    """`length` bytes from `offset` of `file` are not what the manifest says, for this `reason`."""

    file: str
    offset: int
    length: int
    reason: str
