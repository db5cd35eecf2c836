"""One seed, and many hosts that want the same model within the same second."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from p2pmodel.model import Layout
from p2pmodel.testing.crowd import Crowd, Member
from p2pmodel.testing.report import Line, Result, quantile, share
from simulations import figures
from simulations.crowds import SAMPLE_S, SETTLE_S, CrowdOptions, add_fetchers, fetch_all, in_crowd, notes
from simulations.scenario import Observer, Scenario, option
from simulations.towns import steps

_P50, _P99, _COPIES = 1.2, 1.5, 1.2


@dataclass(frozen=True, kw_only=True)
class FlashCrowdOptions(CrowdOptions):
    peers: int = option(50, "Hosts that fetch; the scorecard asks for 2,600.", low=2, high=20_000, metavar="N")
    size: str = option("3GB", "Of the model, as in 3GB or 512MiB.", metavar="SIZE")
    chunk: str = option("4MiB", "Of a chunk; a model of 3 GB is published with 1MiB.", metavar="SIZE")
    up: str = option("300MB/s", "Of each host's line; the model's bytes alone are counted.", metavar="RATE")
    down: str = option("300MB/s", "Of each host's line.", metavar="RATE")
    latency_low: float = option(0.1, "Shortest path, one way, in ms.", low=0, high=10_000, metavar="MS")
    latency_high: float = option(1.0, "Longest path, one way, in ms.", low=0, high=10_000, metavar="MS")
    spread: float = option(1.0, "All begin within so many seconds.", low=0, high=3600, metavar="S")


@dataclass(slots=True)
class _Found:
    lines: list[Line] = field(default_factory=list)
    series: dict[str, list[float]] = field(default_factory=dict)


def run(options: FlashCrowdOptions, observer: Observer) -> Result:
    async def story(crowd: Crowd, layout: Layout) -> _Found:
        return await _story(crowd, layout, options, observer)

    found, seconds = in_crowd(options, options.seed, observer.log, story)
    return Result(
        lines=found.lines,
        virtual_seconds=seconds,
        event_log_sha256=observer.log.sha256,
        notes=notes(options),
        series=found.series,
    )


async def _story(crowd: Crowd, layout: Layout, options: FlashCrowdOptions, observer: Observer) -> _Found:
    observer.progress("joining")
    seed = await crowd.add(crowd.internet.host())
    hosts = await add_fetchers(crowd, options.peers, options.nat)
    await crowd.joined()
    await asyncio.sleep(SETTLE_S)
    await crowd.publish(seed, layout)
    await asyncio.sleep(SETTLE_S)
    size, began = layout.manifest.bytes_total, crowd.internet.now
    datagram_bytes = crowd.internet.datagram_bytes
    copies: list[tuple[float, float]] = []

    def look(now: float) -> None:
        copies.append((now - began, seed.bytes_uploaded(now) / size))
        done = sum(host.done_at is not None for host in hosts)
        percent = 100 * sum(host.chunks[-1][1] for host in hosts) / (len(hosts) * len(layout))
        observer.progress(f"fetching: {done:,} of {len(hosts):,} hosts are done, {percent:.1f} % is there")

    watching = asyncio.get_running_loop().create_task(crowd.watch(layout, SAMPLE_S, look))
    await fetch_all(crowd, hosts, layout, options.spread)
    watching.cancel()
    floor_s = size / min(options.up_bytes_per_s, options.down_bytes_per_s)
    ratios = [host.took_s / floor_s if host.took_s is not None else float("inf") for host in hosts]
    found = _Found(_lines(hosts, seed, ratios, size))
    found.lines.append(
        Line("P9", "overlay, a host", (crowd.internet.datagram_bytes - datagram_bytes) / len(hosts) / 1e6, unit="MB")
    )
    found.lines.append(
        Line("P9", "requests, have-maps and such, a host", crowd.message_bytes(hosts) / len(hosts) / 1e6, unit="MB")
    )
    found.series = {
        "ratio": [ratio for ratio in ratios if ratio != float("inf")],
        "at": [at for at, _ in copies],
        "copies": [count for _, count in copies],
        "floor": [floor_s],
    }
    return found


def _lines(hosts: list[Member], seed: Member, ratios: list[float], size: int) -> list[Line]:
    wasted = sum(host.report.bytes_wasted for host in hosts if host.report is not None)
    links = [float(host.links_max) for host in hosts]
    return [
        Line(
            "P9",
            "hosts that have all of it",
            share(sum(host.done_at is not None for host in hosts), len(hosts)),
            1.0,
            unit="%",
        ),
        Line("P9", "time over size / bandwidth, p50", quantile(ratios, 0.5), _P50, at_most=True),
        Line("P9", "time over size / bandwidth, p99", quantile(ratios, 0.99), _P99, at_most=True),
        Line("P9", "copies that the seed sent", seed.host.upload.bytes_carried / size, _COPIES, at_most=True),
        Line("P9", "bytes that came twice", wasted / (size * len(hosts)), unit="%"),
        Line("P9", "connections of a host, p50", quantile(links, 0.5), digits=0),
        Line("P9", "connections of a host, most", quantile(links, 1.0), digits=0),
    ]


def plot(result: Result, options: FlashCrowdOptions, figure: Any) -> None:
    left, right = figure.subplots(1, 2)
    left.set_title("When each host has it all")
    ratios = result.series["ratio"]
    if ratios:
        x, y = steps(ratios)
        left.step(
            [1.0, *x, max(2.0, x[-1])],
            [0, *(100 * part * len(x) / options.peers for part in y), 100 * len(x) / options.peers],
            where="post",
            color=figures.BLUE,
        )
    left.axvline(1.0, color=figures.GREY, linewidth=1.4)
    left.annotate(
        "floor",
        (1.0, 0.98),
        xycoords=("data", "axes fraction"),
        xytext=(-4, 0),
        textcoords="offset points",
        rotation=90,
        ha="right",
        va="top",
        color=figures.GREY,
        size=9,
    )
    figures.mark(left, _P50, f"P9: half within {_P50:g}", vertical=True)
    figures.mark(left, _P99, f"P9: 99 % within {_P99:g}", vertical=True)
    left.set_xlim(0.9, max([1.65, *(1.03 * ratio for ratio in ratios)]))
    left.set_ylim(0, 101)
    left.set_xlabel("time over size / bandwidth")
    left.set_ylabel("hosts (%)")
    right.set_title("What the seed has sent")
    floor_s = result.series["floor"][0]
    right.plot(result.series["at"], result.series["copies"], color=figures.ORANGE)
    figures.mark(right, _COPIES, f"P9: at most {_COPIES:g} copies")
    most = max(result.series["copies"])
    right.plot([0, floor_s * most], [0, most], ":", color=figures.GREY, label="as fast as its line allows")
    right.legend(loc="lower right")
    right.set_ylim(0, None)
    right.set_xlim(0, None)
    right.set_xlabel("seconds after the first host began")
    right.set_ylabel("copies of the model")


SCENARIO = Scenario(
    name="flash_crowd",
    summary="one seed, and many hosts that want 3 GB within the same second (P9)",
    story=(
        "A cluster's daemons have joined; one of them has a model, and within a second all others fetch it.\n"
        "Measured: when each has all of it, over the time that its line would need at least; what the seed had to\n"
        "send; what finding and telling cost. P9 asks for 2,600 hosts with 3 GB at 300 MB/s each way."
    ),
    options=FlashCrowdOptions,
    run=run,
    plot=plot,
)
