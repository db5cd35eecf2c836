"""Two hosts and a narrow place between them, made of network namespaces: for root on Linux.

    sender's namespace --veth-- [ middle: bridge or relays, token bucket in both directions ] --veth-- receiver's

The namespaces have no names: each belongs to a process that ends with this one, whatever ends this one, and the kernel
takes the interfaces away with the last process inside.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.contenders.contender import Place
from tests.benchmarks.measure import BenchmarkError, Child, child

_BITS = {"mbit": 10**6, "gbit": 10**9}
_SENDER, _RECEIVER = ("10.93.7.1", "02:00:00:00:07:01"), ("10.93.7.2", "02:00:00:00:07:02")
_BURST_BYTES_MIN = 160 * 1024
_BURST_S = 0.001
_QUEUE_S_MIN = 0.020
_FRAME_BYTES, _PAYLOAD_BYTES = 1514, 1448
"""On Ethernet with TCP's timestamps; preamble and gap are not counted by the token bucket."""
_START_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Link:
    """What the path between the two hosts is like, the same in both directions. Loss is a probability per segment."""

    rate_bits_per_s: float
    round_trip_s: float = 0.0
    loss: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Link:
        """From `1gbit`, `100mbit,20ms` or `1gbit,80ms,0.5%`. Raises `ValueError`."""
        match = re.fullmatch(r"([\d.]+)([mg]bit)(?:,([\d.]+)ms)?(?:,([\d.]+)%)?", text.strip().lower())
        if match is None:
            raise ValueError(f"{text!r} is no link such as 1gbit,20ms,0.5%")
        rate, unit, round_trip, loss = match.groups()
        return cls(float(rate) * _BITS[unit], float(round_trip or 0) / 1000, float(loss or 0) / 100)

    def __str__(self) -> str:
        rate = self.rate_bits_per_s
        text = f"{rate / 1e9:g} Gbit/s" if rate >= 1e9 else f"{rate / 1e6:g} Mbit/s"
        if self.round_trip_s:
            text += f" {self.round_trip_s * 1000:g} ms"
        return text + (f" {self.loss * 100:g} %" if self.loss else "")

    @property
    def burst_bytes(self) -> int:
        """What passes at once after a pause: one frame that is not yet cut, or what a late timer has to make up for."""
        return max(_BURST_BYTES_MIN, round(self.rate_bits_per_s / 8 * _BURST_S))

    @property
    def queue_bytes(self) -> int:
        """What may wait before the narrow place: a round trip's worth, as in most routers, and at least 20 ms."""
        return round(self.rate_bits_per_s / 8 * max(self.round_trip_s, _QUEUE_S_MIN))

    @property
    def direct(self) -> bool:
        return not self.round_trip_s and not self.loss

    def ideal_s(self, size_bytes: int) -> float:
        """From the first byte at the narrow place to the last: full segments without a gap, the first burst at once."""
        wire = size_bytes * _FRAME_BYTES / _PAYLOAD_BYTES - self.burst_bytes
        return max(wire * 8 / self.rate_bits_per_s, 1e-6)


def missing() -> str:
    """Why there can be no such network here; empty where there can."""
    if sys.platform != "linux":
        return "network namespaces exist on Linux only"
    if os.geteuid() != 0:
        return "network namespaces are made by root; run it as root"
    absent = [name for name in ("ip", "tc", "nsenter", "unshare") if shutil.which(name) is None]
    if absent:
        return f"the programs {', '.join(absent)} are not installed (packages iproute2 and util-linux)"
    return ""


class Network:
    """`become` a link, then run things at `sending` and `receiving`; `network` makes one and takes it away."""

    def __init__(self, log: Path, stack: ExitStack) -> None:
        self._log, self._stack = log, stack
        self._relays: list[Child] = []
        self._pids = [self._namespace() for _ in range(3)]
        sender, middle, receiver = self._pids
        self._middle = self._enter(middle)
        self.sending = Place(_SENDER[0], self._enter(sender))
        self.receiving = Place(_RECEIVER[0], self._enter(receiver))
        self._host("left", sender, _SENDER, _RECEIVER)
        self._host("right", receiver, _RECEIVER, _SENDER)
        self._run(self._middle, "ip", "link", "add", "bridge0", "type", "bridge")
        for name in ("bridge0", "left", "right"):
            self._run(self._middle, "ip", "link", "set", name, "up")

    def _host(self, side: str, pid: int, own: tuple[str, str], other: tuple[str, str]) -> None:
        place, ether = self._enter(pid), ("address", own[1])
        other_end = ("peer", "name", "net0", *ether, "netns", str(pid))
        self._run(self._middle, "ip", "link", "add", side, "type", "veth", *other_end)
        self._run(place, "ip", "address", "add", f"{own[0]}/24", "dev", "net0")
        for name in ("net0", "lo"):
            self._run(place, "ip", "link", "set", name, "up")
        # Or whoever connects first would wait a round trip longer than all others.
        self._run(place, "ip", "neighbour", "add", other[0], "lladdr", other[1], "dev", "net0", "nud", "permanent")

    def _namespace(self) -> int:
        """The process that holds a new one open. `cat` ends with the pipe, so the namespace ends with us."""
        holder = self._stack.enter_context(child(["unshare", "--net", "cat"], self._log))
        own, deadline = Path("/proc/self/ns/net").readlink(), time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline:
            if Path(f"/proc/{holder.pid}/ns/net").readlink() != own:
                return holder.pid
            time.sleep(0.01)
        raise BenchmarkError("no network namespace could be made")

    @staticmethod
    def _enter(pid: int) -> tuple[str, ...]:
        return ("nsenter", f"--net=/proc/{pid}/ns/net", "--")

    def _run(self, place: tuple[str, ...], *command: str) -> None:
        done = subprocess.run([*place, *command], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise BenchmarkError(f"{' '.join(command)}: {done.stderr.strip()}")

    def become(self, link: Link) -> None:
        """Connections that are open meanwhile are not cut."""
        for relay in self._relays:
            relay.stop()
        self._relays = []
        limit = str(link.burst_bytes + link.queue_bytes)
        shape = ["tbf", "rate", f"{link.rate_bits_per_s:.0f}bit", "burst", str(link.burst_bytes), "limit", limit]
        for side in ("left", "right"):
            self._run(self._middle, "tc", "qdisc", "replace", "dev", side, "root", *shape)
            bridged = ["master", "bridge0"] if link.direct else ["nomaster"]
            self._run(self._middle, "ip", "link", "set", side, *bridged)
        if not link.direct:
            self._relays = [self._relay(link, *way) for way in (("left", "right"), ("right", "left"))]

    def _relay(self, link: Link, source: str, target: str) -> Child:
        program = [sys.executable, "-m", "tests.benchmarks.relay", source, target]
        options = ["--delay-s", str(link.round_trip_s / 2), "--loss", str(link.loss)]
        relay = self._stack.enter_context(child([*self._middle, "nice", "-n", "-15", *program, *options], self._log))
        relay.hear()
        return relay

    def relayed(self) -> list[dict[str, Any]]:
        """What the relays have done since this was last asked, in both directions."""
        return [relay.ask() for relay in self._relays]

    def received_bytes(self) -> int:
        """What has come out of the narrow place at the receiver so far, headers and all."""
        lines = Path(f"/proc/{self._pids[2]}/net/dev").read_text().splitlines()
        [counters] = [line.partition(":")[2].split() for line in lines if line.strip().startswith("net0:")]
        return int(counters[0])

    def forget_paths(self) -> None:
        """What TCP has learnt of the path: the next connection starts as between strangers."""
        for place in (self.sending, self.receiving):
            self._run(place.enter, "ip", "tcp_metrics", "flush")


@contextmanager
def network(log: Path) -> Iterator[Network]:
    with ExitStack() as stack:
        yield Network(log, stack)
