"""What the scenarios of the swarm share: their common options, how a crowd is built, what it costs."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from p2pmodel.errors import UsageError
from p2pmodel.limits import CHUNK_BYTES_MAX
from p2pmodel.model import Layout
from p2pmodel.peer.units import parse_rate, parse_size
from p2pmodel.testing.condensed import condensed_layout
from p2pmodel.testing.conditions import Conditions, Nat
from p2pmodel.testing.crowd import Crowd, Member
from p2pmodel.testing.events import EventLog
from p2pmodel.testing.internet import Internet
from p2pmodel.testing.keys import quick_keys
from p2pmodel.testing.loop import run
from p2pmodel.testing.overlays import calm_collector
from simulations.scenario import Observer, Options, option

T = TypeVar("T")

SETTLE_S = 5.0
"""Between joining and fetching: a cluster's daemons run before somebody wants a model."""
_PATIENCE_S = 6 * 3600.0
"""No fetch of these scenarios may take longer, in virtual time: it would have given up before."""
SAMPLE_S = 0.25


@dataclass(frozen=True, kw_only=True)
class CrowdOptions(Options):
    """Of every scenario of the swarm."""

    size: str = option("64MiB", "Of the model, as in 3GB or 512MiB.", metavar="SIZE")
    chunk: str = option("1MiB", "Of a chunk; 4MiB is the most that the protocol allows.", metavar="SIZE")
    up: str = option("10MB/s", "Of each host's line; the model's bytes alone are counted.", metavar="RATE")
    down: str = option("50MB/s", "Of each host's line.", metavar="RATE")
    latency_low: float = option(10.0, "Shortest path, one way, in ms.", low=0, high=10_000, metavar="MS")
    latency_high: float = option(50.0, "Longest path, one way, in ms.", low=0, high=10_000, metavar="MS")
    nat: float = option(0.0, "Part of those who fetch that no connection can reach.", low=0, high=1, metavar="PART")
    real_signatures: bool = option(False, "Ed25519; otherwise a cheap hash stands in.")

    @property
    def size_bytes(self) -> int:
        return parse_size(self.size)

    @property
    def chunk_bytes(self) -> int:
        size = parse_size(self.chunk)
        if not 0 < size <= CHUNK_BYTES_MAX:
            raise UsageError(f"--chunk {self.chunk}: expected from 1 byte to {CHUNK_BYTES_MAX // 2**20}MiB")
        return size

    @property
    def up_bytes_per_s(self) -> float:
        return _rate("up", self.up)

    @property
    def down_bytes_per_s(self) -> float:
        return _rate("down", self.down)


def _rate(name: str, text: str) -> float:
    rate = parse_rate(text)
    if rate is None:
        raise UsageError(f"--{name} {text}: a line that is endlessly fast has no floor to be held against")
    return float(rate)


def in_crowd(
    options: CrowdOptions, seed: int, log: EventLog, story: Callable[[Crowd, Layout], Coroutine[None, None, T]]
) -> tuple[T, float]:
    """Let `story` happen in a new, empty crowd; returns what it returns, and the virtual seconds that it took."""
    conditions = Conditions(
        latency_ms=(options.latency_low, options.latency_high),
        upload_bytes_per_s=options.up_bytes_per_s,
        download_bytes_per_s=options.down_bytes_per_s,
    )
    layout = condensed_layout(options.size_bytes, seed=seed, chunk_bytes=options.chunk_bytes)
    internet = Internet(seed, conditions, log)

    async def whole() -> tuple[T, float]:
        async with asyncio.timeout(_PATIENCE_S):
            return await story(Crowd(internet), layout), internet.now

    with ExitStack() as stack:
        stack.enter_context(calm_collector())
        if not options.real_signatures:
            stack.enter_context(quick_keys())
        found = run(whole())
    gc.collect()
    return found


def in_crowds(
    options: CrowdOptions,
    trials: int,
    observer: Observer,
    story: Callable[[Crowd, Layout], Coroutine[None, None, T]],
) -> tuple[list[T], float]:
    """`in_crowd` so many times, each with a seed of its own; all that was returned, and the virtual seconds in all."""
    told, seconds = [], 0.0
    for number in range(trials):
        observer.progress(f"trial {number + 1} of {trials}")
        one, took_s = in_crowd(options, options.seed + number, observer.log, story)
        told.append(one)
        seconds += took_s
    return told, seconds


async def add_fetchers(crowd: Crowd, count: int, nat: float) -> list[Member]:
    """So many peers on new hosts, the part `nat` of them out of reach for connections."""
    behind = [number < round(nat * count) for number in range(count)]
    Random(f"{crowd.internet.seed} nat").shuffle(behind)
    hosts = [crowd.internet.host(nat=Nat.RESTRICTED if hidden else Nat.OPEN) for hidden in behind]
    return [await crowd.add(host) for host in hosts]


async def fetch_all(crowd: Crowd, members: Sequence[Member], layout: Layout, spread_s: float) -> None:
    """Let all of these begin within `spread_s` of each other, and wait for the outcome of each."""
    dice = Random(f"{crowd.internet.seed} starts")
    fetches = [crowd.fetch(member, layout, after_s=spread_s * dice.random()) for member in members]
    await asyncio.gather(*fetches)


def notes(options: CrowdOptions) -> list[str]:
    found = ["A chunk's bytes are stood for by its hash: hashing, writing and reading take no time here."]
    if not options.real_signatures:
        found.append("Signatures: keyed BLAKE2b stands in for Ed25519 (--real-signatures turns that off).")
    return found
