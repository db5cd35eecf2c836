"""KEEP it: files in place, an index from chunk hashes to them, and a record of what is proven to be on this disk."""

from p2pmodel.store.files import Directory, Files, Lock, OpenFile
from p2pmodel.store.health import Ailment
from p2pmodel.store.intake import Intake
from p2pmodel.store.lock import DirectoryLock
from p2pmodel.store.os_files import OS_FILES
from p2pmodel.store.repairing import Repair
from p2pmodel.store.scrubbing import Scrubbed, Scrubber, ScrubPosition
from p2pmodel.store.seeds import LeftOut, Seed, Seeds
from p2pmodel.store.serving import ChunkSource
from p2pmodel.store.store import Store
from p2pmodel.store.values import (
    BadRange,
    CacheLimits,
    CacheUse,
    Content,
    DirectoryEntry,
    FilePlace,
    Published,
    Released,
    ReleasedFile,
    Reuse,
    StoredModel,
    Usage,
)

__all__ = [
    "OS_FILES",
    "Ailment",
    "BadRange",
    "CacheLimits",
    "CacheUse",
    "ChunkSource",
    "Content",
    "Directory",
    "DirectoryEntry",
    "DirectoryLock",
    "FilePlace",
    "Files",
    "Intake",
    "LeftOut",
    "Lock",
    "OpenFile",
    "Published",
    "Released",
    "ReleasedFile",
    "Repair",
    "Reuse",
    "ScrubPosition",
    "Scrubbed",
    "Scrubber",
    "Seed",
    "Seeds",
    "Store",
    "StoredModel",
    "Usage",
]
