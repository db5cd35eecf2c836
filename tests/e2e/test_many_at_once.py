"""Goal: however many ask for a model at once, its bytes cross the wire once and nobody sees an error. Method: real
commands on one data directory, with a daemon and without; the seed's own count says what it has sent.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from p2pmodel.peer.client import find_daemon
from p2pmodel.peer.requests import LimitsChange
from tests.e2e.processes import Finished, Network, Node, finish, network, sha256_of, sharded_model, status_of

MIB = 1 << 20
SIZE = 48 * MIB
SLACK = 2 * MIB
"""Records, manifests, chunk lists, have-maps, signatures, and the overlay."""
IN_FLIGHT = 32 * MIB
CALLERS = 20
pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
DONE_S = 300


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """One network for all, with a seed and a model: each test has a data directory of its own."""
    with network(tmp_path_factory.mktemp("many")) as made:
        made.daemon("seed")
        yield made


@pytest.fixture(scope="module")
def model(net: Network) -> tuple[Path, str]:
    source = sharded_model(net.root / "model", shards=3, shard_bytes=SIZE // 3)
    return source, str(net.publish(source, on=net.nodes[1])["model_id"])


@pytest.fixture
def seed(net: Network) -> Node:
    limit_upload(net.nodes[1], 32 * MIB)
    return net.nodes[1]


def sent_by(node: Node) -> int:
    found = status_of(node.data_dir)
    assert found is not None
    return found.bytes_sent


def limit_upload(node: Node, rate: int | None) -> None:
    async def ask() -> None:
        daemon = await find_daemon(node.data_dir)
        assert daemon is not None
        await daemon.set_limits(LimitsChange(upload_bytes_per_s=rate))
        await daemon.close()

    asyncio.run(ask())


def until_attached(home: Path, processes: list[subprocess.Popen[str]]) -> None:
    """Until the owner of `home` is fetching for all of them."""
    deadline = time.monotonic() + DONE_S
    while True:
        found = status_of(home)
        if found is not None and sum(one.callers for one in found.transfers) >= len(processes):
            return
        over = next((process for process in processes if process.poll() is not None), None)
        assert over is None, f"it was over before all had come: {over and over.communicate()}"
        assert time.monotonic() < deadline


def all_done(processes: list[subprocess.Popen[str]]) -> list[Any]:
    done = [finish(process, DONE_S) for process in processes]
    assert [one.code for one in done] == [0] * len(done), next(one.err for one in done if one.code)
    return [one.json for one in done]


def test_twenty_fetches_started_at_once_without_a_daemon_bring_one_copy(
    net: Network, seed: Node, model: tuple[Path, str], tmp_path: Path
) -> None:
    source, model_id = model
    assert net.entry is not None
    home, out = tmp_path / "home", tmp_path / "out"
    args = ("fetch", model_id, "--to", out, "--bootstrap", net.entry.listen, "--json")
    before = sent_by(seed)
    reports = all_done([net.begin(*args, on=home) for _ in range(CALLERS)])
    assert sha256_of(out) == sha256_of(source)
    total = reports[0]["bytes_total"]
    assert sum(report["bytes_fetched"] for report in reports) == total
    assert sent_by(seed) - before < total + SLACK
    assert not list(home.glob("daemon.json")) and not list(home.glob("control.sock"))


def test_callers_who_want_other_places_other_files_and_other_signers_share_the_bytes(
    net: Network, seed: Node, model: tuple[Path, str], tmp_path: Path
) -> None:
    source, model_id = model
    node = net.daemon("wishes")
    signer = net.run("show", model_id, "--json", "--peer", seed.listen, on=node).json["signers"][0]["key"]
    shard = "model-00001-of-00003.safetensors"
    before = sent_by(seed)
    wishes: list[tuple[object, ...]] = [
        ("--to", tmp_path / "a"), ("--to", tmp_path / "b"), ("--to", tmp_path / "a", "--signed-by", signer),
        ("--to", tmp_path / "c", "--include", "*.json"), (shard, "--to", tmp_path / "d"), (),
    ]  # fmt: skip
    begun = [net.begin("fetch", model_id, *wish, "--json", on=node) for wish in wishes]
    refused = net.begin("fetch", model_id, "--to", tmp_path / "a", "--signed-by", "a" * 52, "--json", on=node)
    reports = all_done(begun)
    assert finish(refused).code == 6
    for place in ("a", "b"):
        assert sha256_of(tmp_path / place) == sha256_of(source)
    assert set(sha256_of(tmp_path / "c")) == {"config.json", "model.safetensors.index.json"}
    assert sha256_of(tmp_path / "d") == {shard: sha256_of(source)[shard]}
    assert sent_by(seed) - before < reports[0]["bytes_total"] + SLACK
    node.terminate()  # the next models are slow in coming from one seed


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_when_the_command_that_owns_the_peer_ends_another_takes_over_and_nothing_is_lost(
    net: Network, seed: Node, model: tuple[Path, str], tmp_path: Path, how: signal.Signals
) -> None:
    source, model_id = model
    assert net.entry is not None
    limit_upload(seed, MIB // 8)
    before = sent_by(seed)
    home, out = tmp_path / "home", tmp_path / "out"
    args = ("fetch", model_id, "--to", out, "--bootstrap", net.entry.listen, "--json")
    owner = net.begin(*args, on=home)
    until_attached(home, [owner])
    others = [net.begin(*args, on=home) for _ in range(3)]
    until_attached(home, [owner, *others])
    owner.send_signal(how)
    limit_upload(seed, None)
    ended = finish(owner, 30)
    assert ended.code == (130 if how is signal.SIGINT else -signal.SIGKILL), ended.err
    reports = all_done(others)
    assert sha256_of(out) == sha256_of(source)
    assert sent_by(seed) - before < reports[0]["bytes_total"] + IN_FLIGHT + SLACK


def test_a_caller_who_gives_up_stops_nobody_else(
    net: Network, seed: Node, model: tuple[Path, str], tmp_path: Path
) -> None:
    source, model_id = model
    limit_upload(seed, MIB // 8)
    node = net.daemon("patient")
    before = sent_by(seed)
    callers = [net.begin("fetch", model_id, "--to", tmp_path / "out", "--json", on=node) for _ in range(3)]
    until_attached(node.data_dir, callers)
    limit_upload(seed, None)
    callers[0].send_signal(signal.SIGINT)
    assert finish(callers[0], 30).code == 130
    reports = all_done(callers[1:])
    assert sha256_of(tmp_path / "out") == sha256_of(source)
    assert sent_by(seed) - before < reports[0]["bytes_total"] + SLACK
    node.terminate()


def test_commands_of_every_kind_at_once_on_one_directory_wait_for_each_other(net: Network, tmp_path: Path) -> None:
    home, source = tmp_path / "home", sharded_model(tmp_path / "model", shards=2, shard_bytes=4 * MIB)
    published = net.publish(source, on=home)["model_id"]
    kinds: list[tuple[object, ...]] = [("publish", source), ("verify", source), ("ls",), ("show", published)]
    done: list[Finished] = [finish(process) for process in [net.begin(*kind, "--json", on=home) for kind in kinds]]
    assert [one.code for one in done] == [0] * len(done), [one.err for one in done]
