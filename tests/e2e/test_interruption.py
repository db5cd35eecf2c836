"""Goal: whatever ends a fetch half way, the next run fetches the remainder and nothing else. Method: real commands,
interrupted by SIGINT and SIGKILL when about half has arrived; the second run's own report says what it moved.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.e2e.processes import Network, finish, network, sha256_of, sharded_model, status_of

MIB = 1 << 20
SIZE = 96 * MIB
IN_FLIGHT = 32 * MIB
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    with network(tmp_path_factory.mktemp("interruption")) as made:
        yield made


@pytest.fixture(scope="module")
def seeded(net: Network) -> tuple[Path, str]:
    """A model, and its id at a seed that is there for all; each test has a peer of its own."""
    source = sharded_model(net.root / "model", shards=4, shard_bytes=SIZE // 4)
    seed = net.daemon("seed", "--upload-limit", "32MiB")
    return source, str(net.publish(source, on=seed)["model_id"])


def partial_bytes(directory: Path) -> int:
    """What has been written so far: partial files are preallocated, so data and not blocks are counted."""
    total = 0
    for path in directory.rglob("*.part") if directory.exists() else ():
        with suppress(FileNotFoundError), path.open("rb") as file:  # it may have taken its name in this moment
            while piece := file.read(MIB):
                total += piece.count(0) < len(piece) // 2 and len(piece)
    return total


def until_half(process: subprocess.Popen[str], home: Path) -> None:
    """By the account of the peer that fetches."""
    deadline = time.monotonic() + 60
    while True:
        status = status_of(home)
        running = [each.progress for each in status.transfers] if status else []
        if any(each.phase == "transfer" and each.bytes_done >= SIZE // 2 for each in running):
            return
        assert process.poll() is None, "the fetch ended too early"
        assert time.monotonic() < deadline


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_fetch_resumes_with_the_remainder_and_at_most_what_was_in_flight(
    net: Network, seeded: tuple[Path, str], tmp_path: Path, how: signal.Signals
) -> None:
    source, model_id = seeded
    home, out = tmp_path / "home", tmp_path / "out"
    assert net.entry is not None
    args = ("fetch", model_id, "--to", out, "--bootstrap", net.entry.listen, "--json")
    first = net.begin(*args, on=home)
    until_half(first, home)
    first.send_signal(how)
    done = finish(first, 30)
    written = partial_bytes(out)
    assert done.code == (130 if how is signal.SIGINT else -signal.SIGKILL), done.err
    if how is signal.SIGINT:
        assert "resume" in done.err and "Traceback" not in done.err
    assert not (out / "config.json").exists() or (out / "config.json").read_bytes() == b'{"model_type": "random"}'
    assert not list(out.glob("*.safetensors")), "nothing half-made under a final name"

    second = net.run(*args, on=home)
    assert second.code == 0, second.err
    report = second.json
    assert sha256_of(out) == sha256_of(source)
    assert report["bytes_fetched"] <= SIZE - written + IN_FLIGHT + MIB, report
    assert report["bytes_fetched"] + report["bytes_reused"] >= report["bytes_total"]


def test_a_daemon_killed_in_the_middle_of_a_fetch_resumes_after_its_restart(
    net: Network, seeded: tuple[Path, str], tmp_path: Path
) -> None:
    source, model_id = seeded
    out = tmp_path / "out"
    node = net.daemon("killed")
    fetch = net.begin("fetch", model_id, "--to", out, "--json", on=node)
    until_half(fetch, node.data_dir)
    node.kill()
    done = finish(fetch, 30)
    assert done.code == 4, done.err
    assert "Traceback" not in done.err
    written = partial_bytes(out)

    again = net.daemon("killed")
    second = net.run("fetch", model_id, "--to", out, "--json", on=again)
    again.terminate()  # it would serve the next test, without the seed's limit
    assert second.code == 0, second.err
    assert sha256_of(out) == sha256_of(source)
    assert second.json["bytes_fetched"] <= SIZE - written + IN_FLIGHT + MIB, second.json


def test_a_daemon_goes_on_fetching_for_others_when_one_command_is_interrupted(
    net: Network, seeded: tuple[Path, str], tmp_path: Path
) -> None:
    _, model_id = seeded
    node = net.daemon("left alone")
    fetch = net.begin("fetch", model_id, "--to", tmp_path / "out", on=node)
    until_half(fetch, node.data_dir)
    fetch.send_signal(signal.SIGINT)
    assert finish(fetch, 30).code == 130
    status = status_of(node.data_dir)
    assert status is not None and status.transfers == [], "the daemon has let go of the fetch"
    second = net.run("fetch", model_id, "--to", tmp_path / "out", "--json", on=node)
    assert second.code == 0, second.err
    assert second.json["bytes_reused"] > SIZE // 4
