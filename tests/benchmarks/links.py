"""Shaped links between network namespaces: how much of a link is used, and how soon a small model is there.

The measure of a large model is the *share*: the time its segments need at the narrow place without a gap, against the
time the transfer took, connecting and all. The measure of 1 MiB is how many round trips it took longer than the floor,
which is the same bytes over one plain TCP connection on the same link in the same run (contender `tcp`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.benchmarks.contenders.bittorrent import Libtorrent
from tests.benchmarks.contenders.contender import ONE_TO_ONE, Contender
from tests.benchmarks.contenders.ours import Ours
from tests.benchmarks.contenders.yardstick import Yardstick
from tests.benchmarks.measure import MIB, WarmPages
from tests.benchmarks.network import Link, Network, network
from tests.benchmarks.network import missing as network_missing
from tests.benchmarks.race import Race, Series, prepare
from tests.benchmarks.report import Line, at_least, at_most, spread, table

SIZES = (MIB, 16 * MIB, 256 * MIB, 1024 * MIB)
LINKS = (
    "100mbit",
    "1gbit",
    "10gbit",
    "100mbit,80ms,1%",
    "1gbit,20ms",
    "1gbit,20ms,0.1%",
    "1gbit,80ms",
)
LONGEST_S = 5.0
"""Transfers that take longer at the very best are left out: the largest models on the narrowest links."""
TURNS_S = 30.0
"""No further turn of all contenders begins once those of one model on one link have taken this long."""
_SHARE = 0.9
_ROUND_TRIPS = 3.0
_WARM_FROM_BYTES = 64 * MIB
_NAME = "p2pmodel"


def contenders() -> list[Contender]:
    four = Yardstick("tcp-4", connections=4)
    return [Yardstick("tcp", connections=1), four, Libtorrent("libtorrent", 1), Ours(_NAME, encryption=True)]


@dataclass(slots=True)
class Run:
    """One model on one link."""

    link: Link
    race: Race
    relayed: list[dict[str, Any]] = field(default_factory=list)

    @property
    def ideal_s(self) -> float:
        return self.link.ideal_s(self.race.size_bytes)

    @property
    def latest_s(self) -> float | None:
        """How late a relay was at worst; None where the link needed none."""
        return max((each["late_s"] for each in self.relayed), default=None)

    def share(self, name: str) -> float | None:
        seconds = self.race.seconds(name)
        return self.ideal_s / seconds if seconds else None

    def round_trips_over(self, name: str) -> float | None:
        """How much later than over plain TCP, in round trips; None where the link has no latency to count in."""
        mine, floor = self.race.seconds(name), self.race.seconds("tcp")
        if mine is None or floor is None or not self.link.round_trip_s:
            return None
        return (mine - floor) / self.link.round_trip_s


@dataclass(slots=True)
class Links:
    """The benchmark: `run`, then `tables`, `lines` and `as_json` say what it found."""

    size_bytes_max: int
    repeat: int
    only: Sequence[str]
    warm: bool
    tell: Callable[[str], None]
    links: Sequence[Link]
    longest_s: float = LONGEST_S
    runs: list[Run] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def missing(self) -> str:
        return network_missing()

    def run(self, work: Path) -> None:
        """Everything is written below `work`. Raises `BenchmarkError` where a contender fails."""
        with network(work / "network.log") as path:
            for size_bytes in SIZES:
                if size_bytes <= self.size_bytes_max:
                    self._size(path, work / str(size_bytes), size_bytes)
        self.runs.sort(key=lambda run: self.links.index(run.link))

    def _size(self, path: Network, work: Path, size_bytes: int) -> None:
        links = []
        for link in self.links:
            if link.ideal_s(size_bytes) > self.longest_s:
                self.left_out.append(f"{size_bytes // MIB} MiB at {link} takes {link.ideal_s(size_bytes):.0f} s")
            else:
                links.append(link)
        if not links:
            return
        warm = WarmPages(work / "ballast", size_bytes) if self.warm and size_bytes >= _WARM_FROM_BYTES else None
        stage = replace(prepare(work, size_bytes), sending=path.sending, receiving=path.receiving)
        with ExitStack() as stack:
            path.become(Link(10e9))
            entered = Race(ONE_TO_ONE, stage, size_bytes, self.tell, warm)
            entered.enter(contenders(), self.only, stack)
            for link in links:
                self.tell(f"{size_bytes // MIB} MiB at {link}")
                path.become(link)
                series = {name: Series(one.contender) for name, one in entered.series.items()}
                run = Run(link, replace(entered, series=series))
                self.runs.append(run)
                began = time.monotonic()
                for turn in range(self.repeat):
                    if turn and time.monotonic() - began > TURNS_S:
                        break
                    for one in series.values():
                        path.forget_paths()
                        run.race.sample(one)
                        run.relayed += path.relayed()

    # --- what it found -------------------------------------------------------------------------------------------

    def tables(self) -> list[str]:
        head = (
            "link",
            "MiB",
            "at best s",
            "contender",
            "n",
            "seconds",
            "share %",
            "over tcp, round trips",
            "relay late ms",
        )
        rows = [
            (
                str(run.link),
                f"{run.race.size_bytes / MIB:g}",
                f"{run.ideal_s:.3f}",
                name,
                str(len(series.samples)),
                spread(series.values(lambda one: one.seconds), 3),
                spread(series.values(lambda one, run=run: 100 * run.ideal_s / one.seconds), 1),  # type: ignore[misc]
                "-" if (over := run.round_trips_over(name)) is None else f"{over:.1f}",
                "-" if run.latest_s is None else f"{1000 * run.latest_s:.0f}",
            )
            for run in self.runs
            for name, series in run.race.series.items()
        ]
        lines = table(head, rows)
        missing = self.runs[0].race.missing if self.runs else {}
        lines += [f"{name}: MISSING: {reason}" for name, reason in missing.items()]
        lines += [f"left out: {what} (--longest says how long a transfer may take)" for what in self.left_out]
        lines.append(
            "share: of the link's rate less headers (1448 of 1514 bytes). MiB: of the model. "
            "Congestion control as the system has it. A relay that was late by more than a few ms: measure again."
        )
        return lines

    def disturbance(self) -> str:
        samples = [one for run in self.runs for series in run.race.series.values() for one in series.samples]
        foreign = spread([sample.foreign_cpu_s for sample in samples])
        load = [value for run in self.runs for series in run.race.series.values() for value in series.load]
        return f"Other programs and the relays: {foreign} CPU s during a sample; load average {spread(load)}."

    def lines(self) -> list[Line]:
        found = []
        for run in self.runs:
            size = f"{run.race.size_bytes / MIB:g} MiB at {run.link}"
            if run.race.size_bytes > MIB:
                share = run.share(_NAME)
                found.append(at_least("link", f"{size}: share", share and 100 * share, 100 * _SHARE, "%"))
                ratio = run.race.times_as_fast(_NAME, ["tcp"])
                found.append(at_least("link", f"{size}: beside plain TCP", ratio and 100 * ratio, 100 * _SHARE, "%"))
            elif run.link.round_trip_s:
                over = run.round_trips_over(_NAME)
                found.append(at_most("link", f"{size}: over the floor", over, _ROUND_TRIPS, "round trips"))
        return found

    def as_json(self) -> dict[str, Any]:
        return {
            "benchmark": "links",
            "repeat": self.repeat,
            "left_out": self.left_out,
            "runs": [
                {
                    "link": str(run.link),
                    "rate_bits_per_s": run.link.rate_bits_per_s,
                    "round_trip_s": run.link.round_trip_s,
                    "loss": run.link.loss,
                    "ideal_s": run.ideal_s,
                    "relayed": run.relayed,
                    **run.race.as_json(),
                }
                for run in self.runs
            ],
            "lines": [line.as_json() for line in self.lines()],
        }
