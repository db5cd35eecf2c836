"""Runs in a network namespace of its own, where every address of 198.18.0.0/15 is this machine's: so a crowd can come
from as many addresses and groups as it likes, and what the victim does for loopback does not hide its caps.

`unshare -n python -m tests.benchmarks.hostile.inside --connections 10000 ...`; `flood.py` starts it. One line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from p2pmodel.net import Address
from p2pmodel.swarm import wire
from tests.benchmarks.hostile.caller import GONE, Caller, client_hello, dial, stranger
from tests.benchmarks.measure import Child, child

VICTIM = Address("198.18.0.1", 4000)
_GROUPS = 45
"""Address groups (/24) that the crowd comes from."""
_AT_ONCE = 200
"""Connections that are being opened at the same time."""
_LOOK_S = 0.25
_WANTS_PEERS = 100


def source(number: int) -> str:
    return f"198.18.{1 + number % _GROUPS}.{1 + number // _GROUPS % 250}"


@dataclass
class Victim:
    """The daemon as the kernel sees it."""

    pid: int
    start_bytes: int = 0
    peak_bytes: int = 0
    connections: int = 0
    per_group: int = 0

    def resident_bytes(self) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise ValueError("no VmRSS")

    def addresses(self) -> list[str]:
        """Who is connected to a socket that the daemon has accepted and not closed."""
        inodes = set()
        for name in os.listdir(f"/proc/{self.pid}/fd"):  # noqa: PTH208
            try:
                inodes.add(os.readlink(f"/proc/{self.pid}/fd/{name}"))  # noqa: PTH115
            except OSError:
                continue
        found = []
        for line in Path(f"/proc/{self.pid}/net/tcp").read_text().splitlines()[1:]:
            fields = line.split()
            if f"socket:[{fields[9]}]" in inodes and fields[3] != "0A":
                number = bytes.fromhex(fields[2].partition(":")[0])
                found.append(".".join(str(byte) for byte in reversed(number)))
        return found

    def look(self) -> None:
        self.peak_bytes = max(self.peak_bytes, self.resident_bytes())
        addresses = self.addresses()
        groups = Counter(host.rpartition(".")[0] for host in addresses if host.startswith("198.18."))
        self.connections = max(self.connections, len(addresses))
        self.per_group = max(self.per_group, *groups.values(), 0)

    def begin(self) -> None:
        self.start_bytes = self.peak_bytes = self.resident_bytes()
        self.connections = self.per_group = 0

    @property
    def growth_bytes(self) -> int:
        return self.peak_bytes - self.start_bytes

    async def settle(self, patience_s: float) -> tuple[float, float]:
        """How soon its memory is at most a tenth above the start, and the ratio then or after a minute."""
        began = time.monotonic()
        for _ in range(int(patience_s)):
            if self.ratio <= 1.1:
                break
            await asyncio.sleep(1)
        return time.monotonic() - began, self.ratio

    @property
    def ratio(self) -> float:
        return self.resident_bytes() / self.start_bytes


@dataclass
class Crowd:
    """Everybody who has come, each until he is cut or sent home."""

    opened: int = 0
    refused: int = 0
    cut_after_s: list[float] = field(default_factory=list)
    _turn: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_AT_ONCE))
    _running: list[asyncio.Task[None]] = field(default_factory=list)

    async def come(self, one: Callable[[int], Awaitable[None]], count: int, per_s: float) -> None:
        """`one` opens a connection and returns when it has been cut."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        for number in range(count):
            await self._turn.acquire()
            self._running.append(loop.create_task(self._one(one, number)))
            await asyncio.sleep(max(began + number / per_s - loop.time(), 0))

    async def _one(self, one: Callable[[int], Awaitable[None]], number: int) -> None:
        try:
            await one(number)
        except GONE:
            self.refused += 1
            self._turn.release()

    def is_in(self) -> float:
        """Called by whoever has connected; returns the time."""
        self.opened += 1
        self._turn.release()
        return time.monotonic()

    async def go_home(self, patience_s: float = 0.0) -> None:
        if patience_s and self._running:
            await asyncio.wait(self._running, timeout=patience_s)
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)


class Flood:
    """M1: some say nothing, some begin a handshake, some finish it and stay."""

    def __init__(self, crowd: Crowd) -> None:
        self._crowd = crowd
        self._hellos = [client_hello(stranger()) for _ in range(20)]

    async def __call__(self, number: int) -> None:
        kind = number % 10
        if kind < 3:
            caller = await Caller.connect(source(number), VICTIM)
            self._crowd.is_in()
            await caller.until_cut()
            return
        sock = await dial(source(number), VICTIM)
        try:
            if kind < 7:
                await asyncio.get_running_loop().sock_sendall(sock, random.choice(self._hellos))
            self._crowd.is_in()
            while await asyncio.get_running_loop().sock_recv(sock, 4096):
                pass
        except OSError:
            pass
        finally:
            sock.close()


class Drip:
    """M2: a byte of a handshake every two seconds."""

    def __init__(self, crowd: Crowd) -> None:
        self._crowd = crowd
        self._hello = client_hello(stranger())

    async def __call__(self, number: int) -> None:
        loop = asyncio.get_running_loop()
        sock = await dial(source(number), VICTIM)
        began = self._crowd.is_in()
        try:
            for byte in self._hello:
                await loop.sock_sendall(sock, bytes([byte]))
                try:
                    async with asyncio.timeout(2):
                        if not await loop.sock_recv(sock, 1):
                            break
                except TimeoutError:
                    continue
        except OSError:
            pass
        finally:
            sock.close()
        self._crowd.cut_after_s.append(time.monotonic() - began)


class Wants:
    """M2: subscriptions, requests of every kind, haves, cancellations: what a connection takes, then on the next."""

    def __init__(self, count: int) -> None:
        self.left = count
        self.connections = 0

    def messages(self, dice: random.Random) -> list[bytes]:
        def anything() -> bytes:
            return dice.randbytes(32)

        model, number = anything(), dice.randrange(1 << 31)
        return [
            wire.encode(message)
            for message in (
                wire.Subscribe(model),
                wire.RequestName(number, anything(), "n" * 96, "r" * 96),
                wire.RequestChunk(number + 1, model, anything(), 1 << 20),
                wire.RequestObject(number + 2, anything()),
                wire.RequestStatements(number + 3, model),
                wire.HaveMapOf(anything(), 800, bytes(100)),
                wire.Have(model, list(range(200))),
                wire.Cancel(number + 1),
                wire.Reject(number, "no"),
                wire.Unknown(anything()),
            )
        ]

    async def __call__(self, number: int) -> None:
        dice = random.Random(number)
        while self.left > 0:
            try:
                caller = await Caller.connect(f"198.18.{1 + number}.1", VICTIM)
            except GONE:
                await asyncio.sleep(0.2)
                continue
            self.connections += 1
            deaf = number % 2
            hearing = None if deaf else asyncio.ensure_future(caller.until_cut())
            try:
                while self.left > 0:
                    batch = self.messages(dice)
                    self.left -= len(batch)
                    async with asyncio.timeout(20):
                        await caller.say(*batch)
            except (*GONE, TimeoutError):
                pass
            finally:
                if hearing is not None:
                    hearing.cancel()
                    await asyncio.wait([hearing])
                caller.sock.close()


async def watch(victim: Victim) -> None:
    while True:
        victim.look()
        await asyncio.sleep(_LOOK_S)


async def during(victim: Victim, work: Awaitable[None]) -> None:
    victim.begin()
    watching = asyncio.ensure_future(watch(victim))
    try:
        await work
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


def percentile(values: list[float], part: float) -> float | None:
    return sorted(values)[min(len(values) - 1, int(len(values) * part))] if values else None


def heard(probe: Child) -> list[dict[str, float | None]]:
    lines = []
    while True:
        try:
            lines.append(probe.hear(0.05))
        except Exception:  # noqa: BLE001  (nothing more for now)
            return lines


async def flood(victim: Victim, probe: Child, args: argparse.Namespace) -> dict[str, object]:
    crowd = Crowd()
    heard(probe)
    await during(victim, crowd.come(Flood(crowd), args.connections, args.per_s))
    greetings = heard(probe)
    await crowd.go_home()
    settled_s, ratio = await victim.settle(args.settle)
    shaken = [line["shaken_s"] for line in greetings]
    answered = [line["answered_s"] for line in greetings]
    return {
        "opened": crowd.opened,
        "refused": crowd.refused,
        "growth_bytes": victim.growth_bytes,
        "start_bytes": victim.start_bytes,
        "connections": victim.connections,
        "per_group": victim.per_group,
        "honest": len(greetings),
        "honest_shaken": sum(value is not None for value in shaken),
        "honest_answered": sum(value is not None for value in answered),
        "handshake_p50_s": percentile([value for value in shaken if value is not None], 0.5),
        "handshake_p99_s": percentile([value if value is not None else 99.0 for value in shaken], 0.99),
        "answer_p99_s": percentile([value if value is not None else 99.0 for value in answered], 0.99),
        "failures": dict(Counter(str(line["failed"]) for line in greetings if line["failed"])),
        "settled_s": settled_s,
        "end_ratio": ratio,
        "left": len(victim.addresses()),
    }


async def drip(victim: Victim, probe: Child, args: argparse.Namespace) -> dict[str, object]:
    crowd = Crowd()
    heard(probe)

    async def all_of_it() -> None:
        await crowd.come(Drip(crowd), args.connections, args.per_s)
        await asyncio.sleep(11)

    await during(victim, all_of_it())
    shaken = [line["shaken_s"] for line in heard(probe)]
    left = crowd.opened - len(crowd.cut_after_s)
    await crowd.go_home()
    settled_s, ratio = await victim.settle(args.settle)
    return {
        "opened": crowd.opened,
        "cut": len(crowd.cut_after_s),
        "left": left,
        "cut_p50_s": percentile(crowd.cut_after_s, 0.5),
        "cut_most_s": max(crowd.cut_after_s, default=None),
        "growth_bytes": victim.growth_bytes,
        "handshake_p99_s": percentile([value if value is not None else 99.0 for value in shaken], 0.99),
        "settled_s": settled_s,
        "end_ratio": ratio,
    }


async def wants(victim: Victim, probe: Child, args: argparse.Namespace) -> dict[str, object]:
    asking = Wants(args.wants)
    heard(probe)

    async def all_of_it() -> None:
        await asyncio.gather(*(asking(number) for number in range(_WANTS_PEERS)))

    await during(victim, all_of_it())
    answered = [line["answered_s"] for line in heard(probe)]
    settled_s, ratio = await victim.settle(args.settle)
    return {
        "messages": args.wants,
        "peers": _WANTS_PEERS,
        "connections": asking.connections,
        "growth_bytes": victim.growth_bytes,
        "answer_p99_s": percentile([value if value is not None else 99.0 for value in answered], 0.99),
        "growth_per_peer_bytes": victim.growth_bytes / _WANTS_PEERS,
        "settled_s": settled_s,
        "end_ratio": ratio,
    }


async def play(args: argparse.Namespace, work: Path) -> dict[str, object]:
    command = [sys.executable, "-m", "p2pmodel", "daemon", "--json", "--listen", str(VICTIM), "--http", "off"]
    results: dict[str, object] = {}
    with child([*command, "--no-lan", "--data-dir", work / "victim"], work / "victim.log") as daemon:
        daemon.hear()
        victim = Victim(daemon.pid)
        pause = [str(VICTIM), str(args.pause)]
        with child([sys.executable, "-m", "tests.benchmarks.hostile.probe", *pause], work / "probe.log") as probe:
            # What it needs for its first connections is no growth.
            for _ in range(20):
                probe.hear()
            for name in args.parts:
                if name == "flood":
                    results[name] = await flood(victim, probe, args)
                elif name == "drip":
                    results[name] = await drip(victim, probe, args)
                else:
                    results[name] = await wants(victim, probe, args)
                print(json.dumps({name: results[name]}), file=sys.stderr, flush=True)
        log = (work / "victim.log").read_text(errors="replace")
        results["complaints"] = log[-2000:] if "Traceback" in log else ""
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--per-s", type=float, default=1_000.0)
    parser.add_argument("--wants", type=int, default=1_000_000)
    parser.add_argument("--settle", type=float, default=60.0)
    parser.add_argument("--pause", type=float, default=0.05)
    parser.add_argument("parts", nargs="*", default=["flood", "drip", "wants"])
    args = parser.parse_args()
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    subprocess.run(["ip", "route", "add", "local", "198.18.0.0/15", "dev", "lo"], check=True)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with tempfile.TemporaryDirectory(prefix="p2pmodel-hostile-") as work:
        print(json.dumps(asyncio.run(play(args, Path(work)))), flush=True)


if __name__ == "__main__":
    main()
