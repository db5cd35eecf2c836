"""A part of the peers takes upload slots and gives nothing, or does not even read. What does it cost the others?"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from p2pmodel.model import Layout
from p2pmodel.testing.crowd import Crowd
from p2pmodel.testing.report import Line, Result, quantile, share
from p2pmodel.testing.thieves import Theft, add_thief
from simulations import figures
from simulations.crowds import SETTLE_S, CrowdOptions, add_fetchers, fetch_all, in_crowd, notes
from simulations.scenario import Observer, Scenario, option

_SLOWDOWN = 1.25
_KINDS = {"deaf": (Theft.DEAF,), "greedy": (Theft.GREEDY,), "both": (Theft.DEAF, Theft.GREEDY)}


@dataclass(frozen=True, kw_only=True)
class SlotThievesOptions(CrowdOptions):
    peers: int = option(32, "Peers, thieves and the one seed among them.", low=4, high=500, metavar="N")
    thieves: float = option(0.1, "Part of the peers that takes and gives nothing.", low=0, high=0.9, metavar="PART")
    kind: str = option("both", "deaf: does not read; greedy: reads all it can; both.", choices=tuple(_KINDS))
    trials: int = option(1, "Runs, each with a seed of its own.", low=1, high=10_000, metavar="N")
    spread: float = option(1.0, "All begin within so many seconds.", low=0, high=3600, metavar="S")

    @property
    def thief_count(self) -> int:
        return min(max(round(self.thieves * self.peers), 1), self.peers - 2)


@dataclass(slots=True)
class _Trial:
    times: list[float]
    fetching: int
    taken: float
    """Bytes that one thief took, in copies of the model, mean."""

    @property
    def mean_s(self) -> float:
        return sum(self.times) / len(self.times) if len(self.times) == self.fetching else float("inf")


def run(options: SlotThievesOptions, observer: Observer) -> Result:
    robbed: list[_Trial] = []
    honest: list[_Trial] = []
    seconds = 0.0
    for number in range(options.trials):
        for thieves, into in ((options.thief_count, robbed), (0, honest)):
            observer.progress(f"trial {number + 1} of {options.trials}, {'with' if thieves else 'without'} thieves")

            async def story(crowd: Crowd, layout: Layout, thieves: int = thieves) -> _Trial:
                return await _story(crowd, layout, options, thieves)

            trial, took_s = in_crowd(options, options.seed + number, observer.log, story)
            into.append(trial)
            seconds += took_s
    slower = [thieved.mean_s / without.mean_s for thieved, without in zip(robbed, honest, strict=True)]
    return Result(
        lines=_lines(robbed, slower, options),
        virtual_seconds=seconds,
        event_log_sha256=observer.log.sha256,
        notes=[
            f"{options.thief_count} of {options.peers} peers are thieves, one honest peer is the seed, the others "
            "fetch; the same without the thieves for comparison.",
            *notes(options),
        ],
        series={
            "slower": slower,
            "times robbed": sorted(time for trial in robbed for time in trial.times),
            "times honest": sorted(time for trial in honest for time in trial.times),
        },
    )


async def _story(crowd: Crowd, layout: Layout, options: SlotThievesOptions, thief_count: int) -> _Trial:
    seed = await crowd.add(crowd.internet.host())
    peers = await add_fetchers(crowd, options.peers - options.thief_count - 1, options.nat)
    kinds = _KINDS[options.kind]
    thieves = [await add_thief(crowd, kinds[number % len(kinds)], layout) for number in range(thief_count)]
    await crowd.joined()
    await asyncio.sleep(SETTLE_S)
    await crowd.publish(seed, layout)
    await asyncio.sleep(SETTLE_S)
    for thief in thieves:
        for victim in (seed, *peers):
            thief.rob(victim)
    await fetch_all(crowd, peers, layout, options.spread)
    taken = sum(thief.bytes_taken for thief in thieves) / max(len(thieves), 1) / layout.manifest.bytes_total
    return _Trial([peer.took_s for peer in peers if peer.took_s is not None], len(peers), taken)


def _lines(robbed: list[_Trial], slower: list[float], options: SlotThievesOptions) -> list[Line]:
    fetching = sum(trial.fetching for trial in robbed)
    return [
        Line(
            "S7",
            "honest peers that completed",
            share(sum(len(trial.times) for trial in robbed), fetching),
            1.0,
            unit="%",
        ),
        Line(
            "S7",
            "mean time over the same without thieves, p50",
            quantile(slower, 0.5),
            _SLOWDOWN,
            True,
        ),
        Line("S7", "the same, the worst trial", quantile(slower, 1.0)),
        Line("S7", "copies that a thief took, mean", sum(trial.taken for trial in robbed) / len(robbed)),
    ]


def plot(result: Result, options: SlotThievesOptions, figure: Any) -> None:
    axes = figure.subplots()
    axes.set_title("When each honest peer has it all")
    for which, colour, words in (
        ("honest", figures.BLUE, "without thieves"),
        ("robbed", figures.ORANGE, f"{options.thief_count} of {options.peers} are thieves ({options.kind})"),
    ):
        times = result.series[f"times {which}"]
        axes.step(
            [0.0, *times],
            [100 * part / len(times) for part in range(len(times) + 1)],
            where="post",
            color=colour,
            label=words,
        )
    axes.set_xlabel("seconds after it began")
    axes.set_ylabel("honest peers (%)")
    axes.set_xlim(0, None)
    axes.set_ylim(0, 102)
    axes.legend(loc="lower right")


SCENARIO = Scenario(
    name="slot_thieves",
    summary="peers that take upload slots and give nothing, or do not even read (S7)",
    story=(
        "Peers fetch a model from one seed and from each other, while thieves ask everybody for everything, again and\n"
        "again: deaf ones do not read what they are sent, greedy ones take all that their line carries. Held against\n"
        "the same swarm without them; S7 asks for at most a quarter more time with a tenth of 32 peers."
    ),
    options=SlotThievesOptions,
    run=run,
    plot=plot,
)
