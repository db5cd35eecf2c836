"""What `seed` finds below a path, whole, where it lies.

A Hugging Face cache (`hugging_face.py`), an Ollama store (`ollama.py`), directories of GGUF files, of which each is a
model of its own (a split one with its parts), and directories that are a model each. Nothing is read here but names,
sizes, headers, and the small files that tell what belongs together; the hashing is `publishing.py`'s.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from p2pmodel.errors import DecodeError, NotFoundError, P2PModelError
from p2pmodel.limits import SEED_DEPTH_MAX, SEED_DIRECTORIES_MAX
from p2pmodel.model import PortablePath
from p2pmodel.store.files import Files
from p2pmodel.store.hugging_face import repositories, seed_repository, seed_snapshot
from p2pmodel.store.ollama import ollama_root, seed_ollama
from p2pmodel.store.seeds import Origin, Seed, Seeds, add_tree, name_of
from p2pmodel.store.values import DirectoryEntry, FileStatus
from p2pmodel.store.walk import FoundFile
from p2pmodel.store.wholeness import why_not_whole

_SPLIT = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.IGNORECASE)
_WEIGHTS = {".safetensors", ".bin", ".pt", ".pth", ".onnx", ".ckpt", ".npz", ".h5", ".keras", ".tflite", ".msgpack"}
_DESCRIPTIONS = {"config.json", "model_index.json", "params.json"}
_UNFINISHED = (".part", ".partial", ".incomplete", ".tmp", ".crdownload", ".download", ".aria2")


def find_seeds(files: Files, path: Path) -> Seeds:
    """Raises `NotFoundError` where there is nothing, `RefusedError` where the path itself may not be read."""
    root, seeds = files.resolve(path), Seeds()
    status = files.status(root)
    if status is None:
        raise NotFoundError(f"{str(path)!r} does not exist")
    if status.kind == "file":
        _seed_file(files, root, status, seeds)
    elif (store := ollama_root(files, root)) is not None:
        seed_ollama(files, store, seeds)
    elif found := repositories(files, root):
        for repository in found:
            seed_repository(files, repository, seeds)
    elif not seed_snapshot(files, root, seeds):
        _Directories(files, seeds).look(root)
    return seeds


def _seed_file(files: Files, path: Path, status: FileStatus, seeds: Seeds) -> None:
    if match := _SPLIT.fullmatch(path.name):
        entries = [entry for entry in files.entries(path.parent) if _same_split(entry.name, match)]
        _seed_gguf_files(files, path.parent, entries, seeds)
    elif path.suffix.lower() == ".gguf":
        _seed_gguf_files(files, path.parent, [DirectoryEntry(path.name, status)], seeds)
    else:
        seeds.found += _single(files, path, status, "directory", seeds)


def _same_split(name: str, wanted: re.Match[str]) -> bool:
    found = _SPLIT.fullmatch(name)
    return found is not None and (found["stem"], found["count"]) == (wanted["stem"], wanted["count"])


def _single(files: Files, path: Path, status: FileStatus, origin: Origin, seeds: Seeds) -> Iterable[Seed]:
    location = files.resolve(path)
    if reason := why_not_whole(files, path.name, location):
        seeds.leave_out(path, reason)
        return
    try:
        found = FoundFile(PortablePath(path.name), location, status.identity.size)
    except DecodeError as error:
        seeds.leave_out(path, error)
        return
    yield Seed(origin, location, path.name, (found,), name_of(path.stem), name_of(path.stem))


def _seed_gguf_files(files: Files, directory: Path, entries: Iterable[DirectoryEntry], seeds: Seeds) -> None:
    """Each file is a model; the parts of a split one are one, if all are there."""
    parts: dict[tuple[str, int], dict[int, str]] = defaultdict(dict)
    for entry in entries:
        path = directory / entry.name
        match = _SPLIT.fullmatch(entry.name)
        status = entry.status if entry.status.kind != "link" else files.status(path)
        if status is None or status.kind != "file":
            seeds.leave_out(path, "a broken link" if status is None else "not a file")
        elif match is not None:
            parts[match["stem"], int(match["count"])][int(match["number"])] = entry.name
        else:
            seeds.found += _single(files, path, status, "gguf", seeds)
    for (stem, count), named in sorted(parts.items()):
        _seed_split(files, directory, stem, count, named, seeds)


def _seed_split(files: Files, directory: Path, stem: str, count: int, named: dict[int, str], seeds: Seeds) -> None:
    first = directory / named[min(named)]
    missing = [number for number in range(1, count + 1) if number not in named]
    if missing:
        seeds.leave_out(first, f"{len(missing)} of {count} parts are missing, the first of them number {missing[0]}")
        return
    found = []
    for _, name in sorted(named.items()):
        location = files.resolve(directory / name)
        status = files.status(location)
        if status is None or (reason := why_not_whole(files, name, location)):
            seeds.leave_out(directory / name, "it has vanished" if status is None else reason)
            return
        found.append(FoundFile(PortablePath(name), location, status.identity.size))
    seeds.found.append(Seed("gguf", directory, f"{stem}.gguf", tuple(found), name_of(stem), name_of(stem)))


class _Directories:
    """A directory that holds weights is a model; other directories are looked through."""

    def __init__(self, files: Files, seeds: Seeds) -> None:
        self._files, self._seeds, self._looked_at = files, seeds, 0

    def look(self, directory: Path, depth: int = 0) -> None:
        self._looked_at += 1
        if self._looked_at > SEED_DIRECTORIES_MAX:
            if self._looked_at == SEED_DIRECTORIES_MAX + 1:
                self._seeds.leave_out(directory, f"more than {SEED_DIRECTORIES_MAX} directories; name fewer")
            return
        try:
            entries = self._files.entries(directory)
        except P2PModelError as error:
            self._seeds.leave_out(directory, error)
            return
        names = {entry.name.lower() for entry in entries}
        weights = [entry for entry in entries if Path(entry.name).suffix.lower() in _WEIGHTS]
        gguf = [entry for entry in entries if entry.name.lower().endswith(".gguf")]
        if weights or (names & _DESCRIPTIONS and not gguf):
            self._model(directory, entries)
            return
        for entry in gguf:
            if {f"{entry.name.lower()}{suffix}" for suffix in _UNFINISHED} & names:
                self._seeds.leave_out(directory / entry.name, "its download is not finished")
        waiting = {left.path.name for left in self._seeds.left_out if left.path.parent == directory}
        _seed_gguf_files(self._files, directory, [entry for entry in gguf if entry.name not in waiting], self._seeds)
        for entry in entries:
            if entry.status.kind == "directory" and not entry.name.startswith("."):
                if depth < SEED_DEPTH_MAX:
                    self.look(directory / entry.name, depth + 1)
                else:
                    self._seeds.leave_out(directory / entry.name, f"deeper than {SEED_DEPTH_MAX} directories")

    def _model(self, directory: Path, entries: list[DirectoryEntry]) -> None:
        unfinished = [entry.name for entry in entries if entry.name.lower().endswith(_UNFINISHED)]
        if unfinished:
            self._seeds.leave_out(directory, f"a download is not finished: {unfinished[0]}")
            return
        add_tree(self._files, directory, self._seeds, origin="directory", title=directory.name)
