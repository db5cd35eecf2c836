"""A daemon with a million chunks indexed: its memory, and how soon after its start it serves (scorecard P5, R8).

`unclean` is the same after a `kill -9` in the moment when a fetch of one of the models had just given all of its files
their names, and had proven none: half a terabyte that has to be hashed before a byte of it may be said to be here.

Eight models of 125,000 chunks of 4 MiB lie on the disk as sparse files. To hash four terabytes of holes would take an
hour and prove nothing, so random digests are entered through the store's own catalogue, in the transaction that a
publication makes; only `config.json` of each model has a content that its chunk's hash fits, and a second peer fetches
one of these. A neighbour runs beside the daemon, so that it has somebody to announce its keys to.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

from p2pmodel import Peer, PeerConfig
from p2pmodel.limits import CHUNK_BYTES_LARGE
from p2pmodel.model import ChunkList, Digest, FileEntry, Layout, Manifest, PortablePath, Sha256
from p2pmodel.peer.config import NetworkConfig
from p2pmodel.store import OS_FILES
from p2pmodel.store.catalogue import Catalogue
from p2pmodel.store.copies import KeptFile
from p2pmodel.store.database import Database
from p2pmodel.store.objects import Objects
from p2pmodel.store.store import INDEX_NAME
from p2pmodel.store.values import FileState
from tests.benchmarks.measure import MIB, child, peak_bytes
from tests.benchmarks.report import Line, at_most, spread, table
from tests.benchmarks.transfer import idle_interpreter_bytes

CHUNKS = 1_000_000
_MODELS = 8
_CHUNKS_PER_FILE = 1_250
"""Files of 5 GB, as large models have."""
_SETTLE_S = 15.0
"""For how long the daemon is watched: it announces its keys to the neighbour meanwhile, which takes memory too."""
_POLL_S = 0.5
_NETWORK = "index-benchmark"


@dataclass(frozen=True, slots=True)
class Sample:
    """One start of the daemon, in seconds since its process was started and bytes."""

    ready_s: float
    served_s: float
    """Until another peer had a file of one model, its manifest and 4.5 MB of chunk lists included."""
    announced_s: float | None
    """Until every key had been given to the overlay; None where the watch was over before."""
    peak_bytes: int
    keys: int
    unproven_held: int = 0
    """Chunks that were said to be held of the model that was not proven."""


@dataclass(slots=True)
class Index:
    """The benchmark: `run`, then `tables`, `lines` and `as_json`."""

    repeat: int
    tell: Callable[[str], None]
    chunks: int = CHUNKS
    settle_s: float = _SETTLE_S
    unclean: bool = False
    samples: list[Sample] = field(default_factory=list)
    idle_bytes: int = 0
    index_bytes: int = 0

    def missing(self) -> str:
        return ""

    def run(self, work: Path) -> None:
        """Everything is written below `work`. Raises `BenchmarkError` where the daemon fails."""
        self.idle_bytes = idle_interpreter_bytes()
        data_dir = work / "data"
        self.tell(f"indexing {self.chunks:,} chunks below {work}")
        model_ids = make_index(data_dir, work / "models", self.chunks, unclean=self.unclean)
        self.index_bytes = sum(path.stat().st_size for path in data_dir.iterdir())
        with child(_daemon(work / "neighbour"), work / "neighbour.log") as neighbour:
            entry = str(neighbour.hear()["listen"])
            for number in range(self.repeat):
                self.tell(f"start {number + 1} of {self.repeat}")
                self.samples.append(self._sample(work, data_dir, model_ids, entry))

    def _sample(self, work: Path, data_dir: Path, model_ids: list[str], entry: str) -> Sample:
        began = time.monotonic()
        with child([*_daemon(data_dir), "--bootstrap", entry], work / "daemon.log") as daemon:
            listen = str(daemon.hear()["listen"])
            ready_s = time.monotonic() - began
            held = asyncio.run(_held(data_dir, model_ids[-1]))
            served_s = asyncio.run(_fetch_one(work / "client", model_ids[0], listen)) - began
            announced_s, keys = asyncio.run(_until_announced(data_dir, self._provable, began))
            time.sleep(max(began + self.settle_s - time.monotonic(), 0.0))
            shutil.rmtree(work / "client")
            held = max(held, asyncio.run(_held(data_dir, model_ids[-1])))
            return Sample(ready_s, served_s, announced_s, peak_bytes(daemon.pid), keys, held if self.unclean else 0)

    @property
    def _provable(self) -> int:
        return self.chunks * (_MODELS - 1) // _MODELS if self.unclean else self.chunks

    def tables(self) -> list[str]:
        def column(of: Callable[[Sample], float], digits: int = 2) -> str:
            return spread([of(sample) for sample in self.samples], digits)

        told = [sample.announced_s for sample in self.samples if sample.announced_s is not None]
        row = (
            f"{self.chunks:,}",
            column(lambda sample: sample.ready_s),
            column(lambda sample: sample.served_s),
            spread(told, 1),
            column(lambda sample: (sample.peak_bytes - self.idle_bytes) / MIB, 0),
        )
        return table(["chunks", "ready s", "first file served s", "keys in the overlay s", "memory MiB"], [row])

    def disturbance(self) -> str:
        return f"index on disk: {self.index_bytes / MIB:,.0f} MiB; idle interpreter: {self.idle_bytes / MIB:.0f} MiB"

    def lines(self) -> list[Line]:
        memory = median(sample.peak_bytes - self.idle_bytes for sample in self.samples) / MIB
        served = median(sample.served_s for sample in self.samples)
        if self.unclean:
            held = max(sample.unproven_held for sample in self.samples)
            return [
                at_most("R8", f"memory, {self.chunks:,} chunks, unclean", memory, 300, "MiB"),
                at_most("R8", "first bytes served after an unclean stop", served, 5, "s"),
                at_most("R8", "chunks said to be here that nobody has proven", held, 1, "(config.json's own)"),
            ]
        return [
            at_most("P5", f"memory of a daemon with {self.chunks:,} chunks", memory, 300, "MiB"),
            at_most("P5", f"first bytes served, {self.chunks:,} chunks", served, 5, "s"),
        ]

    def as_json(self) -> dict[str, object]:
        return {
            "chunks": self.chunks,
            "idle_bytes": self.idle_bytes,
            "index_bytes": self.index_bytes,
            "samples": [asdict(sample) for sample in self.samples],
            "lines": [line.as_json() for line in self.lines()],
        }


def make_index(data_dir: Path, models: Path, chunks: int, *, unclean: bool = False) -> list[str]:
    """Enter models of `chunks` chunks in all into a new data directory; returns their ids.

    `unclean`: nothing of the last one is proven.
    """
    data_dir.mkdir(mode=0o700)
    database = Database(data_dir / INDEX_NAME, OS_FILES)
    objects, catalogue = Objects(database), Catalogue(database)
    ids = []
    for number in range(_MODELS):
        root = models / f"model-{number}"
        root.mkdir(parents=True)
        layout = _make_model(root, chunks // _MODELS)
        last = unclean and number == _MODELS - 1
        state = FileState.PLACED if last else FileState.PROVEN
        kept = []
        for index, file in enumerate(layout.files):
            location = root / file.path.text
            status = OS_FILES.status(location)
            assert status is not None
            kept.append(KeptFile(index, layout.chunks_of(index), location, state, status.identity))
        with database.transaction() as writer:
            objects.put_layout(writer, layout)
            copy = catalogue.create(writer, layout, root, "fetched" if last else "published")
            catalogue.save_files(writer, copy, kept)
            catalogue.save_have(writer, copy, layout.have_map().bits, clean=not last)
        ids.append(layout.model_id.hex)
    database.close()
    return ids


def _make_model(root: Path, chunks: int) -> Layout:
    content = f'{{"model": "{root.name}"}}'.encode()
    (root / "config.json").write_bytes(content)
    entries = {"config.json": (len(content), ChunkList.of([(Digest.of(content), len(content))]), Digest.of(content))}
    for number, count in enumerate(_shares(chunks - 1)):
        name = f"model-{number:05}.bin"
        with (root / name).open("wb") as file:
            file.truncate(count * CHUNK_BYTES_LARGE)
        digests = os.urandom(32 * count)
        listed = ChunkList.of((Digest(digests[at : at + 32]), CHUNK_BYTES_LARGE) for at in range(0, 32 * count, 32))
        entries[name] = (count * CHUNK_BYTES_LARGE, listed, Digest(os.urandom(32)))
    files = [
        FileEntry(PortablePath(name), size, digest, Sha256(os.urandom(32)), len(listed), listed.digest)
        for name, (size, listed, digest) in entries.items()
    ]
    manifest = Manifest.of(files)
    return Layout(manifest, [entries[file.path.text][1] for file in manifest.files])


def _shares(count: int) -> Iterator[int]:
    while count > 0:
        yield min(count, _CHUNKS_PER_FILE)
        count -= _CHUNKS_PER_FILE


def _daemon(data_dir: Path) -> list[str | Path]:
    network = data_dir.with_suffix(".toml")
    network.write_text(f'name = "{_NETWORK}"\nprofile = "cluster"\n')
    command = [sys.executable, "-m", "p2pmodel", "daemon", "--json", "--listen", "127.0.0.1:0", "--http", "off"]
    return [*command, "--data-dir", data_dir, "--network", network]


async def _fetch_one(data_dir: Path, model_id: str, listen: str) -> float:
    """Returns when the file was there, on the monotonic clock."""
    config = PeerConfig(
        data_dir=data_dir, listen="127.0.0.1:0", http=None, network=NetworkConfig(name=_NETWORK, profile="cluster")
    )
    async with Peer(config) as peer:
        await peer.fetch(model_id, files=["config.json"], peers=[listen], to=data_dir / "fetched")
        return time.monotonic()


async def _until_announced(data_dir: Path, chunks: int, began: float) -> tuple[float | None, int]:
    from p2pmodel.peer.client import find_daemon

    daemon = await find_daemon(data_dir)
    assert daemon is not None
    try:
        while True:
            keys, elapsed = (await daemon.status()).keys_announced, time.monotonic() - began
            if keys >= chunks:
                return elapsed, keys
            if elapsed > _SETTLE_S:
                return None, keys
            await asyncio.sleep(_POLL_S)
    finally:
        await daemon.close()


async def _held(data_dir: Path, model_id: str) -> int:
    """How many chunks of a model the daemon says to hold."""
    from p2pmodel.peer.client import find_daemon

    daemon = await find_daemon(data_dir)
    assert daemon is not None
    try:
        return next(model.chunks_held for model in await daemon.models() if model.model_id == model_id)
    finally:
        await daemon.close()
