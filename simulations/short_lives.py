"""Nobody lives for more than a minute: peers are killed again and again, others take their place. Do fetches end?"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any

from p2pmodel.model import Layout
from p2pmodel.testing.condensed import CondensedStore
from p2pmodel.testing.crowd import Crowd, Member
from p2pmodel.testing.host import Host
from p2pmodel.testing.report import Line, Result, share
from simulations import figures
from simulations.crowds import SAMPLE_S, SETTLE_S, CrowdOptions, in_crowds, notes
from simulations.scenario import Observer, Scenario, option

_PATIENCE_S = 3600.0
_OVERHEAD_MARK = 0.03


@dataclass(frozen=True, kw_only=True)
class ShortLivesOptions(CrowdOptions):
    peers: int = option(16, "Machines that fetch.", low=1, high=500, metavar="N")
    seeds: int = option(4, "Machines that hold all of it, at any time.", low=1, high=500, metavar="N")
    size: str = option("256MiB", "Of the model, as in 3GB or 512MiB.", metavar="SIZE")
    up: str = option("3MB/s", "Of each host's line; the model's bytes alone are counted.", metavar="RATE")
    life_low: float = option(20.0, "Shortest life.", low=1, high=3600, metavar="S")
    life_high: float = option(60.0, "Longest life.", low=1, high=3600, metavar="S")
    pause: float = option(5.0, "Longest time until a replacement starts.", low=0, high=600, metavar="S")
    trials: int = option(1, "Runs, each with a seed of its own.", low=1, high=10_000, metavar="N")


@dataclass(slots=True)
class _Machine:
    """One place in the crowd, and who lives there now. What was fetched stays on its disk from life to life."""

    host: Host
    store: CondensedStore
    done_at: float | None = None
    lives: int = 0
    held: list[float] = field(default_factory=list)
    came_bytes: int = 0

    @property
    def fell(self) -> bool:
        return any(after < before for before, after in zip(self.held, self.held[1:], strict=False))


@dataclass(slots=True)
class _Trial:
    fetching: int
    done: list[float]
    fell: int
    overhead: float
    kills: int
    bad_chunks: int
    at: list[float]
    held: list[list[float]]


def run(options: ShortLivesOptions, observer: Observer) -> Result:
    async def story(crowd: Crowd, layout: Layout) -> _Trial:
        return await _Story(crowd, layout, options).tell()

    trials, seconds = in_crowds(options, options.trials, observer, story)
    return Result(
        lines=_lines(trials),
        virtual_seconds=seconds,
        event_log_sha256=observer.log.sha256,
        notes=[
            "Everybody who holds or fetches is killed and replaced; only the node that lets peers into the overlay "
            "stays. A machine that fetches keeps its disk; a machine that held everything is replaced by another.",
            "Overhead: whole answers on the lines of those who fetch, over what they wanted, less 1.",
            *notes(options),
        ],
        series={"at": trials[0].at, **{f"machine {n}": held for n, held in enumerate(trials[0].held)}},
    )


class _Story:
    def __init__(self, crowd: Crowd, layout: Layout, options: ShortLivesOptions) -> None:
        self._crowd = crowd
        self._layout = layout
        self._options = options
        self._dice = Random(f"{crowd.internet.seed} lives")
        self._kills = 0
        self._at: list[float] = []
        self._all_done = asyncio.Event()
        self._machines: list[_Machine] = []

    async def tell(self) -> _Trial:
        crowd, loop = self._crowd, asyncio.get_running_loop()
        entry = await crowd.add(crowd.internet.host())
        await crowd.joined()
        self._machines = [_Machine(crowd.internet.host(), CondensedStore()) for _ in range(self._options.peers)]
        tasks = [loop.create_task(self._seeds()) for _ in range(self._options.seeds)]
        await asyncio.sleep(2 * SETTLE_S)
        began = crowd.internet.now
        tasks += [loop.create_task(self._fetches(machine)) for machine in self._machines]
        tasks.append(loop.create_task(self._watch(began)))
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await self._all_done.wait()
        except TimeoutError:
            pass
        for task in tasks:
            task.cancel()
        assert not entry.held_bits(self._layout), "the entry node only leads into the network"
        machines = self._machines
        wanted = self._layout.manifest.bytes_total * len(machines)
        return _Trial(
            fetching=len(machines),
            done=[machine.done_at - began for machine in machines if machine.done_at is not None],
            fell=sum(machine.fell for machine in machines),
            overhead=sum(machine.came_bytes for machine in machines) / wanted - 1,
            kills=self._kills,
            bad_chunks=sum(machine.store.bad_chunks(self._layout) for machine in machines),
            at=self._at,
            held=[machine.held for machine in machines],
        )

    async def _seeds(self) -> None:
        """One place of a holder: whoever dies there is followed by another machine that has all of it."""
        while True:
            member = await self._crowd.add(self._crowd.internet.host())
            await member.peer.joined.wait()
            await self._crowd.publish(member, self._layout)
            await self._live_and_die(member)

    async def _fetches(self, machine: _Machine) -> None:
        await asyncio.sleep(self._dice.random())
        while True:
            machine.lives += 1
            member = await self._crowd.add(machine.host, store=machine.store)
            if machine.done_at is None:
                fetch = self._crowd.fetch(member, self._layout)
                fetch.add_done_callback(partial(self._ended, machine, member))
            else:
                await self._crowd.publish(member, self._layout)
            await self._live_and_die(member)

    def _ended(self, machine: _Machine, member: Member, _: object) -> None:
        if member.done_at is not None and machine.done_at is None:
            machine.done_at = member.done_at
            machine.came_bytes = machine.host.download.bytes_carried
            if all(one.done_at is not None for one in self._machines):
                self._all_done.set()

    async def _live_and_die(self, member: Member) -> None:
        options = self._options
        await asyncio.sleep(self._dice.uniform(options.life_low, max(options.life_low, options.life_high)))
        self._kills += 1
        self._crowd.internet.crash(member.host)
        await asyncio.sleep(self._dice.uniform(0, options.pause))

    async def _watch(self, began: float) -> None:
        while True:
            self._at.append(self._crowd.internet.now - began)
            for machine in self._machines:
                have = machine.store.have_map(self._layout.model_id)
                machine.held.append(have.held / len(self._layout) if have is not None else 0.0)
            await asyncio.sleep(SAMPLE_S)


def _lines(trials: list[_Trial]) -> list[Line]:
    fetching = sum(trial.fetching for trial in trials)
    return [
        Line("S6", "machines that got all of it", share(sum(len(t.done) for t in trials), fetching), 1.0, unit="%"),
        Line("S6", "machines whose progress ever fell", sum(t.fell for t in trials), 0, True, digits=0),
        Line("S6", "overhead, mean", sum(t.overhead for t in trials) / len(trials), _OVERHEAD_MARK, True, "%"),
        Line("S6", "overhead, the worst trial", max(t.overhead for t in trials), unit="%"),
        Line("S6", "chunks kept that are not the model's", sum(t.bad_chunks for t in trials), 0, True, digits=0),
        Line("S6", "the last was done after, most", max(max(t.done, default=0.0) for t in trials), unit="s", digits=1),
        Line("S6", "peers killed, mean", sum(t.kills for t in trials) / len(trials), digits=1),
    ]


def plot(result: Result, options: ShortLivesOptions, figure: Any) -> None:
    axes = figure.subplots()
    axes.set_title("What each machine has" + (", first trial" if options.trials > 1 else ""))
    at = result.series["at"]
    for number in range(options.peers):
        held = [100 * part for part in result.series[f"machine {number}"]]
        axes.plot(at[: len(held)], held, color=figures.BLUE, linewidth=0.9, alpha=0.5)
    axes.set_xlim(0, None)
    axes.set_ylim(0, 102)
    axes.set_xlabel(f"seconds; each peer dies {options.life_low:g} to {options.life_high:g} s after it has started")
    axes.set_ylabel("chunks (%)")


SCENARIO = Scenario(
    name="short_lives",
    summary="every peer is killed within a minute and replaced (S6)",
    story=(
        "Machines fetch a model from a few that hold it and from each other. Every one of them, those that hold it\n"
        "too, is killed within a minute of its start. One that fetches starts again with its disk, one that\n"
        "held everything is replaced by another. Do all end up with all of it, and what was fetched twice?"
    ),
    options=ShortLivesOptions,
    run=run,
    plot=plot,
)
