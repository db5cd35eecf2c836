"""What the scenarios of the overlay share: their common options, how their network is built, what they note."""

from __future__ import annotations

import gc
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, TypeVar

from p2pmodel.overlay import CLUSTER, INTERNET
from p2pmodel.testing.conditions import Conditions
from p2pmodel.testing.internet import Internet
from p2pmodel.testing.keys import quick_keys
from p2pmodel.testing.loop import run
from p2pmodel.testing.overlays import OverlayTown, calm_collector, settle_memory
from p2pmodel.testing.report import Line, Result
from simulations.scenario import Observer, Options, option

_REAL_SIGNATURES_MAX = 100
"""Peers up to which signatures are real ones unless asked otherwise: beyond, they would take most of the time."""
_PROFILES = {"internet": INTERNET, "cluster": CLUSTER}


@dataclass(frozen=True, kw_only=True)
class TownOptions(Options):
    """What every scenario of the overlay alone has."""

    latency_low: float = option(20.0, "Shortest path, one way, in ms.", low=0, high=10_000, metavar="MS")
    latency_high: float = option(100.0, "Longest path, one way, in ms.", low=0, high=10_000, metavar="MS")
    loss: float = option(0.0, "Part of all datagrams that is lost.", low=0, high=0.9, metavar="PART")
    profile: str = option("internet", "How patient the overlay is.", choices=tuple(_PROFILES))
    direct: bool = option(False, "Fill the tables directly instead of letting each peer join: for 10,000 peers.")
    real_signatures: bool = option(
        False, f"Ed25519 however many peers there are; else above {_REAL_SIGNATURES_MAX} a cheap hash stands in."
    )


@dataclass(slots=True)
class Findings:
    """What a story brings back: see `Result`."""

    lines: list[Line] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    series: dict[str, list[float]] = field(default_factory=dict)


Town = TypeVar("Town", bound=TownOptions)
Story = Callable[[OverlayTown, Town, Observer], Coroutine[Any, Any, Findings]]


def play(
    options: Town,
    observer: Observer,
    story: Story[Town],
    prepare: Callable[[OverlayTown], None] = lambda _: None,
) -> Result:
    """Build the town that `options` ask for and let `story` happen in it, in virtual time.

    `prepare` sees the town before anybody is in it.
    """
    conditions = Conditions(latency_ms=(options.latency_low, options.latency_high), loss=options.loss)
    quick = options.peers > _REAL_SIGNATURES_MAX and not options.real_signatures
    ended_at = 0.0
    internet = Internet(options.seed, conditions, observer.log)

    async def whole() -> Findings:
        nonlocal ended_at
        town = OverlayTown(internet, profile=_PROFILES[options.profile])
        prepare(town)
        build = town.appear if options.direct else town.grow
        await build(options.peers, observer.progress)
        settle_memory()
        findings = await story(town, options, observer)
        ended_at = internet.now
        return findings

    with ExitStack() as stack:
        stack.enter_context(calm_collector())
        if quick:
            stack.enter_context(quick_keys())
        findings = run(whole())
    gc.collect()
    return Result(
        lines=findings.lines,
        virtual_seconds=ended_at,
        event_log_sha256=observer.log.sha256,
        options={"signatures": "keyed BLAKE2b" if quick else "Ed25519", "datagrams": internet.datagrams},
        notes=[*_notes(options, quick), *findings.notes],
        series=findings.series,
    )


def _notes(options: TownOptions, quick: bool) -> Iterable[str]:
    if quick:
        yield "Signatures: keyed BLAKE2b stands in for Ed25519 (--real-signatures turns that off)."
    if options.direct:
        yield "Tables were filled directly, as Kademlia promises at least; nobody joined over the network."


def pairs(points: Iterable[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Points as the two lists that a series is kept in."""
    listed = list(points)
    return [x for x, _ in listed], [y for _, y in listed]


def steps(values: Sequence[float]) -> tuple[list[float], list[float]]:
    """The cumulative distribution of `values`: x ascending, the part of all that is no greater."""
    ordered = sorted(values)
    return ordered, [(number + 1) / len(ordered) for number in range(len(ordered))]
