"""What clients see where those who hold a model lie or are slow: right bytes or an error."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.clients.downloads import VERSIONS, begin, client, gateway, model, received, sha256
from tests.e2e.processes import Network
from tests.gateway.conftest import MIB, Hub

pytestmark = [pytest.mark.clients, pytest.mark.timeout(300)]


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
