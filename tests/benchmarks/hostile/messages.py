"""What one hostile message costs the peer that gets it (scorecard M4): the worst of each kind, and ten times smaller.

The victim is a real swarm with as many connections as it takes, all of them following one model, and a download of
that model under way; the model has a million chunks, every third of them a repetition. Only the socket is missing:
messages are handed to the connection as a channel would.
"""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from random import Random

import msgspec
from blake3 import blake3

from p2pmodel.errors import P2PModelError, PeerFault, PeerGoneError
from p2pmodel.limits import (
    CHUNKS_ASKED_PER_MESSAGE_MAX,
    CHUNKS_PER_MODEL_MAX,
    CONNECTIONS_INCOMING_MAX,
    CONTROL_BYTES_MAX,
    HAVES_PER_MESSAGE_MAX,
    MODELS_PER_ANSWER_MAX,
    PEERS_PER_MESSAGE_MAX,
    PROBES_PER_MESSAGE_MAX,
)
from p2pmodel.model import ChunkList, Digest, FileEntry, HaveMap, Layout, Manifest, PortablePath, SecretKey, Sha256
from p2pmodel.net import Address, BulkSource, ChannelHandler, Hello, Identity, RealNetwork, network_id
from p2pmodel.swarm import Swarm, wire
from tests.benchmarks.report import Line, at_most, table

CHUNKS = 1_000_000
_TIMES = 300
TAKES = 3
"""Each message is sent so many times, to a swarm in the same state, and its least time counts: what comes on top is the
machine's (interrupts, neighbours on the same core), which CPU time of a thread has in it."""
MARK_MS = 1.0
RATIO_MARK = 12.0


def content(tag: str, number: int) -> bytes:
    return blake3(f"{tag} {number}".encode()).digest()


def large_layout(chunks: int) -> Layout:
    """A model of this many chunks of a megabyte; one in three is a repetition of another."""
    per_file = 200_000
    lists, entries = [], []
    for start in range(0, chunks, per_file):
        count = min(per_file, chunks - start)
        numbers = ((i - i % 3 if i % 3 == 2 else i) for i in range(start, start + count))
        chunk_list = ChunkList.of((Digest(content("chunk", number)), 1 << 20) for number in numbers)
        lists.append(chunk_list)
        entries.append(
            FileEntry(
                path=PortablePath(f"part-{start:07}.bin"),
                size=count << 20,
                blake3=Digest(content("file", start)),
                sha256=Sha256(content("sha", start)),
                chunk_count=count,
                chunk_list=chunk_list.digest,
            )
        )
    return Layout(Manifest(tuple(entries)), lists)


class Deaf:
    """A channel to nobody: it counts what is sent."""

    outgoing = False
    encrypted = True
    runs_ahead = 2
    run_answers = 1
    bytes_received = 0
    hello = Hello(1, network_id("m4"), True, 4000, "hostile")

    def __init__(self, number: int) -> None:
        self.peer = SecretKey.from_seed(number.to_bytes(32, "big")).public
        self.address = Address(f"60.{number // 250}.{number % 250}.1", 4000)
        self.bytes_sent = 0
        self.handler: ChannelHandler | None = None
        self.reason: P2PModelError | None = None

    def start(self, handler: ChannelHandler) -> None:
        self.handler = handler

    def send(self, message: bytes) -> None:
        self.bytes_sent += len(message)

    def expect(self, size_bytes: int) -> int:
        return 1

    async def send_run(self, answers: Sequence[tuple[int, BulkSource]]) -> list[bool]:
        for _, source in answers:
            source.release()
        return [False] * len(answers)

    def yield_line(self, *, sending: bool, receiving: bool) -> None:
        pass

    def close(self, reason: P2PModelError) -> None:
        if self.reason is None and self.handler is not None:
            self.reason = reason
            asyncio.get_running_loop().call_soon(self.handler.closed, reason)


class Nothing:
    """A shelf without anything, and an intake that takes nothing."""

    def have_map(self, model_id: object) -> HaveMap | None:
        return None

    def chunk(self, digest: object) -> BulkSource | None:
        return None

    def object(self, digest: object) -> bytes | None:
        return None

    def models(self, digests: object) -> list[object]:
        return []

    def statements(self, model_id: object) -> list[bytes]:
        return []

    def named(self, *_: object) -> list[bytes]:
        return []

    def write(self, index: int, data: memoryview) -> int:
        return 0


@dataclass(slots=True)
class Cost:
    """Of one kind of message, in milliseconds of CPU time on the loop."""

    kind: str
    size_bytes: int
    median_ms: float
    p999_ms: float
    small_bytes: int
    small_ms: float

    @property
    def ratio(self) -> float:
        """How much longer ten times the bytes take; 1 where neither can be told from nothing."""
        grown = self.size_bytes / max(self.small_bytes, 1)
        if grown < 5 or self.median_ms < 0.02:
            return 1.0
        return self.median_ms / max(self.small_ms, 1e-3) * 10 / grown


@dataclass(slots=True)
class Messages:
    """The benchmark: `run`, then `tables`, `lines` and `as_json`."""

    tell: Callable[[str], None]
    repeat: int = 1
    chunks: int = CHUNKS
    connections: int = CONNECTIONS_INCOMING_MAX
    times: int = _TIMES
    takes: int = TAKES
    settle_s: float = 0.2
    """For what the callers set off to have come to rest."""
    costs: list[Cost] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))

    def missing(self) -> str:
        return ""

    def run(self, work: Path) -> None:
        asyncio.run(self._run())

    async def _run(self) -> None:
        self.tell(f"a model of {self.chunks:,} chunks")
        layout = large_layout(self.chunks)
        key = SecretKey.generate()
        network = RealNetwork(Identity(key, network_id("m4")))
        swarm = Swarm(key=key.public, network=network, shelf=Nothing(), rng=Random(1))
        callers: list[Deaf] = []
        wanted = HaveMap.full(len(layout))
        download = swarm.open_download(layout, wanted, HaveMap(len(layout)), Nothing())
        running = asyncio.ensure_future(download.run())
        for kind, make in scripts(layout).items():
            await self._measure(swarm, callers, layout, kind, make)
        running.cancel()
        await asyncio.wait([running])
        swarm.close_download(download)
        await swarm.stop()
        await network.close()

    async def _come(self, swarm: Swarm, callers: list[Deaf], layout: Layout) -> None:
        """New callers for all of before, as many as there are places; all of them follow the model."""
        for caller in callers:
            caller.close(PeerGoneError("it has had its turn"))
        await asyncio.sleep(0)
        callers[:] = [Deaf(next(self._numbers)) for _ in range(self.connections)]
        for caller in callers:
            swarm.accept(caller)
            self._say(caller, wire.encode(wire.Subscribe(layout.model_id.raw)))
            await asyncio.sleep(0)
        await asyncio.sleep(self.settle_s)

    def _say(self, caller: Deaf, message: bytes) -> float:
        assert caller.handler is not None
        began = time.thread_time_ns()
        try:
            caller.handler.message_received(message)
        except PeerFault as fault:
            elapsed = time.thread_time_ns() - began
            caller.close(fault)
        else:
            elapsed = time.thread_time_ns() - began
        return elapsed / 1e6

    async def _series(
        self, swarm: Swarm, callers: list[Deaf], layout: Layout, messages: list[bytes], before: bytes | None
    ) -> list[float]:
        """The least time of each message over all takes, ascending."""
        least: dict[int, float] = {}
        for _ in range(self.takes):
            await self._come(swarm, callers, layout)
            gc.collect()
            gc.disable()
            try:
                pulled_from = swarm.downloads[layout.model_id].links
                staying = [caller for caller in callers if caller.reason is None and caller.peer in pulled_from]
                for number, message in enumerate(messages):
                    caller = staying[number % len(staying)]
                    if caller.reason is None:
                        if before is not None:
                            self._say(caller, before)
                        took = self._say(caller, message)
                        least[number] = min(took, least.get(number, took))
                        await asyncio.sleep(0)
            finally:
                gc.enable()
        return sorted(least.values())

    async def _measure(self, swarm: Swarm, callers: list[Deaf], layout: Layout, kind: str, make: Make) -> None:
        large = [make(number, 1.0) for number in range(self.times)]
        small = [make(number, 0.1) for number in range(self.times)]
        model, bits = layout.model_id.raw, HaveMap(len(layout), Random(7).getrandbits(len(layout))).encode()
        before = None
        if kind == "Subscribe anew":
            before = wire.encode(wire.Unsubscribe(model))
        elif kind.startswith(("Have (", "Unknown")) or kind == "Have":
            before = wire.encode(wire.HaveMapOf(model, len(layout), bits))
        many = await self._series(swarm, callers, layout, large, before)
        few = many if len(small[0]) == len(large[0]) else await self._series(swarm, callers, layout, small, before)
        median = many[len(many) // 2]
        rank = min(len(many) - 1, int(len(many) * 0.999))
        self.costs.append(Cost(kind, len(large[0]), median, many[rank], len(small[0]), few[len(few) // 2]))
        self.tell(f"{kind}: {len(large[0]):,} bytes, {median:.3f} ms, p99.9 {many[rank]:.3f} ms")

    def tables(self) -> list[str]:
        rows = [
            [
                cost.kind,
                f"{cost.size_bytes:,}",
                f"{cost.median_ms:.3f}",
                f"{cost.p999_ms:.3f}",
                f"{cost.ratio:.1f}" if cost.size_bytes > 5 * cost.small_bytes else "-",
            ]
            for cost in self.costs
        ]
        return table(["message", "bytes", "median ms", "p99.9 ms", "10 x the bytes"], rows)

    def disturbance(self) -> str:
        load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
        return (
            f"load average {load}; CPU time of the loop's thread, least of {self.takes} takes of {self.times} messages"
        )

    def lines(self) -> list[Line]:
        return [
            at_most("M4", "worst message, p99.9", max(cost.p999_ms for cost in self.costs), MARK_MS, "ms"),
            at_most("M4", "ten times the bytes", max(cost.ratio for cost in self.costs), RATIO_MARK, "x"),
        ]

    def as_json(self) -> dict[str, object]:
        return {"costs": [asdict(cost) for cost in self.costs], "lines": [line.as_json() for line in self.lines()]}


Make = Callable[[int, float], bytes]
"""One message of a kind: a number that makes it another one each time, and the part of its greatest size."""


def scripts(layout: Layout) -> dict[str, Make]:
    model, chunks, dice = layout.model_id.raw, len(layout), Random(1)

    def some(part: float, most: int) -> int:
        return max(1, int(most * part))

    def have_map(number: int, part: float) -> bytes:
        # The length is the model's, so the tenth is of another kind: few bits set.
        return wire.encode(wire.HaveMapOf(model, chunks, Random(number).randbytes(chunks // 8)))

    def foreign_map(number: int, part: float) -> bytes:
        size = some(part, CHUNKS_PER_MODEL_MAX // 8)
        return wire.encode(wire.HaveMapOf(content("model", number), size * 8, dice.randbytes(size)))

    def haves(number: int, part: float) -> bytes:
        indices = [dice.randrange(chunks) for _ in range(some(part, HAVES_PER_MESSAGE_MAX))]
        return wire.encode(wire.Have(model, indices))

    def one_have(number: int, part: float) -> bytes:
        return wire.encode(wire.Have(model, [dice.randrange(chunks)]))

    def peers(number: int, part: float) -> bytes:
        told = [
            (content("peer", number * 100 + i), Address(f"70.{i}.{number % 250}.1", 4000).pack())
            for i in range(some(part, PEERS_PER_MESSAGE_MAX))
        ]
        return wire.encode(wire.Peers(model, told))

    def statements(number: int, part: float) -> bytes:
        size = some(part, CONTROL_BYTES_MAX - 200)
        pieces = [bytes(16_000)] * (size // 16_100) or [bytes(size)]
        return wire.encode(wire.Statements(1 << 30, pieces))

    def noise(number: int, part: float) -> bytes:
        return b"\x91" * some(part, CONTROL_BYTES_MAX)

    def extra(number: int, part: float) -> bytes:
        return msgspec.msgpack.encode([13, *([0] * some(part, CONTROL_BYTES_MAX - 10))])

    def strange(number: int, part: float) -> bytes:
        """An array of maps with long keys, in a field that nobody knows."""
        return msgspec.msgpack.encode([13, {f"{i:08}": i for i in range(some(part, CONTROL_BYTES_MAX // 14))}])

    def named(number: int, part: float) -> bytes:
        return wire.encode(wire.RequestName(number, content("key", number), "n" * 96, "r" * 96))

    return {
        "Subscribe": lambda number, part: wire.encode(wire.Subscribe(content("model", number))),
        "Subscribe again": lambda number, part: wire.encode(wire.Subscribe(model)),
        "Unsubscribe": lambda number, part: wire.encode(wire.Unsubscribe(model)),
        "Subscribe anew": lambda number, part: wire.encode(wire.Subscribe(model)),
        "HaveMapOf": have_map,
        "HaveMapOf (not followed)": foreign_map,
        "Have": haves,
        "Have (one chunk)": one_have,
        "Lost": lambda number, part: wire.encode(
            wire.Lost(model, [dice.randrange(chunks) for _ in range(some(part, HAVES_PER_MESSAGE_MAX))])
        ),
        "Peers": peers,
        "RequestChunk": lambda number, part: wire.encode(
            wire.RequestChunk(number, model, content("chunk", number), 1 << 20)
        ),
        "RequestChunks": lambda number, part: wire.encode(
            wire.RequestChunks(
                model,
                [
                    wire.Asked(4000 + 64 * number + i, content("chunk", 64 * number + i), 1 << 20, i)
                    for i in range(some(part, CHUNKS_ASKED_PER_MESSAGE_MAX))
                ],
            )
        ),
        "RequestObject": lambda number, part: wire.encode(wire.RequestObject(1000 + number, content("o", number))),
        "RequestStatements": lambda number, part: wire.encode(wire.RequestStatements(2000 + number, model)),
        "RequestName": named,
        "RequestModels": lambda number, part: wire.encode(
            wire.RequestModels(
                3000 + number, [content("chunk", number + i) for i in range(some(part, PROBES_PER_MESSAGE_MAX))]
            )
        ),
        "Models": lambda number, part: wire.encode(
            wire.Models(1 << 30, [content("model", i) for i in range(some(part, MODELS_PER_ANSWER_MAX))])
        ),
        "Cancel": lambda number, part: wire.encode(wire.Cancel(number)),
        "Reject": lambda number, part: wire.encode(wire.Reject(number, "x" * some(part, 200))),
        "Ping": lambda number, part: wire.encode(wire.Ping()),
        "Unknown": lambda number, part: wire.encode(wire.Unknown(model)),
        "extra fields": extra,
        "a map as extra field": strange,
        "Statements (unasked)": statements,
        "nesting": noise,
    }
