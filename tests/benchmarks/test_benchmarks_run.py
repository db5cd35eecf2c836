"""The benchmarks themselves run: a tiny model through the yardstick, with the table, the file and nothing left over."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.benchmarks import network
from tests.benchmarks.cache.sweep import Sweep
from tests.benchmarks.cache.trace import make_trace
from tests.benchmarks.hostile.flood import Flood
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
    index = Index(1, lambda text: None, chunks=4_000, settle_s=0)
    index.run(tmp_path)
    (sample,) = index.samples
    assert sample.announced_s is not None
    assert sample.keys >= 4_000
    assert 0 < sample.ready_s < sample.served_s
    assert [line.id for line in index.lines()] == ["P5", "P5"]


@pytest.mark.slow
def test_cache_policies_are_run_over_one_trace_and_drawn(tmp_path: Path) -> None:
    said: list[str] = []
    sweep = Sweep(1, said.append, tmp_path / "cache.svg", accesses=12_000, parts=(0.02, 0.2))
    sweep.run(tmp_path)
    small, large = sweep.hits("LRU")
    assert 0 < small < large < 1 and len(said) == 2
    assert {run.policy for run in sweep.runs} == {"S3-FIFO", "W-TinyLFU", "ARC", "LRU", "S3-FIFO, rare chunks spared"}
    assert len(sweep.tables()) == 7
    assert (tmp_path / "cache.svg").read_text().count("<path") > 20
    assert make_trace(2_000, 5) == make_trace(2_000, 5) != make_trace(2_000, 6)


needs_namespaces = pytest.mark.skipif(bool(network.missing()), reason=network.missing() or "nothing is missing")


@pytest.mark.slow
@needs_namespaces
def test_a_link_with_latency_carries_a_model_and_nothing_that_made_it_stays(tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    with _links(tmp_path, "--link", "1gbit", "--link", "1gbit,4ms,1%", "--json", str(found)) as running:
        _, said = running.communicate(timeout=60)
    assert running.returncode == 0, said
    direct, relayed = json.loads(found.read_text())["links"]["runs"]
    assert len(direct["contenders"]["tcp"]["samples"]) == len(relayed["contenders"]["tcp"]["samples"]) == 1
    forth, back = relayed["relayed"]
    assert forth["seen"] > 700 and back["seen"] > 0
    # Connecting takes one round trip and the first answer another.
    assert relayed["contenders"]["tcp"]["samples"][0]["seconds"] > 0.008
    assert not _marked(tmp_path)


@pytest.mark.slow
@needs_namespaces
def test_a_benchmark_that_is_killed_leaves_no_process_and_so_no_namespace(tmp_path: Path) -> None:
    with _links(tmp_path, "--link", "1mbit,4ms", "--longest", "60") as running:
        assert running.stderr is not None
        for line in running.stderr:
            if line.startswith("1 MiB at"):
                break
        assert len(_marked(tmp_path)) >= 5  # three namespaces, a sender, the benchmark
        running.kill()
        running.wait()
        deadline = time.monotonic() + 20
        while _marked(tmp_path) and time.monotonic() < deadline:
            time.sleep(0.05)
    assert not _marked(tmp_path)


def _links(work: Path, *options: str) -> subprocess.Popen[str]:
    fixed = ["links", "--size", "1MiB", "--repeat", "1", "--only", "tcp", "--work", str(work)]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks", *fixed, *options],
        cwd=_ROOT,
        env={**os.environ, "BENCHMARK_MARK": str(work)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _marked(work: Path) -> list[str]:
    """Processes that descend from one that `_links` has started for this directory."""
    mark = f"BENCHMARK_MARK={work}".encode()
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and mark in (process / "environ").read_bytes().split(b"\0"):
                found.append(process.name)
        except OSError:
            continue  # it has ended meanwhile
    return found


def test_what_a_flood_found_can_be_told() -> None:
    flood = Flood(
        print, found={"flood": {"opened": 9_997, "end_ratio": 1.19, "failures": {"refused": 3}, "left": None}}
    )
    told = "\n".join(flood.tables())
    assert "9,997" in told and "1.190" in told and "3 x refused" in told
    flood.found["flood"]["failures"] = {}
    assert "none" in "\n".join(flood.tables())
    assert next(line.ok for line in flood.lines() if line.what.startswith("memory a minute after")) is False
