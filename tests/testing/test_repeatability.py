"""One seed, one simulation with everything in it: twice in one process, under other hash seeds, 200 seeds twice."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from p2pmodel.testing.determinism import main, sha256_of

pytestmark = pytest.mark.slow


def hash_of_hashes(*arguments: str, hash_seed: int) -> str:
    environ = {**os.environ, "PYTHONHASHSEED": str(hash_seed)}
    command = [sys.executable, "-m", "p2pmodel.testing.determinism", *arguments]
    done = subprocess.run(
        command, env=environ, text=True, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    return done.stdout


def test_a_seed_run_twice_in_one_process_gives_one_event_log_and_another_seed_another():
    assert sha256_of(3) == sha256_of(3)
    assert sha256_of(3) != sha256_of(4)


def test_the_hash_seed_of_the_process_changes_nothing():
    assert hash_of_hashes("--seeds", "2", hash_seed=1) == hash_of_hashes("--seeds", "2", hash_seed=2)


def test_the_command_shows_one_line_for_each_seed_and_writes_the_events(tmp_path, capsys):
    log = tmp_path / "events"
    assert main(["--seeds", "2", "--first", "1", "--verbose", "--log", str(log)]) == 0
    first, second, whole = capsys.readouterr().out.splitlines()
    assert (first.split()[0], second.split()[0], len(whole)) == ("1", "2", 64)
    events = log.read_text()
    for kind in ("published", "kill", "partition", "heal", "silence", "lies", "disk", "revive", "report", "status"):
        assert f" {kind} (" in events


@pytest.mark.long
@pytest.mark.timeout(4 * 3600)
def test_two_hundred_seeds_twice():
    assert hash_of_hashes("--seeds", "200", hash_seed=1) == hash_of_hashes("--seeds", "200", hash_seed=2)
