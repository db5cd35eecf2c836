"""What a benchmark reads off the machine: processes of ours, their CPU and memory, and the state of the pages.

Every process that is started here is ended by its pid, whatever happens in between. `WarmPages` removes the largest
disturbance of virtual machines: pages that the guest has freed go back to the host within a second, and writing to them
again costs ten times as much (measured: 1 GiB written at 0.5 GB/s, and at 7.8 with pages that were never given back).
Anonymous memory does not help, the page cache does not take it over; so the pages are held by files.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MIB = 1024 * 1024
START_TIMEOUT_S = 60.0
ANSWER_TIMEOUT_S = 600.0
STOP_TIMEOUT_S = 15.0
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_BALLAST_FILE_BYTES = 64 * MIB
_BALLAST_LEAD_BYTES = 256 * MIB
"""Pages that lie ready ahead of the writer; more would be given back to the host before they are used."""


class BenchmarkError(Exception):
    """A contender did not do what it was started for."""


_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


def _end_with_parent() -> None:
    """In a process just forked: whatever ends the benchmark ends it too, even a `kill -9`."""
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class Child:
    """A process that says and hears lines of JSON; its stderr goes to a file that is shown where it fails."""

    def __init__(self, argv: Sequence[str | Path], log: Path) -> None:
        self._log = log
        with log.open("ab") as stderr:
            self._process = subprocess.Popen(
                [str(arg) for arg in argv],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                preexec_fn=_end_with_parent,
            )
        self._unread = b""

    @property
    def pid(self) -> int:
        return self._process.pid

    def hear(self, timeout_s: float = START_TIMEOUT_S) -> dict[str, Any]:
        """The next line it says. Raises `BenchmarkError` where it ends or stays silent."""
        assert self._process.stdout is not None
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._unread:
            ready, _, _ = select.select([self._process.stdout], [], [], max(deadline - time.monotonic(), 0.0))
            data = os.read(self._process.stdout.fileno(), 65536) if ready else b""
            if not data:
                raise BenchmarkError(f"{'it ended' if ready else 'it says nothing'}: {self._last_words()}")
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        heard: dict[str, Any] = json.loads(line)
        return heard

    def tell(self, **question: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question).encode() + b"\n")
        self._process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        return self.hear(ANSWER_TIMEOUT_S)

    def ask(self, **question: object) -> dict[str, Any]:
        self.tell(**question)
        return self.answer()

    def _last_words(self) -> str:
        return self._log.read_text(errors="replace")[-2000:].strip() or "and left no message"

    def cpu_s(self) -> float:
        """User and system time so far, of the process and of those it has started, running or ended."""
        return sum(_cpu_ticks(pid) for pid in _family(self.pid)) / _TICKS_PER_S

    def peak_bytes(self) -> int:
        """The most memory it ever had resident. `ru_maxrss` would not do: it survives fork and exec."""
        return sum(peak_bytes(pid) for pid in _family(self.pid))

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:
                    pass  # what we had not sent yet


@contextmanager
def child(argv: Sequence[str | Path], log: Path) -> Iterator[Child]:
    process = Child(argv, log)
    try:
        yield process
    finally:
        process.stop()


@dataclass(frozen=True, slots=True)
class Command:
    """A command that ran to its end."""

    stdout: str
    wall_s: float
    cpu_s: float


def run_command(argv: Sequence[str | Path], log: Path) -> Command:
    """Raises `BenchmarkError` where it fails or takes too long."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.monotonic()
    with log.open("ab") as stderr:
        try:
            done = subprocess.run(
                [str(arg) for arg in argv], stdout=subprocess.PIPE, stderr=stderr, timeout=ANSWER_TIMEOUT_S, check=True
            )
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            raise BenchmarkError(f"{error}: {log.read_text(errors='replace')[-2000:]}") from error
    wall_s = time.monotonic() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Command(done.stdout.decode(), wall_s, cpu_s)


def peak_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def _stat(pid: int) -> list[str]:
    # The second field is the program's name in brackets, which may hold anything.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _cpu_ticks(pid: int) -> int:
    fields = _stat(pid)
    return sum(int(field) for field in fields[11:15])  # its own, and that of children it has waited for


def _family(pid: int) -> list[int]:
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int(_stat(int(entry.name))[1])
            except OSError:
                continue  # it has ended meanwhile
    family = [pid]
    for member in family:
        family += [each for each, parent in parents.items() if parent == member]
    return family


def machine_busy_s() -> float:
    """CPU seconds that all programs of this machine have used since it started, interrupts and stolen time left out."""
    fields = Path("/proc/stat").read_text().partition("\n")[0].split()
    return sum(int(field) for field in fields[1:4]) / _TICKS_PER_S


def own_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


class WarmPages:
    """Holds `size_bytes` of page cache in files, and lets go of it just ahead of whoever writes."""

    def __init__(self, directory: Path, size_bytes: int) -> None:
        self._directory = directory
        count = -(-(size_bytes + _BALLAST_LEAD_BYTES) // _BALLAST_FILE_BYTES)
        self._paths = [directory / f"ballast-{number:04}" for number in range(count)]
        self._stop = threading.Event()

    def fill(self) -> None:
        """Best called right after a file of that size was deleted: then these are its pages."""
        self._directory.mkdir(exist_ok=True)
        block = b"\1" * MIB
        for path in self._paths:
            if not path.exists():
                with path.open("wb") as file:
                    for _ in range(_BALLAST_FILE_BYTES // MIB):
                        file.write(block)

    @contextmanager
    def released_ahead(self) -> Iterator[None]:
        self._stop.clear()
        releasing = threading.Thread(target=self._release)
        releasing.start()
        try:
            yield
        finally:
            self._stop.set()
            releasing.join()

    def _release(self) -> None:
        start = _cached_bytes()
        released = 0
        waiting = [path for path in self._paths if path.exists()]
        while waiting and not self._stop.is_set():
            written = _cached_bytes() - start + released
            while waiting and released < written + _BALLAST_LEAD_BYTES:
                waiting.pop().unlink()
                released += _BALLAST_FILE_BYTES
            self._stop.wait(0.003)


def _cached_bytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("Cached:"):
            return int(line.split()[1]) * 1024
    return 0
