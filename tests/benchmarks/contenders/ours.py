"""`p2pmodel` and `p2pmodel-plain`: two daemons, and the commands that a person would type."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from tests.benchmarks.contenders.contender import Sample, Stage, Watched
from tests.benchmarks.measure import Child, child, run_command

_PROGRAM = (sys.executable, "-m", "p2pmodel")


class Ours:
    def __init__(self, *, encryption: bool) -> None:
        self.name = "p2pmodel" if encryption else "p2pmodel-plain"
        self.what = (
            f"two daemons, `fetch ID --to DIR --peer ADDRESS`, encryption {'as by default' if encryption else 'off'}"
        )
        self._options = [] if encryption else ["--encryption", "off"]
        self._sender: Child | None = None

    def missing(self) -> str:
        return ""

    def start(self, stage: Stage) -> None:
        self._stage = stage
        self._log = stage.work / "log"
        # A network of its own, without entry nodes: the benchmark stays on loopback.
        self._network = stage.work / "network.toml"
        self._network.write_text('name = "benchmark"\n')
        data_dir = stage.work / "sender"
        self._sender = Child(self._daemon(data_dir), self._log)
        self._address = self._sender.hear()["listen"]
        published = run_command([*_PROGRAM, "publish", stage.model, "--json", "--data-dir", data_dir], self._log)
        self._model_id = json.loads(published.stdout)["model_id"]

    def _daemon(self, data_dir: Path) -> list[str | Path]:
        fixed = ["--json", "--listen", "127.0.0.1:0", "--http", "off", "--no-lan", *self._options]
        return [*_PROGRAM, "daemon", *fixed, "--network", self._network, "--data-dir", data_dir]

    def transfer(self, destination: Path) -> Sample:
        assert self._sender is not None
        data_dir = self._stage.work / "receiver"
        fetch = ["fetch", self._model_id, "--to", destination, "--peer", self._address, "--json"]
        try:
            with child(self._daemon(data_dir), self._log) as receiver:
                receiver.hear()
                watched = Watched(self._sender, receiver)
                done = run_command([*_PROGRAM, *fetch, "--data-dir", data_dir], self._log)
                return watched.sample(
                    json.loads(done.stdout)["seconds"],
                    destination / self._stage.source.name,
                    wall_s=done.wall_s,
                    command_cpu_s=done.cpu_s,
                )
        finally:
            shutil.rmtree(data_dir, ignore_errors=True)

    def stop(self) -> None:
        if self._sender is not None:
            self._sender.stop()
