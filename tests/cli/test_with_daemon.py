"""Commands that talk to a daemon: requests arrive as typed, answers are printed for people and for programs."""

import asyncio
import json
import os
import pty
import re
import signal
import sys
from pathlib import Path

import pytest

from p2pmodel.errors import SignatureError
from p2pmodel.peer.status import Limits, PeerStatus


async def test_publish_prints_the_id_alone_on_stdout(p2pmodel, daemon, tmp_path):
    (tmp_path / "m").mkdir()
    result = await p2pmodel("publish", tmp_path / "m", "--name", "demo", "--message", "hello")
    assert (result.code, result.out) == (0, f"{daemon.model_id}\n")
    assert "Left out: .git." in result.err and "2 files" in result.err
    request = daemon.requests[0]
    assert (request.path, request.name, request.message, request.key_pem) == (
        str(tmp_path / "m"),
        "demo",
        "hello",
        None,
    )


async def test_publish_signs_with_a_file_or_a_named_key(p2pmodel, daemon, tmp_path):
    await p2pmodel("key", "new", "work")
    pem = (p2pmodel.data_dir / "keys/publisher/work.pem").read_text()
    (tmp_path / "other.pem").write_text(pem)
    (tmp_path / "other.pem").chmod(0o600)
    for key in ("work", tmp_path / "other.pem"):
        result = await p2pmodel("publish", tmp_path, "--key", key, "--json")
        assert json.loads(result.out)["signed_by"] == daemon.peer_id and result.err == ""
    assert [request.key_pem for request in daemon.requests] == [pem, pem]
    assert (await p2pmodel("publish", tmp_path, "--key", "nobody")).code == 3


async def test_fetch_prints_the_path_and_says_who_served(p2pmodel, daemon):
    result = await p2pmodel(
        "fetch", daemon.model_id, "config.json", "--to", "here", "--include", "*.json", "--peer", "10.0.0.1:1"
    )
    assert (result.code, result.out) == (0, f"{Path.cwd()}/here\n")
    assert "from 2 peers" in result.err and "it was dropped" in result.err
    request = daemon.requests[0]
    assert (request.files, request.include, request.peers) == (["config.json"], ["*.json"], ["10.0.0.1:1"])


async def test_fetch_json_is_the_contract_s_object_on_the_last_line(p2pmodel, daemon):
    result = await p2pmodel("fetch", daemon.model_id, "--json")
    report = json.loads(result.out.splitlines()[-1])
    sizes = "files bytes_total bytes_fetched bytes_reused bytes_wasted seconds chunks_rejected origin_bytes"
    assert {"model_id", "path", "peers", *sizes.split()} <= set(report) and result.err == ""
    assert set(report["peers"][0]) >= {"peer_id", "address", "bytes"}
    assert (await p2pmodel("fetch", daemon.model_id, "-q")).out == f"{daemon.model_id}\n"


async def test_an_error_in_the_daemon_ends_the_command_with_its_code(p2pmodel, daemon):
    daemon.error = SignatureError("nobody whom you\nasked for has signed it")
    result = await p2pmodel("fetch", daemon.model_id, "--signed-by", "alice")
    assert (result.code, result.out) == (6, "")
    assert result.err == "p2pmodel: error: nobody whom you asked for has signed it\n"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_an_interrupted_fetch_says_what_is_kept_and_stops_the_work(p2pmodel, daemon, number):
    daemon.endless = True
    screen, process = await on_a_terminal(p2pmodel, "fetch", daemon.model_id)
    await screen.shows("512.0 KiB of 1.0 MiB")
    process.send_signal(number)
    assert await process.wait() == 130
    said = "p2pmodel: error: interrupted; at least 512.0 KiB of 1.0 MiB are kept, run the same command to resume"
    assert (await screen.rest()).rstrip().endswith(said)
    await asyncio.wait_for(daemon.cancelled.wait(), 5)


@pytest.mark.slow
async def test_a_bar_is_drawn_on_a_terminal_without_colour_where_none_is_wanted(p2pmodel, daemon):
    daemon.endless = True
    screen, process = await on_a_terminal(p2pmodel, "fetch", daemon.model_id)
    await screen.shows("512.0 KiB of 1.0 MiB")
    await screen.shows("2 peers")
    process.send_signal(signal.SIGINT)
    await process.wait()
    assert "\x1b[3" not in await screen.rest()


@pytest.mark.slow
async def test_on_a_narrow_terminal_a_line_stays_a_line(p2pmodel, daemon):
    daemon.endless = True
    screen, process = await on_a_terminal(p2pmodel, "fetch", daemon.model_id, columns=28)
    await screen.shows("50 %")
    process.send_signal(signal.SIGINT)
    await process.wait()
    drawn = (await screen.rest()).partition("p2pmodel: error")[0]
    lines = re.split(r"[\r\n]|\x1b\[[0-9;?]*[a-zA-Z]", drawn)
    assert max(map(len, lines)) <= 28


@pytest.mark.slow
@pytest.mark.parametrize("option", ["--no-progress", "--json", "-q"])
async def test_no_bar_is_drawn_where_it_was_declined(p2pmodel, daemon, option):
    daemon.endless = True
    screen, process = await on_a_terminal(p2pmodel, "fetch", daemon.model_id, option)
    await asyncio.wait_for(daemon.fetching.wait(), 20)
    process.send_signal(signal.SIGINT)
    await process.wait()
    written = await screen.rest()
    assert written.startswith("p2pmodel: error: interrupted") and written.count("\n") == 1


async def test_status_and_peers_describe_the_daemon(p2pmodel, daemon):
    text = (await p2pmodel("status")).out
    assert daemon.peer_id in text and "1 min 1 s" in text and "warning: the clock is off" in text
    assert json.loads((await p2pmodel("status", "--json")).out)["neighbours"] == 2
    peers = await p2pmodel("peers")
    assert "10.0.0.1:1" in peers.out and "overlay" in peers.out
    assert (await p2pmodel("peers", "-q")).out.split() == [daemon.peer_id, "q" * 52]


async def test_peers_tells_what_moves_at_present_and_what_is_due(p2pmodel, daemon):
    table = (await p2pmodel("peers")).out.splitlines()
    assert " SENT         UP  TO SEND  RECEIVED  DOWN  TO COME  SINCE " in table[0]
    assert "3.0 MiB/s" in table[1] and " 17 * " in table[1]


async def test_limits_are_told_and_changed_one_by_one(p2pmodel, daemon):
    shown = await p2pmodel("limits")
    assert (shown.code, shown.out) == (0, "upload    unlimited\ndownload  unlimited\n")
    assert daemon.requests == []
    assert (await p2pmodel("limits", "--upload", "2MiB")).out.splitlines()[0] == "upload    2.0 MiB/s"
    await p2pmodel("limits", "--download", "8Mbit")
    found = json.loads((await p2pmodel("limits", "--upload", "unlimited", "--json")).out)
    assert found == {"upload_bytes_per_s": None, "download_bytes_per_s": 1_000_000}
    assert len(daemon.requests) == 3
    wrong = await p2pmodel("limits", "--upload", "lots")
    assert wrong.code == 2 and "--upload" in wrong.err
    assert len(daemon.requests) == 3


async def test_status_names_the_limits(p2pmodel, daemon):
    daemon.reported = {"upload_slots": 4}
    assert "limits     none; 4 upload slots" in (await p2pmodel("status")).out
    daemon.reported = {"limits": Limits(upload_bytes_per_s=1 << 20), "upload_slots": 1}
    assert "limits     upload 1.0 MiB/s; 1 upload slot\n" in (await p2pmodel("status")).out


@pytest.mark.parametrize(
    ("listen", "said"),
    [
        ("[::]:8764", "[::]:8764 (UDP and TCP, IPv6 and IPv4)"),
        ("0.0.0.0:8764", "0.0.0.0:8764 (UDP and TCP, IPv4 only)"),
        ("[::1]:4001", "[::1]:4001 (UDP and TCP)"),
    ],
)
async def test_status_says_in_words_which_families_an_address_serves(p2pmodel, daemon, listen, said):
    daemon.reported = {"listen": listen}
    assert said in (await p2pmodel("status")).out


async def test_status_tells_what_is_not_announced_yet_and_peers_repeats_the_warnings(p2pmodel, daemon):
    daemon.reported = {"keys_announced": 133_000, "keys_pending": 12_000, "warnings": ["announcing falls behind"]}
    status, peers = await p2pmodel("status"), await p2pmodel("peers")
    assert "12,000 of them not yet taken by others" in status.out
    assert "warning: announcing falls behind" in status.out and "warning: announcing falls behind" in peers.err
    assert "warning" not in (await p2pmodel("peers", "--json")).err


def test_the_document_names_every_field_of_the_status():
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    described = page[page.index("- `status --json`") : page.index("- `show`, `ls`: the structures")]
    assert [name for name in PeerStatus.__struct_fields__ if f"`{name}`" not in described] == []


async def test_what_a_peer_calls_itself_cannot_steer_the_terminal(p2pmodel, daemon):
    daemon.message = "first\nsecond\x1b]0;title\x07"
    assert "\x1b" not in (await p2pmodel("peers")).out
    shown = (await p2pmodel("show", daemon.model_id)).out
    assert "\x1b" not in shown and "\x07" not in shown and "  first\n" in shown


async def test_ls_never_calls_a_part_the_whole(p2pmodel, daemon):
    daemon.change(state="broken", fault="model.safetensors has changed", bytes_held=1000)
    result = await p2pmodel("ls")
    assert "99 % here" in result.out and "model.safetensors has changed" in result.out and "100 %" not in result.out
    assert json.loads((await p2pmodel("ls", "--json")).out)["models"][0]["bytes_held"] == 999
    assert (await p2pmodel("ls", "-q")).out.split() == [daemon.model_id] * 2
    daemon.summaries = []
    empty = await p2pmodel("ls")
    assert (empty.code, empty.out) == (0, "") and "No models here yet" in empty.err


async def test_show_names_files_hashes_and_signers(p2pmodel, daemon):
    result = await p2pmodel("show", "alice/demo")
    assert "b" * 64 in result.out and f"signed by alice ({daemon.peer_id}) as demo, 1970-01-02, trusted" in result.out
    assert daemon.requests[0].ref == "alice/demo"


async def test_verify_names_each_bad_range_and_ends_with_6(p2pmodel, daemon, tmp_path):
    assert (await p2pmodel("verify", tmp_path)).code == 0
    daemon.sick = True
    result = await p2pmodel("verify", tmp_path)
    assert (result.code, result.out) == (6, "model.safetensors: bytes 1024-2047: the hash differs\n")
    assert "1 of 2 files in /m is not what the manifest says" in result.err
    as_json = await p2pmodel("verify", daemon.model_id, "--json")
    assert as_json.code == 6 and json.loads(as_json.out)["ok"] is False
    assert [request.target for request in daemon.requests] == [str(tmp_path), str(tmp_path), daemon.model_id]


# --- a terminal ---------------------------------------------------------------------------------------------------


class Screen:
    """What was written to a pseudo-terminal so far."""

    def __init__(self, leader):
        self._leader = leader
        self.written = ""

    async def shows(self, text):
        while text not in self.written:
            assert await self._more(), f"the terminal was left without {text!r}: {self.written!r}"

    async def rest(self):
        while await self._more():
            pass
        os.close(self._leader)
        return self.written

    async def _more(self):
        try:
            part = await asyncio.to_thread(os.read, self._leader, 65536)
        except OSError:  # Linux reports the end of a terminal as EIO
            return False
        self.written += part.decode()
        return bool(part)


async def on_a_terminal(p2pmodel, *arguments, columns=100):
    leader, follower = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "p2pmodel", *arguments),
        env=p2pmodel.environment | {"TERM": "xterm", "NO_COLOR": "1", "COLUMNS": str(columns)},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=follower,
    )
    os.close(follower)
    return Screen(leader), process
