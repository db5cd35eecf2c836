"""`env` and `run`: other programs, started by hand or by us, find the endpoint; and what of theirs comes back."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.processes import environment

pytestmark = pytest.mark.slow

ASK = """
import os, sys, urllib.request
with urllib.request.urlopen(os.environ["HF_ENDPOINT"] + sys.argv[1]) as answer:
    sys.stdout.write(answer.read().decode())
"""


def test_env_names_the_running_daemon_and_without_one_ends_with_nine(town):
    said = town.net.run("env", "--shell", "sh", on=town.reader)
    assert f"export HF_ENDPOINT={town.hub.endpoint}\n" in said.out
    nobody = town.net.run("env", on=town.net.root / "nobody")
    assert (nobody.code, nobody.out) == (9, "")
    assert "p2pmodel daemon" in nobody.err


def test_a_program_that_is_run_sees_the_daemon_and_its_exit_code_comes_back(town):
    done = town.net.run("run", "--data-dir", town.reader.data_dir, "--", sys.executable, "-c",
                        "import os, sys; sys.stdout.write(os.environ['HF_ENDPOINT']); sys.exit(7)")  # fmt: skip
    assert (done.code, done.out) == (7, town.hub.endpoint)


@pytest.mark.parametrize(
    ("program", "code"), [(["sh", "-c", "kill -9 $$"], 137), (["no-such-program"], 127), (["/"], 126)]
)
def test_what_a_shell_would_say_of_a_program_is_said(town, program, code):
    assert town.net.run("run", "--data-dir", town.reader.data_dir, *program).code == code


def test_without_a_daemon_a_program_gets_a_peer_of_its_own(town):
    done = town.net.run("run", "--data-dir", town.net.root / "own", "--bootstrap", town.owner.listen, "--",
                        sys.executable, "-c", ASK, f"/{town.repo}/resolve/main/config.json")  # fmt: skip
    assert (done.code, done.out) == (0, town.files["config.json"].decode()), done.err
    assert town.net.run("env", on=town.net.root / "own").code == 9  # it has gone with the program


def test_a_signal_reaches_the_program_however_early_it_comes_and_its_end_is_waited_for(town):
    program = f"trap 'echo ended; exit 3' TERM; kill -{signal.SIGTERM} $PPID; while :; do read -t 1 line; done"
    done = town.net.run("run", "--data-dir", town.reader.data_dir, "--", "bash", "-c", program, timeout_s=30)
    assert (done.code, done.out) == (3, "ended\n")


def test_a_fetched_model_is_in_the_cache_of_hugging_face(town, tmp_path):
    home = {**environment(), "HF_HOME": str(tmp_path / "hf")}
    command = [sys.executable, "-m", "p2pmodel", "fetch", town.model_id, "--to-hf-cache", "--json"]
    done = subprocess.run(
        [*command, "--data-dir", town.reader.data_dir], env=home, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    path = Path(json.loads(done.stdout)["path"])
    assert path.is_relative_to(tmp_path / "hf" / "hub")
    assert {name: (path / name).read_bytes() for name in town.files} == town.files
    assert (path.parents[1] / "refs" / "main").read_text() == town.model_id[:40]


def test_two_places_at_once_are_a_mistake(town):
    done = town.net.run("fetch", town.model_id, "--to-hf-cache", "--to", "x", on=town.reader)
    assert (done.code, "--to-hf-cache" in done.err) == (2, True)
