"""A swarm of three daemons, and the Hugging Face endpoint of the one that has nothing of its own."""

from __future__ import annotations

import hashlib
import http.client
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.processes import Network, Node, network

MIB = 1 << 20


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Hub:
    """An endpoint, spoken to in plain HTTP."""

    address: str

    def ask(
        self, path: str, method: str = "GET", body: bytes | None = None, prefix: str = "/hf", **headers: str
    ) -> Answer:
        connection = http.client.HTTPConnection(self.address, timeout=60)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, prefix + path, body, named)
            response = connection.getresponse()
            told = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, told, response.read())
        finally:
            connection.close()

    @property
    def endpoint(self) -> str:
        return f"http://{self.address}/hf"


@dataclass
class Town:
    net: Network
    owner: Node
    reader: Node
    model_id: str
    publisher: str
    files: dict[str, bytes]

    @property
    def hub(self) -> Hub:
        return Hub(self.reader.ready["http"])

    @property
    def owners_hub(self) -> Hub:
        return Hub(self.owner.ready["http"])

    @property
    def repo(self) -> str:
        return f"p2pmodel/{self.model_id}"


def write_model(directory: Path, files: dict[str, bytes]) -> Path:
    for path, content in files.items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_bytes(content)
    return directory


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    root, rng = tmp_path_factory.mktemp("town"), random.Random(7)
    files = {
        "README.md": b"# A model\n",
        "config.json": b'{"hidden_size": 4}',
        "empty.txt": b"",
        "model.safetensors": rng.randbytes(3 * MIB + 17),
        "sub dir/notes \u00e9.txt": b"caf\xc3\xa9",
    }
    with network(root) as net:
        owner = net.daemon("owner", "--http", "127.0.0.1:0")
        net.entry = owner
        reader = net.daemon("reader", "--http", "127.0.0.1:0")
        report = net.publish(write_model(root / "model", files), "--name", "tiny", on=owner)
        yield Town(net, owner, reader, report["model_id"], report["signed_by"], files)
