"""How surely and how fast a provider is found: all alive, then with a part of the peers silent."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from p2pmodel.limits import BUCKET_SIZE
from p2pmodel.overlay.overlay import LookupTrace
from p2pmodel.testing.overlays import Member, OverlayTown
from p2pmodel.testing.report import Line, Result, quantile, share
from simulations import figures
from simulations.scenario import Observer, Scenario, option
from simulations.towns import Findings, TownOptions, play, steps

_LOOKUPS_PER_S = 100.0
_MISSES_PART = 10
"""One lookup in so many is for a key that nobody has."""


@dataclass(frozen=True, kw_only=True)
class LookupOptions(TownOptions):
    lookups: int = option(3_000, "Lookups of keys that somebody has, in each of the two parts.", low=1, high=1_000_000)
    keys: int = option(300, "Keys that are announced, each by one peer.", low=1, high=100_000, metavar="N")
    dead: float = option(
        0.2, "Part of the peers that falls silent for the second part; 0: no second part.", low=0, high=0.9
    )


@dataclass(slots=True)
class _Look:
    trace: LookupTrace
    found: bool
    exact: bool


def run(options: LookupOptions, observer: Observer) -> Result:
    return play(options, observer, _story)


async def _story(town: OverlayTown, options: LookupOptions, observer: Observer) -> Findings:
    keys = town.new_keys(options.keys)
    owners = [town.pick()[0] for _ in keys]
    for number, (owner, key) in enumerate(zip(owners, keys, strict=True)):
        await town.provide(owner, [key])
        if number % 20 == 0:
            observer.progress(f"announcing: {number} of {len(keys)}")
    findings = Findings()
    alive, missed = await _look_up(town, options, observer, keys)
    findings.lines += [
        Line("D1", "found, all alive", _found(alive), 1.0, unit="%"),
        Line("D1", "hops to a provider, p50", quantile([look.trace.hops for look in alive], 0.5), 3, True, digits=0),
        Line("D1", "hops to a provider, p99", quantile([look.trace.hops for look in alive], 0.99), 5, True, digits=0),
        *_measured("all alive", alive, missed),
    ]
    findings.series |= _times("alive", alive, missed)
    if options.dead:
        _silence(town, options.dead, owners)
        alive, missed = await _look_up(town, options, observer, keys)
        findings.lines += _dead_lines(options.dead, alive, missed)
        findings.series |= _times("dead", alive, missed)
        findings.notes.append(
            f"{options.dead:.0%} of the peers fell silent at one instant, just before the second part; "
            "those whose keys are looked up stayed."
        )
    return findings


def _silence(town: OverlayTown, part: float, spared: Sequence[Member]) -> None:
    without = dict.fromkeys(spared)
    doomed = [member for member in town.alive if member not in without]
    for member in town.rng.sample(doomed, min(len(doomed), round(part * len(town.alive)))):
        town.kill(member)


async def _look_up(
    town: OverlayTown, options: LookupOptions, observer: Observer, keys: Sequence[bytes]
) -> tuple[list[_Look], list[_Look]]:
    """Lookups from random peers, begun at an even pace, of keys that somebody has, and some of keys that nobody has."""
    atlas = town.atlas()
    hits: list[_Look] = []
    misses: list[_Look] = []

    async def one(number: int, key: bytes, into: list[_Look]) -> None:
        await asyncio.sleep(number / _LOOKUPS_PER_S)
        member = town.pick(but=list(town.holders_of.get(key, ())))[0]
        trace = await town.find(member, key)
        assert trace is not None
        truth = [other.id for other in atlas.nearest(key, BUCKET_SIZE + 1) if other is not member][:BUCKET_SIZE]
        into.append(_Look(trace, town.found(trace), list(trace.closest[:BUCKET_SIZE]) == truth))
        if len(hits) % 50 == 0:
            observer.progress(f"looking up: {len(hits):,} of {options.lookups:,}")

    work = [one(number, town.rng.choice(keys), hits) for number in range(options.lookups)]
    work += [one(number * _MISSES_PART, key, misses) for number, key in enumerate(_unknown(town, options))]
    await asyncio.gather(*work)
    return hits, misses


def _unknown(town: OverlayTown, options: LookupOptions) -> list[bytes]:
    return town.new_keys(max(1, options.lookups // _MISSES_PART))


def _found(looks: Sequence[_Look]) -> float:
    return share(sum(look.found for look in looks), len(looks))


def _measured(when: str, hits: Sequence[_Look], misses: Sequence[_Look]) -> list[Line]:
    both = [*hits, *misses]
    return [
        Line("D1", f"datagrams a lookup, {when}", sum(look.trace.datagrams for look in both) / len(both), digits=1),
        Line("D1", f"time to first provider p50, {when}", quantile(_first(hits), 0.5), unit="s", digits=3),
        Line("D1", f"time to first provider p99, {when}", quantile(_first(hits), 0.99), unit="s", digits=3),
    ]


def _dead_lines(dead: float, hits: Sequence[_Look], misses: Sequence[_Look]) -> list[Line]:
    silent = f"{dead:.0%} silent"
    exact = share(sum(look.exact for look in [*hits, *misses]), len(hits) + len(misses))
    lines = [
        Line("D6", f"found, {silent}", _found(hits), 0.999, unit="%"),
        Line("D6", f"exactly the {BUCKET_SIZE} closest, {silent}", exact, 0.995 if dead <= 0.2 else 0.98, unit="%"),
    ]
    both = [*hits, *misses]
    lines.append(
        Line("D6", f"datagrams a lookup, {silent}", sum(x.trace.datagrams for x in both) / len(both), digits=1)
    )
    harder = dead > 0.2
    first, miss_s = _first(hits), [look.trace.elapsed_s for look in misses]
    for what, value, mark in (
        ("time to first provider p50", quantile(first, 0.5), 0.6),
        ("time to first provider p99", quantile(first, 0.99), 2.0),
        ("a miss is known within, longest", quantile(miss_s, 1.0), 3.0),
    ):
        lines.append(Line("P7", f"{what}, {silent}", value, None if harder else mark, True, "s", 3))
    return lines


def _first(looks: Sequence[_Look]) -> list[float]:
    """Infinite where nobody was found."""
    times = [look.trace.first_s if look.found else None for look in looks]
    return [float("inf") if time is None else time for time in times]


def _times(when: str, hits: Sequence[_Look], misses: Sequence[_Look]) -> dict[str, list[float]]:
    return {
        f"first {when}": [time for time in _first(hits) if time != float("inf")],
        f"miss {when}": [look.trace.elapsed_s for look in misses],
    }


def plot(result: Result, options: LookupOptions, figure: Any) -> None:
    axes = figure.add_subplot()
    axes.set_title("Time until the first provider is known, and until a miss is")
    for when, colour, words in (("alive", figures.BLUE, "all alive"), ("dead", figures.ORANGE, "silent peers")):
        if when == "dead":
            words = f"{options.dead:.0%} of peers silent"
        for kind, style in (("first", "-"), ("miss", ":")):
            values = result.series.get(f"{kind} {when}")
            if values:
                x, y = steps(values)
                what = "first provider" if kind == "first" else "miss"
                axes.plot(x, [100 * part for part in y], style, color=colour, label=f"{what}, {words}")
    figures.mark(axes, 0.6, "P7: p50 within 0.6 s", vertical=True)
    figures.mark(axes, 2.0, "P7: p99 within 2 s", vertical=True)
    figures.mark(axes, 3.0, "P7: a miss within 3 s", vertical=True)
    axes.set_xlim(0, max(3.4, 1.05 * max(map(max, filter(None, result.series.values())))))
    axes.set_ylim(0, 101)
    axes.set_xlabel("seconds after the lookup began (virtual time)")
    axes.set_ylabel("lookups (%)")
    figure.legend(loc="outside lower center", ncols=4, fontsize=9)


SCENARIO = Scenario(
    name="lookup",
    summary="how surely and how fast a provider is found: all alive, then a part silent (D1, D6, P7)",
    story=(
        "Peers join, some announce keys, and everybody looks them up from everywhere: first with all alive (D1),\n"
        "then just after a part of the peers has fallen silent (D6, P7). One lookup in ten is for a key that nobody\n"
        "has. Times are virtual; round trips are twice the latency, 40-200 ms unless told otherwise."
    ),
    options=LookupOptions,
    run=run,
    plot=plot,
)
