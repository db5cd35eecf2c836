"""`python -m tests.e2e.kills --count 200`: kill -9 at random moments of a fetch, and what each one costs (R1).

A seed serves a model of random shards. The downloader, the command `fetch` or a daemon that a client asks to fetch, is
killed at a random moment and started again, until the model is whole; then another directory begins. After each kill,
with nobody running, the disk is looked at as it is: no file under a final name may differ from the source, and no chunk
that the index claims may be missing. What the seed sent and is not there was in flight, and is fetched again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from p2pmodel.errors import P2PModelError
from p2pmodel.model import Digest, Layout
from p2pmodel.peer.client import find_daemon
from p2pmodel.peer.requests import FetchRequest
from p2pmodel.store import Store
from p2pmodel.store.store import INDEX_NAME
from tests.e2e.processes import Network, Node, command, environment, finish, network, sharded_model

MIB = 1 << 20
REDOWNLOAD_MEDIAN_MAX = 8 * MIB
REDOWNLOAD_MAX = 32 * MIB
READY_MAX_S = 3.0
_BY_BYTES_PART = 0.75


@dataclass
class Outcome:
    """What so many kills have done. Lists have an entry for each kill or start."""

    redownload_bytes: list[int] = field(default_factory=list)
    ready_s: list[float] = field(default_factory=list)
    """From the start of a daemon after a kill to its first line, which says that it serves."""
    ready_first_s: list[float] = field(default_factory=list)
    """The same of daemons that nobody had killed before: what a start costs on this machine, as busy as it is."""
    held_bytes: list[int] = field(default_factory=list)
    """How much was there at each kill: that the moments were spread."""
    claimed_bytes: list[int] = field(default_factory=list)
    completed: int = 0
    corrupt: list[str] = field(default_factory=list)
    false_haves: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    @property
    def kills(self) -> int:
        return len(self.redownload_bytes)

    def faults(self) -> list[str]:
        """What is not as R1 wants it."""
        found = [*self.corrupt, *self.false_haves, *self.failed]
        if self.redownload_bytes and statistics.median(self.redownload_bytes) > REDOWNLOAD_MEDIAN_MAX:
            found.append(f"re-download: median {statistics.median(self.redownload_bytes)} bytes")
        if self.redownload_bytes and max(self.redownload_bytes) > REDOWNLOAD_MAX:
            found.append(f"re-download: up to {max(self.redownload_bytes)} bytes")
        if self.ready_s and max(self.ready_s) > READY_MAX_S:
            found.append(f"ready after {max(self.ready_s):.2f} s")
        return found

    def report(self) -> dict[str, Any]:
        return {
            "kills": self.kills,
            "completed": self.completed,
            "corrupt": len(self.corrupt),
            "false_haves": len(self.false_haves),
            "failed": len(self.failed),
            "redownload_mib": _spread([count / MIB for count in self.redownload_bytes]),
            "held_mib": _spread([count / MIB for count in self.held_bytes]),
            "claimed_mib": _spread([count / MIB for count in self.claimed_bytes]),
            "ready_s": _spread(self.ready_s),
            "ready_first_s": _spread(self.ready_first_s),
        }


def _spread(values: list[float]) -> dict[str, float]:
    if not values:
        return {}
    ordered = sorted(values)
    parts = {"min": 0.0, "p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    return {name: round(ordered[min(len(ordered) - 1, int(part * len(ordered)))], 2) for name, part in parts.items()}


class Killer:
    """Fetches one model over and over, and kills whoever fetches."""

    def __init__(self, net: Network, source: Path, seed: Node, model_id: str, dice: random.Random) -> None:
        self._net, self._source, self._seed, self._model_id, self._dice = net, source, seed, model_id, dice
        self._layout = _layout(seed.data_dir)

        self.outcome = Outcome()
        self._round = 0
        self._expected_s = 60.0
        """About how long a fetch takes, so that kills fall into all of it; the first one is let be."""

    def run(self, kills: int, *, daemon: bool, deadline: float) -> Outcome:
        while self.outcome.kills < kills and time.monotonic() < deadline:
            self._round += 1
            home, out = self._net.root / f"home-{self._round}", self._net.root / f"out-{self._round}"
            while self.outcome.kills < kills and time.monotonic() < deadline and self._attempt(home, out, daemon):
                pass
            for left in (home, out):
                shutil.rmtree(left, ignore_errors=True)
        return self.outcome

    def _attempt(self, home: Path, out: Path, daemon: bool) -> bool:
        """Whether the model is not whole yet: there is something left to be killed."""
        before, sent = self._held(out), self._sent()
        again = before > 0 or home.exists()
        started = time.monotonic()
        patience, until = self._when(before, sent)
        killed = (
            self._kill_daemon(home, out, patience, until, again)
            if daemon
            else self._kill_fetch(home, out, patience, until)
        )
        if not killed:
            if not before:
                self._expected_s = time.monotonic() - started
            self.outcome.completed += 1
            self._check(home, out)
            if self._held(out) != self._layout.manifest.bytes_total:
                self.outcome.failed.append(f"{out.name}: said to be whole, and is not")
            return False
        self._check(home, out)
        held = self._held(out)
        lost = self._sent() - sent - (held - before)
        self.outcome.redownload_bytes.append(max(0, lost))
        self.outcome.held_bytes.append(held)
        return True

    def _when(self, before: int, sent: int) -> tuple[float, int | None]:
        """After how many seconds it is killed (while it starts, looks around, or ends), or when so much was sent."""
        left = self._layout.manifest.bytes_total - before
        if not self.outcome.completed or not left:
            return 60.0, None  # this one may end
        if self._dice.random() < _BY_BYTES_PART:
            return 60.0, sent + int(self._dice.random() * left)
        return self._dice.random() * self._expected_s, None

    def _kill_fetch(self, home: Path, out: Path, patience_s: float, until: int | None) -> bool:
        args = ("fetch", self._model_id, "--to", out, "--peer", self._seed.listen, "--json", "--data-dir", home)
        process = subprocess.Popen(
            command(*args), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(), cwd=out.parent
        )
        if until is None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(patience_s)
        else:
            asyncio.run(self._sent_so_much(until, lambda: process.poll() is not None))
        process.send_signal(signal.SIGKILL)
        done = finish(process, 60)
        if done.code not in (0, -signal.SIGKILL):
            self.outcome.failed.append(f"{out.name}: exit code {done.code}: {done.err.strip()}")
        return done.code == -signal.SIGKILL

    def _kill_daemon(self, home: Path, out: Path, patience_s: float, until: int | None, again: bool) -> bool:
        started = time.monotonic()
        node = self._net.daemon(home.name, entry=False)
        (self.outcome.ready_s if again else self.outcome.ready_first_s).append(time.monotonic() - started)
        try:
            asyncio.run(self._fetch_for(node, out, patience_s, until))
            return False
        except (TimeoutError, P2PModelError) as error:
            if not isinstance(error, TimeoutError):
                self.outcome.failed.append(f"{out.name}: {error}")
            return True
        finally:
            node.kill()
            assert node.process.stdout is not None
            node.process.stdout.close()
            self._net.nodes.remove(node)

    async def _fetch_for(self, node: Node, out: Path, patience_s: float, until: int | None) -> None:
        """Raises `TimeoutError`, with the fetch still running in the daemon: it is killed while it does."""
        client = await find_daemon(node.data_dir)
        assert client is not None
        fetch = asyncio.create_task(
            client.fetch(FetchRequest(ref=self._model_id, to=str(out), peers=[self._seed.listen]))
        )
        try:
            if until is None:
                await asyncio.wait({fetch}, timeout=patience_s)
            else:
                await self._sent_so_much(until, fetch.done)
            if fetch.done():
                fetch.result()
            else:
                node.kill()
                raise TimeoutError
        finally:
            fetch.cancel()
            await asyncio.wait({fetch})
            await client.close()

    # --- the disk as it is

    def _places(self, out: Path) -> Iterator[tuple[int, Path]]:
        partials = out / f".p2pmodel-{self._layout.model_id.hex[:16]}"
        for number, file in enumerate(self._layout.files):
            yield number, partials / f"{number:05d}.part"
            yield number, out / file.path.text

    def _held(self, out: Path) -> int:
        """The bytes of the chunks that are there, whatever anybody says about them."""
        held = 0
        for number, path in self._places(out):
            if not path.exists():
                continue
            with path.open("rb") as file:
                for index in self._layout.chunks_of(number):
                    place = self._layout[index]
                    file.seek(place.offset)
                    held += place.length if Digest.of(file.read(place.length)) == place.digest else 0
        return held

    def _check(self, home: Path, out: Path) -> None:
        for number, path in self._places(out):
            if path.suffix == ".part" or not path.exists():
                continue
            if path.read_bytes() != (self._source / self._layout.files[number].path.text).read_bytes():
                self.outcome.corrupt.append(f"{path} differs from its source")
        claimed = 0
        for index, right in self._claims(home):
            claimed += self._layout[index].length
            if not right:
                self.outcome.false_haves.append(f"{out.name}: chunk {index} is claimed, and is not there")
        self.outcome.claimed_bytes.append(claimed)

    def _claims(self, home: Path) -> list[tuple[int, bool]]:
        """Chunks that the index says to hold, and whether that is so; of a copy of the index, which looking changes."""
        if not (home / INDEX_NAME).exists():
            return []
        with tempfile.TemporaryDirectory() as name:
            for path in home.glob(f"{INDEX_NAME}*"):
                shutil.copy(path, name)
            store = Store.open(Path(name))
            try:
                have = store.have_map(self._layout.model_id)
                return [(index, self._is_right(store, index)) for index in have or ()]
            finally:
                store.close()

    def _is_right(self, store: Store, index: int) -> bool:
        source = store.chunk(self._layout[index].digest, (self._layout.model_id, index))
        if source is None:
            return False
        buffer = memoryview(bytearray(source.length))
        try:
            source.read_into(buffer, 0)
        finally:
            source.release()
        return Digest.of(buffer) == self._layout[index].digest

    def _sent(self) -> int:
        return asyncio.run(self._sent_so_much(0, lambda: False))

    async def _sent_so_much(self, until: int, ended: Callable[[], bool]) -> int:
        """Wait until the seed has sent `until` bytes in all, or something has ended; what it has sent."""
        client = await find_daemon(self._seed.data_dir)
        assert client is not None
        try:
            while (sent := (await client.status()).bytes_sent) < until and not ended():  # noqa: ASYNC110  (it is asked)
                await asyncio.sleep(0.01)
            return sent
        finally:
            await client.close()


def _layout(data_dir: Path) -> Layout:
    with tempfile.TemporaryDirectory() as name:
        for path in data_dir.glob(f"{INDEX_NAME}*"):
            shutil.copy(path, name)
        store = Store.open(Path(name))
        layout = store.layout(store.models()[0].model_id)
        store.close()
    assert layout is not None
    return layout


def kill_many(
    root: Path, kills: int, *, daemon: bool, seed: int, size_mib: int = 96, rate: str = "60MiB", minutes: float = 600
) -> Outcome:
    """Below `root`, with the same moments of death for the same `seed`, as far as a machine can promise that."""
    source = sharded_model(root / "model", shards=4, shard_bytes=size_mib * MIB // 4)
    with network(root, entry=False) as net:
        server = net.daemon("seed", "--upload-limit", rate, entry=False)
        model_id = str(net.publish(source, on=server)["model_id"])
        killer = Killer(net, source, server, model_id, random.Random(seed))
        return killer.run(kills, daemon=daemon, deadline=time.monotonic() + 60 * minutes)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.kills", description=__doc__)
    parser.add_argument("--count", type=int, default=200, help="kills of each kind (3,000 for the long run)")
    parser.add_argument("--minutes", type=float, default=600, help="stop each kind after so long")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kind", choices=["fetch", "daemon"], action="append", help="who is killed; both by default")
    args = parser.parse_args()
    faults = []
    for kind in args.kind or ["fetch", "daemon"]:
        with tempfile.TemporaryDirectory(prefix="p2pmodel-kills-") as name:
            outcome = kill_many(Path(name), args.count, daemon=kind == "daemon", seed=args.seed, minutes=args.minutes)
        sys.stdout.write(json.dumps({"killed": kind, **outcome.report(), "faults": outcome.faults()[:20]}) + "\n")
        sys.stdout.flush()
        faults += outcome.faults()
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
