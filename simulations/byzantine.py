"""A part of the peers lies: corrupt chunks, chunks that crawl, empty boasts, silence. What does it cost the others?"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from p2pmodel.model import Layout
from p2pmodel.testing.crowd import Crowd, Member
from p2pmodel.testing.liars import Lie, add_liar
from p2pmodel.testing.report import Line, Result, quantile, share
from simulations import figures
from simulations.crowds import SAMPLE_S, SETTLE_S, CrowdOptions, add_fetchers, fetch_all, in_crowd, notes
from simulations.scenario import Observer, Scenario, option

_ALL_KINDS = (Lie.CORRUPT, Lie.SLOW, Lie.BOAST, Lie.STALL)


@dataclass(frozen=True, slots=True)
class _Kind:
    """What the scorecard asks for. `extra` bytes as part of what was wanted, `time` in units of the honest swarm's."""

    id: str
    lies: tuple[Lie, ...]
    part: float
    extra: float | None
    time: float | None


_KINDS = {
    "corrupt": _Kind("S1", (Lie.CORRUPT,), 0.3, 0.02, None),
    "mixed": _Kind("S2", _ALL_KINDS, 0.5, 0.05, 1.5),
    "most": _Kind("S3", _ALL_KINDS, 0.9, None, 3.0),
}


@dataclass(frozen=True, kw_only=True)
class ByzantineOptions(CrowdOptions):
    peers: int = option(20, "Peers, liars and the one honest seed among them.", low=4, high=500, metavar="N")
    size: str = option("512MiB", "Of the model, as in 3GB or 512MiB.", metavar="SIZE")
    liars: float | None = option(
        None,
        "Part of the peers that lies (default: 0.3 where corrupt, 0.5 where mixed, 0.9 where most).",
        low=0,
        high=0.9,
        metavar="PART",
    )
    kind: str = option(
        "corrupt",
        "corrupt (S1); mixed (S2): corrupt, slow, boasting and stalling; or most (S3): the same, and nearly all lie.",
        choices=tuple(_KINDS),
    )
    trials: int = option(
        1, "Runs, each with a seed of its own; the scorecard asks for 1,000.", low=1, high=10_000, metavar="N"
    )
    spread: float = option(1.0, "All begin within so many seconds.", low=0, high=3600, metavar="S")

    @property
    def asked(self) -> _Kind:
        return _KINDS[self.kind]

    @property
    def liar_count(self) -> int:
        part = self.liars if self.liars is not None else self.asked.part
        return min(round(part * self.peers), self.peers - 2)


@dataclass(slots=True)
class _Trial:
    """How one swarm did. Times in seconds, bytes as parts of what honest peers wanted."""

    times: list[float]
    fetching: int
    bad_chunks: int = 0
    extra: float = 0.0
    proven_max: int = 0
    """Corrupt chunks that one peer took from one liar before it was banned, at most."""
    rejected: int = 0
    honest_banned: int = 0
    at: list[float] = field(default_factory=list)
    held: list[float] = field(default_factory=list)

    @property
    def last_s(self) -> float:
        return max(self.times) if len(self.times) == self.fetching else float("inf")


def run(options: ByzantineOptions, observer: Observer) -> Result:
    lied: list[_Trial] = []
    honest: list[_Trial] = []
    seconds = 0.0
    for number in range(options.trials):
        for liars, into in ((options.liar_count, lied), (0, honest)):
            if not liars and honest and options.asked.time is None:
                continue  # only times are held against those without liars, and once is enough to see them
            observer.progress(f"trial {number + 1} of {options.trials}, {'with' if liars else 'without'} liars")

            async def story(crowd: Crowd, layout: Layout, liars: int = liars) -> _Trial:
                return await _story(crowd, layout, options, liars)

            trial, took_s = in_crowd(options, options.seed + number, observer.log, story)
            into.append(trial)
            seconds += took_s
    return Result(
        lines=_lines(lied, honest, options),
        virtual_seconds=seconds,
        event_log_sha256=observer.log.sha256,
        options={"liars": options.liar_count / options.peers},
        notes=[
            f"{options.liar_count} of {options.peers} peers lie, one honest peer is the seed, the others fetch; "
            "the same without the liars for comparison"
            + (", in the first trial only." if options.asked.time is None and options.trials > 1 else "."),
            f"Extra bytes: whole answers on the lines of those who fetch, over what they wanted, less 1; a chunk is "
            f"{options.chunk_bytes / options.size_bytes:.2%} of the model, and a corrupt one is proven by its hash.",
            *notes(options),
        ],
        series={
            "times lied": [time for trial in lied for time in trial.times],
            "times honest": [time for trial in honest for time in trial.times],
            "at lied": lied[0].at,
            "held lied": lied[0].held,
            "at honest": honest[0].at,
            "held honest": honest[0].held,
            "extra": [trial.extra for trial in lied],
            "extra honest": [trial.extra for trial in honest],
            "slower": _slower(lied, honest),
        },
    )


async def _story(crowd: Crowd, layout: Layout, options: ByzantineOptions, liar_count: int) -> _Trial:
    seed = await crowd.add(crowd.internet.host())
    peers = await add_fetchers(crowd, options.peers - options.liar_count - 1, options.nat)
    lies = options.asked.lies
    liars = [await add_liar(crowd, lies[number % len(lies)]) for number in range(liar_count)]
    await crowd.joined()
    await asyncio.sleep(SETTLE_S)
    for member in (seed, *liars):
        await crowd.publish(member, layout)
    await asyncio.sleep(SETTLE_S)
    began = crowd.internet.now
    trial = _Trial([], len(peers))

    def look(now: float) -> None:
        trial.at.append(now - began)
        trial.held.append(sum(peer.chunks[-1][1] for peer in peers) / (len(peers) * len(layout)))

    watching = asyncio.get_running_loop().create_task(crowd.watch(layout, SAMPLE_S, look))
    await fetch_all(crowd, peers, layout, options.spread)
    watching.cancel()
    size = layout.manifest.bytes_total
    trial.times = [peer.took_s for peer in peers if peer.took_s is not None]
    trial.bad_chunks = sum(peer.store.bad_chunks(layout) for peer in peers)
    trial.extra = sum(peer.host.download.bytes_carried for peer in peers) / (size * len(peers)) - 1
    _judge(trial, peers, liars)
    return trial


def _judge(trial: _Trial, peers: list[Member], liars: list[Member]) -> None:
    """Who was proven a liar by whom, as the reports of the fetches say."""
    false = {liar.key.text for liar in liars}
    for peer in peers:
        for source in peer.report.peers if peer.report is not None else ():
            trial.rejected += source.rejected
            if source.peer_id in false:
                trial.proven_max = max(trial.proven_max, source.rejected)
            else:
                trial.honest_banned += source.rejected > 0


def _slower(lied: list[_Trial], honest: list[_Trial]) -> list[float]:
    return [with_liars.last_s / without.last_s for with_liars, without in zip(lied, honest, strict=False)]


def _lines(lied: list[_Trial], honest: list[_Trial], options: ByzantineOptions) -> list[Line]:
    id, extra, time_mark = options.asked.id, options.asked.extra, options.asked.time
    fetching = sum(trial.fetching for trial in lied)
    slower = _slower(lied, honest)
    rejected = sum(trial.rejected for trial in lied)
    return [
        Line(
            id, "honest peers that completed", share(sum(len(trial.times) for trial in lied), fetching), 1.0, unit="%"
        ),
        Line(id, "chunks kept that are not the model's", sum(trial.bad_chunks for trial in lied), 0, True, digits=0),
        Line(
            id,
            "extra bytes on the lines of honest peers, mean",
            sum(t.extra for t in lied) / len(lied),
            extra,
            True,
            "%",
        ),
        Line(id, "extra bytes, the worst trial", max(trial.extra for trial in lied), unit="%"),
        Line(id, "extra bytes without liars, mean", sum(trial.extra for trial in honest) / len(honest), unit="%"),
        Line(
            id,
            "corrupt chunks that a liar got through before its ban, most",
            max(t.proven_max for t in lied),
            1,
            True,
            digits=0,
        ),
        Line(id, "honest peers banned", sum(trial.honest_banned for trial in lied), 0, True, digits=0),
        Line(id, "corrupt chunks for each honest peer", rejected / fetching),
        Line(id, "time of the last, over the same without liars, p50", quantile(slower, 0.5), time_mark, True),
        Line(id, "the same, the worst trial", quantile(slower, 1.0)),
    ]


def plot(result: Result, options: ByzantineOptions, figure: Any) -> None:
    left, right = figure.subplots(1, 2)
    kinds = ", ".join(lie.value for lie in options.asked.lies)
    figures_of = (
        ("honest", figures.BLUE, "without liars"),
        ("lied", figures.ORANGE, f"{options.liar_count} of {options.peers} lie:\n{kinds}"),
    )
    left.set_title("What the honest peers have" + (", first trial" if options.trials > 1 else ""))
    for which, colour, words in figures_of:
        held = [100 * part for part in result.series[f"held {which}"]]
        left.plot(result.series[f"at {which}"], held, color=colour, label=words)
    left.set_ylim(0, 102)
    left.set_xlim(0, None)
    left.set_xlabel("seconds after the first began")
    left.set_ylabel("chunks (%)")
    left.legend(loc="lower right")
    _plot_cost(right, result, options)


def _plot_cost(axes: Any, result: Result, options: ByzantineOptions) -> None:
    """Each trial is two points: how long the last took, in units of the trial without liars, and the bytes for it."""
    id, extra, time = options.asked.id, options.asked.extra, options.asked.time
    axes.set_title("What it cost" + (f", {options.trials:,} trials" if options.trials > 1 else ""))
    ended = [
        (slower, 100 * with_liars, 100 * without)
        for slower, with_liars, without in zip(
            result.series["slower"], result.series["extra"], result.series["extra honest"], strict=False
        )
        if slower != float("inf")
    ]
    axes.scatter([1.0] * len(ended), [point[2] for point in ended], color=figures.BLUE, s=36, alpha=0.7, linewidths=0)
    axes.scatter(
        [point[0] for point in ended],
        [point[1] for point in ended],
        color=figures.ORANGE,
        s=36,
        alpha=0.7,
        linewidths=0,
    )
    if extra is not None:
        figures.mark(axes, 100 * extra, f"{id}: at most {extra:.0%} more bytes")
    if time is not None:
        axes.axvline(time, color=figures.RED, linestyle="--", linewidth=1.4)
        axes.annotate(
            f"{id}: at most {time:g} times as long",
            (time, 0.98),
            xycoords=("data", "axes fraction"),
            xytext=(4, 0),
            textcoords="offset points",
            color=figures.RED,
            rotation=90,
            va="top",
            size=9,
        )
    axes.set_ylim(0, 1.2 * max([100 * (extra or 0.01), *(max(point[1:]) for point in ended)]))
    axes.set_xlim(min([0.9, *(point[0] - 0.05 for point in ended)]), 1.1 * max([time or 1.5, *(p[0] for p in ended)]))
    axes.set_xlabel("time of the last peer, over that without liars")
    axes.set_ylabel("extra bytes (%)")


SCENARIO = Scenario(
    name="byzantine",
    summary="corrupt servers among the peers, or liars of every kind (S1, S2, S3)",
    story=(
        "Peers fetch a model from one honest seed and from each other, while liars say that they have all of it.\n"
        "corrupt: every chunk is something else. slow: right, at 1 kB/s. boast: there is nothing. stall: requests are\n"
        "taken and never answered. Held against the same swarm without liars; S1 asks for 1,000 trials."
    ),
    options=ByzantineOptions,
    run=run,
    plot=plot,
)
