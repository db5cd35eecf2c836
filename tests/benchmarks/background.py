"""The mode that yields: a transfer in the background beside a plain TCP flow on the same shaped link.

Beside it the flow must keep 85 % of what it gets alone, whoever came first; and alone the transfer must take 80 % of
the line. Either side may be the one that yields: who fetches (`fetch --background`, through a daemon that does not
yield itself) or who serves (`daemon --background`).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any, Literal

from tests.benchmarks.contenders.ours import Ours
from tests.benchmarks.measure import MIB, BenchmarkError, Child, child
from tests.benchmarks.network import Link, Network, network
from tests.benchmarks.network import missing as network_missing
from tests.benchmarks.race import prepare
from tests.benchmarks.report import Line, at_least, spread, table

LINKS = ("100mbit", "100mbit,20ms", "100mbit,80ms", "1gbit")
CONGESTION = ("cubic", "bbr")
"""Of the flow in the foreground, where the kernel has it."""
SPAN_S = 8.0
_SETTLE_S = 4.0
"""A connection needs some seconds to find out what a path carries."""
_BEGUN_BYTES = MIB
_START_TIMEOUT_S = 60.0
_KEPT, _TAKEN = 0.85, 0.8
_FLOW = Path(__file__).with_name("flow.py")

Yields = Literal["fetch", "seed"]


@dataclass(slots=True)
class Run:
    """One side that yields on one link, beside a flow with one congestion control. In bytes per second."""

    link: Link
    yields: Yields
    congestion: str
    flow_alone: list[float] = field(default_factory=list)
    flow_second: list[float] = field(default_factory=list)
    """The transfer was there first."""
    flow_first: list[float] = field(default_factory=list)
    """The transfer came while it went on."""
    transfer_alone: list[float] = field(default_factory=list)
    """On the wire, all headers counted, as the rate of the link is."""
    relayed: list[dict[str, Any]] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.link}: {self.yields} in the background, flow with {self.congestion}"

    def kept(self, beside: Sequence[float]) -> float | None:
        return median(beside) / median(self.flow_alone) if beside and self.flow_alone else None

    @property
    def taken(self) -> float | None:
        return median(self.transfer_alone) * 8 / self.link.rate_bits_per_s if self.transfer_alone else None

    def as_json(self) -> dict[str, Any]:
        lists = {name: getattr(self, name) for name in ("flow_alone", "flow_second", "flow_first", "transfer_alone")}
        return {"link": str(self.link), "yields": self.yields, "congestion": self.congestion, **lists} | {
            "relayed": self.relayed
        }


@dataclass(slots=True)
class Background:
    """The benchmark: `run`, then `tables`, `lines` and `as_json` say what it found."""

    repeat: int
    tell: Callable[[str], None]
    links: Sequence[Link]
    runs: list[Run] = field(default_factory=list)

    def missing(self) -> str:
        return network_missing()

    def run(self, work: Path) -> None:
        """Everything is written below `work`. Raises `BenchmarkError` where something does not start."""
        available = Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text().split()
        with network(work / "network.log") as path:
            for link in self.links:
                # Twice what the line carries while a transfer is watched, so that it does not end in the middle.
                size = round(link.rate_bits_per_s / 8 * 2 * (SPAN_S + _SETTLE_S)) // MIB * MIB
                for yields in ("fetch", "seed"):
                    own = work / f"{self.links.index(link)}-{yields}"
                    stage = prepare(own, size)
                    path.become(Link(10e9))
                    options = ["--background"] if yields == "seed" else []
                    ours = Ours("p2pmodel", encryption=True, options=options)
                    with ExitStack() as stack:
                        stack.callback(ours.stop)
                        ours.start(replace(stage, sending=path.sending, receiving=path.receiving), 1)
                        path.become(link)
                        for congestion in CONGESTION:
                            if congestion in available:
                                self._run(Run(link, yields, congestion), path, ours, own / "flow.log")
                    for file in own.rglob("*.bin"):
                        file.unlink()

    def _run(self, run: Run, path: Network, ours: Ours, log: Path) -> None:
        self.runs.append(run)
        options = ["--background"] if run.yields == "fetch" else []
        serve = path.sending.argv(sys.executable, _FLOW, "serve", path.sending.host, run.congestion)
        with child(serve, log) as server:
            get = path.receiving.argv(sys.executable, _FLOW, "get", path.sending.host, str(server.hear()["port"]))
            with child(get, log) as flow:
                flow.hear()
                for _ in range(self.repeat):
                    path.forget_paths()
                    run.flow_alone.append(_rate(flow.ask(for_s=SPAN_S)))
                    with self._transfer(path, ours, options):
                        time.sleep(_SETTLE_S)
                        before, began = path.received_bytes(), time.monotonic()
                        time.sleep(SPAN_S)
                        run.transfer_alone.append((path.received_bytes() - before) / (time.monotonic() - began))
                        run.flow_second.append(_rate(flow.ask(for_s=SPAN_S)))
                    run.flow_first.append(self._first(path, ours, flow, options))
                    run.relayed += path.relayed()
        self.tell(f"{run.name}: {self._told(run)}")

    def _first(self, path: Network, ours: Ours, flow: Child, options: Sequence[str]) -> float:
        """The flow has the line when the transfer comes. The time before that counts too, which is a few seconds."""
        flow.tell(for_s=SPAN_S + _SETTLE_S)
        time.sleep(_SETTLE_S / 2)
        with ours.fetching("receiver", *options):
            return _rate(flow.answer())

    @contextmanager
    def _transfer(self, path: Network, ours: Ours, options: Sequence[str]) -> Iterator[None]:
        """One that goes on until the context ends, from when its bytes come."""
        before, deadline = path.received_bytes(), time.monotonic() + _START_TIMEOUT_S
        with ours.fetching("receiver", *options):
            while path.received_bytes() - before < _BEGUN_BYTES:
                if time.monotonic() > deadline:
                    raise BenchmarkError("the transfer in the background does not begin")
                time.sleep(0.05)
            yield

    # --- what it found -------------------------------------------------------------------------------------------

    def tables(self) -> list[str]:
        head = ("link", "yields", "flow", "flow alone MB/s", "flow, second", "flow, first", "transfer alone", "late ms")
        rows = [
            (
                str(run.link),
                run.yields,
                run.congestion,
                *(
                    spread([value / 1e6 for value in values])
                    for values in (run.flow_alone, run.flow_second, run.flow_first, run.transfer_alone)
                ),
                "-" if not run.relayed else f"{1000 * max(each['late_s'] for each in run.relayed):.0f}",
            )
            for run in self.runs
        ]
        return [
            *table(head, rows),
            "second, first: beside the transfer, and who came before. A relay that was late looks like a queue: "
            "who yields then yields to nobody.",
        ]

    def disturbance(self) -> str:
        return ""

    def _told(self, run: Run) -> str:
        return "; ".join(str(line) for line in self._lines(run))

    def _lines(self, run: Run) -> list[Line]:
        found = []
        for what, share, mark in (
            ("the flow keeps, where it comes second", run.kept(run.flow_second), _KEPT),
            ("the flow keeps, where it comes first", run.kept(run.flow_first), _KEPT),
            ("the transfer alone takes", run.taken, _TAKEN),
        ):
            found.append(at_least("yield", f"{run.name}: {what}", share and 100 * share, 100 * mark, "%"))
        return found

    def lines(self) -> list[Line]:
        return [line for run in self.runs for line in self._lines(run)]

    def as_json(self) -> dict[str, Any]:
        return {
            "benchmark": "background",
            "repeat": self.repeat,
            "runs": [run.as_json() for run in self.runs],
            "lines": [line.as_json() for line in self.lines()],
        }


def _rate(answer: dict[str, Any]) -> float:
    return float(answer["bytes"] / answer["seconds"])
