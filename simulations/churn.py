"""Peers leave in silence and strangers take their places, while content is looked up."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from p2pmodel.errors import UsageError
from p2pmodel.limits import BUCKET_SIZE
from p2pmodel.testing import inside
from p2pmodel.testing.churning import Churn
from p2pmodel.testing.overlays import Member, OverlayTown
from p2pmodel.testing.report import Line, Result, share
from simulations import figures
from simulations.scenario import Observer, Scenario, option
from simulations.towns import Findings, TownOptions, play

_HEADERS_BYTES = 28
"""Of IPv4 and UDP, for each datagram: they are on the wire too."""
_PUBLISHERS_PART = 20
"""One peer in so many publishes; it stays, since nobody can find what nobody has."""
_PROBE_S = 1800.0
_SAMPLE = 100
"""Real lookups at each probe."""
_MARKS = {1.0: ("D2", 0.9999), 5.0: ("D3", 0.999), 50.0: ("D4", 0.99)}
_UPKEEP_MAX = 2_000.0


@dataclass(frozen=True, kw_only=True)
class ChurnOptions(TownOptions):
    per_minute: float = option(
        5.0, "Percent of the peers that leave in each minute: 1 is D2, 5 D3, 50 D4.", low=0, high=200
    )
    minutes: float = option(20.0, "How long; lookups run in the second half.", low=1)
    lookups: int = option(3_000, "Lookups in the second half.", low=1, high=1_000_000, metavar="N")
    keys: int = option(300, "Keys that are announced.", low=1, high=1_000_000, metavar="N")
    ipfs: bool = option(False, "Sessions as IPFS peers have them, for --hours, with --records: D5.")
    hours: float = option(48.0, "With --ipfs: how long.", low=0.5, high=1_000)
    records: int = option(10_000, "With --ipfs: keys that are announced.", low=1, high=1_000_000, metavar="N")


def run(options: ChurnOptions, observer: Observer) -> Result:
    if options.peers < 10:
        raise UsageError(f"--peers {options.peers}: churn needs at least 10")
    if options.per_minute <= 0 and not options.ipfs:
        raise UsageError(f"--per-minute {options.per_minute}: expected more than 0 percent")
    return play(options, observer, _sessions if options.ipfs else _steady)


async def _publish(town: OverlayTown, count: int, observer: Observer) -> tuple[list[Member], list[bytes]]:
    """Announce `count` keys as roots, evenly from those peers that will stay."""
    publishers = town.pick(max(1, len(town.alive) // _PUBLISHERS_PART))
    keys = town.new_keys(count)
    for number, publisher in enumerate(publishers):
        observer.progress(f"announcing: {number} of {len(publishers)}")
        own = keys[number :: len(publishers)]
        if own:
            await town.provide(publisher, own)
    return publishers, keys


class _Meter:
    """What a peer sends on average, from one reading to the next."""

    def __init__(self, town: OverlayTown) -> None:
        self._town = town
        self._then = self._now()

    def bytes_per_s(self) -> float:
        before, self._then = self._then, self._now()
        seconds = self._then[0] - before[0]
        return (self._then[1] - before[1]) / seconds / len(self._town.alive) if seconds else 0.0

    def _now(self) -> tuple[float, int]:
        internet = self._town.internet
        return internet.now, internet.datagram_bytes + _HEADERS_BYTES * internet.datagrams


def _count(town: OverlayTown, begin: float, series: dict[str, list[float]]) -> None:
    series["peers"].append(float(len(town.alive)))
    series["old"].append(float(sum(member.born_at < begin for member in town.alive)))


# --- a steady rate ------------------------------------------------------------------------------------------------


async def _steady(town: OverlayTown, options: ChurnOptions, observer: Observer) -> Findings:
    publishers, keys = await _publish(town, options.keys, observer)
    churn = Churn(town, spared=publishers)
    churn.at_rate(options.per_minute / 100)
    begin, half_s = town.now, 30 * options.minutes
    whole, minute = _Meter(town), _Meter(town)
    series: dict[str, list[float]] = {name: [] for name in ("minute", "bytes_per_s", "old", "peers", "found")}
    outcomes: list[tuple[float, bool]] = []

    async def look(number: int) -> None:
        await asyncio.sleep(number * half_s / options.lookups)
        key = town.rng.choice(keys)
        member = town.pick(but=list(town.holders_of[key]))[0]
        trace = await town.find(member, key)
        if trace is not None:
            outcomes.append((town.now, town.found(trace)))

    def note() -> None:
        series["minute"].append((town.now - begin) / 60)
        series["bytes_per_s"].append(minute.bytes_per_s())
        _count(town, begin, series)
        recent = [good for at, good in outcomes if at > town.now - 60]
        series["found"].append(100 * share(sum(recent), len(recent)) if recent else float("nan"))
        observer.progress(f"churning: minute {(town.now - begin) / 60:.0f} of {options.minutes:.0f}")

    async def watch(until: float) -> None:
        while town.now + 60 <= until:
            await asyncio.sleep(60)
            note()

    await watch(begin + half_s / 2)
    await asyncio.sleep(begin + half_s / 2 - town.now)
    whole.bytes_per_s()
    await watch(begin + half_s)
    await asyncio.sleep(begin + half_s - town.now)
    upkeep = whole.bytes_per_s()
    await asyncio.gather(watch(begin + 2 * half_s + 1), *(look(number) for number in range(options.lookups)))
    await churn.stop()
    found = share(sum(good for _, good in outcomes), len(outcomes))
    id, mark = _MARKS.get(options.per_minute, ("D3", None))
    rate = f"{options.per_minute:g} % leave a minute"
    return Findings(
        lines=[
            Line(id, f"found, {rate}, {len(outcomes):,} lookups", found, mark, unit="%", digits=3),
            Line(
                "D4",
                f"upkeep sent by each peer, {rate}",
                upkeep,
                _UPKEEP_MAX if options.per_minute <= 50 else None,
                True,
                "B/s",
                0,
            ),
        ],
        notes=[
            f"{churn.deaths:,} peers died in silence, and as many joined; the {len(publishers)} that publish stayed. "
            f"{options.lookups - len(outcomes)} lookups ended with the peer that made them and are not counted.",
            "Upkeep is everything sent in the second quarter, when nobody looks anything up: joining, refreshing, "
            "announcing again, with the headers of IP and UDP.",
        ],
        series=series,
    )


# --- sessions like those of IPFS peers ----------------------------------------------------------------------------


async def _sessions(town: OverlayTown, options: ChurnOptions, observer: Observer) -> Findings:
    publishers, keys = await _publish(town, options.records, observer)
    churn = Churn(town, spared=publishers)
    churn.like_ipfs()
    meter, begin = _Meter(town), town.now
    series: dict[str, list[float]] = {name: [] for name in ("hour", "holders", "fewest", "bytes_per_s", "old", "peers")}
    lost_ever: dict[bytes, None] = {}
    outcomes: list[bool] = []

    async def look() -> None:
        key = town.rng.choice(keys)
        trace = await town.find(town.pick(but=list(town.holders_of[key]))[0], key)
        if trace is not None:
            outcomes.append(town.found(trace))

    for _ in range(round(options.hours * 3600 / _PROBE_S)):
        await asyncio.sleep(_PROBE_S)
        holders = _holders(town, keys)
        lost_ever |= dict.fromkeys(key for key, count in zip(keys, holders, strict=True) if not count)
        series["hour"].append((town.now - begin) / 3600)
        series["holders"].append(sum(holders) / len(holders))
        series["fewest"].append(float(min(holders)))
        series["bytes_per_s"].append(meter.bytes_per_s())
        _count(town, begin, series)
        observer.progress(f"probing: hour {series['hour'][-1]:.1f} of {options.hours:g}, {len(lost_ever)} lost")
        await asyncio.gather(*(look() for _ in range(_SAMPLE)))
    await churn.stop()
    return Findings(
        lines=[
            Line("D5", f"of {len(keys):,} records unreachable at any probe", len(lost_ever), 0, True, digits=0),
            Line("D5", f"found, {len(outcomes):,} lookups", share(sum(outcomes), len(outcomes)), unit="%", digits=3),
            Line("D5", "fewest holders of any record at any probe", min(series["fewest"]), digits=0),
            Line(
                "D5",
                "sent by each peer on average",
                sum(series["bytes_per_s"]) / len(series["hour"]),
                None,
                True,
                "B/s",
            ),
        ],
        notes=[
            f"A record counts as reachable where one of the {BUCKET_SIZE} living peers nearest to its key holds it: "
            f"those are whom a lookup ends at. {_SAMPLE} real lookups follow each probe, every 30 minutes.",
            f"Sessions: 87.6 % end within 8 h, 2.5 % outlast 24 h. {churn.deaths:,} peers died in silence; "
            f"the {len(publishers)} that publish stayed.",
        ],
        series=series,
    )


def _holders(town: OverlayTown, keys: Sequence[bytes]) -> list[int]:
    """How many of the peers that a lookup ends at hold each key."""
    atlas = town.atlas()
    return [sum(inside.holds(member.overlay, key) for member in atlas.nearest(key, BUCKET_SIZE)) for key in keys]


def plot(result: Result, options: ChurnOptions, figure: Any) -> None:
    (_plot_sessions if options.ipfs else _plot_steady)(result, options, figure)


def _plot_steady(result: Result, options: ChurnOptions, figure: Any) -> None:
    series, middle = result.series, options.minutes / 2
    top, bottom, people = figure.subplots(3, 1, sharex=True, height_ratios=[3, 3, 1])
    line = result.lines[0]
    top.set_title(f"{options.per_minute:g} % of the peers leave in silence every minute")
    top.plot(series["minute"], series["found"], "o-", color=figures.BLUE, markersize=4)
    if line.mark is not None:
        figures.mark(top, 100 * line.mark, f"{line.id}: {line.mark_text}", below=True)
    lowest = min([value for value in series["found"] if value == value] or [0.0])
    top.set_ylim(min(lowest, 99.0) - 0.15 * (100 - min(lowest, 99.0)), 100.15)
    top.set_ylabel("lookups that\nfind it (%)")
    first = [index for index, minute in enumerate(series["minute"]) if minute <= middle]
    minutes, sent = series["minute"], series["bytes_per_s"]
    cut = len(first)
    bottom.plot(minutes[:cut], sent[:cut], "o-", color=figures.GREEN, markersize=4, label="upkeep")
    bottom.plot(minutes[cut - 1 :], sent[cut - 1 :], "o:", color=figures.GREY, markersize=4, label="with the lookups")
    figures.mark(bottom, _UPKEEP_MAX, f"D4: upkeep <= {_UPKEEP_MAX:,.0f} B/s")
    bottom.set_ylim(0, 1.2 * max(_UPKEEP_MAX, *sent))
    bottom.set_ylabel("sent by a peer\n(B/s)")
    bottom.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, fontsize=9, borderaxespad=0)
    figures.whole_numbers(bottom.yaxis, 5)
    _plot_peers(people, series["minute"], series, "minutes of churn (virtual time)")


def _plot_sessions(result: Result, options: ChurnOptions, figure: Any) -> None:
    series = result.series
    top, bottom, people = figure.subplots(3, 1, sharex=True, height_ratios=[3, 2, 1])
    top.set_title("Living holders of each record among the peers that a lookup ends at")
    top.plot(series["hour"], series["holders"], color=figures.BLUE, label="on average")
    top.plot(series["hour"], series["fewest"], color=figures.ORANGE, label="the record with the fewest")
    figures.mark(top, 0.5, "D5: below one a record is lost")
    top.set_ylim(0, BUCKET_SIZE + 1)
    top.set_ylabel("holders")
    figure.legend(handles=top.get_lines()[:2], loc="outside lower center", ncols=2, fontsize=9)
    bottom.plot(series["hour"], series["bytes_per_s"], color=figures.GREEN)
    bottom.set_ylim(0)
    bottom.set_ylabel("sent by a peer\n(B/s)")
    _plot_peers(people, series["hour"], series, "hours of churn (virtual time)")


def _plot_peers(axes: Any, x: list[float], series: dict[str, list[float]], label: str) -> None:
    old, all_ = series["old"], series["peers"]
    axes.fill_between(x, old, color=figures.BLUE, alpha=0.75, linewidth=0, label="from before")
    axes.fill_between(x, old, all_, color=figures.SKY, alpha=0.6, linewidth=0, label="joined since")
    axes.set_ylim(0, 1.15 * max(all_))
    axes.set_ylabel("peers")
    figures.whole_numbers(axes.yaxis, 2)
    axes.set_xlabel(label)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, fontsize=9, borderaxespad=0)


SCENARIO = Scenario(
    name="churn",
    summary="peers leave in silence and strangers join, while content is looked up (D2-D5)",
    story=(
        "One peer in twenty publishes and stays. Of the others a part dies in silence every minute, at even times,\n"
        "and a stranger with another key joins through two peers that happen to be alive. In the first half nobody\n"
        "looks anything up, so that all traffic is upkeep; in the second half lookups run (D2, D3, D4).\n\n"
        "With --ipfs each peer stays for a session as they were measured among IPFS peers, for two days; every 30\n"
        "minutes the simulation looks whether each record still has a living holder where a lookup ends (D5)."
    ),
    options=ChurnOptions,
    run=run,
    plot=plot,
)
