"""The only seed leaves as soon as it has sent little more than one copy: do those who stay complete each other?"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from p2pmodel.model import Layout
from p2pmodel.testing.crowd import Crowd, Member
from p2pmodel.testing.report import Line, Result, quantile, share
from simulations import figures
from simulations.crowds import SAMPLE_S, SETTLE_S, CrowdOptions, add_fetchers, fetch_all, in_crowds, notes
from simulations.scenario import Observer, Scenario, option

_LOOK_S = 0.01
"""Beyond the time that the line needs at least."""
_MARK = 0.99


@dataclass(frozen=True, kw_only=True)
class SeedLeavesOptions(CrowdOptions):
    peers: int = option(50, "Peers that fetch.", low=2, high=2_000, metavar="N")
    copies: float = option(1.1, "The seed leaves once it has sent so many copies.", low=0.1, high=100, metavar="X")
    trials: int = option(
        1, "Runs, each with a seed of its own; the scorecard asks for 1,000.", low=1, high=10_000, metavar="N"
    )
    spread: float = option(1.0, "All begin within so many seconds.", low=0, high=3600, metavar="S")
    silent: bool = option(False, "The seed loses its power; otherwise its connections are closed.")


@dataclass(slots=True)
class _Trial:
    complete: int
    lost: int
    """Chunks that nobody had when the seed was gone."""
    left_at: float
    last_at: float
    """When the last one had it all, or all had ended; both in seconds after the first began."""
    at: list[float] = field(default_factory=list)
    progress: list[list[float]] = field(default_factory=list)
    """For each peer what it had at each of these times, from 0 to 1."""
    rarest: list[float] = field(default_factory=list)
    """How many have the rarest chunk, the seed among them until it leaves."""
    distinct: list[float] = field(default_factory=list)


def run(options: SeedLeavesOptions, observer: Observer) -> Result:
    async def story(crowd: Crowd, layout: Layout) -> _Trial:
        return await _story(crowd, layout, options)

    trials, seconds = in_crowds(options, options.trials, observer, story)
    shown = next((trial for trial in trials if trial.complete < options.peers), trials[0])
    return Result(
        lines=_lines(trials, options),
        virtual_seconds=seconds,
        event_log_sha256=observer.log.sha256,
        notes=notes(options),
        series={
            "at": shown.at,
            "rarest": shown.rarest,
            "distinct": shown.distinct,
            "left": [shown.left_at],
            "trial": [float(trials.index(shown) + options.seed)],
            **{f"peer {number}": points for number, points in enumerate(shown.progress)},
        },
    )


async def _story(crowd: Crowd, layout: Layout, options: SeedLeavesOptions) -> _Trial:
    entry = await crowd.add(crowd.internet.host())
    seed = await crowd.add(crowd.internet.host())
    peers = await add_fetchers(crowd, options.peers, options.nat)
    await crowd.joined()
    await asyncio.sleep(SETTLE_S)
    await crowd.publish(seed, layout)
    await asyncio.sleep(SETTLE_S)
    began = crowd.internet.now
    trial = _Trial(0, 0, float("inf"), 0.0)

    def look(now: float) -> None:
        trial.at.append(now - began)
        held = [peer.held_bits(layout) for peer in peers]
        counts = [sum(bits >> index & 1 for bits in held) for index in range(len(layout))]
        trial.rarest.append(float(min(counts) + (trial.left_at == float("inf"))))
        trial.distinct.append(sum(count > 0 for count in counts) / len(layout))

    async def leave() -> None:
        await _sent(seed, options.copies * layout.manifest.bytes_total, crowd)
        crowd.internet.crash(seed.host, silent=options.silent)
        trial.left_at = crowd.internet.now - began
        trial.lost = len(layout) - _together(peers, layout)

    loop = asyncio.get_running_loop()
    watching = loop.create_task(crowd.watch(layout, SAMPLE_S, look))
    leaving = loop.create_task(leave())
    await fetch_all(crowd, peers, layout, options.spread)
    watching.cancel()
    leaving.cancel()
    trial.last_at = crowd.internet.now - began
    trial.complete = sum(peer.done_at is not None for peer in peers)
    trial.progress = [_progress(peer, layout, len(trial.at)) for peer in peers]
    assert not entry.held_bits(layout), "the entry node only leads into the network"
    return trial


async def _sent(seed: Member, wanted: float, crowd: Crowd) -> None:
    """Until so many bytes have left the seed's line."""
    rate = seed.host.upload.bytes_per_s or float("inf")
    while True:
        missing = wanted - seed.bytes_uploaded(crowd.internet.now)
        if missing <= 0:
            return
        await asyncio.sleep(missing / rate + _LOOK_S)


def _together(peers: list[Member], layout: Layout) -> int:
    """Chunks that at least one of these has."""
    bits = 0
    for peer in peers:
        bits |= peer.held_bits(layout)
    return bits.bit_count()


def _progress(peer: Member, layout: Layout, samples: int) -> list[float]:
    points = [held / len(layout) for _, held in peer.chunks[-samples:]]
    return points + [points[-1] if points else 0.0] * (samples - len(points))


def _lines(trials: list[_Trial], options: SeedLeavesOptions) -> list[Line]:
    whole = [trial for trial in trials if trial.complete == options.peers]
    left = [trial for trial in trials if trial.left_at != float("inf")]
    lost = [float(trial.lost) for trial in left]
    after = [trial.last_at - trial.left_at for trial in whole if trial in left]
    lines = [
        Line(
            "S5",
            f"trials in which all {options.peers} completed",
            share(len(whole), len(trials)),
            _MARK,
            unit="%",
            digits=1,
        ),
        Line(
            "S5",
            "peers that completed, all trials",
            share(sum(trial.complete for trial in trials), options.peers * len(trials)),
            unit="%",
        ),
        Line("S5", "trials in which the seed left before the end", share(len(left), len(trials)), unit="%", digits=1),
        Line("S5", "chunks that nobody had when it left, p50", quantile(lost, 0.5), digits=0),
        Line("S5", "chunks that nobody had when it left, most", quantile(lost, 1.0), digits=0),
        Line("S5", "the seed left after, p50", quantile([trial.left_at for trial in left], 0.5), unit="s", digits=1),
    ]
    if after:
        lines.append(Line("S5", "from then until the last was done, p50", quantile(after, 0.5), unit="s", digits=1))
    return lines


def plot(result: Result, options: SeedLeavesOptions, figure: Any) -> None:
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    at, left = result.series["at"], result.series["left"][0]
    together, rarest = result.series["distinct"], result.series["rarest"]
    above.set_title(f"What each peer has, in the trial with seed {result.series['trial'][0]:.0f}")
    for number in range(options.peers):
        points = [100 * part for part in result.series[f"peer {number}"]]
        above.plot(at, points, color=figures.BLUE, linewidth=0.8, alpha=0.45, label="each peer" if not number else None)
    above.plot(at, [100 * part for part in together], color=figures.ORANGE, label="all of them together")
    above.set_ylabel("chunks (%)")
    above.set_ylim(0, 103)
    if together[-1] < 1:
        lost = round((1 - together[-1]) * 100)
        above.annotate(
            f"{lost} % is lost: nobody can complete",
            (0.99, 100 * together[-1]),
            xycoords=("axes fraction", "data"),
            xytext=(0, 5),
            textcoords="offset points",
            ha="right",
            color=figures.RED,
            size=9,
        )
    below.set_title("Who has the rarest chunk, the seed included")
    below.step(at, rarest, where="post", color=figures.GREEN)
    below.set_ylim(0, max(2.2, 1.05 * max(rarest)))
    below.yaxis.get_major_locator().set_params(integer=True)
    below.set_ylabel("peers")
    below.set_xlabel("seconds after the first peer began")
    if left != float("inf"):
        for axes in (above, below):
            axes.axvline(left, color=figures.RED, linestyle="--", linewidth=1.4)
        above.annotate(
            f"the seed leaves after {options.copies:g} copies",
            (left, 4),
            xytext=(5, 0),
            textcoords="offset points",
            color=figures.RED,
            size=9,
        )
    above.legend(loc="center right")
    above.set_xlim(0, _interesting(at, result, options))


def _interesting(at: list[float], result: Result, options: SeedLeavesOptions) -> float:
    """Until a little after the last change: those who wait for what is lost wait for long."""
    changes = [result.series["left"][0]] if result.series["left"][0] != float("inf") else []
    for number in range(options.peers):
        points = result.series[f"peer {number}"]
        changes += [at[index] for index in range(1, len(at)) if points[index] != points[index - 1]][-1:]
    return min(at[-1], 1.25 * max(changes, default=at[-1]) + 1)


SCENARIO = Scenario(
    name="seed_leaves",
    summary="the only seed leaves after 1.1 copies: do the others complete each other? (S5)",
    story=(
        "Peers fetch a model from its only seed and from each other. Once the seed has sent 1.1 copies it is gone.\n"
        "What nobody has then is lost, so the seed must send distinct chunks, and whoever has one must pass it on.\n"
        "S5 asks that all 50 complete in 99 % of 1,000 trials (--trials 1000)."
    ),
    options=SeedLeavesOptions,
    run=run,
    plot=plot,
)
