"""An honest seed among peers that begin every answer and then let it drip, a byte at a time: what they take from it.

The receiver is a real swarm in this process, the seed one in another. The crowd, in a third, connects, claims the whole
model, and begins each answer that it is asked for with the header of a record, then a byte of it every few ms; whoever
is cut comes back at once. Another crowd brings half of that record before it drips, more than a receiver takes without
lending a buffer for it. Rounds without any and with each take turns, in one run.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

from blake3 import blake3

from p2pmodel.errors import CorruptChunkError
from p2pmodel.model import ChunkList, Digest, FileEntry, HaveMap, Layout, Manifest, PortablePath, SecretKey, Sha256
from p2pmodel.net import Address, Identity, RealNetwork, network_id
from p2pmodel.net.records import BULK_BEGIN, Kind, encode_header
from p2pmodel.peer.config import DEFAULT_NETWORK_NAME
from p2pmodel.swarm import Swarm, wire
from p2pmodel.swarm.shelf import ObjectInMemory
from tests.benchmarks.hostile.caller import GONE, Caller
from tests.benchmarks.measure import MIB, child
from tests.benchmarks.report import Line, at_least, spread, table

_PACE_S = 0.012
"""Between two bytes: shorter than a receiving thread waits for more."""
_RECORD_BYTES = 256 * 1024
_ALONE = "alone"
_CROWDS = {"among those who drip": 0, "among those who bring 128 KiB and drip": _RECORD_BYTES // 2}
"""What each crowd brings of an answer before it lets it drip."""


def _chunk(number: int) -> bytes:
    return blake3(f"drip {number}".encode()).digest(length=MIB)


class Model:
    """Of chunks of a megabyte in memory. Fills what the swarm needs of a shelf and of an intake."""

    def __init__(self, chunks: int, *, whole: bool) -> None:
        self.chunks: dict[Digest, bytes] = {}
        for data in map(_chunk, range(chunks)):
            self.chunks[Digest.of(data)] = data if whole else b""
        listed = ChunkList.of((digest, MIB) for digest in self.chunks)
        any_hash = bytes(Digest.of(b"not looked at").raw)
        path = PortablePath("weights.bin")
        entry = FileEntry(path, chunks * MIB, Digest(any_hash), Sha256(any_hash), chunks, listed.digest)
        self.model = Layout(Manifest((entry,)), [listed])
        self._whole = whole

    def have_map(self, model_id: object) -> HaveMap | None:
        known = self._whole and model_id == self.model.model_id
        return HaveMap.full(len(self.model)) if known else None

    def layout(self, model_id: object) -> Layout | None:
        return self.model if model_id == self.model.model_id else None

    def chunk(self, digest: Digest, where: object = None) -> ObjectInMemory | None:
        data = self.chunks.get(digest) if self._whole else None
        return None if data is None else ObjectInMemory(data)

    def object(self, digest: Digest) -> bytes | None:
        return None

    def statements(self, model_id: object) -> list[bytes]:
        return []

    def named(self, *_: object) -> list[bytes]:
        return []

    def write(self, index: int, data: memoryview) -> int:
        if Digest.of(data) != self.model[index].digest:
            raise CorruptChunkError("not what was asked for")
        return 1 << index


def _swarm(model: Model) -> tuple[RealNetwork, Swarm]:
    key = SecretKey.generate()
    network = RealNetwork(Identity(key, network_id(DEFAULT_NETWORK_NAME)))
    return network, Swarm(key=key.public, network=network, shelf=model, rng=Random(1))


async def _seed(chunks: int) -> None:
    network, swarm = _swarm(Model(chunks, whole=True))
    listener = await network.listen("127.0.0.1", 0, swarm.accept)
    print(json.dumps({"address": str(listener.address)}), flush=True)
    await asyncio.Event().wait()


class Dripper:
    """One of the crowd. `begun`: where it lets drip, once it has begun an answer with so many `first_bytes`."""

    def __init__(self, to: Address, model_id: bytes, chunks: int, first_bytes: int) -> None:
        self.begun: socket.socket | None = None
        self._to = to
        self._first = bytes(first_bytes)
        self._follows = wire.encode(wire.Subscribe(model_id))
        self._claims = wire.encode(wire.HaveMapOf(model_id, chunks, HaveMap.full(chunks).encode()))

    async def run(self) -> None:
        while True:
            caller = None
            try:
                caller = await Caller.connect("127.0.0.1", self._to)
                await caller.say(self._follows, self._claims)
                while True:
                    message = wire.decode(await caller.hear())
                    if isinstance(message, wire.Subscribe):
                        await caller.say(self._claims)
                    elif isinstance(message, wire.RequestChunks) and self.begun is None:
                        await self._begin(caller, message.each()[0])
                    elif isinstance(message, wire.RequestChunk) and self.begun is None:
                        await self._begin(caller, message)
            except GONE:
                await asyncio.sleep(0.05)
            finally:
                self.begun = None
                if caller is not None:
                    caller.sock.close()

    async def _begin(self, caller: Caller, asked: wire.RequestChunk) -> None:
        announcement = caller.sealed(BULK_BEGIN.pack(asked.request, asked.length), Kind.BULK_BEGIN)
        header = encode_header(Kind.BULK_DATA, _RECORD_BYTES)
        await asyncio.get_running_loop().sock_sendall(caller.sock, announcement + header + self._first)
        self.begun = caller.sock

    def drip(self) -> None:
        if self.begun is not None:
            try:
                self.begun.send(b"x")
            except OSError:
                self.begun = None


async def _crowd(count: int, to: str, model_id: str, chunks: int, first_bytes: int) -> None:
    crowd = [Dripper(Address.parse(to), bytes.fromhex(model_id), chunks, first_bytes) for _ in range(count)]
    running = [asyncio.ensure_future(one.run()) for one in crowd]
    print(json.dumps({"crowd": count}), flush=True)
    while not any(task.done() for task in running):
        # All at once: the crowd must not take the CPU that it is to be seen what it takes of.
        for one in crowd:
            one.drip()
        await asyncio.sleep(_PACE_S)


@dataclass(slots=True)
class Drippers:
    """The benchmark: `run`, then `tables`, `lines` and `as_json`."""

    tell: Callable[[str], None]
    repeat: int = 5
    chunks: int = 2048
    crowd: int = 64
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def missing(self) -> str:
        return ""

    def run(self, work: Path) -> None:
        asyncio.run(self._run(work))

    async def _run(self, work: Path) -> None:
        model = Model(self.chunks, whole=False)
        network, swarm = _swarm(model)
        listener = await network.listen("127.0.0.1", 0, swarm.accept)
        this = [sys.executable, "-m", "tests.benchmarks.hostile.drippers"]
        crowd = [*this, "crowd", str(self.crowd), str(listener.address), model.model.model_id.hex, str(self.chunks)]
        try:
            with child([*this, "seed", str(self.chunks)], work / "seed.log") as seed:
                address = Address.parse(seed.hear()["address"])
                await self._pull(swarm, model, address, 0)
                for number in range(self.repeat):
                    self._note(_ALONE, await self._pull(swarm, model, address, 0))
                    for name, first_bytes in _CROWDS.items():
                        with child([*crowd, str(first_bytes)], work / "crowd.log") as dripping:
                            dripping.hear()
                            self._note(name, await self._pull(swarm, model, address, self.crowd))
                    last = ", ".join(f"{times[-1]:.2f} s {name}" for name, times in self.seconds.items())
                    self.tell(f"round {number + 1}: {last}")
        finally:
            listener.close()
            await swarm.stop()
            await network.close()

    def _note(self, name: str, seconds: float) -> None:
        self.seconds.setdefault(name, []).append(seconds)

    async def _pull(self, swarm: Swarm, model: Model, seed: Address, crowd: int) -> float:
        """Seconds for the whole model, from this seed and a crowd of so many."""
        async with asyncio.timeout(30):
            while sum(not link.channel.outgoing for link in swarm.links.values()) != crowd:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        layout = model.model
        began = time.monotonic()
        link = await swarm.connect(seed)
        download = swarm.open_download(layout, HaveMap.full(len(layout)), HaveMap(len(layout)), model)
        download.add_link(link)
        await download.run()
        took = time.monotonic() - began
        swarm.close_download(download)
        return took

    def ratio(self, name: str) -> float | None:
        alone, among = self.seconds.get(_ALONE), self.seconds.get(name)
        return median(alone) / median(among) if alone and among else None

    def tables(self) -> list[str]:
        size = self.chunks * MIB / 1e9
        rows = [[name, spread(times), spread([size / one for one in times])] for name, times in self.seconds.items()]
        return table(["one honest seed", "seconds", "GB/s"], rows)

    def disturbance(self) -> str:
        return f"{self.chunks} chunks of 1 MiB in memory, hashed and not written; {self.crowd} in each crowd"

    def lines(self) -> list[Line]:
        return [at_least("M2", f"speed {name}, to that alone", self.ratio(name), 0.9, "x") for name in _CROWDS]

    def as_json(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "lines": [line.as_json() for line in self.lines()]}


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["seed", chunks]:
            asyncio.run(_seed(int(chunks)))
        case ["crowd", count, to, model_id, chunks, first_bytes]:
            asyncio.run(_crowd(int(count), to, model_id, int(chunks), int(first_bytes)))
