"""Sybils around a key that want to hide it (D8), and liars everywhere who name each other (D7)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from p2pmodel.errors import UsageError
from p2pmodel.testing import inside
from p2pmodel.testing.attackers import Colluders, Forgetful, Withholding, keys_near
from p2pmodel.testing.overlays import Member, OverlayTown
from p2pmodel.testing.report import Line, Result, share
from simulations import figures
from simulations.scenario import Observer, Scenario, option
from simulations.towns import Findings, TownOptions, play

_SETTLE_S = 60.0
_RECOVER_S = 300.0
_PATHS = (1, 4, 8)
_TEMPERS = ("passive", "active")


@dataclass(frozen=True, kw_only=True)
class SybilOptions(TownOptions):
    sybils: int = option(40, "Sybils around each key.", low=1, high=1_000, metavar="N")
    tries: int = option(50, "Keys that the attacker tries for each honest peer, to find ids near.", low=1, high=10_000)
    attacks: int = option(5, "Keys attacked, one after the other, by passive and by active Sybils each.", low=1)
    lookups: int = option(100, "Lookups of each attacked key, and for D7 with each number of paths.", low=1)
    clean: int = option(300, "Keys that nobody attacks, looked up for false alarms.", low=1)
    liars: float = option(
        0.0, "D7 instead: this part of all peers names only other liars.", low=0, high=0.9, metavar="PART"
    )


def run(options: SybilOptions, observer: Observer) -> Result:
    if options.peers < 50:
        raise UsageError(f"--peers {options.peers}: Sybils need at least 50 peers to hide among")
    if not options.liars:
        return play(options, observer, _story)
    temper = Withholding(Colluders(), active=False)
    return play(options, observer, _Liars(temper).story, lambda town: _recruit(town, temper, options.liars))


# --- D8: around one key -------------------------------------------------------------------------------------------


class _Attacks:
    """What became of the lookups of attacked keys, by kind and number of Sybils."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, int], list[bool]] = {}
        self.alarms: dict[tuple[str, int], list[bool]] = {}
        self.leading: list[int] = []

    async def attack(self, town: OverlayTown, options: SybilOptions, kind: str, sybils: int) -> None:
        """Surround one new key, announce it, look it up from everywhere, and let the attacker go."""
        (key,) = town.new_keys(1)
        hostile = await _surround(town, options, key, kind, sybils)
        if sybils == options.sybils:
            self.leading.append(_leading(town, key))
        await town.provide(town.pick()[0], [key])
        outcomes = await _look(town, options.lookups, key)
        self.found.setdefault((kind, sybils), []).extend(good for good, _ in outcomes)
        self.alarms.setdefault((kind, sybils), []).extend(alarm for _, alarm in outcomes)
        for member in hostile:
            town.kill(member)
        await asyncio.sleep(_RECOVER_S)


async def _story(town: OverlayTown, options: SybilOptions, observer: Observer) -> Findings:
    false_alarms = await _clean(town, options, observer)
    sizes = sorted({max(1, options.sybils // 4), max(1, options.sybils // 2), options.sybils})
    attacks = _Attacks()
    rounds = [(kind, sybils) for sybils in sizes[:-1] for kind in _TEMPERS]
    rounds += [(kind, options.sybils) for _ in range(options.attacks) for kind in _TEMPERS]
    for number, (kind, sybils) in enumerate(rounds):
        observer.progress(f"attacking: {number + 1} of {len(rounds)}, {sybils} {kind} Sybils")
        await attacks.attack(town, options, kind, sybils)
    lines, series = [], {"sybils": [float(size) for size in sizes]}
    for kind in _TEMPERS:
        for what, outcomes in (("found", attacks.found), ("detected", attacks.alarms)):
            parts = [share(sum(outcomes[kind, size]), len(outcomes[kind, size])) for size in sizes]
            lines.append(Line("D8", f"{what}, {options.sybils} {kind} Sybils", parts[-1], 0.99, unit="%"))
            series[f"{kind} {what}"] = [100 * part for part in parts]
    lines.append(Line("D8", "false alarms, clean keys", share(sum(false_alarms), len(false_alarms)), 0.01, True, "%"))
    leading = sum(attacks.leading) / len(attacks.leading)
    lines.append(Line("D8", "Sybils nearer to the key than any honest peer, mean", leading, digits=1))
    return Findings(
        lines,
        [
            f"Ids near the key were found by trying {options.tries * options.peers:,} keys. Every Sybil has an address "
            "group of its own. The key is announced when they stand already, and looked up from random honest peers.",
            "Detected: the lookup's nearest peers are too near for chance, by the overlay's own test.",
        ],
        series,
    )


async def _surround(town: OverlayTown, options: SybilOptions, key: bytes, kind: str, sybil_count: int) -> list[Member]:
    """Sybils join near `key` as everybody joins, and then search for it so that its neighbours know them."""
    colluders = Colluders()
    temper = Forgetful() if kind == "passive" else Withholding(colluders, active=False)
    sybils: list[Member] = []
    for secret in keys_near(key, sybil_count, options.tries * options.peers, town.rng):
        sybil = await town.start(key=secret, temper=temper)
        colluders.add(sybil.id, sybil.address)
        sybils.append(sybil)
    await asyncio.gather(*(town.join(sybil, town.entry_addresses()) for sybil in sybils))
    await asyncio.sleep(_SETTLE_S)
    if isinstance(temper, Withholding):
        temper.active = True
    return sybils


def _leading(town: OverlayTown, key: bytes) -> int:
    """How many Sybils are nearer to `key` than any honest peer."""
    nearest = town.atlas().nearest(key, len(town.alive))
    return next(number for number, member in enumerate(nearest) if member.temper is None)


async def _look(town: OverlayTown, times: int, key: bytes) -> list[tuple[bool, bool]]:
    """For each lookup from a random honest peer: was it found, and was the alarm given."""

    async def one() -> tuple[bool, bool]:
        await asyncio.sleep(town.rng.random() * _SETTLE_S)
        member = town.pick(but=list(town.holders_of.get(key, ())))[0]
        trace = await town.find(member, key)
        assert trace is not None
        return town.found(trace), inside.crowded(member.overlay, trace)

    return list(await asyncio.gather(*(one() for _ in range(times))))


async def _clean(town: OverlayTown, options: SybilOptions, observer: Observer) -> list[bool]:
    observer.progress(f"looking up clean keys: {options.clean}")
    looks = await asyncio.gather(*(_look(town, 1, key) for key in town.new_keys(options.clean)))
    return [alarm for outcomes in looks for _, alarm in outcomes]


# --- D7: everywhere -----------------------------------------------------------------------------------------------


def _recruit(town: OverlayTown, temper: Withholding, part: float) -> None:
    """Of those who join exactly a part are liars, who behave until all are there."""
    joined = count(1)

    def decide() -> Forgetful | None:
        number = next(joined)
        return temper if int(number * part) > int((number - 1) * part) else None

    town.temper_of_newcomer = decide


class _Liars:
    def __init__(self, temper: Withholding) -> None:
        self._temper = temper

    async def story(self, town: OverlayTown, options: SybilOptions, observer: Observer) -> Findings:
        liars = [member for member in town.alive if member.temper is not None]
        for liar in liars:
            self._temper.add_colluder(liar.id, liar.address)
        self._temper.active = True
        keys = town.new_keys(max(10, options.clean // 3))
        for number, key in enumerate(keys):
            await town.provide(town.pick()[0], [key])
            observer.progress(f"announcing: {number} of {len(keys)}")
        lines, series = [], {}
        mark = 0.99 if options.liars <= 0.2 else 0.95 if options.liars <= 0.3 else None
        for paths in _PATHS:
            observer.progress(f"looking up: {paths} paths")
            found = await self._found(town, options, keys, paths)
            what = f"found, {share(len(liars), len(town.alive)):.0%} liars, {paths} path{'s' * (paths > 1)}"
            lines.append(Line("D7", what, found, mark if paths > 1 else None, unit="%"))
            series[f"{paths} paths"] = [100 * found]
        notes = [
            "Liars join as everybody does and behave until all are there. Then they name only the liars nearest to "
            "what is asked for, store nothing and withhold; keys are announced after that, by honest peers."
        ]
        return Findings(lines, notes, series)

    async def _found(self, town: OverlayTown, options: SybilOptions, keys: Sequence[bytes], paths: int) -> float:
        async def one(number: int) -> bool:
            await asyncio.sleep(number / 50)
            key = town.rng.choice(keys)
            trace = await town.find(town.pick(but=list(town.holders_of[key]))[0], key, paths=paths)
            assert trace is not None
            return town.found(trace)

        outcomes = await asyncio.gather(*(one(number) for number in range(10 * options.lookups)))
        return share(sum(outcomes), len(outcomes))


# --- plots --------------------------------------------------------------------------------------------------------


def plot(result: Result, options: SybilOptions, figure: Any) -> None:
    if options.liars:
        _plot_liars(result, options, figure.add_subplot())
        return
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    for axes, what, title in ((left, "found", "Is the key found?"), (right, "detected", "Is the crowd noticed?")):
        axes.set_title(title)
        for kind, colour, shape in (("passive", figures.BLUE, "o-"), ("active", figures.ORANGE, "s--")):
            axes.plot(result.series["sybils"], result.series[f"{kind} {what}"], shape, color=colour, label=kind)
        figures.mark(axes, 99, f"D8: >= 99 % with {options.sybils}", below=True)
        axes.set_xlabel("Sybils nearest to the key")
        axes.set_xlim(0, 1.08 * options.sybils)
        axes.set_ylim(0, 107)
        figures.whole_numbers(axes.xaxis)
    left.set_ylabel("lookups (%)")
    left.legend(loc="lower right", title="Sybils are", alignment="left")


def _plot_liars(result: Result, options: SybilOptions, axes: Any) -> None:
    axes.set_title(f"{options.liars:.0%} of all peers name only each other: how often is a key found?")
    names = [name for name in result.series if name.endswith("paths")]
    bars = axes.bar(
        [name.removesuffix(" paths") for name in names],
        [result.series[name][0] for name in names],
        color=figures.BLUE,
        width=0.5,
    )
    axes.bar_label(bars, fmt="%.1f %%", label_type="center", color="white", weight="bold")
    axes.set_xlabel("disjoint paths of a lookup")
    axes.set_ylabel("lookups that find it (%)")
    axes.set_ylim(0, 107)
    line = result.lines[-1]
    if line.mark is not None:
        figures.mark(axes, 100 * line.mark, f"D7: {line.mark_text}", below=True)


SCENARIO = Scenario(
    name="sybil",
    summary="Sybils crowd around a key to hide it (D8), or liars everywhere name only each other (D7)",
    story=(
        "An attacker tries keys until it has ids nearer to a key than honest peers are, and joins with them. Passive\n"
        "Sybils answer honestly and store nothing; active ones name only each other and withhold. The key is\n"
        "announced and looked up all the same; measured is how often it is found and the crowd noticed (D8).\n\n"
        "With --liars a part of all peers names only other liars, whatever is asked, and lookups go along 1, 4 and 8\n"
        "disjoint paths (D7)."
    ),
    options=SybilOptions,
    run=run,
    plot=plot,
)
