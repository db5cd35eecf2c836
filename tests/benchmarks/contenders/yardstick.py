"""`raw`, `raw-sealed`, both `-checked`, and `tcp`: the script `raw.py` beside the benchmark."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.benchmarks.contenders.contender import SHAPES, Sample, Shape, Stage, Watched, ask_all
from tests.benchmarks.measure import Child, child

_SCRIPT = Path(__file__).parents[1] / "raw.py"


class Yardstick:
    """One connection to each sender, but at least `connections` in all."""

    shapes: Sequence[Shape] = SHAPES

    def __init__(self, name: str, *, sealed: bool = False, checked: bool = False, connections: int = 2) -> None:
        self.name = name
        self.what = f"sendfile, recv_into, BLAKE3, pwrite; connections: {connections}"
        if sealed:
            self.what += "; AES-128-GCM records of 1 MiB, sealed and opened in place"
        if checked:
            self.what += "; the sender hashes each chunk before it leaves, as scorecard R6 and S8 ask"
        self._options = [*(["--sealed"] if sealed else []), *(["--checked"] if checked else [])]
        self._connections = connections
        self._senders: list[Child] = []

    def missing(self) -> str:
        return ""

    def start(self, stage: Stage, senders: int) -> None:
        self._stage = stage
        serve: list[str | Path] = ["serve", stage.sending.host, stage.source]
        for _ in range(senders):
            self._senders.append(Child(stage.sending.argv(sys.executable, _SCRIPT, *self._options, *serve), stage.log))
        ports = [sender.hear()["port"] for sender in self._senders]
        self._addresses = [(stage.sending.host, port) for port in ports] * -(-self._connections // senders)

    def transfer(self, destinations: Sequence[Path]) -> Sample:
        files = [destination / self._stage.source.name for destination in destinations]
        fetch: list[str | Path] = [*self._options, "fetch", str(self._stage.size_bytes), self._stage.digests]
        argv = self._stage.receiving.argv(sys.executable, _SCRIPT, *fetch)
        with ExitStack() as stack:
            receivers = []
            for destination in destinations:
                destination.mkdir(parents=True)
                receivers.append(stack.enter_context(child(argv, self._stage.log)))
            for receiver in receivers:
                receiver.hear()
            watched = Watched(self._senders, receivers)
            questions = [{"addresses": self._addresses, "to": str(file)} for file in files]
            return watched.sample(ask_all(receivers, questions), files)

    def stop(self) -> None:
        for sender in self._senders:
            sender.stop()
