"""What clients see when things go wrong behind the endpoint: right bytes or an error, and nothing comes twice."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.clients.conftest import SCRIPTS, Client
from tests.clients.cutting_proxy import cutting_proxy
from tests.clients.environments import python_of
from tests.e2e.processes import Network, Node
from tests.gateway.conftest import MIB, Hub

pytestmark = [pytest.mark.clients, pytest.mark.timeout(300)]
VERSIONS = ["hub-0.36", "hub-1", "hub-2"]
SIZE = 32 * MIB
PATIENT = {"HF_HUB_DOWNLOAD_TIMEOUT": "120", "HF_HUB_ETAG_TIMEOUT": "60"}


def model(directory: Path, *sizes: int, seed: int = 1) -> dict[str, bytes]:
    rng = random.Random(seed)
    files = {f"weights{number}.bin": rng.randbytes(size) for number, size in enumerate(sizes)}
    directory.mkdir()
    for name, content in files.items():
        (directory / name).write_bytes(content)
    return files


def gateway(net: Network, *options: object, http: str = "127.0.0.1:0") -> Node:
    return net.daemon("gateway", "--http", http, *options)


def client(node: Node, version: str, home: Path, **variables: str) -> Client:
    return Client(python_of(version), home, {"HF_ENDPOINT": f"http://{node.ready['http']}/hf", **variables})


def begin(net: Network, user: Client, model_id: str, *options: str) -> subprocess.Popen[str]:
    program = [str(user.python), str(SCRIPTS / "download.py"), f"p2pmodel/{model_id}", "weights0.bin", *options]
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        program, env=user.environment(), stdin=pipe if options else None, stdout=pipe, stderr=pipe, text=True
    )
    net.commands.append(process)
    return process


def until_done(user: Client, model_id: str) -> Any:
    """What the script tells. 0.36 does not take up a broken connection by itself, but the next run does; the others try
    again for some seconds, and on a busy machine the start of a daemon takes longer."""
    arguments = ("download.py", f"p2pmodel/{model_id}", "weights0.bin")
    try:
        return user.told(*arguments)
    except AssertionError as error:
        assert "Connection" in str(error) or "connection" in str(error)
        return user.told(*arguments)


def received(node: Node) -> int:
    """Bytes that came to a daemon over the network, by its own account."""
    return int(Hub(node.ready["http"]).ask("/api/v1/status", prefix="").json["bytes_received"])


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def lying_holder(net: Network, path: Path) -> str:
    """A liar that publishes the model; returns its id."""
    assert net.entry is not None
    program = [sys.executable, "-m", "tests.clients.lying_daemon", "daemon", "--json", "--listen", "127.0.0.1:0"]
    options = ["--http", "off", "--no-lan", "--data-dir", str(net.root / "liar"), "--bootstrap", net.entry.listen]
    liar = net._start([*program, *options], net.root / "liar")
    return str(net.publish(path, on=liar)["model_id"])


def test_where_everybody_lies_a_client_gets_an_error_and_no_wrong_byte(net: Network, tmp_path: Path) -> None:
    net.start_entry()
    model(tmp_path / "model", 3 * MIB)
    model_id = lying_holder(net, tmp_path / "model")
    answer = Hub(gateway(net).ready["http"]).ask(f"/p2pmodel/{model_id}/resolve/main/weights0.bin")
    assert answer.status == 504
    assert "dropped for corrupt chunks" in answer.headers["x-error-message"]
    assert b"weights" not in answer.body and len(answer.body) < 1000


def test_where_one_lies_and_one_does_not_every_byte_is_right(net: Network, tmp_path: Path) -> None:
    net.start_entry()
    files = model(tmp_path / "model", 8 * MIB)
    model_id = lying_holder(net, tmp_path / "model")
    net.publish(tmp_path / "model", on=net.daemon("honest"))
    told = client(gateway(net), "hub-2", tmp_path / "home").told("download.py", f"p2pmodel/{model_id}", "weights0.bin")
    assert told["sha256"] == sha256(files["weights0.bin"])


def test_a_first_byte_may_take_longer_than_a_client_waits(net: Network, tmp_path: Path) -> None:
    """Clients wait ten seconds by themselves. The holder's limit makes a pause of 15 after the chunk before theirs."""
    net.start_entry()
    files = model(tmp_path / "model", MIB, MIB)
    model_id = net.publish(tmp_path / "model", on=net.daemon("slow", "--upload-limit", "70KiB"))["model_id"]
    node = gateway(net)
    users = [client(node, version, tmp_path / version) for version in VERSIONS]
    running = [begin(net, user, model_id, "wait") for user in users]
    for process in running:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    assert Hub(node.ready["http"]).ask(f"/p2pmodel/{model_id}/resolve/main/weights1.bin").status == 200
    for process in running:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in running:
        out, err = process.communicate(timeout=100)
        assert process.returncode == 0, err
        told = json.loads(out)
        assert told["sha256"] == sha256(files["weights0.bin"])
        assert told["seconds"] > 11
    assert received(node) < 2.2 * MIB


@pytest.mark.parametrize("version", VERSIONS)
def test_a_connection_that_is_cut_at_half_is_taken_up_and_nothing_comes_twice(
    net: Network, tmp_path: Path, version: str
) -> None:
    net.start_entry()
    files = model(tmp_path / "model", SIZE)
    model_id = net.publish(tmp_path / "model", on=net.daemon("holder"))["model_id"]
    node = gateway(net)
    with cutting_proxy(node.ready["http"], SIZE // 2) as proxy:
        user = client(node, version, tmp_path / "home", **PATIENT)
        user.variables["HF_ENDPOINT"] = f"http://{proxy.address}/hf"
        told = until_done(user, model_id)
        assert proxy.cuts == 1
        assert proxy.ranges  # it asked for the rest alone
    assert told["sha256"] == sha256(files["weights0.bin"])
    assert received(node) < 1.05 * SIZE


@pytest.mark.parametrize("version", VERSIONS)
def test_what_a_killed_daemon_had_is_not_fetched_again_by_the_next(net: Network, tmp_path: Path, version: str) -> None:
    net.start_entry()
    files = model(tmp_path / "model", SIZE)
    model_id = net.publish(tmp_path / "model", on=net.daemon("holder"))["model_id"]
    node = gateway(net, "--download-limit", "8MiB")
    user = client(node, version, tmp_path / "home", **PATIENT)
    running = begin(net, user, model_id)
    deadline = time.monotonic() + 60
    while (before := received(node)) < SIZE // 2:
        assert time.monotonic() < deadline and running.poll() is None
    node.kill()
    node = gateway(net, http=node.ready["http"])
    out, _ = running.communicate(timeout=120)
    told = until_done(user, model_id) if running.returncode else json.loads(out)
    assert told["sha256"] == sha256(files["weights0.bin"])
    assert before + received(node) < 1.15 * SIZE
