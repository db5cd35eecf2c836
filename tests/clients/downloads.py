"""A model, a daemon as somebody's endpoint, and a client that downloads from it."""

from __future__ import annotations

import hashlib
import random
import subprocess
from pathlib import Path
from typing import Any

from tests.clients.conftest import SCRIPTS, Client
from tests.clients.environments import python_of
from tests.e2e.processes import Network, Node
from tests.gateway.conftest import Hub

VERSIONS = ["hub-0.36", "hub-1", "hub-2"]


def model(directory: Path, *sizes: int, seed: int = 1) -> dict[str, bytes]:
    rng = random.Random(seed)
    files = {f"weights{number}.bin": rng.randbytes(size) for number, size in enumerate(sizes)}
    directory.mkdir()
    for name, content in files.items():
        (directory / name).write_bytes(content)
    return files


def gateway(net: Network, *options: object, http: str = "127.0.0.1:0") -> Node:
    return net.daemon("gateway", "--http", http, *options)


def client(node: Node, version: str, home: Path, **variables: str) -> Client:
    return Client(python_of(version), home, {"HF_ENDPOINT": f"http://{node.ready['http']}/hf", **variables})


def begin(net: Network, user: Client, model_id: str, *options: str) -> subprocess.Popen[str]:
    program = [str(user.python), str(SCRIPTS / "download.py"), f"p2pmodel/{model_id}", "weights0.bin", *options]
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        program, env=user.environment(), stdin=pipe if options else None, stdout=pipe, stderr=pipe, text=True
    )
    net.commands.append(process)
    return process


def until_done(user: Client, model_id: str) -> Any:
    """What the script tells. 0.36 does not take up a broken connection by itself, but the next run does; the others try
    again for some seconds, and on a busy machine the start of a daemon takes longer."""
    arguments = ("download.py", f"p2pmodel/{model_id}", "weights0.bin")
    try:
        return user.told(*arguments)
    except AssertionError as error:
        assert "Connection" in str(error) or "connection" in str(error)
        return user.told(*arguments)


def received(node: Node) -> int:
    """Bytes that came to a daemon over the network, by its own account."""
    return int(Hub(node.ready["http"]).ask("/api/v1/status", prefix="").json["bytes_received"])


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
