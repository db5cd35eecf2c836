"""Goal: a data directory has one owner at a time, a second is told so at once, and a dead one is in nobody's way (R9).
Method: real daemons on one directory, some of them killed; the clock runs from the start of the second's process.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from p2pmodel.errors import UsageError
from p2pmodel.store import DirectoryLock
from p2pmodel.store.lock import LOCK_NAME, fcntl
from tests.e2e.processes import Network, Node, command, environment, network

pytestmark = pytest.mark.slow
LOCK_S = 1.0
"""The mark is the lock's own. Before a process comes to it there is the interpreter: twice what the first daemon took
from its start until it served is allowed for that, on a machine as busy as this one is now."""


@pytest.fixture
def alone(tmp_path: Path) -> Any:
    with network(tmp_path, entry=False) as net:
        yield net


def timed(net: Network, name: str) -> tuple[Node, float]:
    """A daemon, and how long it took until it served."""
    began = time.monotonic()
    node = net.daemon(name, entry=False)
    return node, time.monotonic() - began


def second(data_dir: Path) -> tuple[subprocess.CompletedProcess[str], float]:
    """Another daemon on the directory, and how long it took to give up."""
    began = time.monotonic()
    args = command("daemon", "--json", "--listen", "127.0.0.1:0", "--http", "off", "--data-dir", data_dir)
    done = subprocess.run(args, capture_output=True, text=True, timeout=30, env=environment())
    return done, time.monotonic() - began


def test_a_second_daemon_is_refused_within_a_second_and_told_whose_the_directory_is(alone: Network) -> None:
    first, start_s = timed(alone, "home")
    done, seconds = second(first.data_dir)
    assert (done.returncode, done.stdout) == (8, "")
    assert f"in use by another peer (process {first.process.pid})" in done.stderr and "Traceback" not in done.stderr
    assert seconds <= LOCK_S + 2 * start_s
    assert first.process.poll() is None


def test_what_a_killed_daemon_left_is_taken_over_at_once(alone: Network) -> None:
    first, start_s = timed(alone, "home")
    first.kill()
    assert (first.data_dir / "daemon.json").exists() and (first.data_dir / LOCK_NAME).exists()
    again, again_s = timed(alone, "home")
    assert again_s <= LOCK_S + 2 * start_s
    assert again.ready["peer_id"] == first.ready["peer_id"]


def test_a_lock_file_whose_process_number_was_given_to_another_process_holds_nobody_up(alone: Network) -> None:
    home = alone.root / "home"
    home.mkdir()
    (home / LOCK_NAME).write_text(f"{os.getpid()}\n")  # somebody who lives, and has nothing to do with it
    node = alone.daemon("home", entry=False)
    assert (home / LOCK_NAME).read_text() == f"{node.process.pid}\n"


def test_of_daemons_started_at_the_same_moment_one_serves_and_the_others_are_refused(alone: Network) -> None:
    args = command("daemon", "--listen", "127.0.0.1:0", "--http", "off", "--data-dir", alone.root / "home")
    started = [
        subprocess.Popen(args, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment())
        for _ in range(5)
    ]
    alone.commands += started
    deadline = time.monotonic() + 30
    while sum(process.poll() is None for process in started) > 1:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert sorted(process.poll() or 0 for process in started) == [0, 8, 8, 8, 8]
    (winner,) = [process for process in started if process.poll() is None]
    winner.send_signal(signal.SIGTERM)
    assert winner.wait(15) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="/sys is a directory that not even root may write to")
def test_a_directory_that_cannot_be_written_to_is_refused_in_a_sentence(tmp_path: Path) -> None:
    done, _ = second(Path("/sys/kernel"))
    assert done.returncode == 8 and done.stderr.startswith("p2pmodel: error: cannot open the lock '/sys/kernel/lock'")


def test_a_file_system_without_locks_is_refused_because_two_peers_would_damage_the_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No such file system can be mounted here: `flock` answers as it does on NFS without its lock service."""

    def no_locks(fd: int, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(UsageError, match="cannot lock files; put the data directory on a local disk"):
        DirectoryLock(tmp_path)
