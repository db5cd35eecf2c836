"""huggingface_hub 0.36, 1 and 2, each as installed with hf_xet, do against a swarm what they do against the hub."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

import pytest

from tests.clients.conftest import MakeClient, Swarm

pytestmark = pytest.mark.clients
VERSIONS = ["hub-0.36", "hub-1", "hub-2"]
CONFIG = b'{"hidden_size": 4, "layers": 2}'


def safetensors_file(rng: random.Random, size: int) -> bytes:
    half = size // 2
    tensors = {
        name: {"dtype": "U8", "shape": [half], "data_offsets": [at, at + half]}
        for name, at in (("first", 0), ("second", half))
    }
    header = json.dumps(tensors).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + rng.randbytes(2 * half)


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    rng = random.Random(3)
    return {
        "config.json": CONFIG,
        "README.md": b"---\nlicense: mit\n---\n",
        "model.safetensors": safetensors_file(rng, 24 << 20),
        "sub dir/notes \u00e9.txt": b"caf\xc3\xa9",
    }


@pytest.fixture(scope="module")
def repo(swarm_of_daemons: Swarm, files: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("model")
    for path, content in files.items():
        (root / path).parent.mkdir(exist_ok=True)
        (root / path).write_bytes(content)
    return swarm_of_daemons.publish(root)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_library_and_its_command_work_as_against_the_hub(
    client: MakeClient, version: str, repo: str, files: dict[str, bytes], tmp_path: Path
) -> None:
    told = client(version).told("hub_calls.py", repo, tmp_path / "out", json.dumps(list(files)))
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    assert told["snapshot"] == told["local_dir"] == told["hf_download_files"] == hashes
    assert told["commit"] == repo.removeprefix("p2pmodel/")[:40]
    assert told["one_file"] == CONFIG.decode()
    assert told["patterns"] == ["config.json"]
    assert told["offline"] is True
    assert told["no_file"][0] in ("EntryNotFoundError", "RemoteEntryNotFoundError")
    assert "has no file 'nope.txt'" in told["no_file"][1]
    assert "object" in told["no_file_kept"]  # huggingface_hub's mark for a file that is known not to exist
    assert told["no_revision"][0] == "RevisionNotFoundError"
    assert "has no revision 'v9'" in told["no_revision"][1]
    assert told["no_repo"][0] == told["no_repo_snapshot"][0] == "RepositoryNotFoundError"
    assert "p2pmodel trust add" in told["no_repo"][1]
    assert "read-only" in told["upload"][1]
    assert told["exists"] == [True, False]
    assert told["names"] == told["listed"] == sorted(files)
    assert told["paths"] == ["config.json"]
    assert told["metadata"] == ["first", "second"]
    assert told["ranges"] == [CONFIG[2:9].decode(), len(CONFIG)]
    assert told["hf_download"][0] == 0
    assert told["hf_missing"][0] != 0
    if version != "hub-0.36":
        assert told["hf_dry_run"][0] == 0
        assert not any(hash_ in name for name in told["dry_run_wrote"] for hash_ in hashes.values())
        assert told["hf_verify"][0] == 0
