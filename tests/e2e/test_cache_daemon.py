"""A peer that is a cache, as processes: what its neighbours ask for it takes from a slow publisher once."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path

import pytest

from p2pmodel.peer.client import find_daemon
from tests.e2e.processes import Network, Node

MIB = 1 << 20
SIZE = 24 * MIB
pytestmark = pytest.mark.slow


def model(tmp_path: Path, seed: int, size: int = SIZE) -> Path:
    path = tmp_path / f"model{seed}"
    path.mkdir()
    (path / "weights.bin").write_bytes(random.Random(seed).randbytes(size))
    return path


async def until_whole(cache: Node) -> None:
    """It yields to the fetch that asked it, and goes on when that has ended."""
    daemon = await find_daemon(cache.data_dir)
    assert daemon is not None
    deadline = time.monotonic() + 80
    try:
        while not (models := await daemon.models()) or models[0].bytes_held < SIZE:
            assert time.monotonic() < deadline, models
            await asyncio.sleep(0.1)
    finally:
        await daemon.close()


def fetch(network: Network, node: Path, model_id: str, entry: Node) -> dict:
    done = network.run("fetch", model_id, "--json", "--bootstrap", entry.listen, "--to", node / "out", on=node)
    assert done.code == 0, done.err
    return done.json


def test_the_second_fetch_draws_mostly_on_the_cache(net: Network, tmp_path: Path) -> None:
    entry = net.start_entry()
    publisher = net.daemon("publisher", "--upload-limit", "8MiB")
    cache = net.daemon("cache", "--cache", "200MiB")
    model_id = net.publish(model(tmp_path, 1), on=publisher)["model_id"]
    first = fetch(net, tmp_path / "one", model_id, entry)
    asyncio.run(until_whole(cache))
    second = fetch(net, tmp_path / "two", model_id, entry)
    by = {peer["peer_id"]: peer["bytes"] for peer in second["peers"]}
    assert by.get(cache.ready["peer_id"], 0) > SIZE / 2, by
    assert second["seconds"] < first["seconds"]
    listed = net.run("ls", "--json", on=cache).json["models"]
    assert [(one["model_id"], one["cached"]) for one in listed] == [(model_id, True)]
