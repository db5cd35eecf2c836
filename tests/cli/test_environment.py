"""What `env` prints, for each shell, and what of the world it takes into account."""

import asyncio
import os
import signal
import subprocess

import pytest

from p2pmodel.cli.environment import _execute, assignment, variables_of
from p2pmodel.errors import DaemonNotRunningError
from p2pmodel.peer.runtime import RuntimeRecord


def record(http: str | None) -> RuntimeRecord:
    return RuntimeRecord(pid=1, peer_id="p", listen="127.0.0.1:1", http=http, socket="/s")


@pytest.mark.parametrize(
    ("http", "endpoint"),
    [
        ("127.0.0.1:8765", "http://127.0.0.1:8765/hf"),
        ("[::1]:8765", "http://[::1]:8765/hf"),
        ("0.0.0.0:80", "http://127.0.0.1:80/hf"),
        ("[::]:80", "http://[::1]:80/hf"),
    ],
)
def test_the_endpoint_is_an_address_that_can_be_connected_to(http, endpoint):
    assert variables_of(record(http), {})["HF_ENDPOINT"] == endpoint


def test_xet_is_switched_off_and_clients_wait_longer():
    variables = variables_of(record("127.0.0.1:1"), {})
    assert variables["HF_HUB_DISABLE_XET"] == "1"
    assert int(variables["HF_HUB_DOWNLOAD_TIMEOUT"]) >= 60
    assert "NO_PROXY" not in variables


def test_a_proxy_is_told_to_leave_this_machine_alone():
    variables = variables_of(record("127.0.0.1:1"), {"http_proxy": "http://p", "no_proxy": "a.b,c"})
    assert (variables["no_proxy"], variables["NO_PROXY"]) == ("a.b,c,127.0.0.1", "127.0.0.1")


def test_a_daemon_without_http_is_as_good_as_none():
    with pytest.raises(DaemonNotRunningError, match="--http off"):
        variables_of(record(None), {})


def test_each_shell_gets_its_own_syntax():
    assert assignment("fish", "A", "it's") == "set -gx A 'it\\'s';"
    assert assignment("tcsh", "A", "b c") == "setenv A 'b c';"
    assert assignment("pwsh", "A", "it's") == "$env:A = 'it''s'"
    assert assignment("", "A", "b") == "export A=b"
    line = assignment("bash", "A", "$HOME; it's `x`")
    assert subprocess.run(["sh", "-c", f'{line}; printf %s "$A"'], capture_output=True).stdout == b"$HOME; it's `x`"


async def test_a_signal_that_comes_while_the_program_is_started_reaches_it(monkeypatch):
    lost = []
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lost.append, signal.SIGTERM)
    start = asyncio.create_subprocess_exec

    async def start_and_signal(*arguments, **options):
        process = await start(*arguments, **options)
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(5):  # the loop comes to the signal
            await asyncio.sleep(0)
        return process

    monkeypatch.setattr(asyncio, "create_subprocess_exec", start_and_signal)
    code = await _execute(["sh", "-c", "sleep 20"], {})
    assert (code, lost) == (128 + signal.SIGTERM, [])
