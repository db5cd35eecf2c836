"""A stock client, two daemons and an origin, each on its own sockets: as users have it."""

import asyncio
import json
import os
import sys

import pytest

from p2pmodel.peer.client import find_daemon
from tests.e2e.processes import network
from tests.gateway.origin.origins import noise

pytestmark = pytest.mark.slow

REPO = "org/model"
FILES = {
    "config.json": b'{"model_type": "x"}',
    "model-00001-of-00002.safetensors": noise(2_500_000, seed=11),
    "model-00002-of-00002.safetensors": noise(1_500_000, seed=12),
    "sub dir/notes \u00e9.txt": "h\u00e9".encode(),
}
SCRIPT = """
import json, pathlib, sys
from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

path = pathlib.Path(snapshot_download("org/model", token=False))
files = {str(file.relative_to(path)): file.read_bytes().hex() for file in path.rglob("*") if file.is_file()}
errors = []
for repo, name, revision in [("org/model", "no.txt", "main"), ("org/model", "config.json", "v9"),
                             ("org/nothing", "config.json", "main"), ("org/gated", "a.safetensors", "main")]:
    try:
        hf_hub_download(repo, name, revision=revision, token=False)
    except (EntryNotFoundError, GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError) as error:
        errors.append(type(error).__name__)
gated = pathlib.Path(hf_hub_download("org/gated", "a.safetensors", token="hf_good")).read_bytes().hex()
print(json.dumps({"commit": path.name, "files": files, "errors": errors, "gated": gated}))
"""


async def client(endpoint, home):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    running = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        SCRIPT,
        env={**kept, "HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1"},
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await running.communicate()
    assert running.returncode == 0
    return json.loads(out)


async def offers_both_shards(node):
    """Until others can find them: a client has the last byte before this peer has made a model of what it read."""
    daemon = await find_daemon(node.data_dir)
    try:
        while True:
            status = await daemon.status()
            if status.models >= 2 and not status.keys_pending:
                return
            await asyncio.sleep(0.05)
    finally:
        await daemon.close()


async def test_a_stock_client_gets_from_two_daemons_what_the_hub_has_and_the_hub_sends_it_once(hub, tmp_path):
    hub.tokens.add("hf_good")
    commit = hub.add(REPO, FILES)
    secret = noise(200_000, seed=13)
    hub.add("org/gated", {"a.safetensors": secret}, gated="auto")
    with network(tmp_path) as net:

        def start(name):
            return net.daemon(name, "--http", "127.0.0.1:0", "--origin", hub.url)

        nodes = await asyncio.gather(asyncio.to_thread(start, "a"), asyncio.to_thread(start, "b"))
        for node in nodes:
            told = await client(f"http://{node.ready['http']}/hf", tmp_path / f"home-{node.data_dir.name}")
            assert told["commit"] == commit
            assert {path: bytes.fromhex(data) for path, data in told["files"].items()} == FILES
            assert told["errors"] == [
                "RemoteEntryNotFoundError",
                "RevisionNotFoundError",
                "RepositoryNotFoundError",
                "GatedRepoError",
            ]
            assert bytes.fromhex(told["gated"]) == secret
            await offers_both_shards(node)
        open_bytes = hub.bytes_sent - 2 * len(secret)  # each daemon for itself: nobody learns that it has it
        # Where a busy machine makes the look for peers end too early, one of the two shards comes from the hub again.
        assert open_bytes <= 1.7 * sum(map(len, FILES.values()))
        assert not hub.asked("xet")
        assert len(net.run("ls", "--json", on=nodes[1]).json["models"]) == 2  # the shards, and nothing that is gated
