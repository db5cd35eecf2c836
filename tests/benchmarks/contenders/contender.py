"""What a contender of the transfer benchmark is: one sender that stays, and a fresh receiver for each sample."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests.benchmarks.measure import Child, machine_busy_s, own_cpu_s


@dataclass(frozen=True, slots=True)
class Stage:
    """What is to be sent, and where a contender may put files of its own."""

    model: Path
    """A directory with the one file `source`."""
    source: Path
    digests: Path
    """BLAKE3 of each MiB of `source`, 32 bytes each."""
    work: Path

    @property
    def size_bytes(self) -> int:
        return self.source.stat().st_size


@dataclass(frozen=True, slots=True)
class Sample:
    """One transfer. CPU in seconds, of what was between the first and the last byte; memory in bytes, at its peak."""

    seconds: float
    sender_cpu_s: float
    receiver_cpu_s: float
    sender_peak_bytes: int
    receiver_peak_bytes: int
    file: Path
    """What was received."""
    foreign_cpu_s: float
    """What programs that do not belong to the benchmark used meanwhile."""
    wall_s: float | None = None
    """Of the whole command, where a command asked for the transfer."""
    command_cpu_s: float = 0.0
    """Of that command, beside the two that move the bytes."""


class Contender(Protocol):
    name: str
    what: str

    def missing(self) -> str:
        """Why it cannot take part; empty where it can."""

    def start(self, stage: Stage) -> None:
        """Start the sender. Whatever it has prepared is not part of any sample."""

    def transfer(self, destination: Path) -> Sample:
        """Receive everything into the new directory `destination`, verified."""

    def stop(self) -> None: ...


class Watched:
    """CPU and memory of a sender and a receiver over one transfer."""

    def __init__(self, sender: Child, receiver: Child) -> None:
        self._sender, self._receiver = sender, receiver
        self._others = machine_busy_s() - own_cpu_s()
        self._before = (sender.cpu_s(), receiver.cpu_s())

    def sample(self, seconds: float, file: Path, *, wall_s: float | None = None, command_cpu_s: float = 0.0) -> Sample:
        sender_cpu_s = self._sender.cpu_s() - self._before[0]
        receiver_cpu_s = self._receiver.cpu_s() - self._before[1]
        foreign_cpu_s = machine_busy_s() - own_cpu_s() - self._others - sender_cpu_s - receiver_cpu_s - command_cpu_s
        return Sample(
            seconds,
            sender_cpu_s,
            receiver_cpu_s,
            self._sender.peak_bytes(),
            self._receiver.peak_bytes(),
            file,
            max(foreign_cpu_s, 0.0),
            wall_s,
            command_cpu_s,
        )
