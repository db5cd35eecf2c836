"""The demo: real daemons, real sockets, and nothing left behind, however it ends."""

import asyncio
import hashlib
import json
import signal

import psutil
import pytest

pytestmark = pytest.mark.slow


@pytest.fixture
def demo(p2pmodel):
    """Starts the demo in a temporary directory of its own."""
    temporary = p2pmodel.directory / "tmp"
    temporary.mkdir()

    async def start(*arguments):
        return await p2pmodel.start("demo", *arguments, environment={"TMPDIR": str(temporary)})

    start.temporary = temporary
    return start


def processes_of(directory):
    return [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if any(str(directory) in argument for argument in process.info["cmdline"] or ())
    ]


async def test_the_demo_brings_the_same_bytes_to_every_peer_and_leaves_nothing(demo):
    process = await demo("--size", "160MiB", "--peers", "3", "--json")
    out, err = await process.communicate()
    assert (process.returncode, err) == (0, b"")
    result = json.loads(out)
    assert result["ok"] and result["faults"] == [] and len(result["peers"]) == 3
    first, last = result["fetches"]
    assert first["bytes_fetched"] == last["bytes_fetched"] == result["bytes_total"]
    assert sum(peer["bytes"] > 0 for peer in last["peers"]) == 2
    assert result["bytes_from_several"] == last["bytes_fetched"]
    assert list(demo.temporary.iterdir()) == [] and processes_of(demo.temporary) == []


async def test_the_demo_tells_its_story_on_stdout_and_keeps_its_files_where_asked(demo, tmp_path):
    process = await demo("--size", "1MiB", "--peers", "2", "--keep", str(tmp_path / "kept"))
    out, err = await process.communicate()
    assert (process.returncode, err) == (0, b"")
    story = out.decode()
    assert "model id" in story and "all equal to the original" in story and f"kept in {tmp_path / 'kept'}" in story
    assert "\x1b" not in story
    original, copy = tmp_path / "kept/model/model.safetensors", tmp_path / "kept/peer-2/model/model.safetensors"
    assert hashlib.sha256(original.read_bytes()).digest() == hashlib.sha256(copy.read_bytes()).digest()
    header_bytes = int.from_bytes(original.read_bytes()[:8], "little")
    assert json.loads(original.read_bytes()[8 : 8 + header_bytes])["__metadata__"] == {"format": "pt"}
    again = await demo("--keep", str(tmp_path / "kept"))
    assert b"is not an empty directory" in (await again.communicate())[1] and again.returncode == 2


@pytest.mark.parametrize(
    ("number", "line"),
    [(signal.SIGINT, b"1. The peers start"), (signal.SIGTERM, b"One model"), (signal.SIGINT, b"4. ")],
)
async def test_an_interrupted_demo_leaves_no_process_and_no_file(demo, number, line):
    process = await demo("--size", "64MiB", "--peers", "3")
    while line not in await process.stdout.readline():
        assert process.returncode is None
    process.send_signal(number)
    _, err = await process.communicate()
    assert process.returncode == 130
    assert err.decode() == (
        "p2pmodel: error: interrupted; all peers of the demo are stopped and all files are removed\n"
    )
    assert list(demo.temporary.iterdir()) == [] and processes_of(demo.temporary) == []


async def test_a_demo_without_space_says_what_to_do(demo):
    process = await demo("--size", "900TiB")
    _, err = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 7 and b"smaller --size" in err and err.count(b"\n") == 1
    assert list(demo.temporary.iterdir()) == []
