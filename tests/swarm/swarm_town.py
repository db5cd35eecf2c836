"""Whole swarms on loopback whose shelves are dictionaries, and peers played by hand that lie, stall or flood."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from p2pmodel.errors import CorruptChunkError, P2PModelError, PeerGoneError
from p2pmodel.model import (
    ChunkList,
    Digest,
    FileEntry,
    HaveMap,
    Layout,
    Manifest,
    ModelId,
    PortablePath,
    PublicKey,
    SecretKey,
    Sha256,
)
from p2pmodel.model.have_map import iter_bits
from p2pmodel.net import Address, BulkSink, Channel, Identity, RealNetwork, network_id
from p2pmodel.swarm import Download, Swarm, wire
from p2pmodel.swarm.shelf import ObjectInMemory

PATIENCE_S = 15.0
NETWORK = network_id("swarm tests")


def secret(number: int) -> SecretKey:
    return SecretKey.from_seed(bytes([number]) * 32)


class Model:
    """A model of one file, cut evenly."""

    def __init__(self, count: int = 40, chunk_bytes: int = 5000, seed: int = 1, *, different: int = 1 << 30) -> None:
        dice = random.Random(seed)
        self.chunks = [dice.randbytes(chunk_bytes) for _ in range(count)]
        self.chunks = [self.chunks[number % different] for number in range(count)]
        data = b"".join(self.chunks)
        chunk_list = ChunkList.of((Digest.of(chunk), len(chunk)) for chunk in self.chunks)
        entry = FileEntry(
            path=PortablePath("weights.bin"),
            size=len(data),
            blake3=Digest.of(data),
            sha256=Sha256(sha256(data).digest()),
            chunk_count=count,
            chunk_list=chunk_list.digest,
        )
        self.layout = Layout(Manifest((entry,)), [chunk_list])
        self.id: ModelId = self.layout.model_id
        self.all_bits = (1 << count) - 1

    def __len__(self) -> int:
        return len(self.chunks)


class Source(ObjectInMemory):
    """A chunk in memory that must be given back."""

    open_sources = 0

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        Source.open_sources += 1

    def release(self) -> None:
        Source.open_sources -= 1


@dataclass
class DictShelf:
    """Both ends of a store: what can be served, and where a download's chunks go."""

    model: Model
    bits: int = 0
    objects: dict[Digest, bytes] = field(default_factory=dict)
    serving: Callable[[int], None] = lambda index: None
    """Called in the thread before a chunk is served."""
    writing: Callable[[int], None] = lambda index: None
    served: list[int] = field(default_factory=list)
    written: dict[int, bytes] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def have_map(self, model_id: ModelId) -> HaveMap | None:
        return HaveMap(len(self.model), self.bits) if model_id == self.model.id else None

    def layout(self, model_id: ModelId) -> Layout | None:
        return self.model.layout if model_id == self.model.id else None

    def chunk(self, digest: Digest, where: tuple[ModelId, int] | None = None) -> Source | None:
        for index in iter_bits(self.bits):
            if self.model.layout[index].digest == digest:
                self.serving(index)
                self.served.append(index)
                return Source(self.model.chunks[index])
        return None

    def object(self, digest: Digest) -> bytes | None:
        return self.objects.get(digest)

    def models(self, digests: Sequence[Digest]) -> list[ModelId]:
        return []

    def statements(self, model_id: ModelId) -> list[bytes]:
        return [b"statement"]

    def named(self, publisher: PublicKey, name: str, revision: str) -> list[bytes]:
        return [name.encode()]

    def write(self, index: int, data: memoryview) -> int:
        self.writing(index)
        if Digest.of(data) != self.model.layout[index].digest:
            raise CorruptChunkError(f"chunk {index} is corrupt")
        digest = self.model.layout[index].digest
        same = [place.index for place in self.model.layout if place.digest == digest]
        with self.lock:
            self.written.update((at, bytes(data)) for at in same)
            self.bits |= (bits := sum(1 << at for at in same))
        return bits


class Peer:
    """A swarm that listens on loopback."""

    def __init__(self, number: int, shelf: DictShelf, **options) -> None:
        self.key = secret(number)
        self.shelf = shelf
        self.network = RealNetwork(Identity(self.key, NETWORK))
        self.swarm = Swarm(key=self.key.public, network=self.network, shelf=shelf, rng=random.Random(number), **options)
        self.address: Address = None
        self.downloads: list[Download] = []
        self._listener = None

    async def start(self) -> Peer:
        self._listener = await self.network.listen("127.0.0.1", 0, self.swarm.accept)
        self.address = self._listener.address
        return self

    def open_download(self) -> Download:
        model = self.shelf.model
        wanted = HaveMap.full(len(model))
        have = HaveMap(len(model), self.shelf.bits)
        download = self.swarm.open_download(model.layout, wanted, have, self.shelf)
        self.downloads.append(download)
        return download

    async def fetch(self, sources: Iterable[Peer | Address], download: Download | None = None) -> Download:
        """Pull the whole model from these peers."""
        download = download or self.open_download()
        try:
            for source in sources:
                address = source.address if isinstance(source, Peer) else source
                download.add_link(await self.swarm.connect(address))
            async with asyncio.timeout(PATIENCE_S):
                await download.run()
        finally:
            self.swarm.close_download(download)
        return download

    async def stop(self) -> None:
        self._listener.close()
        await self.swarm.stop()
        await self.network.close()


class Hostile:
    """One end of a connection played by hand: says what a test wants, and keeps what it hears."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.heard: list[wire.AnyMessage] = []
        self.reason: P2PModelError | None = None
        self.on_message: Callable[[wire.AnyMessage], None] = lambda message: None
        self._news = asyncio.Event()
        self._tasks: set[asyncio.Task] = set()
        self._turn = asyncio.Lock()

    def message_received(self, message: bytes) -> None:
        heard = wire.decode(message)
        for one in heard.each() if isinstance(heard, wire.RequestChunks) else [heard]:
            self.heard.append(one)
            self._news.set()
            self.on_message(one)

    def bulk_begins(self, request_id: int, length: int) -> BulkSink:
        self._news.set()
        return _Nowhere()

    def bulk_finished(self, request_id: int, error: P2PModelError | None) -> None:
        self._news.set()

    def closed(self, reason: P2PModelError) -> None:
        self.reason = reason
        self._news.set()

    def say(self, *messages: wire.AnyMessage) -> None:
        for message in messages:
            self.channel.send(wire.encode(message))

    def answer(self, request_id: int, data: bytes) -> None:
        task = asyncio.get_running_loop().create_task(self._answer(request_id, data))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, request_id: int, data: bytes) -> None:
        try:
            async with self._turn:
                await self.channel.send_run([(request_id, ObjectInMemory(data))])
        except PeerGoneError:
            pass

    def of(self, kind: type) -> list:
        return [message for message in self.heard if isinstance(message, kind)]

    async def until(self, holds: Callable[[], object]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not holds():
                self._news.clear()
                await self._news.wait()

    async def until_cut_off(self) -> None:
        await self.until(lambda: self.reason)


class _Nowhere:
    def consume(self, data: memoryview) -> None:
        pass


async def comes_true(holds: Callable[[], object]) -> None:
    """For what happens inside a peer, of which nobody is told."""
    async with asyncio.timeout(PATIENCE_S):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.001)
