"""KEEP it: files in place, an index from chunk hashes to them, and a record of what is proven to be on this disk.

Each name loads on first use: a command that asks a daemon needs a lock, and no database.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

_PLACES = {
    "OS_FILES": "os_files",
    "Ailment": "health",
    "BadRange": "values",
    "CacheLimits": "values",
    "CacheUse": "values",
    "ChunkSource": "serving",
    "Content": "values",
    "Directory": "files",
    "DirectoryEntry": "values",
    "DirectoryLock": "lock",
    "FilePlace": "values",
    "Files": "files",
    "Intake": "intake",
    "LeftOut": "seeds",
    "Lock": "files",
    "OpenFile": "files",
    "Published": "values",
    "Released": "values",
    "ReleasedFile": "values",
    "Repair": "repairing",
    "Reuse": "values",
    "ScrubPosition": "scrubbing",
    "Scrubbed": "scrubbing",
    "Scrubber": "scrubbing",
    "Seed": "seeds",
    "Seeds": "seeds",
    "Store": "store",
    "StoredModel": "values",
    "Usage": "values",
}

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


def __getattr__(name: str) -> Any:
    place = _PLACES.get(name)
    if place is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{place}"), name)
