"""Real files in a temporary directory, and the few moves that most stories about the store are made of."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from p2pmodel.model import Digest, Layout
from p2pmodel.store import Intake, Published, Store

MIB = 1024 * 1024


class Workshop:
    """Makes directories, stores and transfers below one temporary directory; closes every store in the end."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.dice = random.Random(1)
        self._stores: list[Store] = []

    def tree(self, name: str, files: Mapping[str, bytes]) -> Path:
        root = self.base / name
        root.mkdir(parents=True, exist_ok=True)
        for path, data in files.items():
            file = root / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        return root

    def model_files(self) -> dict[str, bytes]:
        """Several chunks, a sub-directory, an empty file, and one chunk that stands at three places."""
        same = self.dice.randbytes(MIB)
        return {
            "weights.bin": self.dice.randbytes(2 * MIB) + same + self.dice.randbytes(MIB // 2),
            "config.json": b'{"a": 1}',
            "deep/er/other.bin": same + self.dice.randbytes(MIB) + same,
            "empty": b"",
        }

    def store(self, name: str = "data", **options) -> Store:
        store = Store.open(self.base / name, **options)
        self._stores.append(store)
        return store

    def abandon(self, store: Store) -> None:
        """What is left of a store when its process dies: the descriptors go, and nothing else happens."""
        store._database.close()
        for intake in store._intakes:
            intake._open.close()
            intake._destination._partials.close()
            intake._destination._directory.close()
        store._server.open_files.close()
        store._pool.close()
        self._stores.remove(store)

    def published(self, files: Mapping[str, bytes] | None = None, name: str = "source") -> tuple[Store, Published]:
        seed = self.store(f"{name}-data")
        return seed, seed.publish(self.tree(name, self.model_files() if files is None else files))

    def close(self) -> None:
        for store in self._stores:
            store.close()


def read_chunk(store: Store, digest: Digest) -> bytes | None:
    source = store.chunk(digest)
    if source is None:
        return None
    buffer = bytearray(source.length)
    try:
        source.read_into(memoryview(buffer), 0)
    finally:
        source.release()
    return bytes(buffer)


def pull(seed: Store, intake: Intake, indices: Iterable[int] | None = None) -> int:
    """Write what is missing (of `indices`) from `seed`; the bytes that had to come from there."""
    fetched = 0
    for index in list(intake.missing) if indices is None else indices:
        data = read_chunk(seed, intake.layout[index].digest)
        assert data is not None
        if intake.write(index, memoryview(bytearray(data))):
            fetched += len(data)
    return fetched


def fetch(seed: Store, store: Store, layout: Layout, destination: Path, **options) -> int:
    """A whole fetch; the bytes that came from `seed`."""
    intake = store.open_intake(layout, range(len(layout.files)), destination, **options)
    try:
        intake.adopt()
        fetched = pull(seed, intake)
        intake.finish()
        intake.claim()
    finally:
        intake.close()
    return fetched


def contents(root: Path) -> dict[str, bytes]:
    """Every file below a directory, hidden ones too."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def shop(tmp_path):
    workshop = Workshop(tmp_path)
    yield workshop
    workshop.close()


class Moves:
    """The functions above, for test modules, which cannot import a conftest."""

    read_chunk, pull, fetch, contents = map(staticmethod, (read_chunk, pull, fetch, contents))


@pytest.fixture
def moves():
    return Moves
