"""The network is cut in two and heals; then every entry node is gone and everybody restarts from what it saved."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from p2pmodel.errors import UsageError
from p2pmodel.testing.overlays import Member, OverlayTown
from p2pmodel.testing.report import Line, Result, share
from simulations import figures
from simulations.scenario import Observer, Scenario, option
from simulations.towns import Findings, TownOptions, play

_HEALED_WITHIN_S = 300.0
_WATCHED_S = 60.0
_WATCHERS = 40
"""Lookups of each kind in every minute of the timeline."""
_BEFORE_S = 300.0
_RESTART_OVER_S = 60.0
_REJOIN_WITHIN_S = 300.0


@dataclass(frozen=True, kw_only=True)
class PartitionOptions(TownOptions):
    minutes: float = option(30.0, "How long the network is in two halves.", low=1, high=10_000)
    lookups: int = option(
        2_000, "Lookups of keys of the other half, five minutes after the heal.", low=1, high=1_000_000
    )
    keys: int = option(200, "Keys that are announced before the cut; half as many in each half during it.", low=2)


def run(options: PartitionOptions, observer: Observer) -> Result:
    if options.peers < 20:
        raise UsageError(f"--peers {options.peers}: two halves need at least 20 together")
    return play(options, observer, _story)


class _Halves:
    """Two sides, who published what, and how lookups go."""

    def __init__(self, town: OverlayTown, options: PartitionOptions) -> None:
        self.town = town
        members = list(town.alive)
        town.rng.shuffle(members)
        self.sides = (members[: len(members) // 2], members[len(members) // 2 :])
        self.keys: tuple[list[bytes], list[bytes]] = ([], [])
        self.watchers = min(_WATCHERS, options.lookups)
        self.minute: list[float] = []
        self.across: list[float] = []
        self.own: list[float] = []

    async def publish(self, count: int) -> None:
        """`count` new keys in each half."""
        for side, keys in zip(self.sides, self.keys, strict=True):
            for key in self.town.new_keys(count):
                await self.town.provide(self.town.rng.choice(side), [key])
                keys.append(key)

    async def look(self, count: int, *, across: bool) -> float:
        """The part of `count` lookups, half of them from each side, that find a key of the other or of their own."""

        async def one(number: int) -> bool:
            rng, side = self.town.rng, number % 2
            key = rng.choice(self.keys[1 - side if across else side])
            who = [member for member in self.sides[side] if member not in self.town.holders_of[key]]
            await asyncio.sleep(rng.random() * _WATCHED_S * 0.8)
            trace = await self.town.find(rng.choice(who), key)
            return trace is not None and self.town.found(trace)

        outcomes = await asyncio.gather(*(one(number) for number in range(count)))
        return share(sum(outcomes), len(outcomes))

    async def watch(self, seconds: float, begin: float, observer: Observer, phase: str) -> None:
        """A few lookups of both kinds every minute, for the timeline."""
        town = self.town
        for _ in range(round(seconds / _WATCHED_S)):
            started = town.now
            across, own = await asyncio.gather(
                self.look(self.watchers, across=True), self.look(self.watchers, across=False)
            )
            await asyncio.sleep(max(0.0, started + _WATCHED_S - town.now))
            self.minute.append((started + _WATCHED_S / 2 - begin) / 60)
            self.across.append(100 * across)
            self.own.append(100 * own)
            observer.progress(f"{phase}: minute {(town.now - begin) / 60:.0f}")


async def _story(town: OverlayTown, options: PartitionOptions, observer: Observer) -> Findings:
    halves = _Halves(town, options)
    observer.progress("announcing")
    await halves.publish(options.keys // 2)
    begin = town.now
    await halves.watch(_BEFORE_S, begin, observer, "whole")
    cut = (town.now - begin) / 60
    town.internet.partition([member.host for member in halves.sides[0]], [member.host for member in halves.sides[1]])
    await halves.publish(options.keys // 2)
    await halves.watch(begin + 60 * (cut + options.minutes) - town.now, begin, observer, "cut in two")
    town.internet.heal()
    healed_at, healed = town.now, (town.now - begin) / 60
    await halves.watch(_HEALED_WITHIN_S, begin, observer, "healed")
    await asyncio.sleep(max(0.0, healed_at + _HEALED_WITHIN_S - town.now))
    observer.progress(f"looking up: {options.lookups}")
    across = await halves.look(options.lookups, across=True)
    restarted, found = await _restart(town, observer)
    rest = "found within two minutes of everybody's restart"
    return Findings(
        lines=[
            Line("D10", "found from the other half, 5 minutes after the heal", across, 0.999, unit="%"),
            Line("D10", "rejoined from saved tables, every entry node dead", restarted, 1.0, unit="%"),
            Line("D10", f"a key of somebody else {rest}", found, unit="%"),
        ],
        notes=[
            "Looked up are keys of the other half, announced before the cut and during it, each from a random peer.",
            f"Rejoined: within {_REJOIN_WITHIN_S / 60:.0f} minutes it finds a key that another peer announced after "
            "its own restart, and another finds a key of its.",
        ],
        series={
            "minute": halves.minute,
            "across": halves.across,
            "own": halves.own,
            "cut": [cut],
            "healed": [healed],
        },
    )


async def _restart(town: OverlayTown, observer: Observer) -> tuple[float, float]:
    """Kill everybody, bring all but the entry nodes back; the part that rejoined, and of lookups that find at once."""
    saved = {member: member.overlay.saved_neighbours() for member in town.alive if member not in town.entries}
    for member in list(town.alive):
        town.kill(member, for_good=member in town.entries)
    town.holders_of.clear()
    entries = [entry.address for entry in town.entries]
    keys: dict[Member, bytes] = dict(zip(saved, town.new_keys(len(saved)), strict=True))

    async def come_back(member: Member) -> None:
        await asyncio.sleep(town.rng.random() * _RESTART_OVER_S)
        town.internet.revive(member.host)
        member_saved = saved[member]
        await town.boot(member)
        member.overlay.remember(member_saved)
        await town.join(member, entries)
        await asyncio.sleep(_RESTART_OVER_S)
        await town.provide(member, [keys[member]])

    observer.progress(f"restarting: {len(saved):,}")
    started = town.now
    await asyncio.gather(*map(come_back, saved))
    early = await _finds(town, list(saved), keys)
    await asyncio.sleep(max(0.0, started + _REJOIN_WITHIN_S - town.now))
    late = await _finds(town, list(saved), keys)
    return share(sum(late), len(late)), share(sum(early), len(early))


async def _finds(town: OverlayTown, members: Sequence[Member], keys: dict[Member, bytes]) -> list[bool]:
    """For each member whether it finds another's key and another finds its: a ring of lookups."""

    async def one(member: Member, other: Member) -> bool:
        await asyncio.sleep(town.rng.random() * 20)
        trace = await town.find(member, keys[other])
        return trace is not None and town.found(trace)

    order = list(members)
    town.rng.shuffle(order)
    finds = await asyncio.gather(*(one(member, order[at - 1]) for at, member in enumerate(order)))
    return [finds[at] and finds[(at + 1) % len(order)] for at in range(len(order))]


def plot(result: Result, options: PartitionOptions, figure: Any) -> None:
    series = result.series
    axes = figure.add_subplot()
    cut, healed = series["cut"][0], series["healed"][0]
    axes.set_title("Cut into two halves that cannot reach each other, then one network again")
    axes.axvspan(cut, healed, color="#E5E7EB", zorder=0, linewidth=0)
    words = "in two halves; what was announced before\nis still known on both sides"
    axes.text((cut + healed) / 2, 84, words, ha="center", va="center", color=figures.GREY)
    axes.plot(series["minute"], series["own"], "o-", color=figures.BLUE, markersize=4, label="a key of its own half")
    axes.plot(series["minute"], series["across"], "s-", color=figures.ORANGE, markersize=4, label="of the other half")
    figures.mark(axes, healed, "healed", vertical=True)
    figures.mark(axes, healed + _HEALED_WITHIN_S / 60, "D10: >= 99.9 % from here on", vertical=True)
    axes.set_xlim(0)
    axes.set_ylim(-2, 104)
    axes.set_xlabel("minutes (virtual time)")
    axes.set_ylabel("lookups that find it (%)")
    axes.legend(loc="center left", bbox_to_anchor=(0.02, 0.16), title="Looked up", alignment="left")


SCENARIO = Scenario(
    name="partition",
    summary="cut in two halves and healed; then everybody restarts without entry nodes (D10)",
    story=(
        "Half of the peers cannot reach the other half for a while; both go on announcing. After the heal keys of the\n"
        "other half are looked up. Then all die, the entry nodes for good, and the others come back within a minute\n"
        "with nothing but the neighbours that they had saved (D10)."
    ),
    options=PartitionOptions,
    run=run,
    plot=plot,
)
