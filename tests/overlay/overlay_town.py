"""Virtual time and an in-memory network for overlay tests: nothing sleeps, the same seed gives the same run."""

from __future__ import annotations

import asyncio
import heapq
import random
from collections.abc import Awaitable, Callable
from typing import Any, ParamSpec, TypeVar

from p2pmodel.errors import NetworkError
from p2pmodel.model import PublicKey, SecretKey
from p2pmodel.net import Address, Channel, DatagramHandler, Listener
from p2pmodel.overlay import CLUSTER, Overlay, Profile
from p2pmodel.testing.loop import run

__all__ = ["NETWORK_ID", "FakeNetwork", "Internet", "Node", "Town", "gather_all", "run"]

T = TypeVar("T")
P = ParamSpec("P")
NETWORK_ID = bytes(range(16))
START_WALL = 1_800_000_000.0


class VirtualClock:
    def __init__(self) -> None:
        self.wall_offset = START_WALL

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    def wall(self) -> float:
        return self.wall_offset + asyncio.get_running_loop().time()


class FakeDatagrams:
    def __init__(self, internet: Internet, address: Address, handler: DatagramHandler) -> None:
        self._internet = internet
        self.address = address
        self.handler = handler

    def send(self, data: bytes, to: Address) -> None:
        assert type(data) is bytes and isinstance(to, Address)
        self._internet.carry(data, self.address, to)

    def close(self) -> None:
        self._internet.sockets.pop(self.address, None)


class Internet:
    """All sockets, and what the way between them does: delay of 10 to 50 ms each way, loss, silence of the dead."""

    def __init__(self, seed: int, *, loss: float = 0.0, delay_s: tuple[float, float] = (0.01, 0.05)) -> None:
        self.rng = random.Random(seed)
        self.sockets: dict[Address, FakeDatagrams] = {}
        self.dead: set[Address] = set()
        self.loss = loss
        self.delay_s = delay_s
        self.datagrams = 0
        self.names: dict[bytes, int] = {}
        self.tap: Callable[[bytes, Address, Address], None] | None = None
        self._ports = 4000

    def free_port(self) -> int:
        self._ports += 1
        return self._ports

    def carry(self, data: bytes, source: Address, to: Address) -> None:
        self.datagrams += 1
        if data[:1] == b"\0":
            name = data[23 : 23 + (data[22:23] or b"\0")[0] % 32]
            self.names[name] = self.names.get(name, 0) + 1
        if self.tap is not None:
            self.tap(data, source, to)
        if source in self.dead or to in self.dead or self.rng.random() < self.loss:
            return
        asyncio.get_running_loop().call_later(self.rng.uniform(*self.delay_s), self._deliver, data, source, to)

    def _deliver(self, data: bytes, source: Address, to: Address) -> None:
        socket = self.sockets.get(to)
        if socket is not None and to not in self.dead:
            socket.handler(data, source)


class FakeNetwork:
    """The seam of one peer, datagrams only."""

    def __init__(self, internet: Internet) -> None:
        self._internet = internet
        self.clock = VirtualClock()

    async def open_datagrams(self, host: str, port: int, handler: DatagramHandler) -> FakeDatagrams:
        address = Address(host, port or self._internet.free_port())
        if address in self._internet.sockets:
            raise NetworkError(f"port {port} on {host} is in use")
        socket = FakeDatagrams(self._internet, address, handler)
        self._internet.sockets[address] = socket
        return socket

    async def listen(self, host: str, port: int, accept: Callable[[Channel], None]) -> Listener:
        raise NotImplementedError

    async def connect(self, address: Address, expected: PublicKey | None) -> Channel:
        raise NotImplementedError

    async def offload(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return work(*args, **kwargs)

    async def close(self) -> None:
        """Nothing is open."""


class Node:
    """An overlay with its address and key, as the tests talk about it."""

    def __init__(self, overlay: Overlay, address: Address, key: SecretKey) -> None:
        self.overlay = overlay
        self.address = address
        self.key = key

    @property
    def peer(self) -> PublicKey:
        return self.key.public

    @property
    def protocol(self) -> Any:
        return self.overlay._protocol

    async def find(self, key: bytes) -> set[PublicKey]:
        return {provider.peer async for provider in self.overlay.providers(key)}


class Town:
    """Makes nodes. Each has a public address in a /16 of its own unless told otherwise."""

    def __init__(self, seed: int = 1, *, profile: Profile = CLUSTER, **internet: Any) -> None:
        self.internet = Internet(seed, **internet)
        self.rng = random.Random(seed)
        self.profile = profile
        self.nodes: list[Node] = []

    async def node(self, *, host: str | None = None, network_id: bytes = NETWORK_ID, client_only: bool = False) -> Node:
        number = len(self.nodes) + 1
        key = SecretKey.from_seed(self.rng.randbytes(32))
        overlay = Overlay(
            key=key,
            network=FakeNetwork(self.internet),
            network_id=network_id,
            rng=random.Random(self.rng.random()),
            profile=self.profile,
            client_only=client_only,
        )
        address = await overlay.start(host or f"{20 + number // 250}.{number % 250}.7.9", 0)
        node = Node(overlay, address, key)
        self.nodes.append(node)
        return node

    async def join(self, count: int, *, through: Node | None = None) -> list[Node]:
        """`count` nodes, each joined through `through` or the first."""
        joined = []
        for _ in range(count):
            node = await self.node()
            entry = through or self.nodes[0]
            if node is not entry:
                assert await node.overlay.bootstrap([entry.address]) == 1
            joined.append(node)
        return joined

    def kill(self, nodes: list[Node]) -> None:
        self.internet.dead.update(node.address for node in nodes)

    def holders_of(self, key: bytes) -> int:
        return sum(key in node.protocol.providers._by_key for node in self.nodes)

    def truly_nearest(self, key: bytes, count: int) -> list[Node]:
        place = int.from_bytes(key, "big")
        alive = [node for node in self.nodes if node.address not in self.internet.dead]
        return heapq.nsmallest(count, alive, key=lambda n: int.from_bytes(n.protocol.own_id, "big") ^ place)


async def gather_all(work: list[Awaitable[T]]) -> list[T]:
    return list(await asyncio.gather(*work))
