"""Goal: what another model on this disk, or on other peers' disks, holds already is not fetched again (scorecard E8).
Method: checkpoints of one transformer and of its descendants, written by the `safetensors` package; real daemons.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from p2pmodel.peer.client import find_daemon
from tests.e2e.checkpoints import base, descendants, save, trained, upper_half
from tests.e2e.processes import Network, Node, sha256_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
MIB = 1 << 20
UPLINK_MIB = 2

MARKS = {
    "frozen layers": 49,
    "merged LoRA": 85,
    "only metadata changed": 99,
    "rows added to the vocabulary": 98,
    "re-sharded 1 -> 4": 99,
}
"""Per cent of the bytes that come from the base model, at least."""


def test_a_descendant_takes_from_the_base_on_this_disk_all_but_what_differs(net: Network, tmp_path: Path) -> None:
    publisher, other = net.daemon("a"), net.daemon("b")
    base_id = net.publish(save(tmp_path / "base", base()), on=publisher)["model_id"]
    assert net.run("fetch", base_id, "--to", tmp_path / "here", on=other).code == 0
    held = {}
    # What these have in common with each other they have in common with the base: it is all that helps.
    for case, source in descendants(tmp_path / "from").items():
        model_id = net.publish(source, on=publisher)["model_id"]
        done = net.run("fetch", model_id, "--to", tmp_path / "out" / source.name, "--json", on=other)
        assert done.code == 0, done.err
        assert sha256_of(tmp_path / "out" / source.name) == sha256_of(source)
        report = done.json
        assert report["bytes_fetched"] + report["bytes_reused"] == report["bytes_total"]
        held[case] = 100 * report["bytes_reused"] / report["bytes_total"]
    print({case: round(share, 2) for case, share in held.items()})  # noqa: T201  (the figures of E8: pytest -s)
    assert {case: held[case] for case, mark in MARKS.items() if held[case] < mark} == {}, held


async def announced(node: Node) -> None:
    """Wait until others can find each chunk of this peer by its hash."""
    daemon = await find_daemon(node.data_dir)
    assert daemon is not None
    try:
        while True:
            status = await daemon.status()
            if status.keys_announced and not status.keys_pending:
                return
            await asyncio.sleep(0.1)
    finally:
        await daemon.close()


def test_a_fine_tune_comes_from_holders_of_its_base_and_only_the_difference_over_the_slow_line(
    net: Network, tmp_path: Path
) -> None:
    holders = [net.daemon(f"base{number}") for number in range(3)]
    base_id = net.publish(save(tmp_path / "base", base()), on=holders[0])["model_id"]
    for number, node in enumerate(holders[1:]):
        assert net.run("fetch", base_id, "--to", tmp_path / f"base{number}", on=node).code == 0
    tuner = net.daemon("tuner", "--upload-limit", f"{UPLINK_MIB}MiB")
    source = save(tmp_path / "tuned", trained(base(), upper_half))
    tuned_id = net.publish(source, on=tuner)["model_id"]
    for node in holders:
        asyncio.run(announced(node))

    done = net.run("fetch", tuned_id, "--to", tmp_path / "out", "--json", on=net.daemon("newcomer"))
    assert done.code == 0, done.err
    assert sha256_of(tmp_path / "out") == sha256_of(source)
    report = done.json
    given = {peer["peer_id"]: peer["bytes"] for peer in report["peers"]}
    from_tuner = given.pop(tuner.ready["peer_id"])
    difference = sum(data.nbytes for name, data in base().items() if upper_half(name))
    print(f"from the base's {sum(given.values()):,}, tuner {from_tuner:,}, {report['seconds']} s")  # noqa: T201
    assert from_tuner <= difference + 8 * MIB and given, (
        difference,
        from_tuner,
        given,
    )  # one may have been fast enough
    assert report["seconds"] < 1.5 * from_tuner / (UPLINK_MIB * MIB) + 2, report
