"""What a contender is: senders that stay, fresh receivers for each sample, and the places where both run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tests.benchmarks.measure import BenchmarkError, Child, machine_busy_s, own_cpu_s


@dataclass(frozen=True, slots=True)
class Shape:
    """How many processes send and how many receive."""

    senders: int
    receivers: int

    def __str__(self) -> str:
        return f"{self.senders}->{self.receivers}"


ONE_TO_ONE = Shape(1, 1)
FOUR_TO_ONE = Shape(4, 1)
ONE_TO_FOUR = Shape(1, 4)
SHAPES = (ONE_TO_ONE, FOUR_TO_ONE, ONE_TO_FOUR)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a process runs, and the address that it has there."""

    host: str = "127.0.0.1"
    enter: tuple[str, ...] = ()
    """A command that runs the one behind it in another network namespace, under its own process id."""

    def argv(self, *command: str | Path) -> list[str | Path]:
        return [*self.enter, *command]


@dataclass(frozen=True, slots=True)
class Stage:
    """What is to be sent, from where to where, and where a contender may put files of its own."""

    model: Path
    """A directory with the one file `source`."""
    source: Path
    digests: Path
    """BLAKE3 of each MiB of `source`, 32 bytes each."""
    work: Path
    sending: Place = Place()
    receiving: Place = Place()

    @property
    def size_bytes(self) -> int:
        return self.source.stat().st_size

    @property
    def log(self) -> Path:
        return self.work / "log"


@dataclass(frozen=True, slots=True)
class Sample:
    """One transfer, until the last receiver had everything. CPU in seconds, of all senders and of all receivers."""

    seconds: float
    sender_cpu_s: float
    receiver_cpu_s: float
    sender_peak_bytes: int
    """Resident memory at its peak, of the sender that took most."""
    receiver_peak_bytes: int
    files: tuple[Path, ...]
    """What each receiver has received."""
    foreign_cpu_s: float
    """What programs that do not belong to the benchmark used meanwhile."""
    wall_s: float | None = None
    """Of the whole command, where a command asked for the transfer."""
    command_cpu_s: float = 0.0
    """Of whoever asked, beside those that move the bytes."""


class Contender(Protocol):
    name: str
    what: str
    shapes: Sequence[Shape]

    def missing(self) -> str:
        """Why it cannot take part; empty where it can."""

    def start(self, stage: Stage, senders: int) -> None:
        """Start the senders. Whatever they have prepared is not part of any sample."""

    def transfer(self, destinations: Sequence[Path]) -> Sample:
        """A receiver for each of these new directories; return when all have everything, verified."""

    def stop(self) -> None: ...


class Watched:
    """CPU and memory of senders and receivers over one transfer."""

    def __init__(self, senders: Sequence[Child], receivers: Sequence[Child]) -> None:
        self._senders, self._receivers = senders, receivers
        self._others = machine_busy_s() - own_cpu_s()
        self._before = (_cpu_s(senders), _cpu_s(receivers))

    def sample(
        self, seconds: float, files: Sequence[Path], *, wall_s: float | None = None, command_cpu_s: float = 0.0
    ) -> Sample:
        sender_cpu_s = _cpu_s(self._senders) - self._before[0]
        receiver_cpu_s = _cpu_s(self._receivers) - self._before[1]
        foreign_cpu_s = machine_busy_s() - own_cpu_s() - self._others - sender_cpu_s - receiver_cpu_s - command_cpu_s
        return Sample(
            seconds,
            sender_cpu_s,
            receiver_cpu_s,
            max(one.peak_bytes() for one in self._senders),
            max(one.peak_bytes() for one in self._receivers),
            tuple(files),
            max(foreign_cpu_s, 0.0),
            wall_s,
            command_cpu_s,
        )


def _cpu_s(processes: Sequence[Child]) -> float:
    return sum(process.cpu_s() for process in processes)


def ask_all(receivers: Sequence[Child], questions: Sequence[dict[str, Any]]) -> float:
    """Seconds from the moment the first receiver began until the last had everything; each says both moments."""
    for receiver, question in zip(receivers, questions, strict=True):
        receiver.tell(**question)
    answers = [receiver.answer() for receiver in receivers]
    seconds: float = max(one["ended"] for one in answers) - min(one["began"] for one in answers)
    if seconds <= 0:
        raise BenchmarkError("a transfer that took no time")
    return seconds
