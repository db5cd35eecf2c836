"""Goal: the main job as a user does it, with real processes, sockets and weights. Method: five daemons and an entry
node, driven through the command line; every file compared by SHA-256 with the original.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.probe import Probe
from tests.e2e.processes import Network, Node, finish, network, sha256_of, sharded_model

MIB = 1 << 20
SIZES = [
    pytest.param(24 * MIB, id="96MiB", marks=pytest.mark.slow),
    pytest.param(256 * MIB, id="1GiB", marks=[pytest.mark.long, pytest.mark.timeout(600)]),
]


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    with network(tmp_path_factory.mktemp("main-job")) as made:
        yield made


@pytest.fixture(scope="module")
def others(net: Network) -> list[Node]:
    """Four daemons, for all tests that need not look at what a new one takes."""
    return [net.daemon(f"d{number}") for number in range(4)]


@pytest.mark.slow
def test_real_weights_published_on_one_peer_arrive_whole_on_four_the_later_ones_from_several(
    net: Network, others: list[Node], real_weights: Path
) -> None:
    publisher = net.daemon("publisher")
    expected = sha256_of(real_weights)
    published = net.publish(real_weights, "--name", "minilm", on=publisher)
    assert published["bytes_total"] == sum(path.stat().st_size for path in real_weights.rglob("*") if path.is_file())
    reports = []
    for number, node in enumerate(others):
        done = net.run("fetch", published["model_id"], "--to", net.root / f"out{number}", "--json", on=node)
        assert done.code == 0, done.err
        reports.append(done.json)
        assert sha256_of(net.root / f"out{number}") == expected
        assert done.json["bytes_fetched"] + done.json["bytes_reused"] >= done.json["bytes_total"]
    assert len([peer for peer in reports[-1]["peers"] if peer["bytes"]]) >= 3, reports[-1]["peers"]

    again = net.run("fetch", published["model_id"], "--to", net.root / "out0", "--json", on=others[0])
    assert again.code == 0
    assert again.json["bytes_fetched"] == 0, "a second fetch moves nothing"

    by_name = net.run("fetch", f"{published['signed_by']}/minilm", "--json", on=others[1])
    assert by_name.code == 0, by_name.err
    assert by_name.json["model_id"] == published["model_id"]
    assert sha256_of(Path(by_name.json["path"])) == expected


@pytest.mark.parametrize("shard_bytes", SIZES)
async def test_the_publisher_dies_half_way_and_the_model_completes_everywhere(
    net: Network, others: list[Node], shard_bytes: int, tmp_path: Path
) -> None:
    source = sharded_model(tmp_path / "model", shards=4, shard_bytes=shard_bytes)
    expected = sha256_of(source)
    # The seed is the narrow place, as at home; the others pass on to each other what it has sent to any of them.
    publisher = net.daemon("seed", "--upload-limit", "48MiB" if shard_bytes < 100 * MIB else "128MiB")
    model_id = net.publish(source, on=publisher)["model_id"]
    fetches = [
        net.begin("fetch", model_id, "--to", tmp_path / f"out{number}", "--json", on=node)
        for number, node in enumerate(others)
    ]
    probe = Probe(model_id)
    try:
        for node in others:
            await probe.follow(node.listen)
        await probe.until(lambda: probe.held and probe.union.bit_count() == next(iter(probe.held.values())).count)
        publisher.kill()
    finally:
        await probe.close()
    for number, fetch in enumerate(fetches):
        done = finish(fetch, 300)
        assert done.code == 0, done.err
        assert sha256_of(tmp_path / f"out{number}") == expected
        report = done.json
        assert report["chunks_rejected"] == 0
        assert len([peer for peer in report["peers"] if peer["bytes"]]) >= 2, report["peers"]


@pytest.mark.slow
def test_publishing_and_seeding_copy_nothing_and_a_fetch_takes_its_size_once(net: Network, tmp_path: Path) -> None:
    source = sharded_model(tmp_path / "model", shards=2, shard_bytes=8 * MIB)
    publisher, other = net.daemon("a"), net.daemon("b")
    report = net.publish(source, on=publisher)
    done = net.run("fetch", report["model_id"], "--to", tmp_path / "out", "--json", on=other)
    assert done.code == 0, done.err
    assert _disk_bytes(publisher.data_dir) < MIB
    assert _disk_bytes(other.data_dir) < MIB
    assert _disk_bytes(tmp_path / "out") < 17 * MIB
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]


@pytest.mark.slow
def test_a_daemon_stops_within_ten_seconds_and_its_records_are_gone(
    net: Network, others: list[Node], tmp_path: Path
) -> None:
    source = sharded_model(tmp_path / "model", shards=1, shard_bytes=MIB)
    publisher, other = net.daemon("stopping"), others[0]
    model_id = net.publish(source, on=publisher)["model_id"]
    assert publisher.terminate() == 0
    done = net.run("fetch", model_id, "--to", tmp_path / "out", "--json", on=other)
    assert done.code == 3, (done.code, done.err)
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())


@pytest.mark.slow
def test_commands_without_a_daemon_do_the_same_job(net: Network, tmp_path: Path) -> None:
    source = sharded_model(tmp_path / "model", shards=1, shard_bytes=4 * MIB)
    home = net.root / "home"
    done = net.run("publish", source, "-q", on=home)
    assert done.code == 0, done.err
    model_id = done.out.strip()
    node = net.daemon("home", entry=True)
    assert node.data_dir == home
    assert net.entry is not None
    fetched = net.run(
        "fetch", model_id, "--to", tmp_path / "out", "--bootstrap", net.entry.listen, on=tmp_path / "elsewhere"
    )
    assert fetched.code == 0, fetched.err
    assert fetched.out.strip() == str(tmp_path / "out")
    assert sha256_of(tmp_path / "out") == sha256_of(source)
    single = net.run(
        "fetch", f"p2pmodel:{model_id}/config.json", "--to", tmp_path / "one", "--peer", node.listen,
        on=tmp_path / "third",
    )  # fmt: skip
    assert single.code == 0, single.err
    assert sha256_of(tmp_path / "one") == {"config.json": sha256_of(source)["config.json"]}


def _disk_bytes(directory: Path) -> int:
    return sum(os.lstat(path).st_blocks * 512 for path in directory.rglob("*"))
