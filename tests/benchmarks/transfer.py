"""One sender, one receiver, process to process on loopback: bytes verified and on disk (scorecard P1, P2, P4, P5).

All contenders send the same file, one after the other and then all over again, so that what changes on the machine
meanwhile hits them alike. The first file that each has received is compared with what was sent.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from blake3 import blake3
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES128
from cryptography.hazmat.primitives.ciphers.modes import CTR

from tests.benchmarks.contenders.bittorrent import Libtorrent
from tests.benchmarks.contenders.contender import Contender, Sample, Stage
from tests.benchmarks.contenders.ours import Ours
from tests.benchmarks.contenders.web import Nginx
from tests.benchmarks.contenders.yardstick import Yardstick
from tests.benchmarks.measure import MIB, BenchmarkError, WarmPages, peak_bytes
from tests.benchmarks.report import Line, at_least, at_most, spread, table

_GB = 1e9


def contenders() -> list[Contender]:
    return [
        Yardstick(sealed=False),
        Yardstick(sealed=True),
        Libtorrent(),
        Nginx(),
        Ours(encryption=False),
        Ours(encryption=True),
    ]


@dataclass(slots=True)
class Series:
    """All samples of one contender, and the machine's load average before each."""

    contender: Contender
    samples: list[Sample] = field(default_factory=list)
    load: list[float] = field(default_factory=list)

    def values(self, of: Callable[[Sample], float]) -> list[float]:
        return [of(sample) for sample in self.samples]


@dataclass(slots=True)
class Transfer:
    """The benchmark: `run`, then `tables`, `lines` and `as_json` say what it found."""

    size_bytes: int
    repeat: int
    only: Sequence[str]
    warm: bool
    tell: Callable[[str], None]
    series: dict[str, Series] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    idle_bytes: int = 0

    def run(self, work: Path) -> None:
        """Everything is written below `work`. Raises `BenchmarkError` where a contender fails."""
        self.idle_bytes = idle_interpreter_bytes()
        self.tell(f"writing {self.size_bytes / MIB:,.0f} MiB of random bytes to {work}")
        stage = _prepare(work, self.size_bytes)
        warm = WarmPages(work / "ballast", self.size_bytes)
        with ExitStack() as stack:
            for contender in contenders():
                self._enter(contender, stage, stack)
            for number in range(self.repeat):
                for series in self.series.values():
                    if self.warm:
                        warm.fill()
                    self._sample(series, stage, warm, check=number == 0)

    def _enter(self, contender: Contender, stage: Stage, stack: ExitStack) -> None:
        if self.only and contender.name not in self.only:
            self.missing[contender.name] = "not asked for"
            return
        if reason := contender.missing():
            self.missing[contender.name] = reason
            return
        own = stage.work / contender.name
        own.mkdir()
        stack.callback(contender.stop)
        self.tell(f"starting {contender.name}")
        contender.start(Stage(stage.model, stage.source, stage.digests, own))
        self.series[contender.name] = Series(contender)

    def _sample(self, series: Series, stage: Stage, warm: WarmPages, *, check: bool) -> None:
        destination = stage.work / "received"
        series.load.append(os.getloadavg()[0])
        try:
            with warm.released_ahead():
                sample = series.contender.transfer(destination)
            if check:
                _compare(sample.file, stage)
        except BenchmarkError as error:
            raise BenchmarkError(f"{series.contender.name}: {error}") from error
        finally:
            shutil.rmtree(destination, ignore_errors=True)
        series.samples.append(sample)
        gb = self.size_bytes / _GB
        self.tell(
            f"{series.contender.name:16}{gb / sample.seconds:6.2f} GB/s  {sample.seconds:6.2f} s  CPU s/GB receiver "
            f"{sample.receiver_cpu_s / gb:.2f} sender {sample.sender_cpu_s / gb:.2f}  "
            f"foreign CPU {sample.foreign_cpu_s:.1f} s"
        )

    # --- what it found -------------------------------------------------------------------------------------------

    def tables(self) -> list[str]:
        gb = self.size_bytes / _GB
        head = ("contender", "GB/s", "seconds", "command s", "CPU s/GB recv", "CPU s/GB send", "MiB recv", "MiB send")
        rows = []
        for name, series in self.series.items():
            walls = [sample.wall_s for sample in series.samples if sample.wall_s is not None]
            rows.append(
                (
                    name,
                    spread(series.values(lambda one: gb / one.seconds)),
                    spread(series.values(lambda one: one.seconds)),
                    spread(walls) if walls else "-",
                    spread(series.values(lambda one: one.receiver_cpu_s / gb)),
                    spread(series.values(lambda one: one.sender_cpu_s / gb)),
                    spread(series.values(lambda one: (one.receiver_peak_bytes - self.idle_bytes) / MIB), digits=0),
                    spread(series.values(lambda one: (one.sender_peak_bytes - self.idle_bytes) / MIB), digits=0),
                )
            )
        lines = table(head, rows)
        lines += [f"{name}: MISSING: {reason}" for name, reason in self.missing.items()]
        lines.append(f"MiB: most resident memory above an idle interpreter's {self.idle_bytes / MIB:.0f} MiB.")
        return lines

    def disturbance(self) -> str:
        foreign = [one.foreign_cpu_s for series in self.series.values() for one in series.samples]
        load = [each for series in self.series.values() for each in series.load]
        return f"Other programs: {spread(foreign)} CPU s during a sample; load average {spread(load)}."

    def _median(self, name: str, of: Callable[[Sample], float]) -> float | None:
        series = self.series.get(name)
        return median(series.values(of)) if series is not None and series.samples else None

    def _ratio(self, name: str, other: str) -> float | None:
        """How many times as fast `name` is as `other`."""
        mine, theirs = self._median(name, _seconds), self._median(other, _seconds)
        return theirs / mine if mine and theirs else None

    def lines(self) -> list[Line]:
        """The scorecard's lines. A ratio to a contender that is missing has no value, and is not met."""
        found = []
        for line_id, name, raw, to_libtorrent, cpu in (
            ("P1", "p2pmodel-plain", "raw", 6.0, 0.7),
            ("P2", "p2pmodel", "raw-sealed", 5.0, 1.0),
        ):
            found.append(at_least(line_id, f"{name} / libtorrent", self._ratio(name, "libtorrent"), to_libtorrent, "x"))
            found.append(at_least(line_id, f"{name} / {raw}", self._ratio(name, raw), 0.7, "x"))
            if line_id == "P1":
                found.append(
                    at_least(line_id, f"{name} / nginx + aiohttp + BLAKE3", self._ratio(name, "nginx"), 2.0, "x")
                )
            used = self._median(name, lambda one: (one.receiver_cpu_s + one.sender_cpu_s) * _GB / self.size_bytes)
            found.append(at_most("P4", f"{name}: CPU of both sides", used, cpu, "s/GB"))
        for name in ("p2pmodel-plain", "p2pmodel"):
            peak = self._median(name, lambda one: (one.receiver_peak_bytes - self.idle_bytes) / MIB)
            found.append(at_most("P5", f"{name}: receiver's memory", peak, 96.0, "MiB"))
        return found

    def as_json(self) -> dict[str, Any]:
        return {
            "benchmark": "transfer",
            "size_bytes": self.size_bytes,
            "repeat": self.repeat,
            "idle_interpreter_bytes": self.idle_bytes,
            "missing": self.missing,
            "contenders": {
                name: {
                    "what": series.contender.what,
                    "samples": [asdict(sample) | {"file": sample.file.name} for sample in series.samples],
                    "load_average": series.load,
                }
                for name, series in self.series.items()
            },
            "lines": [line.as_json() for line in self.lines()],
        }


def _seconds(sample: Sample) -> float:
    return sample.seconds


def _prepare(work: Path, size_bytes: int) -> Stage:
    """A file that looks random and is the same in every run, and the hashes of its chunks."""
    model = work / "model"
    model.mkdir()
    stage = Stage(model, model / "model.bin", work / "digests", work)
    stream = Cipher(AES128(bytes(16)), CTR(bytes(16))).encryptor()
    zeros, digests = bytes(MIB), bytearray()
    with stage.source.open("wb") as file:
        for start in range(0, size_bytes, MIB):
            block = stream.update(zeros[: min(MIB, size_bytes - start)])
            digests += blake3(block).digest()
            file.write(block)
        file.flush()
        os.fsync(file.fileno())  # or it would be written out during the first samples
    stage.digests.write_bytes(digests)
    return stage


def _compare(received: Path, stage: Stage) -> None:
    digests = stage.digests.read_bytes()
    with received.open("rb") as file:
        for at in range(0, len(digests), 32):
            if blake3(file.read(MIB)).digest() != digests[at : at + 32]:
                raise BenchmarkError(f"what it received is not what was sent, at MiB {at // 32}")
        if file.read(1):
            raise BenchmarkError("what it received is longer than what was sent")


def idle_interpreter_bytes() -> int:
    """The most memory that a Python which does nothing ever had."""
    program = [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()"]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as idle:
        assert idle.stdout is not None
        idle.stdout.readline()
        time.sleep(0.05)
        return peak_bytes(idle.pid)
