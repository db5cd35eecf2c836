"""What clients see where a connection is cut or a daemon killed: their own resume succeeds, and nothing comes twice."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.clients.cutting_proxy import cutting_proxy
from tests.clients.downloads import VERSIONS, begin, client, gateway, model, received, sha256, until_done
from tests.e2e.processes import Network
from tests.gateway.conftest import MIB

pytestmark = [pytest.mark.clients, pytest.mark.timeout(300)]
SIZE = 32 * MIB
PATIENT = {"HF_HUB_DOWNLOAD_TIMEOUT": "120", "HF_HUB_ETAG_TIMEOUT": "60"}


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
