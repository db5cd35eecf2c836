"""What fuzzing has found stays found: every input of the corpus again, and bytes at random around it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from fuzz_targets import TARGETS  # noqa: E402

CORPUS = {target: sorted((HERE / "corpus" / target).iterdir()) for target in TARGETS}


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_no_input_of_the_corpus_does_harm(target: str) -> None:
    assert CORPUS[target], "the corpus has seeds for each target"
    for path in CORPUS[target]:
        TARGETS[target](path.read_bytes())


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@settings(max_examples=50, deadline=1000, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_no_change_to_an_input_of_the_corpus_does_harm(target: str, data: st.DataObject) -> None:
    seeds = [path.read_bytes() for path in CORPUS[target]]
    changed = bytearray(data.draw(st.sampled_from(seeds)))
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(changed)))
        changed[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    TARGETS[target](bytes(changed))
