"""Goal: what another model on this disk, or on other peers' disks, holds already is not fetched again (scorecard E8).
Method: checkpoints of one transformer and of its descendants, written by the `safetensors` package; real daemons.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.checkpoints import base, descendants, save
from tests.e2e.processes import Network, sha256_of

MARKS = {
    "frozen layers": 49,
    "merged LoRA": 85,
    "only metadata changed": 99,
    "rows added to the vocabulary": 98,
    "re-sharded 1 -> 4": 99,
}
"""Per cent of the bytes that come from the base model, at least."""


@pytest.mark.slow
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
