"""What `env` prints, for each shell, and what of the world it takes into account."""

import subprocess

import pytest

from p2pmodel.cli.environment import assignment, variables_of
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
