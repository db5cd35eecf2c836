"""A temporary directory on the real disk and on the simulated one, and the moves that most stories are made of.

Every test runs on both, except where it is marked to need the one or the other.
"""

from __future__ import annotations

import io
import os
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from p2pmodel.model import Digest, Layout
from p2pmodel.store import OS_FILES, Files, Intake, Published, Store
from p2pmodel.testing.disk import SimDisk

MIB = 1024 * 1024


class SimPath(PurePosixPath):
    """What the stories do with a `Path`, done on a simulated disk. Each disk has a class of its own."""

    disk: ClassVar[SimDisk]

    def read_bytes(self) -> bytes:
        return self.disk.read_file(self)

    def write_bytes(self, data: bytes) -> None:
        self.disk.write_file(self, data)

    def exists(self) -> bool:
        return self.disk.status(self) is not None

    def is_file(self) -> bool:
        status = self.disk.status(self)
        return status is not None and status.kind == "file"

    def is_dir(self) -> bool:
        status = self.disk.status(self)
        return status is not None and status.kind == "directory"

    def is_symlink(self) -> bool:
        return any(entry.name == self.name and entry.target for entry in self.disk.entries(self.parent))

    def stat(self) -> SimpleNamespace:
        status = self.disk.status(self)
        assert status is not None
        mark = status.identity
        return SimpleNamespace(st_size=mark.size, st_mtime_ns=mark.mtime_ns, st_atime_ns=0, st_ino=mark.inode)

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        self.disk.make_directories(self)

    def iterdir(self) -> Iterator[SimPath]:
        return (self / entry.name for entry in self.disk.entries(self))

    def rglob(self, pattern: str) -> Iterator[SimPath]:
        found = [self / name for name in self.disk.tree(self)]
        folders = [folder for path in found for folder in path.parents if self in folder.parents]
        return (path for path in dict.fromkeys([*found, *folders]) if path.match(pattern))

    def glob(self, pattern: str) -> Iterator[SimPath]:
        return (path for path in self.iterdir() if path.match(pattern))

    def unlink(self, missing_ok: bool = False) -> None:
        self.disk.remove(self)

    def rename(self, target: SimPath) -> None:
        self.disk.rename(self, target)

    replace = rename

    def symlink_to(self, target: object) -> None:
        self.disk.make_special(self, "link", str(target))

    def open(self, mode: str) -> _Opened:
        return _Opened(self, mode)


class _Opened(io.BytesIO):
    """An open file of another program; what it wrote is there when it is closed."""

    def __init__(self, path: SimPath, mode: str) -> None:
        super().__init__(b"" if mode == "wb" else path.read_bytes())
        self._path = path
        self.seek(0, io.SEEK_END if mode == "ab" else io.SEEK_SET)

    def close(self) -> None:
        if not self.closed:
            self._path.write_bytes(self.getvalue())
        super().close()


def pytest_configure(config):
    config.addinivalue_line("markers", "real_disk: tests the real disk alone (processes, rights, descriptors)")
    config.addinivalue_line("markers", "simulated_disk: tests what only a simulated disk can do")


def pytest_collection_modifyitems(items):
    unwanted = {"real": "simulated_disk", "simulated": "real_disk"}
    items[:] = [
        item
        for item in items
        if not hasattr(item, "callspec")
        or item.get_closest_marker(unwanted.get(item.callspec.params.get("disk_kind"), "")) is None
    ]


@pytest.fixture(params=["real", "simulated"])
def disk_kind(request):
    return request.param


@pytest.fixture
def tmp_path(disk_kind, tmp_path_factory):
    if disk_kind == "real":
        yield tmp_path_factory.mktemp("store")
        return
    with SimDisk(random.Random(1)) as disk:
        here = type("SimPath", (SimPath,), {"disk": disk})("/here")
        here.mkdir()
        yield here


def files_of(path: Any) -> Files:
    return path.disk if isinstance(path, SimPath) else OS_FILES


@pytest.fixture
def files(tmp_path) -> Files:
    """The seam to the disk that the test runs on."""
    return files_of(tmp_path)


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
        store = Store.open(self.base / name, **{"files": files_of(self.base), **options})
        self._stores.append(store)
        return store

    def abandon(self, store: Store) -> None:
        """What is left of a store when its process dies: the descriptors go, and nothing else happens."""
        store._database.close()
        for intake in store._intakes.now:
            intake._open.close()
            intake._destination._partials.close()
            intake._destination._directory.close()
        store._server.open_files.close()
        store._pool.close()
        self._stores.remove(store)

    def published(self, files: Mapping[str, bytes] | None = None, name: str = "source") -> tuple[Store, Published]:
        seed = self.store(f"{name}-data")
        published = seed.publish(self.tree(name, self.model_files() if files is None else files))
        return seed, replace(published, path=type(self.base)(published.path))

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


def mkfifo(path: Any) -> None:
    if isinstance(path, SimPath):
        path.disk.make_special(path, "pipe")
    else:
        os.mkfifo(path)


def truncate(path: Any, size: int) -> None:
    data = path.read_bytes()
    with path.open("r+b") as file:
        file.truncate(size)
    assert path.read_bytes() == data[:size]


def touch(path: Any) -> None:
    """Only its time is another one."""
    if isinstance(path, SimPath):
        path.write_bytes(path.read_bytes())
    else:
        os.utime(path)


def damage(path: Any, offset: int = 0, data: bytes = b"rot") -> None:
    """Other bytes under the same marks, as when a sector goes bad."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)
    if isinstance(path, SimPath):
        path.disk.names.find(Path(path)).mtime_ns = before.st_mtime_ns
    else:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.fixture
def shop(tmp_path):
    workshop = Workshop(tmp_path)
    yield workshop
    workshop.close()


class Moves:
    """The functions above, for test modules, which cannot import a conftest."""

    read_chunk, pull, fetch, contents = map(staticmethod, (read_chunk, pull, fetch, contents))
    mkfifo, truncate, touch, damage = map(staticmethod, (mkfifo, truncate, touch, damage))


@pytest.fixture
def moves():
    return Moves
