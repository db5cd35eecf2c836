"""An attacker with thousands of ids behind few addresses presses into the tables of victims, over their restart."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from p2pmodel.errors import UsageError
from p2pmodel.testing.attackers import IdFarm
from p2pmodel.testing.overlays import Member, OverlayTown
from p2pmodel.testing.report import Line, Result, share
from simulations import figures
from simulations.scenario import Observer, Scenario, option
from simulations.towns import Findings, TownOptions, play

_ROUND_S = 120.0
_SPREAD_S = 100.0
_LOOKUPS = 3
_RESTART_S = 30.0


@dataclass(frozen=True, kw_only=True)
class EclipseOptions(TownOptions):
    addresses: int = option(2, "Addresses of the attacker, each in a group of its own: 2 or 28.", low=1, high=1_000)
    ids: int = option(10_000, "Ids of the attacker.", low=1, high=60_000, metavar="N")
    victims: int = option(200, "Peers that are attacked.", low=1, metavar="N")
    per_victim: int = option(400, "Ids that press on a victim in each round: half of them the nearest to it.", low=1)
    settle: float = option(
        60.0, "Minutes for which the network has been at rest before.", low=0, high=100_000, metavar="M"
    )
    rounds: int = option(3, "Rounds of two minutes, before the restart and after it.", low=1, high=1_000)


def run(options: EclipseOptions, observer: Observer) -> Result:
    if options.victims > options.peers // 2:
        raise UsageError(f"--victims {options.victims}: at most half of the {options.peers} peers")
    if options.ids // options.addresses > 30_000:
        raise UsageError(f"--ids {options.ids}: an address has 30,000 ports to put them at")
    return play(options, observer, _story)


async def _story(town: OverlayTown, options: EclipseOptions, observer: Observer) -> Findings:
    keys = town.new_keys(20)
    for key in keys:
        await town.provide(town.pick()[0], [key])
    victims = town.pick(options.victims, but=[*town.entries, *(who for key in keys for who in town.holders_of[key])])
    hosts = [town.internet.host() for _ in range(options.addresses)]
    farm = IdFarm(town.internet, hosts, town.network_id, town.rng)
    await farm.breed(options.ids)
    hostile = {host.ip4 for host in hosts}
    observer.progress("settling")
    await asyncio.sleep(60 * options.settle)
    await _press(town, farm, victims, options, observer, "flooding")
    before = [_share(victim, hostile) for victim in victims]
    observer.progress(f"restarting {len(victims)} victims")
    restarts = [_restart(town, victim) for victim in victims]
    await asyncio.gather(_press(town, farm, victims, options, observer, "flooding again"), *restarts)
    after = [_share(victim, hostile) for victim in victims]
    observer.progress("looking up")
    reached = await asyncio.gather(*(_reaches(town, victim, keys) for victim in victims))
    mark = 0.05 if options.addresses <= 2 else 0.15 if options.addresses <= 28 else None
    who = f"{options.addresses} addresses, {options.ids:,} ids"
    return Findings(
        [
            Line(
                "D9",
                f"attacker's share of a table, {who}, before a restart",
                sum(before) / len(before),
                mark,
                True,
                "%",
            ),
            Line("D9", f"attacker's share of a table, {who}, after it", sum(after) / len(after), mark, True, "%"),
            Line("D9", "the victim with the largest share, before", max(before), unit="%"),
            Line("D9", "the victim with the largest share, after", max(after), unit="%"),
            Line("D9", f"isolated of {len(victims)} victims", reached.count(False), 0, True, digits=0),
        ],
        [
            f"Each of {options.per_victim} ids asks each victim something in each round, half of them those nearest to "
            "it, half at random; they answer every check of identity and name only each other.",
            f"Isolated: none of {_LOOKUPS} lookups of keys that honest peers have finds anybody.",
        ],
        {"before": [100 * part for part in before], "after": [100 * part for part in after]},
    )


async def _press(
    town: OverlayTown,
    farm: IdFarm,
    victims: Sequence[Member],
    options: EclipseOptions,
    observer: Observer,
    phase: str,
) -> None:
    async def on(victim: Member) -> None:
        near = farm.nearest(victim.place, options.per_victim // 2)
        rest = town.rng.sample(farm.ids, min(len(farm.ids), options.per_victim - len(near)))
        for farmed in [*near, *rest]:
            farmed.press(victim.address)
            await asyncio.sleep(_SPREAD_S / options.per_victim)

    for number in range(options.rounds):
        observer.progress(f"{phase}: round {number + 1} of {options.rounds}")
        began = town.now
        await asyncio.gather(*map(on, victims))
        await asyncio.sleep(max(0.0, began + _ROUND_S - town.now))


async def _restart(town: OverlayTown, victim: Member) -> None:
    """The victim's machine restarts while the flood goes on; it has its saved neighbours and the entry nodes."""
    await asyncio.sleep(town.rng.random() * _ROUND_S / 4)
    saved = victim.overlay.saved_neighbours()
    town.kill(victim, for_good=False)
    await asyncio.sleep(_RESTART_S)
    town.internet.revive(victim.host)
    await town.boot(victim)
    victim.overlay.remember(saved)
    await town.join(victim, town.entry_addresses())


def _share(victim: Member, hostile: set[str]) -> float:
    table = victim.overlay.neighbours()
    return share(sum(address.host in hostile for _, address in table), len(table))


async def _reaches(town: OverlayTown, victim: Member, keys: Sequence[bytes]) -> bool:
    await asyncio.sleep(town.rng.random() * 20)
    traces = [await town.find(victim, key) for key in town.rng.sample(keys, _LOOKUPS)]
    return any(trace is not None and town.found(trace) for trace in traces)


def plot(result: Result, options: EclipseOptions, figure: Any) -> None:
    axes = figure.add_subplot()
    axes.set_title(f"{options.ids:,} ids behind {options.addresses} addresses press into the tables of the victims")
    count = len(result.series["before"])
    for when, colour, words in (("before", figures.BLUE, "before the restart"), ("after", figures.ORANGE, "after it")):
        values = sorted(result.series[when])
        axes.plot(range(1, count + 1), values, color=colour, label=words, drawstyle="steps-mid")
    mark = result.lines[0].mark
    if mark is not None:
        figures.mark(axes, 100 * mark, f"D9: on average {result.lines[0].mark_text}")
    axes.set_ylim(0, 1.15 * max(20.0, *result.series["before"], *result.series["after"]))
    axes.set_xlim(1, max(2, count))
    figures.whole_numbers(axes.xaxis)
    axes.set_xlabel("victims, in the order of their share")
    axes.set_ylabel("attacker's share of the table (%)")
    axes.legend(loc="upper left")


SCENARIO = Scenario(
    name="eclipse",
    summary="thousands of ids behind few addresses press into the tables of victims, over a restart (D9)",
    story=(
        "An attacker runs thousands of ids behind two addresses (or 28) and presses them into the tables of its\n"
        "victims, before these restart and while they come back. Measured is the part of each table that it holds,\n"
        "and whether a victim still finds what honest peers have (D9)."
    ),
    options=EclipseOptions,
    run=run,
    plot=plot,
)
