"""Contenders on one stage, sampled in turns, so that what changes on the machine meanwhile hits them alike."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from blake3 import blake3
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES128
from cryptography.hazmat.primitives.ciphers.modes import CTR

from tests.benchmarks.contenders.contender import Contender, Sample, Shape, Stage
from tests.benchmarks.measure import MIB, BenchmarkError, WarmPages

GB = 1e9


@dataclass(slots=True)
class Series:
    """All samples of one contender, and the machine's load average before each."""

    contender: Contender
    samples: list[Sample] = field(default_factory=list)
    load: list[float] = field(default_factory=list)

    def values(self, of: Callable[[Sample], float]) -> list[float]:
        return [of(sample) for sample in self.samples]

    def as_json(self) -> dict[str, Any]:
        samples = [asdict(sample) for sample in self.samples]
        for sample in samples:
            del sample["files"]
        return {"what": self.contender.what, "samples": samples, "load_average": self.load}


@dataclass(slots=True)
class Race:
    """`enter` the contenders, then `sample` each as often as wanted. What each has received first is compared."""

    shape: Shape
    stage: Stage
    size_bytes: int
    """Of what is sent to each receiver."""
    tell: Callable[[str], None]
    warm: WarmPages | None = None
    series: dict[str, Series] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def enter(self, contenders: Sequence[Contender], only: Sequence[str], stack: ExitStack) -> None:
        """`stack` stops them. Raises `BenchmarkError` where one cannot start."""
        for contender in contenders:
            if self.shape not in contender.shapes:
                continue
            reason = "not asked for" if only and contender.name not in only else contender.missing()
            if reason:
                self.missing[contender.name] = reason
                continue
            own = self.stage.work / contender.name
            own.mkdir(parents=True)
            stack.callback(contender.stop)
            self.tell(f"starting {contender.name}")
            contender.start(replace(self.stage, work=own), self.shape.senders)
            self.series[contender.name] = Series(contender)

    def sample(self, series: Series) -> Sample:
        if self.warm is not None:
            self.warm.fill()
        received = self.stage.work / "received"
        destinations = [received / str(number) for number in range(self.shape.receivers)]
        series.load.append(os.getloadavg()[0])
        try:
            if self.warm is not None:
                with self.warm.released_ahead():
                    sample = series.contender.transfer(destinations)
            else:
                sample = series.contender.transfer(destinations)
            for file in sample.files if not series.samples else ():
                compare(file, self.stage)
        except BenchmarkError as error:
            raise BenchmarkError(f"{series.contender.name}: {error}") from error
        finally:
            shutil.rmtree(received, ignore_errors=True)
        series.samples.append(sample)
        self._tell(series.contender.name, sample)
        return sample

    def _tell(self, name: str, sample: Sample) -> None:
        gb = self.shape.receivers * self.size_bytes / GB
        self.tell(
            f"{self.shape!s:5}{name:20}{gb / sample.seconds:8.3f} GB/s {sample.seconds:8.3f} s  CPU s/GB receiver "
            f"{sample.receiver_cpu_s / gb:.2f} sender {sample.sender_cpu_s / gb:.2f}  "
            f"foreign CPU {sample.foreign_cpu_s:.1f} s"
        )

    def median(self, name: str, of: Callable[[Sample], float]) -> float | None:
        series = self.series.get(name)
        return median(series.values(of)) if series is not None and series.samples else None

    def seconds(self, name: str) -> float | None:
        return self.median(name, lambda sample: sample.seconds)

    def times_as_fast(self, name: str, others: Sequence[str]) -> float | None:
        """How many times as fast `name` is as the fastest of the others; None where none of them took part."""
        mine = self.seconds(name)
        theirs = [seconds for other in others if (seconds := self.seconds(other)) is not None]
        return min(theirs) / mine if mine and theirs else None

    def as_json(self) -> dict[str, Any]:
        return {
            "size_bytes": self.size_bytes,
            "missing": self.missing,
            "contenders": {name: series.as_json() for name, series in self.series.items()},
        }


def prepare(work: Path, size_bytes: int) -> Stage:
    """A file that looks random and is the same in every run, and the hashes of its MiB."""
    model = work / "model"
    model.mkdir(parents=True)
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


def compare(received: Path, stage: Stage) -> None:
    """Raises `BenchmarkError` where the file is not what was sent."""
    digests = stage.digests.read_bytes()
    with received.open("rb") as file:
        for at in range(0, len(digests), 32):
            if blake3(file.read(MIB)).digest() != digests[at : at + 32]:
                raise BenchmarkError(f"what it received is not what was sent, at MiB {at // 32}")
        if file.read(1):
            raise BenchmarkError("what it received is longer than what was sent")
