"""One seed, one event log, byte for byte: whatever the hash seed of the process and wherever objects lie in memory.

The scenario is small and has what tends to depend on chance: peers that join at once, a model fetched by many from many,
one that dies in the middle, datagrams lost and doubled. It runs in processes of their own.
"""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from p2pmodel.model import SecretKey
from p2pmodel.peer import Peer, PeerConfig
from p2pmodel.peer.config import NetworkConfig
from p2pmodel.testing.conditions import Conditions
from p2pmodel.testing.events import EventLog
from p2pmodel.testing.internet import Internet
from p2pmodel.testing.loop import run
from p2pmodel.testing.network import SimNetwork

PEERS = 10
CONDITIONS = Conditions(loss=0.02, duplicate=0.02, reorder=0.1, upload_bytes_per_s=2e6, download_bytes_per_s=8e6)


class Keys:
    def __init__(self, number: int) -> None:
        self.key = SecretKey.from_seed(number.to_bytes(32, "big"))

    async def node_key(self) -> SecretKey:
        return self.key

    async def publisher_key(self, name: str = "default") -> SecretKey:
        return self.key


async def scenario(seed: int, directory: Path) -> EventLog:
    rng = random.Random(seed)
    internet = Internet(seed, CONDITIONS)
    hosts = [internet.host() for _ in range(PEERS)]

    def peer(number: int) -> Peer:
        config = PeerConfig(
            data_dir=directory / str(number),
            bootstrap=(f"{hosts[0].ip4}:8764",) if number else (),
            network=NetworkConfig(name="lab", profile="cluster"),
        )
        return Peer(
            config,
            network=lambda identity: SimNetwork(internet, hosts[number], identity),
            rng=random.Random(rng.random()),
            keyring=Keys(1_000 + number),
        )

    model = directory / "model"
    model.mkdir()
    for number in range(3):
        (model / f"{number}.bin").write_bytes(random.Random(number).randbytes(3 << 20))

    peers = [peer(number) for number in range(PEERS)]
    await asyncio.gather(*(one.__aenter__() for one in peers))
    await asyncio.gather(*(one.joined.wait() for one in peers))
    model_id = await peers[1].publish(model, name="tiny")
    fetches = [
        asyncio.create_task(peers[number].fetch(model_id, to=directory / f"out{number}")) for number in range(2, 7)
    ]
    await asyncio.sleep(2)
    await asyncio.gather(peers[7].fetch(model_id, to=directory / "out7"), peers[8].__aexit__(None, None, None))
    for report in await asyncio.gather(*fetches):
        internet.log.add(internet.now, "report", report.bytes_fetched, report.bytes_wasted, *_sources(report))
    await asyncio.gather(*(one.__aexit__(None, None, None) for one in peers))
    return internet.log


def _sources(report) -> list[str]:
    return [f"{source.peer_id} {source.bytes}" for source in report.peers]


def main(seed: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        log = run(scenario(seed, Path(directory)))
    sys.stdout.write(f"{log.count} {log.sha256}\n")


def in_a_process(seed: int, hash_seed: int) -> str:
    environ = {**os.environ, "PYTHONHASHSEED": str(hash_seed)}
    return subprocess.check_output([sys.executable, __file__, str(seed)], env=environ, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_the_same_seed_gives_the_same_event_log_under_any_hash_seed(seed: int) -> None:
    logs = {in_a_process(seed, hash_seed) for hash_seed in (0, 1, 2)}
    assert len(logs) == 1, logs
    assert int(logs.pop().split()[0]) > 1_000


if __name__ == "__main__":
    main(int(sys.argv[1]))
