"""`du`, and what `fetch` says of bytes that it did not fetch, as a person types them, with and without a daemon."""

from __future__ import annotations

import asyncio
import json
import random

import pytest

from p2pmodel import Peer, PeerConfig
from p2pmodel.peer.config import NetworkConfig
from p2pmodel.peer.daemon import run_daemon

pytestmark = pytest.mark.slow
WEIGHTS_BYTES = 300_000


@pytest.fixture
async def publisher(tmp_path):
    config = PeerConfig(
        data_dir=tmp_path / "seed", listen="127.0.0.1:0", http=None, network=NetworkConfig(name="lab"), lan=False
    )
    async with Peer(config) as peer:
        yield peer


@pytest.fixture
async def family(publisher, tmp_path):
    """The ids of two models with the same weights and another configuration each."""
    weights = random.Random(1).randbytes(WEIGHTS_BYTES)
    found = []
    for name in ("base", "tuned"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "w.bin").write_bytes(weights)
        (tmp_path / name / "config.json").write_text(json.dumps({"name": name}))
        found.append(await publisher.publish(tmp_path / name))
    return found


@pytest.fixture
def network(tmp_path):
    path = tmp_path / "network.toml"
    path.write_text('name = "lab"\n')
    return {"P2PMODEL_NETWORK": str(path), "P2PMODEL_LISTEN": "127.0.0.1:0", "P2PMODEL_HTTP": "off"}


async def test_equal_files_of_cached_models_are_one_and_du_tells_what_that_saves(
    p2pmodel, publisher, family, network, tmp_path
):
    assert "No models" in (await p2pmodel("du")).err
    base, tuned = family
    assert (await p2pmodel("fetch", base, "--peer", publisher.listen, environment=network)).code == 0
    planned = await p2pmodel("fetch", tuned, "--peer", publisher.listen, "--dry-run", "--json", environment=network)
    assert json.loads(planned.out)["bytes_fetched"] < 100
    told = await p2pmodel("fetch", tuned, "--peer", publisher.listen, "--explain", environment=network)
    assert "in other files" in told.err and "are one with a file of another model" in told.err

    usage = json.loads((await p2pmodel("du", "--json")).out)
    assert [line["bytes_shared"] for line in usage["models"]] == [WEIGHTS_BYTES] * 2
    assert usage["bytes_saved"] >= WEIGHTS_BYTES and usage["bytes_repeated"] == 0
    assert usage["bytes_on_disk"] < usage["bytes_apparent"] == sum(line["bytes_apparent"] for line in usage["models"])
    shown = (await p2pmodel("du")).out
    assert "are saved because" in shown and base in shown and tuned in shown
    assert set((await p2pmodel("du", "-q")).out.split()) == {base, tuned}

    copied = await p2pmodel("fetch", tuned, "--to", tmp_path / "mine", "--json", environment=network)
    assert json.loads(copied.out)["reused"]["linked"] == 0
    linked = await p2pmodel("fetch", tuned, "--to", tmp_path / "one", "--link", "--json", environment=network)
    assert json.loads(linked.out)["reused"]["linked"] == WEIGHTS_BYTES
    assert (tmp_path / "one" / "w.bin").stat().st_nlink == 3
    again = json.loads((await p2pmodel("du", "--json")).out)
    assert again["bytes_repeated"] >= WEIGHTS_BYTES
    assert "are here more than once" in (await p2pmodel("du")).out


async def test_a_running_daemon_answers_du(p2pmodel, publisher, family):
    config = PeerConfig(
        data_dir=p2pmodel.data_dir, listen="127.0.0.1:0", http=None, network=NetworkConfig(name="lab"), lan=False
    )
    ready, stop = asyncio.Event(), asyncio.Event()
    serving = asyncio.create_task(run_daemon(config, on_ready=lambda _: ready.set(), stop=stop))
    await ready.wait()
    for model_id in family:
        assert (await p2pmodel("fetch", model_id, "--peer", publisher.listen)).code == 0
    usage = json.loads((await p2pmodel("du", "--json")).out)
    assert len(usage["models"]) == 2 and usage["bytes_saved"] >= WEIGHTS_BYTES
    stop.set()
    await serving
