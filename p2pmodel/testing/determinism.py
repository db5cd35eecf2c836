"""The same seed gives the same simulation, byte for byte: a scenario with everything in it, run for many seeds.

    python -m p2pmodel.testing.determinism --seeds 200

prints one hash of all event logs. Run it with another version of Python, another `PYTHONHASHSEED`, another machine:
the line must be the same. `--verbose` prints one line for each seed, so that `diff` shows the first that differs, and
`--log FILE` writes the events of all seeds.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from p2pmodel.errors import P2PModelError
from p2pmodel.testing.conditions import Nat
from p2pmodel.testing.events import EventLog
from p2pmodel.testing.loop import run
from p2pmodel.testing.net import Net
from p2pmodel.testing.options import NetOptions
from p2pmodel.testing.peers import CrashedError, SimPeer
from p2pmodel.testing.weights import SimModel

OPTIONS = NetOptions(
    peers=10,
    loss=0.03,
    duplicate=0.02,
    reorder=0.1,
    upload_bytes_per_s=4e6,
    download_bytes_per_s=16e6,
    nat={Nat.SYMMETRIC: 0.15, Nat.FULL_CONE: 0.15},
    client_only=0.15,
)


async def mixed(seed: int, copy_to: TextIO | None = None) -> EventLog:
    """Joins, publishing, fetches, names, deaths with and without power, a partition, a liar, silence, a bad disk."""
    options = {name: getattr(OPTIONS, name) for name in OPTIONS.__slots__ if name != "seed"}
    async with Net.open(seed=seed, copy_to=copy_to, **options) as net:
        model = await net[1].publish(net.random_model(2 << 20, files=3), name="mixed")
        small = await net[3].publish(net.model_from({"config.json": b"{}", "text/readme.md": b"read me" * 1000}))
        fetches = [asyncio.create_task(_try(net, peer, model)) for peer in net.alive if not peer.holds(model)]
        await net.run_for(net.rng.uniform(0.1, 1.5))
        killed = await net.kill(fraction=0.2, spare=[net[0]])
        net.corrupt(net.rng.choice([peer for peer in net.alive if peer not in (net[1], net[3])]), fraction=0.5)
        await asyncio.gather(*fetches)
        killed += await net.kill(fraction=0.2, silent=True, spare=[net[0]])
        await net.add(2)
        net.partition(0.5)
        await asyncio.gather(*(_try(net, peer, small) for peer in net.alive))
        net.heal()
        net.silence(net.rng.choice(net.alive))
        await net.revive(killed)
        net.fail_disk(net.rng.choice(net.alive), calls=net.rng.randrange(1, 40), only={"write", "sync"}, times=2)
        await asyncio.gather(*(_try(net, peer, model) for peer in net.alive if not peer.holds(model)))
        net.heal()
        await net.run_for(30)
        for peer in net.alive:
            status = await peer.status()
            net.log("status", peer.number, status.neighbours, status.records_held, status.bytes_sent)
    return net.event_log


async def _try(net: Net, peer: SimPeer, model: SimModel) -> None:
    try:
        report = await peer.fetch(model)
    except (P2PModelError, CrashedError) as error:
        net.log("no", peer.number, type(error).__name__)
        return
    sources = [f"{source.peer_id[:12]} {source.bytes} {source.rejected}" for source in report.peers]
    net.log("report", peer.number, repr(report.seconds), report.bytes_fetched, report.bytes_wasted, *sources)


def sha256_of(seed: int, copy_to: TextIO | None = None) -> str:
    return run(mixed(seed, copy_to)).sha256


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m p2pmodel.testing.determinism", description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20, metavar="N", help="how many seeds (default 20)")
    parser.add_argument("--first", type=int, default=0, metavar="SEED", help="the first seed (default 0)")
    parser.add_argument("--verbose", action="store_true", help="one line for each seed")
    parser.add_argument("--log", type=Path, metavar="FILE", help="write the events of all seeds")
    chosen = parser.parse_args(arguments)
    began, whole = time.perf_counter(), hashlib.sha256()
    copy_to = chosen.log.open("w", encoding="utf-8") if chosen.log else None
    try:
        for seed in range(chosen.first, chosen.first + chosen.seeds):
            found = sha256_of(seed, copy_to)
            whole.update(found.encode())
            if chosen.verbose:
                sys.stdout.write(f"{seed} {found}\n")
    finally:
        if copy_to is not None:
            copy_to.close()
    sys.stdout.write(f"{whole.hexdigest()}\n")
    taken_s = time.perf_counter() - began
    sys.stderr.write(f"{chosen.seeds} seeds from {chosen.first}, Python {platform.python_version()}, {taken_s:.1f} s\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
