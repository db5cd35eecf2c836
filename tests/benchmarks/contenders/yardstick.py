"""`raw` and `raw-sealed`: the script `raw.py` beside the benchmark."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.benchmarks.contenders.contender import Sample, Stage, Watched
from tests.benchmarks.measure import Child, child

_SCRIPT = Path(__file__).parents[1] / "raw.py"


class Yardstick:
    def __init__(self, *, sealed: bool) -> None:
        self.name = "raw-sealed" if sealed else "raw"
        self.what = "sendfile, recv_into, BLAKE3, pwrite; two connections"
        if sealed:
            self.what += "; AES-128-GCM records of 256 KiB"
        self._options = ["--sealed"] if sealed else []
        self._sender: Child | None = None

    def missing(self) -> str:
        return ""

    def start(self, stage: Stage) -> None:
        self._stage = stage
        self._log = stage.work / "log"
        self._sender = Child([sys.executable, _SCRIPT, *self._options, "serve", stage.source], self._log)
        self._port = self._sender.hear()["port"]

    def transfer(self, destination: Path) -> Sample:
        assert self._sender is not None
        destination.mkdir()
        file = destination / self._stage.source.name
        fetch = [*self._options, "fetch", str(self._stage.size_bytes), self._stage.digests]
        with child([sys.executable, _SCRIPT, *fetch], self._log) as receiver:
            receiver.hear()
            watched = Watched(self._sender, receiver)
            return watched.sample(receiver.ask(port=self._port, to=str(file))["seconds"], file)

    def stop(self) -> None:
        if self._sender is not None:
            self._sender.stop()
