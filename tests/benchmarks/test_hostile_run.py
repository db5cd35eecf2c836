"""The benchmarks of floods and hostile messages run, small, and what they look at holds small too."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from p2pmodel.swarm import wire
from tests.benchmarks.hostile.flood import Flood
from tests.benchmarks.hostile.messages import Messages

pytestmark = pytest.mark.slow


def test_no_message_costs_much_more_than_its_bytes(tmp_path: Path) -> None:
    """Small here, and generous, for busy machines: what has once held the loop took a thousand times as long."""
    messages = Messages(lambda text: None, chunks=12_000, connections=12, times=5, takes=1, settle_s=0.0)
    messages.run(tmp_path)
    measured = {cost.kind.partition(" ")[0] for cost in messages.costs}
    assert measured >= {kind.__name__ for kind in get_args(wire.AnyMessage)}
    assert all(cost.median_ms > 0 for cost in messages.costs), messages.tables()


def test_a_flood_is_measured_and_the_caps_hold(tmp_path: Path) -> None:
    flood = Flood(lambda text: None, connections=400, wants=3_000, settle_s=0)
    if reason := flood.missing():
        pytest.skip(reason)
    flood.run(tmp_path)
    assert flood.found["flood"]["honest_answered"] == flood.found["flood"]["honest"] > 0
    assert flood.found["drip"]["left"] == 0
    assert not flood.found["complaints"]
    assert all(line.ok for line in flood.lines() if line.what.startswith(("connections", "of one", "of them")))
