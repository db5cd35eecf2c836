"""Models that other programs keep and that can be served from where they lie; and what was left out, and why."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from p2pmodel.errors import DecodeError, P2PModelError
from p2pmodel.limits import MIB
from p2pmodel.model import check_name_part
from p2pmodel.store.files import Files
from p2pmodel.store.walk import FoundFile, walk
from p2pmodel.store.wholeness import why_not_whole

Origin = Literal["huggingface", "ollama", "gguf", "directory"]
_INDEX_BYTES_MAX = 64 * MIB


@dataclass(frozen=True, slots=True)
class Seed:
    """A model that can be served from where it lies."""

    origin: Origin
    root: Path
    """Where it is said to lie: a directory, or the one file that it is, or that says what belongs to it."""
    title: str
    """What its owner calls it: `org/name@main`."""
    files: tuple[FoundFile, ...]
    name: str = ""
    """What to call it in a namespace; empty where its owner's name cannot be one."""
    qualified_name: str = ""
    """The same with its organization, for where two have the same name."""
    revisions: tuple[str, ...] = ()
    """The last is the one that the name alone shall mean."""
    note: str = ""

    @property
    def bytes_total(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def family(self) -> str:
        """The title without its revision or tag: what all of a model's have in common."""
        return self.title.partition(":" if self.origin == "ollama" else "@")[0]


@dataclass(frozen=True, slots=True)
class LeftOut:
    path: Path
    reason: str


@dataclass(slots=True)
class Seeds:
    found: list[Seed] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)

    def leave_out(self, path: Path, reason: object) -> None:
        self.left_out.append(LeftOut(path, str(reason)))


def name_of(text: str) -> str:
    """A text as the name of a model or revision, as far as that can be; empty where nothing is left of it."""
    name = re.sub(r"-{2,}", "-", re.sub(r"\.{2,}", ".", re.sub(r"[^\w.\-]+", "-", text, flags=re.ASCII)))
    name = name[:96].strip("-.").removesuffix(".git")
    try:
        return check_name_part(name)
    except (DecodeError, IndexError):
        return ""


def add_tree(
    files: Files,
    directory: Path,
    seeds: Seeds,
    *,
    origin: Origin,
    title: str,
    name: str = "",
    qualified_name: str = "",
    revisions: tuple[str, ...] = (),
    note: str = "",
) -> None:
    """All of a directory as one model, unless something in it is not whole."""
    try:
        tree = walk(files, directory)
        for found in tree.files:
            if reason := why_not_whole(files, found.path.name, found.location):
                seeds.leave_out(directory, f"{found.path.text}: {reason}")
                return
        if missing := _missing_shards(files, tree.files):
            seeds.leave_out(directory, f"{len(missing)} files that its index names are missing: {missing[0]}")
            return
    except P2PModelError as error:
        seeds.leave_out(directory, error)
        return
    name = name or name_of(title)
    seeds.found.append(
        Seed(origin, files.resolve(directory), title, tree.files, name, qualified_name or name, revisions, note)
    )


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


def _missing_shards(files: Files, found: Iterable[FoundFile]) -> list[str]:
    """What an index of shards (`model.safetensors.index.json`) names and is not there."""
    by_path = {file.path.text: file for file in found}
    missing: list[str] = []
    for path, file in by_path.items():
        if not path.endswith(".index.json"):
            continue
        content = files.read_small(file.location, bytes_max=_INDEX_BYTES_MAX)
        try:
            index = msgspec.json.decode(content or b"", type=_Index)
        except msgspec.MsgspecError:
            continue
        above = path.rpartition("/")[0]
        shards = {f"{above}/{shard}" if above else shard for shard in index.weight_map.values()}
        missing += sorted(shards - by_path.keys())
    return missing
