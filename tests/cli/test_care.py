"""`seed`, `doctor` and `verify --repair` as a person runs them, on a real disk."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import struct

import pytest

from p2pmodel.errors import InterruptedFetchError
from p2pmodel.peer.reports import DoctorReport, NotSeeded, SeededModel, SeedReport

pytestmark = pytest.mark.slow


@pytest.fixture
def models(tmp_path):
    for name in ("one", "two"):
        (tmp_path / "models" / name).mkdir(parents=True)
        (tmp_path / "models" / name / "config.json").write_text(f'{{"name": "{name}"}}')
    (tmp_path / "models" / "late").mkdir()
    (tmp_path / "models" / "late" / "pytorch_model.bin").write_bytes(b"x")
    (tmp_path / "models" / "late" / "pytorch_model.bin.part").write_bytes(b"x")
    return tmp_path / "models"


# --- seed


async def test_seed_says_what_it_took_and_what_it_left_out_and_why(p2pmodel, models):
    result = await p2pmodel("seed", models)
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert len(lines[0]) == 64 and "one, 15 B, 1 file" in lines[1] and lines[3] == f"  {models / 'one'}"
    assert f"Left out {models / 'late'}: a download is not finished: pytorch_model.bin.part" in result.err
    assert "nothing copied" in result.err
    ids = (await p2pmodel("seed", models, "-q")).out.split()
    listed = json.loads((await p2pmodel("ls", "--json")).out)["models"]
    assert sorted(ids) == sorted(model["model_id"] for model in listed)
    assert {model["state"] for model in listed} == {"published"}


async def test_a_dry_run_serves_nothing_and_patterns_choose(p2pmodel, models):
    result = await p2pmodel("seed", models, "--dry-run", "--json")
    report = json.loads(result.out)
    assert report["dry_run"] and {model["title"] for model in report["models"]} == {"one", "two"}
    assert json.loads((await p2pmodel("ls", "--json")).out) == {"models": []}
    chosen = json.loads((await p2pmodel("seed", models, "--exclude", "t*", "--json")).out)
    assert [model["title"] for model in chosen["models"]] == ["one"]
    assert "two: not asked for" in [left["reason"] for left in chosen["left_out"]]
    chosen = json.loads((await p2pmodel("seed", models, "--include", "two", "--json")).out)
    assert [model["title"] for model in chosen["models"]] == ["two"] and chosen["models"][0]["new"]


async def test_nothing_to_seed_is_exit_code_3_and_watching_needs_a_daemon(p2pmodel, tmp_path):
    assert (await p2pmodel("seed", tmp_path / "nowhere")).code == 3
    (tmp_path / "empty").mkdir()
    result = await p2pmodel("seed", tmp_path / "empty")
    assert result.code == 3 and "no model was found" in result.err
    assert (await p2pmodel("seed", tmp_path / "empty", "--watch")).code == 9


async def test_a_name_that_two_organizations_use_gets_its_organization(p2pmodel, tmp_path):
    for org in ("a", "b"):
        snapshot = tmp_path / "hub" / f"models--{org}--tiny" / "snapshots" / (org * 40)
        snapshot.mkdir(parents=True)
        (snapshot / "config.json").write_text(f'"{org}"')
    first = json.loads((await p2pmodel("seed", tmp_path / "hub" / "models--a--tiny", "--json")).out)
    assert first["models"][0]["name"].endswith("/tiny")
    both = json.loads((await p2pmodel("seed", tmp_path / "hub", "--json")).out)
    names = [model["name"].partition("/")[2] for model in both["models"]]
    assert names == ["a.tiny", "b.tiny"]
    alone = json.loads((await p2pmodel("seed", tmp_path / "hub" / "models--b--tiny", "--json")).out)
    assert alone["models"][0]["name"].endswith("/b.tiny"), "the plain name is the other's by now"


async def test_what_somebody_published_himself_keeps_its_name_when_another_program_has_one_of_that_name(
    p2pmodel, tmp_path
):
    own = tmp_path / "own"
    own.mkdir()
    (own / "config.json").write_text("{}")
    published = json.loads((await p2pmodel("publish", own, "--name", "llama3", "--json")).out)
    for tag in ("8b", "70b"):
        ollama_model(tmp_path / "ollama", "llama3", tag)
    found = json.loads((await p2pmodel("seed", tmp_path / "ollama", "--json")).out)["models"]
    assert {model["name"].partition("/")[2] for model in found} == {"ollama.llama3"}, "its tags are revisions of one"
    assert {tuple(model["revisions"]) for model in found} == {("8b",), ("70b",)}
    shown = json.loads((await p2pmodel("show", f"{published['signed_by']}/llama3", "--json")).out)
    assert shown["model"]["model_id"] == published["model_id"]
    again = json.loads((await p2pmodel("seed", tmp_path / "ollama", "--json")).out)["models"]
    assert [model["name"] for model in again] == [model["name"] for model in found]

    await p2pmodel("publish", own, "--name", "ollama.llama3")
    unnamed = json.loads((await p2pmodel("seed", tmp_path / "ollama", "--json")).out)["models"]
    assert {model["name"] for model in unnamed} == {""}, "and by then no name of it is free"


def ollama_model(root, name, tag):
    """One more model of an Ollama store, as small as can be."""
    layers = []
    one_tensor = struct.pack("<IQQ", 3, 1, 0) + struct.pack("<Q", 1) + b"w" + struct.pack("<IQIQ", 1, 32, 0, 0)
    weights = (b"GGUF" + one_tensor).ljust(64, b"\0") + bytes(32 * 4)
    for kind, data in (("model", weights), ("system", f"{name}:{tag}".encode())):
        digest = hashlib.sha256(data).hexdigest()
        (root / "blobs").mkdir(parents=True, exist_ok=True)
        (root / "blobs" / f"sha256-{digest}").write_bytes(data)
        media_type = f"application/vnd.ollama.image.{kind}"
        layers.append({"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)})
    manifest = root / "manifests/registry.ollama.ai/library" / name / tag
    manifest.parent.mkdir(parents=True, exist_ok=True)
    manifest.write_text(json.dumps({"layers": layers}))


async def test_watching_tells_of_everything_once(p2pmodel, daemon, tmp_path, monkeypatch):
    rounds = [["1" * 64], ["1" * 64], ["1" * 64, "2" * 64]]

    async def seed(request, on_progress=None):
        if not rounds:
            raise InterruptedFetchError("enough")
        models = [
            SeededModel(model_id=model_id, title="x", origin="gguf", path="/x", files=1, bytes_total=5)
            for model_id in rounds.pop(0)
        ]
        return SeedReport(models=models, left_out=[], bytes_total=5, bytes_hashed=5, seconds=1, announced=True)

    daemon.seed = seed
    monkeypatch.setattr("p2pmodel.cli.seed._WATCH_S", 0.0)
    result = await p2pmodel("seed", tmp_path, "--watch", "-q")
    assert (result.code, result.out.split()) == (130, ["1" * 64, "2" * 64])


# --- doctor


async def diagnose(p2pmodel, *options):
    result = await p2pmodel("doctor", "--json", *options)
    report = json.loads(result.out)
    assert result.code == (0 if report["ok"] else 1)
    return {finding["about"]: finding for finding in report["findings"]}


async def test_a_healthy_peer_has_no_error(p2pmodel, models):
    await p2pmodel("seed", models)
    found = await diagnose(p2pmodel)
    assert "error" not in {finding["severity"] for finding in found.values()}, found
    assert "p2pmodel daemon" in found["daemon"]["cure"]
    result = await p2pmodel("doctor")
    assert result.code == 0 and "Nothing is wrong." in result.err and "note: No daemon runs here" in result.out
    assert "--data-dir" not in result.err  # the environment names it for the cure as well


async def test_a_cure_is_for_the_peer_that_was_looked_at(p2pmodel, tmp_path):
    result = await p2pmodel("doctor", "--data-dir", tmp_path / "not the usual")
    assert "p2pmodel daemon" in result.out
    assert f"give it this peer: --data-dir '{tmp_path / 'not the usual'}'" in result.err


async def test_each_trouble_of_a_file_is_named_with_what_cures_it(p2pmodel, tmp_path):
    for name in ("changed", "gone", "short", "rotten"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.bin").write_bytes(name.encode() * 1000)
        await p2pmodel("publish", tmp_path / name)
    (tmp_path / "changed" / "a.bin").write_bytes(b"CHANGED" * 1000)
    (tmp_path / "gone" / "a.bin").unlink()
    (tmp_path / "short" / "a.bin").write_bytes(b"s")
    rotten = tmp_path / "rotten" / "a.bin"
    status = rotten.stat()
    rotten.write_bytes(b"ROTTEN" * 1000)
    os.utime(rotten, ns=(status.st_atime_ns, status.st_mtime_ns))
    found = await diagnose(p2pmodel)
    for trouble, name in (("changed", "changed"), ("vanished", "gone"), ("short", "short")):
        finding = found[f"file-{trouble}"]
        assert finding["path"] == str(tmp_path / name / "a.bin") and f"publish {tmp_path / name}" in finding["cure"]
    assert "file-damaged" not in found, "what hides its time is found by reading it"
    found = await diagnose(p2pmodel, "--deep")
    assert found["file-damaged"]["cure"] == f"p2pmodel verify {tmp_path / 'rotten'} --repair"
    assert "1 of its 1 chunks" in found["file-damaged"]["what"]


async def test_secrets_that_others_can_read_are_errors(p2pmodel, models):
    await p2pmodel("seed", models)
    (key,) = (p2pmodel.data_dir / "keys" / "publisher").glob("*.pem")
    key.chmod(0o644)
    p2pmodel.data_dir.chmod(0o755)
    found = await diagnose(p2pmodel)
    assert found["key-mode"]["cure"] == f"chmod 600 {key}" and found["key-mode"]["severity"] == "error"
    assert found["data-dir"]["cure"] == f"chmod 700 {p2pmodel.data_dir}"


async def test_what_keeps_a_peer_from_starting_is_a_finding(p2pmodel, models):
    await p2pmodel("seed", models)
    (p2pmodel.data_dir / "store.sqlite3").write_bytes(b"no database" * 1000)
    found = await diagnose(p2pmodel)
    assert found["index"]["severity"] == "error" and "move store.sqlite3 away" in found["index"]["cure"]


async def test_traces_of_a_dead_daemon_and_a_port_in_use_are_told(p2pmodel):
    await p2pmodel("ls")
    record = {"pid": 1 << 30, "peer_id": "p" * 52, "listen": "127.0.0.1:1", "http": None, "socket": "/nowhere"}
    (p2pmodel.data_dir / "daemon.json").write_text(json.dumps(record))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        (p2pmodel.data_dir / "config.toml").write_text(f'listen = "{listen}"')
        found = await diagnose(p2pmodel)
    assert found["stale-daemon"]["severity"] == "note"
    assert found["port"]["severity"] == "error" and f"Port {listen.partition(':')[2]}" in found["port"]["what"]


# --- with a daemon


async def test_a_daemon_is_asked_and_its_words_are_shown(p2pmodel, daemon, tmp_path):
    async def seed(request, on_progress=None):
        daemon.requests.append(request)
        taken = SeededModel(
            model_id=daemon.model_id, title="org/x@main", origin="huggingface", path="/x", files=1, bytes_total=5,
            name=f"{daemon.peer_id}/x", revisions=["main"],
        )  # fmt: skip
        left = [NotSeeded(path="/y", reason="why")]
        return SeedReport(models=[taken], left_out=left, bytes_total=5, bytes_hashed=5, seconds=1, announced=True)

    async def doctor(request, on_progress=None):
        daemon.requests.append(request)
        return DoctorReport(ok=True, findings=[])

    daemon.seed, daemon.doctor = seed, doctor
    result = await p2pmodel("seed", tmp_path)
    assert result.out.splitlines()[0] == daemon.model_id
    assert (
        "Served from where they lie" in result.err
        and "No other peer" not in result.err
        and "Left out /y: why" in result.err
    )
    assert (await p2pmodel("doctor", "--deep")).code == 0
    assert daemon.requests[0].paths == [str(tmp_path)] and daemon.requests[1].deep
