"""Publishing: how fast a model is chunked and hashed, beside the hash that nobody can do without (scorecard P6).

SHA-256 is what people check by hand and what the hubs publish, and it is the slowest part: two threads that do nothing
else are the yardstick. Of one huge file it is sequential, so one thread of it is all that a single file can reach, and
that is what `one file` is compared with; its BLAKE3 and its reading run on the other core meanwhile.

Every contender is a process of its own with warm pages, in turns; what is timed is the work, without imports. Ours is
the whole of `Store.publish`: walk, SHA-256, BLAKE3 of chunks and file, a sync of each file, index, claim.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from tests.benchmarks.measure import BenchmarkError
from tests.benchmarks.report import Line, at_least, spread, table

_FILES = 8
_SMALL_FILES = 64
_PIECE_BYTES = 4 << 20
_BLOCK_BYTES = 1 << 20
_TIMEOUT_S = 300.0
SHAPES = ("many files", "one file")


def _sha256(threads: int) -> str:
    return f"""
import hashlib, threading
def work(mine):
    buffer = bytearray({_BLOCK_BYTES})
    for path in mine:
        whole = hashlib.sha256()
        with open(path, "rb", buffering=0) as file:
            while count := file.readinto(buffer):
                whole.update(memoryview(buffer)[:count])
paths.sort(key=os.path.getsize, reverse=True)
shares = [[] for _ in range({threads})]
for path in paths:
    min(shares, key=lambda share: sum(map(os.path.getsize, share))).append(path)
began, used = time.perf_counter(), time.process_time()
threads = [threading.Thread(target=work, args=(share,)) for share in shares]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


_OURS = """
from pathlib import Path
from p2pmodel.store import Store
store = Store.open(Path(scratch))
began, used = time.perf_counter(), time.process_time()
store.publish(Path(root))
"""
_LIBTORRENT = f"""
import libtorrent
storage = libtorrent.file_storage()
began, used = time.perf_counter(), time.process_time()
libtorrent.add_files(storage, root)
torrent = libtorrent.create_torrent(storage, {_PIECE_BYTES}, flags)
libtorrent.set_piece_hashes(torrent, os.path.dirname(root))
torrent.generate()
"""
_MODEL_SIGNING = """
from pathlib import Path
from model_signing import hashing
began, used = time.perf_counter(), time.process_time()
hashing.Config().hash(Path(root))
"""
WORK = {
    "p2pmodel": _OURS,
    "sha256, two threads": _sha256(2),
    "sha256, one thread": _sha256(1),
    "libtorrent v1": "import libtorrent; flags = libtorrent.create_torrent.v1_only\n" + _LIBTORRENT,
    "libtorrent v2": "import libtorrent; flags = libtorrent.create_torrent.v2_only\n" + _LIBTORRENT,
    "model_signing": _MODEL_SIGNING,
}
_NEEDS = {"libtorrent v1": "libtorrent", "libtorrent v2": "libtorrent", "model_signing": "model_signing"}
_FRAME = """
import os, sys, time, json
root, scratch = sys.argv[1:3]
paths = [os.path.join(at, name) for at, _, names in os.walk(root) for name in names]
{work}
seconds, cpu_s = time.perf_counter() - began, time.process_time() - used
print(json.dumps({{"seconds": seconds, "cpu_s": cpu_s}}))
os._exit(0)
"""


@dataclass(slots=True)
class Publish:
    """The benchmark: `run`, then `tables`, `lines` and `as_json`."""

    size_bytes: int
    repeat: int
    tell: Callable[[str], None]
    rates: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    """Gigabytes a second, by shape and contender."""
    cpu_s_per_gb: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    """What it costs: says the same on a busy machine, where rates say little."""

    def missing(self) -> str:
        return ""

    @property
    def _absent(self) -> list[str]:
        return [name for name in WORK if name in _NEEDS and importlib.util.find_spec(_NEEDS[name]) is None]

    def run(self, work: Path) -> None:
        """Everything is written below `work`. Raises `BenchmarkError` where a contender fails."""
        for shape in SHAPES:
            root = work / shape.replace(" ", "-")
            self.tell(f"writing {self.size_bytes:,} bytes as {shape}")
            make_model(root, self.size_bytes, _FILES if shape == "many files" else 1)
            for number in range(self.repeat):
                for name in WORK:
                    if name in self._absent:
                        continue
                    seconds, cpu_s = _timed(WORK[name], root, work / f"scratch-{shape[:3]}-{number}")
                    self.cpu_s_per_gb.setdefault((shape, name), []).append(cpu_s / self.size_bytes * 1e9)
                    self.rates.setdefault((shape, name), []).append(self.size_bytes / seconds / 1e9)
                    self.tell(f"{shape}, {number + 1} of {self.repeat}: {name} {seconds:.2f} s")
            for path in root.iterdir():
                path.unlink()

    def tables(self) -> list[str]:
        rows = []
        for name in WORK:
            measured = [of.get((shape, name), []) for shape in SHAPES for of in (self.rates, self.cpu_s_per_gb)]
            cells = ["not installed"] * 4 if name in self._absent else [spread(values) for values in measured]
            rows.append((name, *cells))
        return table(["contender", *(f"{shape} {unit}" for shape in SHAPES for unit in ("GB/s", "CPU s/GB"))], rows)

    def disturbance(self) -> str:
        return f"load average in the end: {os.getloadavg()[0]:.1f}"

    def _ratio(self, shape: str, to: str) -> float | None:
        """The median of the ratios within a turn: what disturbs the machine for longer disturbs both."""
        ours, other = self.rates.get((shape, "p2pmodel"), []), self.rates.get((shape, to), [])
        return median(a / b for a, b in zip(ours, other, strict=True)) if ours and other else None

    def lines(self) -> list[Line]:
        many, one = SHAPES
        return [
            at_least("P6", "publish, of two threads of SHA-256", self._ratio(many, "sha256, two threads"), 0.8, "x"),
            at_least("P6", "one file, of one thread of SHA-256", self._ratio(one, "sha256, one thread"), 0.8, "x"),
        ]

    def as_json(self) -> dict[str, object]:
        return {
            "size_bytes": self.size_bytes,
            "cpu_s_per_gb": [
                {"shape": at[0], "contender": at[1], "cpu_s": all_} for at, all_ in self.cpu_s_per_gb.items()
            ],
            "gb_per_s": [{"shape": key[0], "contender": key[1], "rates": rates} for key, rates in self.rates.items()],
            "not_installed": self._absent,
            "lines": [line.as_json() for line in self.lines()],
        }


def make_model(root: Path, size_bytes: int, files: int) -> None:
    """Random bytes in so many equal files, and where they are many, small ones beside them as models have."""
    root.mkdir(parents=True)
    block = os.urandom(1 << 24)
    for number in range(files):
        with (root / f"model-{number:05}.bin").open("wb") as file:
            left = size_bytes // files
            while left:
                left -= file.write(block[: min(left, len(block))])
            os.fsync(file.fileno())
    for number in range(_SMALL_FILES if files > 1 else 0):
        (root / f"config-{number}.json").write_text(json.dumps({"number": number}))


def _timed(work: str, root: Path, scratch: Path) -> tuple[float, float]:
    """Seconds of the work, and CPU seconds of its process."""
    program = _FRAME.format(work=work)
    done = subprocess.run(
        [sys.executable, "-c", program, str(root), str(scratch)], capture_output=True, text=True, timeout=_TIMEOUT_S
    )
    if done.returncode:
        raise BenchmarkError(f"a contender of `publish` failed: {done.stderr[-2000:]}")
    said = json.loads(done.stdout.splitlines()[-1])
    return float(said["seconds"]), float(said["cpu_s"])
