"""A peer that lies, built from the real one: it serves a real model, but what it hands out passes through a forger."""

from __future__ import annotations

from pathlib import Path
from random import Random

from p2pmodel.model import Digest, ModelId, PublicKey, SecretKey
from p2pmodel.net import BulkSource, Identity, Listener, RealNetwork, network_id
from p2pmodel.peer.config import DEFAULT_NETWORK_NAME
from p2pmodel.peer.shelf import StoreShelf
from p2pmodel.store import Store
from p2pmodel.swarm import Swarm


def flip_a_bit(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


class _Forged:
    """A chunk one bit of which is another."""

    def __init__(self, source: BulkSource) -> None:
        self._source = source
        self.length = source.length

    def open(self) -> bool:
        return True

    def read_into(self, buffer: memoryview, offset: int) -> None:
        self._source.read_into(buffer, offset)
        if offset == 0:
            buffer[0] ^= 1

    def room(self) -> memoryview | None:
        return None

    def file_range(self) -> tuple[int, int] | None:
        return None

    def release(self) -> None:
        self._source.release()


class LyingShelf(StoreShelf):
    def __init__(self, store: Store, *, chunks: bool, objects: bool) -> None:
        super().__init__(store)
        self._forge_chunks, self._forge_objects = chunks, objects

    def chunk(self, digest: Digest, where: tuple[ModelId, int] | None = None) -> BulkSource | None:
        source = super().chunk(digest, where)
        return _Forged(source) if source is not None and self._forge_chunks else source

    def object(self, digest: Digest) -> bytes | None:
        data = super().object(digest)
        return flip_a_bit(data) if data is not None and self._forge_objects else data


class Liar:
    """Publishes `path` from a data directory of its own, and lies about chunks or about objects."""

    def __init__(self, home: Path, path: Path, *, chunks: bool = False, objects: bool = False) -> None:
        self.key = SecretKey.generate()
        self.store = Store.open(home)
        self.model_id: ModelId = self.store.publish(path).model_id
        self._shelf = LyingShelf(self.store, chunks=chunks, objects=objects)
        self._network = RealNetwork(Identity(self.key, network_id(DEFAULT_NETWORK_NAME)))
        self._listener: Listener
        self._swarm: Swarm

    async def __aenter__(self) -> Liar:
        self._swarm = Swarm(key=self.key.public, network=self._network, shelf=self._shelf, rng=Random(1))
        self._listener = await self._network.listen("127.0.0.1", 0, self._swarm.accept)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        await self._swarm.stop()
        await self._network.close()
        self.store.close()

    @property
    def listen(self) -> str:
        return str(self._listener.address)

    @property
    def peer_id(self) -> PublicKey:
        return self.key.public
