"""`p2pmodel` and `p2pmodel-plain`: a daemon on every side, and the commands that a person would type."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path

from p2pmodel.peer.client import find_daemon
from p2pmodel.peer.requests import FetchRequest
from tests.benchmarks.contenders.contender import SHAPES, Sample, Shape, Stage, Watched
from tests.benchmarks.measure import BenchmarkError, Child, child, run_command

_PROGRAM = (sys.executable, "-m", "p2pmodel")


def _unwatched(_senders: Sequence[Child], _receivers: Sequence[Child]) -> AbstractContextManager[None]:
    return nullcontext()


class Ours:
    """Receivers are told of the senders, not of each other: that they find out, as in any swarm."""

    shapes: Sequence[Shape] = SHAPES

    def __init__(self, name: str, *, encryption: bool, options: Sequence[str] = ()) -> None:
        """`options`: of its daemons."""
        self.name = name
        self.what = (
            f"daemons, `fetch ID --to DIR --peer ADDRESS`, encryption {'as by default' if encryption else 'off'}"
        )
        self._options = [*options, *([] if encryption else ["--encryption", "off"])]
        self.around: Callable[[Sequence[Child], Sequence[Child]], AbstractContextManager[None]] = lambda *_: (
            nullcontext()
        )
        """Entered with senders and receivers for the time of a transfer: a profiler."""
        self._senders: list[Child] = []
        self._addresses: list[str] = []

    def missing(self) -> str:
        return ""

    def start(self, stage: Stage, senders: int) -> None:
        self._stage = stage
        # A network of its own, without entry nodes: the benchmark stays among its own processes.
        self._network = stage.work / "network.toml"
        self._network.write_text('name = "benchmark"\n')
        for number in range(senders):
            data_dir = stage.work / f"sender-{number}"
            sender = Child(stage.sending.argv(*self._daemon(data_dir, stage.sending.host)), stage.log)
            self._senders.append(sender)
            self._addresses.append(sender.hear()["listen"])
            published = run_command([*_PROGRAM, "publish", stage.model, "--json", "--data-dir", data_dir], stage.log)
            self._model_id: str = json.loads(published.stdout)["model_id"]

    def _daemon(self, data_dir: Path, host: str) -> list[str | Path]:
        fixed = ["--json", "--listen", f"{host}:0", "--http", "off", "--no-lan", *self._options]
        return [*_PROGRAM, "daemon", *fixed, "--network", self._network, "--data-dir", data_dir]

    def transfer(self, destinations: Sequence[Path]) -> Sample:
        stage = self._stage
        files = [destination / stage.source.name for destination in destinations]
        data_dirs = [stage.work / f"receiver-{number}" for number in range(len(destinations))]
        try:
            with ExitStack() as stack:
                receivers = []
                for data_dir in data_dirs:
                    argv = stage.receiving.argv(*self._daemon(data_dir, stage.receiving.host))
                    receivers.append(stack.enter_context(child(argv, stage.log)))
                for receiver in receivers:
                    receiver.hear()
                stack.enter_context(self.around(self._senders, receivers))
                watched = Watched(self._senders, receivers)
                if len(destinations) == 1:
                    return self._by_command(watched, data_dirs[0], destinations[0], files)
                began = time.monotonic()
                asyncio.run(self._by_api(data_dirs, destinations))
                return watched.sample(time.monotonic() - began, files)
        finally:
            for data_dir in data_dirs:
                shutil.rmtree(data_dir, ignore_errors=True)

    def _by_command(self, watched: Watched, data_dir: Path, to: Path, files: Sequence[Path]) -> Sample:
        peers = [argument for address in self._addresses for argument in ("--peer", address)]
        fetch: list[str | Path] = ["fetch", self._model_id, "--to", to, *peers, "--json", "--data-dir", data_dir]
        done = run_command([*_PROGRAM, *fetch], self._stage.log)
        seconds = json.loads(done.stdout)["seconds"]
        return watched.sample(seconds, files, wall_s=done.wall_s, command_cpu_s=done.cpu_s)

    async def _by_api(self, data_dirs: Sequence[Path], destinations: Sequence[Path]) -> None:
        """What the command does, for all receivers from one process: several commands would start one by one."""
        await asyncio.gather(*(self._ask(*each) for each in zip(data_dirs, destinations, strict=True)))

    async def _ask(self, data_dir: Path, to: Path) -> None:
        client = await find_daemon(data_dir)
        if client is None:
            raise BenchmarkError("a daemon does not answer")
        try:
            await client.fetch(FetchRequest(ref=self._model_id, to=str(to), peers=self._addresses))
        finally:
            await client.close()

    @contextmanager
    def fetching(self, name: str, *options: str) -> Iterator[None]:
        """A daemon of this name and a `fetch` through it, which goes on until the context ends."""
        data_dir, to = self._stage.work / name, self._stage.work / f"{name}-files"
        with ExitStack() as stack:
            stack.callback(shutil.rmtree, data_dir, ignore_errors=True)
            stack.callback(shutil.rmtree, to, ignore_errors=True)
            daemon = self._stage.receiving.argv(*self._daemon(data_dir, self._stage.receiving.host))
            stack.enter_context(child(daemon, self._stage.log)).hear()
            fetch: list[str | Path] = ["fetch", self._model_id, "--to", to, "--peer", self._addresses[0]]
            command = [*_PROGRAM, *fetch, "--json", "--data-dir", data_dir, *options]
            stack.enter_context(child(self._stage.receiving.argv(*command), self._stage.log))
            yield

    def stop(self) -> None:
        for sender in self._senders:
            sender.stop()
