"""Everything in memory and on loopback: bytes verified and on disk (scorecard P1, P2, P3, P4, P5).

One sender to one receiver, four to one, one to four. Each sample writes `--size` bytes in all: each of four receivers
gets a quarter of it, so the kernel's limit on pages not yet written out is as far away as with one.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.benchmarks.contenders.bittorrent import Libtorrent
from tests.benchmarks.contenders.contender import FOUR_TO_ONE, ONE_TO_FOUR, ONE_TO_ONE, SHAPES, Contender, Shape
from tests.benchmarks.contenders.ours import Ours
from tests.benchmarks.contenders.web import Nginx
from tests.benchmarks.contenders.yardstick import Yardstick
from tests.benchmarks.measure import MIB, WarmPages, peak_bytes
from tests.benchmarks.race import GB, Race, prepare
from tests.benchmarks.report import Line, at_least, at_most, spread, table

LIBTORRENT = ("libtorrent", "libtorrent-v2")
"""A ratio is one to the faster of the two."""


def contenders() -> list[Contender]:
    return [
        Yardstick("raw"),
        Yardstick("raw-sealed", sealed=True),
        Yardstick("raw-checked", checked=True),
        Yardstick("raw-sealed-checked", sealed=True, checked=True),
        Libtorrent("libtorrent", 1),
        Libtorrent("libtorrent-v2", 2),
        Nginx("nginx"),
        Nginx("nginx-curl-blake3", "curl", "blake3"),
        Nginx("nginx-curl-sha256", "curl", "sha256"),
        Ours("p2pmodel-plain", encryption=False),
        Ours("p2pmodel", encryption=True),
    ]


@dataclass(slots=True)
class Transfer:
    """The benchmark: `run`, then `tables`, `lines` and `as_json` say what it found."""

    size_bytes: int
    repeat: int
    only: Sequence[str]
    warm: bool
    tell: Callable[[str], None]
    shapes: Sequence[Shape] = SHAPES
    races: dict[Shape, Race] = field(default_factory=dict)
    idle_bytes: int = 0

    def missing(self) -> str:
        return ""

    def run(self, work: Path) -> None:
        """Everything is written below `work`. Raises `BenchmarkError` where a contender fails."""
        self.idle_bytes = idle_interpreter_bytes()
        for shape in self.shapes:
            with ExitStack() as stack:
                directory = work / str(shape)
                size_bytes = max(self.size_bytes // shape.receivers, 1)
                self.tell(f"{shape}: writing {size_bytes / MIB:,.0f} MiB of random bytes to {directory}")
                warm = WarmPages(work / "ballast", self.size_bytes) if self.warm else None
                race = Race(shape, prepare(directory, size_bytes), size_bytes, self.tell, warm)
                race.enter(contenders(), self.only, stack)
                for _ in range(self.repeat):
                    for series in race.series.values():
                        race.sample(series)
                self.races[shape] = race

    # --- what it found -------------------------------------------------------------------------------------------

    def tables(self) -> list[str]:
        lines = []
        for shape, race in self.races.items():
            each = " to each" if shape.receivers > 1 else ""
            lines += [f"{shape.senders} -> {shape.receivers}, {race.size_bytes:,} bytes{each}", *self._table(race)]
            lines += [f"{name}: MISSING: {reason}" for name, reason in race.missing.items()]
            lines.append("")
        lines.append(
            "GB/s and CPU s/GB count what all receivers together got. "
            f"MiB: most resident memory of one process above an idle interpreter's {self.idle_bytes / MIB:.0f} MiB."
        )
        return lines

    def _table(self, race: Race) -> list[str]:
        gb = race.shape.receivers * race.size_bytes / GB
        head = ("contender", "GB/s", "seconds", "command s", "CPU s/GB recv", "CPU s/GB send", "MiB recv", "MiB send")
        rows = []
        for name, series in race.series.items():
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
        return table(head, rows)

    def disturbance(self) -> str:
        series = [each for race in self.races.values() for each in race.series.values()]
        foreign = [sample.foreign_cpu_s for each in series for sample in each.samples]
        load = [value for each in series for value in each.load]
        return f"Other programs: {spread(foreign)} CPU s during a sample; load average {spread(load)}."

    def lines(self) -> list[Line]:
        """The scorecard's lines. A ratio to a contender that is missing has no value, and is not met."""
        return [*self._one_to_one(), *self._many()]

    def _one_to_one(self) -> list[Line]:
        race = self.races.get(ONE_TO_ONE)
        if race is None:
            return []
        found = []
        for line_id, name, raw, times, cpu in (
            ("P1", "p2pmodel-plain", "raw", 6.0, 0.7),
            ("P2", "p2pmodel", "raw-sealed", 5.0, 1.0),
        ):
            found.append(at_least(line_id, f"{name} / libtorrent", race.times_as_fast(name, LIBTORRENT), times, "x"))
            found.append(at_least(line_id, f"{name} / {raw}", race.times_as_fast(name, [raw]), 0.7, "x"))
            if line_id == "P1":
                ratio = race.times_as_fast(name, ["nginx"])
                found.append(at_least(line_id, f"{name} / nginx + aiohttp + BLAKE3", ratio, 2.0, "x"))
            used = race.median(name, lambda one: (one.receiver_cpu_s + one.sender_cpu_s) * GB / self.size_bytes)
            found.append(at_most("P4", f"{name}: CPU of both sides", used, cpu, "s/GB"))
        for name in ("p2pmodel-plain", "p2pmodel"):
            peak = race.median(name, lambda one: (one.receiver_peak_bytes - self.idle_bytes) / MIB)
            found.append(at_most("P5", f"{name}: receiver's memory", peak, 96.0, "MiB"))
        return found

    def _many(self) -> list[Line]:
        found = []
        for shape, mark in ((FOUR_TO_ONE, 5.0), (ONE_TO_FOUR, 3.5)):
            race = self.races.get(shape)
            for name in ("p2pmodel-plain", "p2pmodel") if race is not None else ():
                assert race is not None
                ratio = race.times_as_fast(name, LIBTORRENT)
                found.append(at_least("P3", f"{name} / libtorrent, {shape}", ratio, mark, "x"))
        return found

    def as_json(self) -> dict[str, Any]:
        return {
            "benchmark": "transfer",
            "size_bytes": self.size_bytes,
            "repeat": self.repeat,
            "idle_interpreter_bytes": self.idle_bytes,
            "shapes": {str(shape): race.as_json() for shape, race in self.races.items()},
            "lines": [line.as_json() for line in self.lines()],
        }


def idle_interpreter_bytes() -> int:
    """The most memory that a Python which does nothing ever had."""
    program = [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()"]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as idle:
        assert idle.stdout is not None
        idle.stdout.readline()
        time.sleep(0.05)
        return peak_bytes(idle.pid)
