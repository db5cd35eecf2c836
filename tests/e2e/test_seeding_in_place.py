"""E6 and S8. Goal: what other programs keep is served from where they keep it, and never once it is something else.

Method: a cache that `huggingface_hub` itself filled from a hub on loopback; real daemons, driven by the command line.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.e2e.hub import REPO, running
from tests.e2e.processes import Network, environment, sha256_of, sharded_model

MIB = 1 << 20
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def download(endpoint: str, home: Path, *, fails: bool = False) -> None:
    """`snapshot_download` in a process of its own, as `hf download` does it."""
    pytest.importorskip("huggingface_hub")
    hub_environment = {
        **environment(),
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DOWNLOAD_TIMEOUT": "2",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    script = f"from huggingface_hub import snapshot_download; snapshot_download({REPO!r}, etag_timeout=5)"
    program = [sys.executable, "-c", script]
    done = subprocess.run(program, env=hub_environment, capture_output=True, text=True, timeout=100)
    assert (done.returncode != 0) == fails, done.stderr


@pytest.fixture
def files(tmp_path: Path) -> dict[str, bytes]:
    model = sharded_model(tmp_path / "model", shards=2, shard_bytes=4 * MIB)
    return {path.name: path.read_bytes() for path in sorted(model.iterdir())} | {"sub dir/notes \u00e9.txt": b"notes"}


def marks(root: Path) -> dict[str, tuple[int, int, int]]:
    """What nobody may have touched: inode, size and time of every file, links as links."""
    found = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        found[str(path.relative_to(root))] = (status.st_ino, status.st_size, status.st_mtime_ns)
    return found


def used_bytes(directory: Path) -> int:
    return sum(path.lstat().st_size for path in directory.rglob("*") if path.is_file() and not path.is_symlink())


def test_a_cache_that_the_hub_client_filled_is_served_in_place_and_a_changed_file_of_it_is_not(
    net: Network, tmp_path: Path, files: dict[str, bytes]
) -> None:
    home = tmp_path / "hf"
    with running(files) as (endpoint, commit):
        download(endpoint, home)
    before = marks(home)
    seed, other, third = net.daemon("seed"), net.daemon("other"), net.daemon("third")

    done = net.run("seed", home, "--json", on=seed)
    assert done.code == 0, done.err
    (model,) = done.json["models"]
    assert (model["title"], model["origin"], model["files"]) == (f"{REPO}@main", "huggingface", len(files))
    assert model["revisions"] == [commit, "main"] and model["new"] and done.json["left_out"] == []
    assert done.json["announced"] and done.json["bytes_hashed"] == sum(map(len, files.values()))
    assert marks(home) == before, "nothing of the cache was touched"
    assert used_bytes(seed.data_dir) < 2 * MIB < sum(map(len, files.values())), "and nothing was copied"

    again = net.run("seed", home, "--json", on=seed)
    assert again.json["bytes_hashed"] == 0 and not again.json["models"][0]["new"]

    fetched = net.run("fetch", f"{model['name']}@main", "--json", on=other)
    assert fetched.code == 0, fetched.err
    assert fetched.json["model_id"] == model["model_id"]
    assert _contents(Path(fetched.json["path"])) == files
    assert sha256_of(home)  # every link leads somewhere still
    assert other.terminate() == 0

    # S8: another program writes over one of the blobs, and takes care that its time looks as it did.
    shard = next(path for path in files if path.endswith(".safetensors"))
    blob = (home / "hub" / "models--org--tiny" / "snapshots" / commit / shard).resolve()
    status, began = blob.stat(), time.monotonic()
    with blob.open("r+b") as file:
        file.seek(MIB)
        file.write(os.urandom(MIB))
    os.utime(blob, ns=(status.st_atime_ns, status.st_mtime_ns))
    refused = net.run("fetch", model["model_id"], "--to", tmp_path / "out", "--timeout", "10", "--json", on=third)
    assert refused.code in (4, 5), refused.err
    assert "dropped for corrupt" not in refused.err, "the seed said that it has it no more; it is no liar"
    (line,) = net.run("ls", "--json", on=seed).json["models"]
    assert line["state"] == "broken" and "damaged" in line["fault"]
    assert time.monotonic() - began < 60

    # And plainly: gone.
    blob.unlink()
    found = {finding["about"]: finding for finding in net.run("doctor", "--json", on=seed).json["findings"]}
    assert found["file-vanished"]["path"] == str(blob) and model["model_id"] in found["file-vanished"]["cure"]


def test_a_download_that_broke_off_is_left_out_until_it_is_whole(
    net: Network, tmp_path: Path, files: dict[str, bytes]
) -> None:
    home = tmp_path / "hf"
    last = [path for path in files if path.endswith(".safetensors")][-1]
    with running(files, cut=last) as (endpoint, _):
        download(endpoint, home, fails=True)
    seed = net.daemon("seed", entry=False)
    done = net.run("seed", home / "hub", "--json", on=seed)
    assert done.code == 0, done.err
    assert done.json["models"] == [] and len(done.json["left_out"]) == 1, done.json
    with running(files) as (endpoint, _):
        download(endpoint, home)
    done = net.run("seed", home / "hub", "--json", on=seed)
    assert [model["title"] for model in done.json["models"]] == [f"{REPO}@main"]


def test_only_the_bad_chunks_of_a_published_file_are_fetched_and_it_keeps_its_place(
    net: Network, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    path = source / "weights.bin"
    with path.open("wb") as file:
        file.truncate(64 * MIB)
        for at in (0, 40 * MIB, 63 * MIB):
            file.seek(at)
            file.write(os.urandom(MIB))
    seed, other = net.daemon("seed"), net.daemon("other")
    model_id = net.publish(source, on=seed)["model_id"]
    fetched = net.run("fetch", model_id, "--to", tmp_path / "out", "--json", on=other)
    assert fetched.code == 0, fetched.err
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(40 * MIB + 17)
        file.write(b"rot")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    found = net.run("verify", source, "--json", on=seed)
    assert found.code == 6 and "--repair" in found.err
    bad = {"file": "weights.bin", "offset": 40 * MIB, "length": MIB}
    assert [{key: each[key] for key in bad} for each in found.json["bad"]] == [bad]

    repaired = net.run("verify", source, "--repair", "--json", on=seed)
    assert repaired.code == 0, repaired.err
    assert repaired.json["repaired"] and repaired.json["bytes_fetched"] == MIB and repaired.json["left"] == []
    assert path.stat().st_ino == status.st_ino and sha256_of(source) == sha256_of(tmp_path / "out")


def _contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}
