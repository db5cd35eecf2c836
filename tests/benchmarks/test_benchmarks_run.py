"""The benchmarks themselves run: a tiny model through the yardstick, with the table, the file and nothing left over."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.index import Index

_ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_run_says_what_it_measured_names_what_is_missing_and_leaves_nothing(tmp_path: Path) -> None:
    work, found = tmp_path / "work", tmp_path / "found.json"
    work.mkdir()
    options = ["--size", "6MiB", "--repeat", "2", "--cold", "--only", "raw", "--only", "raw-sealed"]
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "tests.benchmarks",
        "transfer",
        *options,
        "--work",
        work,
        "--json",
        found,
    ]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "libtorrent: MISSING: not asked for" in done.stdout
    assert "P1  unknown" in done.stdout
    shapes = json.loads(found.read_text())["transfer"]["shapes"]
    assert list(shapes) == ["1->1", "4->1", "1->4"]
    for race in shapes.values():
        samples = {name: len(one["samples"]) for name, one in race["contenders"].items()}
        assert samples == {"raw": 2, "raw-sealed": 2}
    assert not list(work.iterdir())


@pytest.mark.slow
def test_a_daemon_with_a_filled_index_serves_and_is_measured(tmp_path: Path) -> None:
    index = Index(1, lambda text: None, chunks=4_000)
    index.run(tmp_path)
    (sample,) = index.samples
    assert sample.announced_s is not None
    assert sample.keys >= 4_000
    assert 0 < sample.ready_s < sample.served_s
    assert [line.id for line in index.lines()] == ["P5", "P5"]
