"""A daemon under a flood of connections, slow half-open ones, and a million wants (scorecard M1, M2). See `inside.py`.

Needs Linux and the right to make a network namespace; without it every line says that something is missing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from p2pmodel.limits import (
    CONNECTIONS_MAX,
    CONNECTIONS_PER_GROUP_MAX,
    HALF_OPEN_MAX,
    HALF_OPEN_PER_GROUP_MAX,
)
from tests.benchmarks.measure import MIB, BenchmarkError
from tests.benchmarks.report import Line, at_most, table

_TIMEOUT_S = 900


@dataclass(slots=True)
class Flood:
    """The benchmark: `run`, then `tables`, `lines` and `as_json`."""

    tell: Callable[[str], None]
    repeat: int = 1
    connections: int = 10_000
    wants: int = 1_000_000
    settle_s: float = 60.0
    found: dict[str, dict[str, Any]] = field(default_factory=dict)

    def missing(self) -> str:
        """What it needs and has not; empty where it can run."""
        try:
            tried = subprocess.run([*_unshare(), "true"], capture_output=True, check=False).returncode
        except OSError:
            return "there is no unshare"
        return "no right to make a network namespace" if tried else ""

    def run(self, work: Path) -> None:
        self.tell(
            f"{self.connections:,} connections, {self.connections:,} slow ones, {self.wants:,} wants: six minutes"
        )
        inner = [sys.executable, "-m", "tests.benchmarks.hostile.inside"]
        options = ["--connections", str(self.connections), "--wants", str(self.wants), "--settle", str(self.settle_s)]
        done = subprocess.run(
            [*_unshare(), *inner, *options], stdout=subprocess.PIPE, timeout=_TIMEOUT_S, text=True, check=False
        )
        if done.returncode:
            raise BenchmarkError(f"the flood ended with {done.returncode}")
        self.found = json.loads(done.stdout.splitlines()[-1])

    def tables(self) -> list[str]:
        rows = [
            [part, name, _text(value)]
            for part, values in self.found.items()
            if isinstance(values, dict)
            for name, value in values.items()
            if value is not None
        ]
        return table(["part", "figure", "value"], rows) if rows else []

    def disturbance(self) -> str:
        return "load average " + ", ".join(f"{one:.1f}" for one in os.getloadavg())

    def _value(self, part: str, name: str, unit: float = 1.0) -> float | None:
        value = self.found.get(part, {}).get(name)
        return None if value is None else value / unit

    def lines(self) -> list[Line]:
        value = self._value
        places = CONNECTIONS_MAX + HALF_OPEN_MAX
        group = CONNECTIONS_PER_GROUP_MAX + HALF_OPEN_PER_GROUP_MAX
        return [
            at_most("M1", "growth under the flood", value("flood", "growth_bytes", MIB), 320, "MiB"),
            at_most("M1", "connections held, half open ones too", value("flood", "connections"), places, ""),
            at_most("M1", "of one address group", value("flood", "per_group"), group, ""),
            at_most("M1", "an honest newcomer's handshake, p99", value("flood", "handshake_p99_s"), 1.0, "s"),
            at_most("M1", "memory a minute after, to that before", value("flood", "end_ratio"), 1.1, "x"),
            at_most("M2", "slow half-open peers, the last cut", value("drip", "cut_most_s"), 10.0, "s"),
            at_most("M2", "of them never cut", value("drip", "left"), 0, ""),
            at_most("M2", "wants: growth for each peer", value("wants", "growth_per_peer_bytes", 1024), 256, "KiB"),
            at_most("M2", "wants: an honest newcomer's first answer, p99", value("wants", "answer_p99_s"), 1.0, "s"),
            at_most("M2", "memory a minute after, to that before", value("wants", "end_ratio"), 1.1, "x"),
        ]

    def as_json(self) -> dict[str, object]:
        return {**self.found, "lines": [line.as_json() for line in self.lines()]}


def _text(value: object) -> str:
    if isinstance(value, dict):  # reasons and how often each was met
        return ", ".join(f"{count:,} x {reason}" for reason, count in value.items()) or "none"
    return f"{value:,.3f}" if isinstance(value, float) else f"{value:,}"


def _unshare() -> list[str]:
    return ["unshare", "-n"] if os.geteuid() == 0 else ["unshare", "-rn"]
