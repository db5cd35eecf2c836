"""The program as a whole: start-up, help, usage errors, and which stream says what."""

import asyncio
import gc
import subprocess
import sys

import pytest

from p2pmodel.cli import session
from p2pmodel.errors import InterruptedFetchError

COMMANDS = [
    "demo",
    "daemon",
    "publish",
    "seed",
    "fetch",
    "show",
    "ls",
    "verify",
    "doctor",
    "status",
    "peers",
    "id",
    "key",
    "trust",
    "config",
    "du",
]


async def test_help_names_every_command_on_stdout(p2pmodel):
    result = await p2pmodel("--help")
    assert (result.code, result.err) == (0, "")
    assert all(f"  {command} " in result.out for command in COMMANDS)
    assert result.out.endswith("\n")


@pytest.mark.parametrize(
    ("command", "options"),
    [
        (
            "daemon",
            "--listen --bootstrap --data-dir --http --network --encryption --upload-limit --download-limit --no-lan",
        ),
        ("publish", "--name --key --message --follow-symlinks --data-dir --json -q --no-progress"),
        (
            "fetch",
            "--to --include --exclude --bootstrap --peer --signed-by --dry-run --overwrite --link --timeout --json",
        ),
        ("demo", "--size --peers --keep --json"),
        ("show", "--bootstrap --peer --json -q --data-dir"),
        ("verify", "--repair --bootstrap --peer --timeout --json -q --no-progress --debug"),
    ],
)
async def test_each_command_has_the_options_of_the_contract(p2pmodel, command, options):
    result = await p2pmodel(command, "--help")
    assert result.code == 0
    assert [option for option in options.split() if option not in result.out] == []


@pytest.mark.slow
async def test_help_loads_nothing_heavy(p2pmodel):
    result = await p2pmodel.process("--help", interpreter_options=["-X", "importtime"])
    loaded = {line.rpartition("|")[2].strip() for line in result.err.splitlines()}
    heavy = {
        "aiohttp",
        "cryptography",
        "kademlia",
        "asyncio",
        "rich",
        "msgspec",
        "blake3",
        "sqlite3",
        "uvloop",
        "logging",
    }
    assert "typer" in loaded and loaded & heavy == set()
    assert len(loaded) < 250


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["fetch"], "Missing argument 'REF'"),
        (["fetch", "zz"], "'zz' is not a model"),
        (["fetch", "AB" * 32], "64 lower-case hex digits"),
        (["show", "p2pmodel:12"], "is not a model"),
        (["fetch", "ab" * 32, "--timeout", "soon"], "Invalid value for '--timeout'"),
        (["demo", "--size", "huge"], "'huge' is not a size"),
        (["demo", "--peers", "1"], "Invalid value for '--peers'"),
        (["daemon", "--listen", "nowhere"], "--listen: 'nowhere' is not HOST:PORT"),
        (["daemon", "--upload-limit", "fast"], "--upload-limit: 'fast' is not a rate"),
        (["daemon", "--encryption", "maybe"], "--encryption: expected 'required' or 'off'"),
        (["trust", "add", "x"], "52 base32 characters"),
        (["key", "new", "../x"], "a key's name"),
    ],
)
async def test_a_usage_error_is_one_sentence_on_stderr_and_code_2(p2pmodel, arguments, said):
    result = await p2pmodel(*arguments)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("p2pmodel: error: ") and said in result.err and result.err.count("\n") == 1


async def test_a_path_that_is_missing_is_not_found(p2pmodel):
    for arguments in (["publish", "/nope"], ["verify", "/nope"], ["daemon", "--network", "/nope"]):
        result = await p2pmodel(*arguments)
        assert (result.code, result.out) == (3, "") and "/nope" in result.err


@pytest.mark.slow
async def test_a_process_ends_with_the_code_of_its_error_and_keeps_the_streams_apart(p2pmodel):
    result = await p2pmodel.process("status")
    assert (result.code, result.out) == (9, "")
    assert result.err.startswith("p2pmodel: error: no daemon runs on") and result.err.count("\n") == 1


async def test_debug_shows_where_an_error_comes_from(p2pmodel):
    for arguments in (["--debug", "status"], ["status", "--debug"]):
        result = await p2pmodel(*arguments)
        assert result.code == 9 and "Traceback" in result.err and "p2pmodel: error: " in result.err


@pytest.mark.slow
async def test_a_reader_that_leaves_early_is_no_drama(p2pmodel):
    process = await p2pmodel.start("config", "show")
    process.stdout._transport.close()  # the other end of the pipe is gone before anything is written
    _, err = await asyncio.gather(process.wait(), process.stderr.read())
    assert err == b""


async def test_the_version_is_printed(p2pmodel):
    result = await p2pmodel("--version")
    assert result.code == 0 and result.out.startswith("p2pmodel 0.")


def test_a_command_interrupted_before_its_loop_runs_leaves_nothing_unawaited(monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    async def work():
        pass

    monkeypatch.setattr(asyncio.Runner, "run", interrupted)
    with pytest.raises(InterruptedFetchError):
        session.run(work())
    gc.collect()


@pytest.mark.slow
async def test_an_interrupt_while_the_program_is_loaded_is_one_sentence(tmp_path):
    script = tmp_path / "early.py"
    script.write_text(
        "import runpy, sys\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'typer':\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        "runpy.run_module('p2pmodel', run_name='__main__')\n"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, script, stderr=asyncio.subprocess.PIPE)
    _, err = await process.communicate()
    assert (process.returncode, err) == (130, b"p2pmodel: error: interrupted\n")


def test_what_a_command_needs_to_ask_a_daemon_brings_no_peer_no_tls_and_no_overlay() -> None:
    code = "import sys, p2pmodel.cli.session, p2pmodel.peer.sharing;"
    code += "heavy = ('OpenSSL', 'kademlia', 'p2pmodel.net.real', 'p2pmodel.peer.peer', 'p2pmodel.store.store');"
    code += "print([name for name in heavy if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
