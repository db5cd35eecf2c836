"""How much of what is asked for is in a cache, by its size and policy, over the same trace: `cache` of the benchmarks.

The command that made the figure of `docs/store.md`:

    python -m tests.benchmarks cache --plot docs/cache.svg
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.benchmarks.cache.policies import POLICIES, Ours, Policy
from tests.benchmarks.cache.trace import Trace, make_trace
from tests.benchmarks.report import Line, spread, table

ACCESSES = 250_000
PARTS = (0.01, 0.03, 0.1, 0.2, 0.4)
"""Sizes of the cache, as parts of all chunks that the catalogue has."""
SPARED = "S3-FIFO, rare chunks spared"


@dataclass(frozen=True, slots=True)
class Run:
    policy: str
    part: float
    seed: int
    hits: float
    """Of all chunks that were asked for."""
    rare_kept: float
    """Of the chunks of less popular models that were ever here, how many are at the end."""
    us_per_request: float


@dataclass(slots=True)
class Sweep:
    """The benchmark: `run`, then `tables`, `lines` and `as_json`."""

    repeat: int
    say: Callable[[str], None]
    plot: Path | None = None
    accesses: int = ACCESSES
    parts: tuple[float, ...] = PARTS
    runs: list[Run] = field(default_factory=list)

    def missing(self) -> str:
        return ""

    def run(self, work: Path) -> None:
        for seed in range(1, self.repeat + 1):
            trace = make_trace(self.accesses, seed)
            for part in self.parts:
                for name in (*POLICIES, SPARED):
                    self.runs.append(_run(name, part, seed, trace))
                told = ", ".join(f"{run.policy} {run.hits:.3f}" for run in self.runs[-len(POLICIES) - 1 :])
                self.say(f"cache: seed {seed}, {part:.0%} of {trace.chunks:,} chunks: {told}")
        if self.plot is not None:
            draw(self, self.plot)

    def of(self, policy: str, part: float) -> list[Run]:
        return [run for run in self.runs if (run.policy, run.part) == (policy, part)]

    def hits(self, policy: str) -> list[float]:
        """The mean over the seeds, for each size."""
        return [sum(run.hits for run in self.of(policy, part)) / self.repeat for part in self.parts]

    def tables(self) -> list[str]:
        head = ("policy", *(f"{part:.0%}" for part in self.parts), "us/request", "rare kept")
        rows = [
            (
                name,
                *(spread([run.hits for run in self.of(name, part)], 3) for part in self.parts),
                spread([run.us_per_request for run in self.runs if run.policy == name], 1),
                spread([run.rare_kept for run in self.runs if run.policy == name], 2),
            )
            for name in (*POLICIES, SPARED)
        ]
        return table(head, rows)

    def disturbance(self) -> str:
        return "Hits do not depend on the machine; the time of a request does."

    def lines(self) -> list[Line]:
        return []

    def as_json(self) -> dict[str, Any]:
        keys = ("policy", "part", "seed", "hits", "rare_kept", "us_per_request")
        return {"accesses": self.accesses, "runs": [{key: getattr(run, key) for key in keys} for run in self.runs]}


def _run(name: str, part: float, seed: int, trace: Trace) -> Run:
    capacity, unpopular = int(trace.chunks * part), trace.unpopular
    policy: Policy = POLICIES[name](capacity) if name in POLICIES else Ours(capacity, lambda key: key in unpopular)
    began, hits = time.process_time(), 0
    for key in trace.accesses:
        hits += policy.request(key)
    spent_s = time.process_time() - began
    rare = {key for key in trace.accesses if key in unpopular}
    kept = sum(key in policy for key in rare)
    return Run(name, part, seed, hits / len(trace.accesses), kept / len(rare), 1e6 * spent_s / len(trace.accesses))


def draw(sweep: Sweep, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    from simulations.figures import BLUE, GREEN, GREY, ORANGE, PURPLE

    looks = {
        "S3-FIFO": (BLUE, "o", "-"),
        "W-TinyLFU": (ORANGE, "s", "-"),
        "ARC": (GREEN, "^", "-"),
        "LRU": (GREY, "v", "-"),
        SPARED: (PURPLE, "d", "--"),
    }
    with pyplot.rc_context({"svg.hashsalt": "p2pmodel", "font.size": 10, "axes.grid": True, "grid.color": "#E5E7EB"}):
        figure, (left, right) = pyplot.subplots(1, 2, figsize=(10.5, 4.2), layout="constrained")
        least = sweep.hits("LRU")
        for name, (color, marker, line) in looks.items():
            hits, sizes = sweep.hits(name), [100 * part for part in sweep.parts]
            left.plot(sizes, hits, color=color, marker=marker, linestyle=line, label=name)
            gains = [100 * (hit - base) for hit, base in zip(hits, least, strict=True)]
            right.plot(sizes, gains, color=color, marker=marker, linestyle=line, label=name)
        for axes in (left, right):
            axes.set_xscale("log")
            axes.set_xticks([100 * part for part in sweep.parts], [f"{part:.0%}" for part in sweep.parts])
            axes.minorticks_off()
            axes.set_xlabel("size of the cache, of all chunks in the catalogue")
            axes.spines[["top", "right"]].set_visible(False)
        left.set_title("Chunks asked for that were there", loc="left", fontsize=10, weight="bold")
        right.set_title("Percentage points more than LRU", loc="left", fontsize=10, weight="bold")
        left.legend(frameon=False)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else {"Software": None})
        pyplot.close(figure)
