"""What it costs to announce every chunk of a large model, against a lookup and a store at each holder for every key."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from p2pmodel.errors import UsageError
from p2pmodel.testing.overlays import Member, OverlayTown
from p2pmodel.testing.report import Line, Result, share
from simulations import figures
from simulations.scenario import Observer, Scenario, option
from simulations.towns import Findings, TownOptions, play

_LOOK_S = 0.5


@dataclass(frozen=True, kw_only=True)
class AnnounceOptions(TownOptions):
    peers: int = option(10_000, "How many peers there are.", low=30, high=20_000, metavar="N")
    direct: bool = option(True, "Fill the tables directly instead of letting each peer join.")
    keys: int = option(133_000, "Chunk keys that one peer announces.", low=100, high=1_000_000, metavar="N")
    sample: int = option(200, "Keys that another peer announces one by one, for comparison.", low=1, high=10_000)
    recall: int = option(300, "Keys that are looked up afterwards.", low=1, high=100_000, metavar="N")
    minutes: float = option(120.0, "Give up after this much virtual time.", low=1)


def run(options: AnnounceOptions, observer: Observer) -> Result:
    if options.recall > options.keys:
        raise UsageError(f"--recall {options.recall}: there are {options.keys} keys")
    return play(options, observer, _story)


async def _story(town: OverlayTown, options: AnnounceOptions, observer: Observer) -> Findings:
    naive_peer, publisher = town.pick(2)
    naive = await _one_by_one(town, naive_peer, options, observer)
    keys = town.new_keys(options.keys)
    town.holders_of.update((key, {publisher: None}) for key in keys)
    began, before = town.now, _datagrams(publisher)
    publisher.overlay.provide_later(keys)
    minutes, pending, sent = [0.0], [100.0], [0.0]
    while publisher.overlay.stats().keys_pending and town.now - began < 60 * options.minutes:
        await asyncio.sleep(_LOOK_S)
        left = publisher.overlay.stats().keys_pending
        minutes.append((town.now - began) / 60)
        pending.append(100 * left / options.keys)
        sent.append(float(_datagrams(publisher) - before))
        observer.progress(f"announcing: {options.keys - left:,} of {options.keys:,}")
    swept = _datagrams(publisher) - before
    recalled = await _recall(town, publisher, town.rng.sample(keys, options.recall), observer)
    saved = naive * options.keys / swept
    return Findings(
        [
            Line("P8", f"times fewer datagrams for {options.keys:,} keys", saved, 100, digits=1),
            Line("P8", "datagrams, sent and received by the publisher", swept, digits=0),
            Line("P8", "datagrams a key, one by one", naive, digits=1),
            Line("P8", "minutes until all are announced", minutes[-1], digits=1),
            Line("P8", "keys not announced", publisher.overlay.stats().keys_pending, 0, True, digits=0),
            Line("P8", f"found afterwards, {options.recall} keys", recalled, unit="%"),
        ],
        [f"One by one: {options.sample} keys of another peer, each with a lookup and a store at each of its holders."],
        {"minutes": minutes, "pending": pending, "sent": sent, "naive": [naive]},
    )


def _datagrams(member: Member) -> int:
    stats = member.overlay.stats()
    return stats.datagrams_in + stats.datagrams_out


async def _one_by_one(town: OverlayTown, member: Member, options: AnnounceOptions, observer: Observer) -> float:
    before = _datagrams(member)
    for number, key in enumerate(town.new_keys(options.sample)):
        await town.provide(member, [key])
        observer.progress(f"announcing one by one: {number} of {options.sample}")
    return (_datagrams(member) - before) / options.sample


async def _recall(town: OverlayTown, publisher: Member, keys: list[bytes], observer: Observer) -> float:
    observer.progress("looking up")

    async def one(number: int, key: bytes) -> bool:
        await asyncio.sleep(number / 20)
        trace = await town.find(town.pick(but=[publisher])[0], key)
        return trace is not None and town.found(trace)

    finds = await asyncio.gather(*(one(number, key) for number, key in enumerate(keys)))
    return share(sum(finds), len(finds))


def plot(result: Result, options: AnnounceOptions, figure: Any) -> None:
    series = result.series
    axes = figure.add_subplot()
    axes.set_title(f"One peer announces {options.keys:,} chunk keys")
    points = [
        (options.keys * (1 - left / 100), sent)
        for left, sent in zip(series["pending"], series["sent"], strict=True)
        if left < 100
    ]
    each = series["naive"][0]
    done = [options.keys * step / 200 for step in range(1, 201)]
    axes.plot(done, [each * count for count in done], ":", color=figures.GREY, label="a lookup and stores for each key")
    axes.plot(
        done,
        [each * count / 100 for count in done],
        "--",
        color=figures.RED,
        linewidth=1.4,
        label="P8: 100 times fewer",
    )
    axes.plot([x for x, _ in points], [y for _, y in points], "o-", color=figures.BLUE, markersize=3, label="the sweep")
    axes.set_yscale("log")
    axes.set_xlim(0)
    axes.set_ylim(min(points[0][1], each * points[0][0] / 100) / 3)
    axes.set_xlabel("keys announced")
    axes.set_ylabel("datagrams of the publisher (in and out)")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.legend(loc="lower right")


SCENARIO = Scenario(
    name="announce",
    summary="announcing every chunk of a large model in bulk, against one by one (P8)",
    story=(
        "One peer announces the chunk keys of a 133 GB model in one sweep; another announces a few keys one by one.\n"
        "Compared are the datagrams for each key, and random peers look up some of the keys afterwards (P8)."
    ),
    options=AnnounceOptions,
    run=run,
    plot=plot,
)
