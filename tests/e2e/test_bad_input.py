"""Goal: whatever is wrong, one clear sentence on stderr, the exit code of its kind, and nothing half-made left under a
final name. Method: the real commands against real daemons, and peers that lie. The daemons are there for all tests, and
each test has a model of its own.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.liars import Liar
from tests.e2e.processes import Finished, Network, Node, command, environment, network, sha256_of, sharded_model

MIB = 1 << 20
UNKNOWN = "0" * 64
pytestmark = pytest.mark.slow


def complains(done: Finished, code: int, *words: str) -> None:
    """One sentence, no traceback, the right code."""
    assert done.code == code, (done.code, done.out, done.err)
    lines = [line for line in done.err.splitlines() if line.startswith("p2pmodel: error:")]
    assert len(lines) == 1, done.err
    assert "Traceback" not in done.err
    for word in words:
        assert word in lines[0], lines[0]


def nothing_in(directory: Path) -> bool:
    return not directory.exists() or not any(directory.iterdir())


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    with network(tmp_path_factory.mktemp("bad-input")) as made:
        yield made


@pytest.fixture(scope="module")
def seed(net: Network) -> Node:
    return net.daemon("seed")


@pytest.fixture(scope="module")
def other(net: Network) -> Node:
    return net.daemon("other")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return sharded_model(tmp_path / "model", shards=2, shard_bytes=3 * MIB)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    mounted = tmp_path / "small"
    if os.geteuid() != 0:
        pytest.skip("to mount a file system takes root")
    mounted.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(mounted)], check=True)
    try:
        yield mounted
    finally:
        subprocess.run(["umount", "-l", str(mounted)], check=True)


def test_an_unknown_id_is_not_found_among_reachable_peers(net: Network, other: Node, tmp_path: Path) -> None:
    complains(net.run("fetch", UNKNOWN, "--to", tmp_path / "out", on=other), 3, UNKNOWN)
    assert nothing_in(tmp_path / "out")


def test_an_unknown_id_without_any_peer_is_a_matter_of_the_network(net: Network, tmp_path: Path) -> None:
    complains(net.run("fetch", UNKNOWN, "--to", tmp_path / "out", on=tmp_path / "home"), 4, "--bootstrap")
    assert nothing_in(tmp_path / "out")


@pytest.mark.parametrize(
    "ref", ["abc", "0" * 63, "0" * 65, "Z" * 64, "p2pmodel:", "a/b/c", UNKNOWN + "/../x", "", "-x"]
)
def test_a_malformed_reference_is_a_usage_error(net: Network, tmp_path: Path, ref: str) -> None:
    done = net.run("fetch", "--to", tmp_path / "out", "--", ref, on=None)
    assert done.code == 2, (done.code, done.err)
    assert "Traceback" not in done.err
    assert nothing_in(tmp_path / "out")


def test_a_port_in_use_is_named(net: Network, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = net.run("daemon", "--listen", f"127.0.0.1:{port}", "--http", "off", on=tmp_path / "home")
    complains(done, 4, str(port))


def test_an_unreachable_bootstrap_is_named_by_a_fetch(net: Network, tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        done = net.run("fetch", UNKNOWN, "--bootstrap", f"127.0.0.1:{port}", on=tmp_path / "home")
    complains(done, 4, f"127.0.0.1:{port}")


def test_a_missing_signature_is_refused_before_a_byte_of_the_model_moves(
    net: Network, seed: Node, other: Node, model: Path, tmp_path: Path
) -> None:
    model_id = net.publish(model, on=seed)["model_id"]
    stranger = net.run("key", "new", "stranger", "--json", on=tmp_path / "stranger").json["public_key"]
    done = net.run("fetch", model_id, "--to", tmp_path / "out", "--signed-by", stranger, on=other)
    complains(done, 6, stranger)
    assert nothing_in(tmp_path / "out")


def test_the_right_signature_passes(net: Network, seed: Node, other: Node, model: Path, tmp_path: Path) -> None:
    published = net.publish(model, on=seed)
    assert net.run("trust", "add", published["signed_by"], "alice", on=other).code == 0
    done = net.run("fetch", published["model_id"], "--to", tmp_path / "out", "--signed-by", "alice", "--json", on=other)
    assert done.code == 0, done.err
    assert published["signed_by"] in done.json["signed_by"]


async def test_a_manifest_with_one_bit_changed_is_refused(net: Network, model: Path, tmp_path: Path) -> None:
    async with Liar(tmp_path / "liar", model, objects=True) as liar:
        done = await asyncio.to_thread(
            net.run, "fetch", liar.model_id.hex, "--to", tmp_path / "out", "--peer", liar.listen, on=tmp_path / "home"
        )
    complains(done, 6, liar.model_id.hex)
    assert nothing_in(tmp_path / "out")


async def test_a_peer_that_serves_corrupt_chunks_is_named_and_dropped_and_the_model_completes(
    net: Network, seed: Node, other: Node, model: Path, tmp_path: Path
) -> None:
    model_id = net.publish(model, on=seed)["model_id"]
    async with Liar(tmp_path / "liar", model, chunks=True) as liar:
        done = await asyncio.to_thread(
            net.run, "fetch", model_id, "--to", tmp_path / "out", "--peer", liar.listen, "--json", on=other
        )
    assert done.code == 0, done.err
    assert sha256_of(tmp_path / "out") == sha256_of(model)
    by_peer = {peer["peer_id"]: peer for peer in done.json["peers"]}
    assert done.json["chunks_rejected"] >= 1
    assert by_peer[liar.peer_id.text]["rejected"] >= 1
    assert by_peer[liar.peer_id.text]["bytes"] == 0


async def test_with_nobody_but_a_liar_nothing_gets_a_final_name(net: Network, model: Path, tmp_path: Path) -> None:
    async with Liar(tmp_path / "liar", model, chunks=True) as liar:
        done = await asyncio.to_thread(
            net.run, "fetch", liar.model_id.hex, "--to", tmp_path / "out", "--peer", liar.listen, "--timeout", "6",
            on=tmp_path / "home",
        )  # fmt: skip
    assert done.code in (4, 5, 6), done.err
    assert "Traceback" not in done.err
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file() and ".p2pmodel" not in str(path)]


def test_a_full_disk_is_noticed_before_anything_is_written(
    net: Network, seed: Node, other: Node, model: Path, small_disk: Path, tmp_path: Path
) -> None:
    model_id = net.publish(model, on=seed)["model_id"]
    done = net.run("fetch", model_id, "--to", small_disk / "out", on=other)
    complains(done, 7)
    assert not [path for path in small_disk.rglob("*") if path.is_file()]
    subprocess.run(["mount", "-o", "remount,size=32m", str(small_disk)], check=True)
    again = net.run("fetch", model_id, "--to", small_disk / "out", on=other)
    assert again.code == 0, again.err
    assert sha256_of(small_disk / "out") == sha256_of(model)


def test_a_destination_without_permission_is_refused(
    net: Network, seed: Node, other: Node, model: Path, small_disk: Path, tmp_path: Path
) -> None:
    model_id = net.publish(model, on=seed)["model_id"]
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    complains(net.run("fetch", model_id, "--to", small_disk / "out", on=other), 8, str(small_disk))


def test_a_file_of_the_users_is_never_overwritten_without_being_told_to(
    net: Network, seed: Node, other: Node, model: Path, tmp_path: Path
) -> None:
    model_id = net.publish(model, on=seed)["model_id"]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.json").write_text("my own work")
    complains(net.run("fetch", model_id, "--to", tmp_path / "out", on=other), 8, "config.json")
    assert (tmp_path / "out" / "config.json").read_text() == "my own work"
    assert net.run("fetch", model_id, "--to", tmp_path / "out", "--overwrite", on=other).code == 0
    assert sha256_of(tmp_path / "out") == sha256_of(model)


def test_what_cannot_be_published_is_said(net: Network, tmp_path: Path) -> None:
    home = tmp_path / "home"
    (tmp_path / "empty").mkdir()
    complains(net.run("publish", tmp_path / "empty", on=home), 2, "empty")
    complains(net.run("publish", tmp_path / "missing", on=home), 3, "missing")
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "a.bin").write_bytes(b"x")
    (linked / "secret").symlink_to("/etc/hostname")
    complains(net.run("publish", linked, on=home), 2, "secret", "/etc/hostname", "--follow-symlinks")
    piped = tmp_path / "piped"
    piped.mkdir()
    os.mkfifo(piped / "pipe")
    complains(net.run("publish", piped, on=home), 2, "pipe")


@pytest.mark.parametrize("name", ["con", "a\\b", "new\nline", "b" * 255])  # tests/model/test_paths.py has the rest
def test_a_name_that_is_not_portable_is_refused_or_whole(net: Network, tmp_path: Path, name: str) -> None:
    odd = tmp_path / "odd"
    odd.mkdir()
    (odd / name).write_bytes(b"x")
    done = net.run("publish", odd, "-q", on=tmp_path / "home")
    if len(name) == 255:
        assert done.code == 0, done.err
    else:
        complains(done, 2)


def test_odd_but_portable_names_travel(net: Network, seed: Node, other: Node, tmp_path: Path) -> None:
    odd = tmp_path / "odd"
    for name in ("sub dir/notes é.txt", "日本語/モデル.bin", ".hidden", "-dash", "100%.txt", "a'b\u00a0c", "empty"):
        (odd / name).parent.mkdir(parents=True, exist_ok=True)
        (odd / name).write_bytes(b"" if name == "empty" else name.encode())
    model_id = net.publish(odd, on=seed)["model_id"]
    done = net.run("fetch", model_id, "--to", tmp_path / "out", on=other)
    assert done.code == 0, done.err
    assert sha256_of(tmp_path / "out") == sha256_of(odd)


def test_a_file_that_changes_while_it_is_published_is_noticed(net: Network, tmp_path: Path) -> None:
    growing = tmp_path / "growing"
    growing.mkdir()
    (growing / "weights.bin").write_bytes(os.urandom(64 * MIB))
    stop = threading.Event()

    def grow() -> None:
        with (growing / "weights.bin").open("ab") as file:
            while not stop.wait(0.001):
                file.write(b"more")
                file.flush()

    writer = threading.Thread(target=grow)
    writer.start()
    try:
        done = net.run("publish", growing, on=tmp_path / "home")
    finally:
        stop.set()
        writer.join()
    complains(done, 6, "weights.bin", "changed")


def test_a_published_file_that_changed_is_not_served_any_more(
    net: Network, seed: Node, other: Node, model: Path, tmp_path: Path
) -> None:
    model_id = net.publish(model, on=seed)["model_id"]
    shard = next(model.glob("*.safetensors"))
    with shard.open("r+b") as file:
        file.seek(MIB)
        file.write(b"changed")
    done = net.run("fetch", model_id, "--to", tmp_path / "out", "--timeout", "8", on=other)
    assert done.code in (3, 4, 5), (done.code, done.err)
    assert not (tmp_path / "out" / shard.name).exists()
    state = net.run("ls", "--json", on=seed)
    assert shard.name in state.out


def test_a_second_daemon_on_one_data_directory_is_refused(net: Network, other: Node) -> None:
    done = net.run("daemon", "--listen", "127.0.0.1:0", "--http", "off", on=other, timeout_s=20)
    complains(done, 8, str(other.data_dir), str(other.process.pid))


def test_a_daemon_killed_leaves_nothing_that_keeps_the_next_from_starting(net: Network) -> None:
    node = net.daemon("killed")
    node.kill()
    assert net.run("status", on=node).code == 9
    again = net.daemon("killed")
    assert net.run("status", "--json", on=again).json["pid"] == again.process.pid


def test_a_data_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = subprocess.run(
        command("daemon", "--data-dir", tmp_path / "file" / "home", "--listen", "127.0.0.1:0"),
        capture_output=True, text=True, timeout=20, env=environment(),
    )  # fmt: skip
    complains(Finished(done.returncode, done.stdout, done.stderr), 2, str(tmp_path / "file"))


def test_a_fetch_that_runs_out_of_time_says_so_and_keeps_what_came(net: Network, other: Node, tmp_path: Path) -> None:
    source = sharded_model(tmp_path / "model", shards=1, shard_bytes=32 * MIB)
    slow = net.daemon("slow", "--upload-limit", "4MiB")
    model_id = net.publish(source, on=slow)["model_id"]
    done = net.run("fetch", model_id, "--to", tmp_path / "out", "--timeout", "3", on=other)
    complains(done, 5)
    assert not list((tmp_path / "out").glob("*.safetensors"))
