"""The examples of `docs/simulation.md` run as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest_plugins = "pytester"
pytestmark = pytest.mark.slow

DOCUMENT = Path(__file__).parents[2] / "docs" / "simulation.md"


def test_every_example_of_the_document_passes(pytester: pytest.Pytester):
    examples = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    first = examples[0]
    assert "size=64 << 20" in first and "peers=50" in first
    examples[0] = first.replace("size=64 << 20", "size=4 << 20").replace("peers=50", "peers=20")
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function\nfilterwarnings = error\n")
    pytester.makepyfile(**{f"test_example_{number}": example for number, example in enumerate(examples)})
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", "-p", "no:cov", "--asyncio-mode=strict")
    result.assert_outcomes(passed=5)
    assert len(examples) == 4


def test_every_option_and_every_public_name_of_a_network_stands_in_the_document():
    from p2pmodel.testing.net import Net
    from p2pmodel.testing.options import NetOptions

    text = DOCUMENT.read_text()
    names = [
        name for name in vars(Net) if not name.startswith("_") and name not in ("start", "close", "abandon", "seed")
    ]
    missing = [name for name in names if f"net.{name}" not in text and f"Net.{name}" not in text]
    assert missing == ["seconds"]
    assert [name for name in NetOptions.__slots__ if f"`{name}`" not in text] == []
