"""A swarm of four daemons, three of which have the models, and the clients that ask the fourth."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.clients.environments import is_made, python_of
from tests.e2e.conftest import net, real_weights  # noqa: F401  (fixtures)
from tests.e2e.processes import Network, Node, command, network

SCRIPTS = Path(__file__).parent / "scripts"
HOLDERS = 3


@dataclass
class Swarm:
    """`holders` have everything that is published; `gateway` has nothing until a client asks it."""

    net: Network
    holders: list[Node]
    gateway: Node
    published: dict[Path, str] = field(default_factory=dict)

    def publish(self, path: Path) -> str:
        """On the first holder, and fetched by the others; returns the repository's name at the endpoint."""
        if path not in self.published:
            model_id = self.net.publish(path, on=self.holders[0])["model_id"]
            for holder in self.holders[1:]:
                done = self.net.run("fetch", model_id, on=holder)
                assert done.code == 0, done.err
            self.published[path] = f"p2pmodel/{model_id}"
        return self.published[path]

    def command(self, *arguments: object) -> list[str]:
        """Of the user whose daemon the gateway is."""
        return command(*arguments, "--data-dir", self.gateway.data_dir)

    @property
    def environment(self) -> dict[str, str]:
        """What `p2pmodel env` prints."""
        done = self.net.run("env", "--json", on=self.gateway)
        assert done.code == 0, done.err
        variables: dict[str, str] = done.json
        return variables


@pytest.fixture(scope="session")
def swarm_of_daemons(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swarm]:
    with network(tmp_path_factory.mktemp("swarm")) as made:
        holders = [made.daemon(f"holder{number}") for number in range(HOLDERS)]
        yield Swarm(made, holders, made.daemon("gateway", "--http", "127.0.0.1:0"))


@dataclass
class Client:
    """A Python of somebody else's, with a home of its own."""

    python: Path
    home: Path
    variables: dict[str, str]

    def environment(self, **more: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "P2PMODEL_"))}
        ours = {
            "HF_HOME": str(self.home),
            "PYTHONUNBUFFERED": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        }
        return {**kept, **ours, **self.variables, **more}

    def run(self, script: Path, *arguments: object, timeout_s: float = 200, **more: str) -> str:
        """What it printed. Fails with what it said where it ended badly."""
        done = subprocess.run(
            [self.python, script, *map(str, arguments)],
            capture_output=True,
            text=True,
            env=self.environment(**more),
            timeout=timeout_s,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout

    def told(self, script: str, *arguments: object, **more: str) -> Any:
        return json.loads(self.run(SCRIPTS / script, *arguments, **more).splitlines()[-1])


MakeClient = Callable[[str], Client]


@pytest.fixture
def client(swarm_of_daemons: Swarm, tmp_path: Path) -> MakeClient:
    """By the name of its environment, set up with what `p2pmodel env` says."""

    def make(name: str) -> Client:
        if not is_made(name):
            pytest.fail(f"no environment {name}: `python -m tests.clients.environments` makes it")
        return Client(python_of(name), tmp_path / "home", swarm_of_daemons.environment)

    return make
