"""One of the peers that a fetch pulls from nearly stops when nearly all is here: do the last chunks wait for it?"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from random import Random
from typing import Any

from p2pmodel.model import Layout
from p2pmodel.testing.crowd import Crowd, Member
from p2pmodel.testing.report import Line, Result, quantile, share
from simulations import figures
from simulations.crowds import SETTLE_S, CrowdOptions, in_crowds, notes
from simulations.scenario import Observer, Scenario, option

_SAMPLE_S = 0.01
_AFTER_S = 60.0
"""What was called off may still come: bytes are counted so long after the end."""
_LAST = 0.01
_LAST_TIME_MARK = 0.05
_DUPLICATE_MARK = 0.01


@dataclass(frozen=True, kw_only=True)
class SlowTailOptions(CrowdOptions):
    peers: int = option(8, "Peers that hold the model; one more fetches it.", low=2, high=64, metavar="N")
    size: str = option("1GiB", "Of the model, as in 3GB or 512MiB.", metavar="SIZE")
    when: float = option(0.95, "One of them slows down once so much is here.", low=0.01, high=0.99, metavar="PART")
    slow: float = option(0.01, "To so much of its speed.", low=0.0001, high=1, metavar="PART")
    trials: int = option(1, "Runs, each with a seed of its own.", low=1, high=10_000, metavar="N")


@dataclass(slots=True)
class _Trial:
    whole: bool
    took_s: float
    slowed_at: float = float("inf")
    extra: float = 0.0
    at: list[float] = field(default_factory=list)
    held: list[float] = field(default_factory=list)

    @property
    def last_part(self) -> float:
        """The time of the last hundredth of the chunks, as part of the whole time."""
        begins = next(time for time, held in zip(self.at, self.held, strict=True) if held >= 1 - _LAST)
        return (self.took_s - begins) / self.took_s


def run(options: SlowTailOptions, observer: Observer) -> Result:
    async def story(crowd: Crowd, layout: Layout) -> _Trial:
        return await _story(crowd, layout, options)

    trials, seconds = in_crowds(options, options.trials, observer, story)
    ended = [trial for trial in trials if trial.whole]
    shown = max(ended, key=lambda trial: trial.last_part, default=trials[0])
    return Result(
        lines=_lines(trials, ended),
        virtual_seconds=seconds,
        event_log_sha256=observer.log.sha256,
        notes=[
            "Extra bytes are those of whole answers on the fetching peer's line, over the model's size, less 1; "
            "a minute after the end, so that what was called off and came all the same is in it.",
            *notes(options),
        ],
        series={"at": shown.at, "held": shown.held, "slowed": [shown.slowed_at], "took": [shown.took_s]},
    )


async def _story(crowd: Crowd, layout: Layout, options: SlowTailOptions) -> _Trial:
    seeds = [await crowd.add(crowd.internet.host()) for _ in range(options.peers)]
    leech = await crowd.add(crowd.internet.host())
    await crowd.joined()
    await asyncio.sleep(SETTLE_S)
    for seed in seeds:
        await crowd.publish(seed, layout)
    await asyncio.sleep(SETTLE_S)
    slowed = Random(f"{crowd.internet.seed} slow").choice(seeds)
    trial = _Trial(False, float("inf"))
    watching = asyncio.get_running_loop().create_task(_watch(crowd, layout, leech, slowed, trial, options))
    await crowd.fetch(leech, layout)
    watching.cancel()
    if leech.took_s is None:
        return trial
    trial.whole, trial.took_s = True, leech.took_s
    trial.at.append(trial.took_s)
    trial.held.append(1.0)
    await asyncio.sleep(_AFTER_S)
    trial.extra = leech.host.download.bytes_carried / layout.manifest.bytes_total - 1
    return trial


async def _watch(
    crowd: Crowd, layout: Layout, leech: Member, slowed: Member, trial: _Trial, options: SlowTailOptions
) -> None:
    began = crowd.internet.now
    while True:
        held = leech.held_bits(layout).bit_count() / len(layout)
        trial.at.append(crowd.internet.now - began)
        trial.held.append(held)
        if held >= options.when and trial.slowed_at == float("inf"):
            trial.slowed_at = trial.at[-1]
            slowed.host.upload.bytes_per_s = options.slow * options.up_bytes_per_s
        await asyncio.sleep(_SAMPLE_S)


def _lines(trials: list[_Trial], ended: list[_Trial]) -> list[Line]:
    parts, extra = [trial.last_part for trial in ended], [trial.extra for trial in ended]
    return [
        Line("S4", "trials that completed", share(len(ended), len(trials)), 1.0, unit="%", digits=1),
        Line("S4", "time of the last 1 % of the chunks, of the whole, p50", quantile(parts, 0.5), unit="%"),
        Line("S4", "the same, the worst trial", quantile(parts, 1.0), _LAST_TIME_MARK, True, "%"),
        Line("S4", "extra bytes, mean", sum(extra) / len(extra) if extra else float("inf"), unit="%"),
        Line("S4", "extra bytes, the worst trial", quantile(extra, 1.0), _DUPLICATE_MARK, True, "%"),
    ]


def plot(result: Result, options: SlowTailOptions, figure: Any) -> None:
    axes = figure.subplots()
    axes.set_title("What the fetching peer has" + (", worst trial" if options.trials > 1 else ""))
    axes.plot(result.series["at"], [100 * part for part in result.series["held"]], color=figures.BLUE)
    axes.axvline(result.series["slowed"][0], color=figures.ORANGE, label=f"a peer slows to {options.slow:.0%}")
    took = result.series["took"][0]
    figures.mark(axes, took, "the end", vertical=True)
    axes.set_xlim(0, 1.03 * took)
    axes.set_ylim(0, 102)
    axes.set_xlabel("seconds after it began")
    axes.set_ylabel("chunks (%)")
    axes.legend(loc="lower right")


SCENARIO = Scenario(
    name="slow_tail",
    summary="one peer nearly stops when nearly all is here (S4)",
    story=(
        "One peer fetches a model from several that hold it. Once most of it is here, one of those, chosen by the\n"
        "seed, falls to a hundredth of its speed. How long does the last per cent take, and what was sent twice?"
    ),
    options=SlowTailOptions,
    run=run,
    plot=plot,
)
