"""Peers as separate processes, as a user runs them: started, spoken to and ended from outside."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from p2pmodel.errors import NetworkError
from p2pmodel.peer.client import find_daemon
from p2pmodel.peer.status import PeerStatus

REPOSITORY = Path(__file__).parents[2]
READY_S = 20
DONE_S = 110


@dataclass
class Finished:
    """What a command printed, and how it ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out.splitlines()[-1])


@dataclass
class Node:
    """A daemon or entry node. `ready` is the first line that it printed."""

    process: subprocess.Popen[str]
    ready: dict[str, Any]
    data_dir: Path

    @property
    def listen(self) -> str:
        return str(self.ready["listen"])

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def terminate(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(15)


def command(*args: object) -> list[str]:
    return [sys.executable, "-m", "p2pmodel", *map(str, args)]


def environment() -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("P2PMODEL_")}
    return {**kept, "NO_COLOR": "1", "PYTHONUNBUFFERED": "1", "P2PMODEL_ORIGIN": "off"}


@dataclass
class Network:
    """An entry node and daemons of a network of their own, below one directory."""

    root: Path
    nodes: list[Node] = field(default_factory=list)
    entry: Node | None = None
    commands: list[subprocess.Popen[str]] = field(default_factory=list)

    def start_entry(self) -> Node:
        args = [sys.executable, "-m", "bootstrap", "--listen", "127.0.0.1:0", "--json"]
        self.entry = self._start(args, self.root / "entry")
        return self.entry

    def daemon(self, name: str, *args: object, entry: bool = True) -> Node:
        data_dir = self.root / name
        known = ["--bootstrap", self.entry.listen] if entry and self.entry else []
        base = command(
            "daemon", "--json", "--listen", "127.0.0.1:0", "--http", "off", "--no-lan", "--data-dir", data_dir
        )
        return self._start([*base, *known, *map(str, args)], data_dir)

    def _start(self, args: list[str], data_dir: Path) -> Node:
        log = (self.root / f"{data_dir.name}.log").open("ab")
        process = subprocess.Popen(
            args, stdout=subprocess.PIPE, stderr=log, text=True, cwd=REPOSITORY, env=environment()
        )
        log.close()
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            process.wait()
            raise AssertionError((self.root / f"{data_dir.name}.log").read_text())
        node = Node(process, json.loads(line), data_dir)
        self.nodes.append(node)
        return node

    def run(self, *args: object, on: Node | Path | None = None, timeout_s: float = DONE_S) -> Finished:
        done = subprocess.run(
            command(*args, *_where(on)), capture_output=True, text=True, timeout=timeout_s, cwd=self.root,
            env=environment(),
        )  # fmt: skip
        return Finished(done.returncode, done.stdout, done.stderr)

    def begin(self, *args: object, on: Node | Path | None = None) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command(*args, *_where(on)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=self.root,
            env=environment(),
        )  # fmt: skip
        self.commands.append(process)
        return process

    def publish(self, path: Path, *args: object, on: Node | Path) -> dict[str, Any]:
        done = self.run("publish", path, "--json", *args, on=on)
        assert done.code == 0, done.err
        report: dict[str, Any] = done.json
        return report

    def stop(self) -> None:
        for process in self.commands:
            process.kill()
            process.wait()
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
        for node in self.nodes:
            node.process.kill()
        for node in self.nodes:
            node.process.wait()
            assert node.process.stdout is not None
            node.process.stdout.close()


def _where(on: Node | Path | None) -> list[str]:
    if on is None:
        return []
    return ["--data-dir", str(on.data_dir if isinstance(on, Node) else on)]


def finish(process: subprocess.Popen[str], timeout_s: float = DONE_S) -> Finished:
    assert process.stdout is not None and process.stderr is not None
    try:
        process.wait(timeout_s)
    finally:
        process.kill()
    with process.stdout, process.stderr:
        return Finished(process.returncode, process.stdout.read(), process.stderr.read())


def status_of(data_dir: Path) -> PeerStatus | None:
    """What the peer that owns the directory says, asked without a process of its own; None while there is none."""

    async def ask() -> PeerStatus | None:
        daemon = await find_daemon(data_dir)
        if daemon is None:
            return None
        try:
            return await daemon.status()
        finally:
            await daemon.close()

    try:
        return asyncio.run(ask())
    except NetworkError:
        return None


@contextmanager
def network(root: Path, *, entry: bool = True) -> Iterator[Network]:
    net = Network(root)
    try:
        if entry:
            net.start_entry()
        yield net
    finally:
        net.stop()


def sharded_model(directory: Path, *, shards: int, shard_bytes: int) -> Path:
    """A model as the hubs have them: several safetensors shards of random tensors, an index, a configuration."""
    directory.mkdir(parents=True)
    weight_map = {}
    for shard in range(shards):
        name = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        tensors, offset = {}, 0
        count = 4
        each = shard_bytes // count // 2 * 2
        for number in range(count):
            tensor = f"layers.{shard * count + number}.weight"
            tensors[tensor] = {"dtype": "F16", "shape": [each // 2], "data_offsets": [offset, offset + each]}
            weight_map[tensor] = name
            offset += each
        header = json.dumps(tensors).encode()
        header += b" " * (-len(header) % 8)
        with (directory / name).open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            for _ in range(offset >> 20):
                file.write(os.urandom(1 << 20))
            file.write(os.urandom(offset & 0xFFFFF))
    index = {"metadata": {"total_size": shards * shard_bytes}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    (directory / "config.json").write_text('{"model_type": "random"}')
    return directory


def sha256_of(directory: Path) -> dict[str, str]:
    """SHA-256 of every file below a directory, by relative path."""
    found = {}
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                found[path.relative_to(directory).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return found
