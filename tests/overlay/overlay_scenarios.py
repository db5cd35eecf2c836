"""Networks of thousands of overlay nodes whose tables are built directly, and what announcing into them costs."""

from __future__ import annotations

import asyncio
import random
from bisect import bisect_left
from dataclasses import dataclass
from heapq import nsmallest

from overlay_town import NETWORK_ID, FakeNetwork, Node, Town

from p2pmodel.limits import BUCKET_SIZE, OVERLAY_KEY_BYTES
from p2pmodel.model import SecretKey
from p2pmodel.net import Address
from p2pmodel.overlay import Overlay, node_id
from p2pmodel.overlay.lookup import Lookup
from p2pmodel.overlay.package import ID_BITS, Contact, NodeServer
from p2pmodel.overlay.protocol import OverlayProtocol
from p2pmodel.overlay.routing import RoutingTable


class Holder:
    """A node that answers and does nothing by itself: no upkeep, so that all traffic is the publisher's doing."""

    def __init__(self, town: Town, key: SecretKey, address: Address) -> None:
        self.key, self.address = key, address
        self.id = node_id(key.public)
        self.place = int.from_bytes(self.id, "big")
        self._town = town

    async def start(self) -> None:
        network = FakeNetwork(self._town.internet)
        rng = random.Random(self._town.rng.random())
        profile = self._town.profile

        def protocol(node: object, storage: object) -> OverlayProtocol:
            table = RoutingTable(
                self.id,
                0.0,
                group_nodes_max=profile.group_nodes_max,
                stale_s=profile.refresh_s,
                changed=lambda: None,
            )
            return OverlayProtocol(
                node,
                storage,
                key=self.key,
                network_id=NETWORK_ID,
                clock=network.clock,
                rng=rng,
                table=table,
                client_only=False,
                own_evidence=lambda key: None,
            )

        server = NodeServer(self.id, protocol)
        await server.listen(network, self.address.host, self.address.port)
        assert isinstance(server.protocol, OverlayProtocol)
        self.protocol = server.protocol


class Settled:
    """A network at rest: every node knows twenty others in each far part of the key space and all that are near it."""

    def __init__(self, town: Town, holders: list[Holder], publisher: Node) -> None:
        self.town = town
        self.holders = holders
        self.publisher = publisher

    @classmethod
    async def build(cls, town: Town, count: int) -> Settled:
        """`count` nodes, one of them a whole overlay that publishes."""
        publisher = await town.node()
        holders = []
        for n in range(1, count):
            address = Address(f"{30 + n // 62500}.{n // 250 % 250}.{n % 250}.9", 4000)
            holders.append(Holder(town, SecretKey.from_seed(town.rng.randbytes(32)), address))
        for holder in holders:
            await holder.start()
        places = sorted((int.from_bytes(node_id(key.public), "big"), key, address) for key, address in _all(holders))
        contacts = [Contact(place.to_bytes(20, "big"), key.public, address, 0.0) for place, key, address in places]
        numbers = [place for place, _, _ in places]
        for protocol in [holder.protocol for holder in holders] + [publisher.protocol]:
            _fill(protocol.table, int.from_bytes(protocol.own_id, "big"), numbers, contacts, town.rng)
        return cls(town, holders, publisher)

    def nearest(self, key: bytes, count: int) -> list[Holder]:
        """The truly nearest nodes that live, the publisher excepted."""
        place, dead = int.from_bytes(key, "big"), self.town.internet.dead
        alive = (holder for holder in self.holders if holder.address not in dead)
        return nsmallest(count, alive, key=lambda holder: holder.place ^ place)

    async def crowd(self, key: bytes, count: int, *, nearer_than: int) -> list[Holder]:
        """`count` nodes whose ids are nearer to `key` than that, found by trying keys, and known to all near them."""
        place, crowd = int.from_bytes(key, "big"), []
        while len(crowd) < count:
            secret = SecretKey.from_seed(self.town.rng.randbytes(32))
            if int.from_bytes(node_id(secret.public), "big") ^ place >= nearer_than:
                continue
            n = len(crowd)
            crowd.append(Holder(self.town, secret, Address(f"60.{n}.1.9", 4000)))
        for holder in crowd:
            await holder.start()
        everybody = [holder.protocol for holder in [*self.holders, *crowd]] + [self.publisher.protocol]
        for protocol in everybody:
            for holder in crowd:
                protocol.table.add(Contact(holder.id, holder.key.public, holder.address, 0.0), 0.0)
        for holder in crowd:
            for other in self.nearest(key, 40):
                holder.protocol.table.add(Contact(other.id, other.key.public, other.address, 0.0), 0.0)
        return crowd

    async def restart(self, node: Node) -> Node:
        """The same key at the same address, with nothing remembered."""
        self.town.nodes.remove(node)
        overlay = Overlay(
            key=node.key,
            network=FakeNetwork(self.town.internet),
            network_id=NETWORK_ID,
            rng=random.Random(self.town.rng.random()),
            profile=self.town.profile,
        )
        again = Node(overlay, await overlay.start(node.address.host, node.address.port), node.key)
        self.town.nodes.append(again)
        return again

    @staticmethod
    def holds(holder: Holder, key: bytes) -> bool:
        return key in holder.protocol.providers._by_key


def _all(holders: list[Holder]) -> list[tuple[SecretKey, Address]]:
    return [(holder.key, holder.address) for holder in holders]


def _fill(table: RoutingTable, own: int, numbers: list[int], contacts: list[Contact], rng: random.Random) -> None:
    """From the nearest part of the key space outwards; contacts are shared between tables to save memory."""
    for bits in range(ID_BITS):
        size = 1 << bits
        low = (own ^ size) & ~(size - 1)
        first, end = bisect_left(numbers, low), bisect_left(numbers, low + size)
        for at in rng.sample(range(first, end), min(BUCKET_SIZE, end - first)):
            table.add(contacts[at], 0.0)


@dataclass(frozen=True, slots=True)
class Announced:
    """What announcing cost, in datagrams of every kind, both ways."""

    keys: int
    datagrams: int
    naive_per_key: float
    """A lookup and `BUCKET_SIZE` stores for one key, in the same network."""
    virtual_s: float
    placed: float
    """Of the copies that the truly nearest nodes should have, the part that they have."""
    found: float
    """Of sampled keys, the part of which a lookup from elsewhere finds the provider."""

    @property
    def gain(self) -> float:
        return self.naive_per_key * self.keys / self.datagrams


async def announce_in_bulk(town: Town, nodes: int, keys: int, *, sample: int = 100) -> Announced:
    """Announce `keys` chunk keys among `nodes` nodes, and one key at a time for comparison."""
    net, rng = await Settled.build(town, nodes), random.Random(town.rng.random())
    overlay, internet, loop = net.publisher.overlay, town.internet, asyncio.get_running_loop()
    before = internet.datagrams
    for _ in range(sample):
        await overlay.provide([rng.randbytes(OVERLAY_KEY_BYTES)])
    naive = (internet.datagrams - before) / sample
    announced = [rng.randbytes(OVERLAY_KEY_BYTES) for _ in range(keys)]
    before, started = internet.datagrams, loop.time()
    overlay.provide_later(announced)
    while overlay.stats().keys_pending:  # noqa: ASYNC110  # virtual time: nothing waits
        await asyncio.sleep(1)
    ended = loop.time()
    await asyncio.sleep(3)
    datagrams = internet.datagrams - before
    chosen = rng.sample(announced, 3 * sample)
    replicas = town.profile.sweep_replicas
    placed = sum(net.holds(holder, key) for key in chosen for holder in net.nearest(key, replicas))
    found = 0
    for key in chosen:
        reader = rng.choice(net.holders).protocol
        seen: list[bytes] = []
        lookup = Lookup(
            reader,
            key,
            group_nodes_max=0,
            on_providers=lambda _, records, seen=seen: seen.extend(r.peer for r in records),
        )
        await lookup.run()
        found += net.publisher.peer.raw in seen
    return Announced(keys, datagrams, naive, ended - started, placed / len(chosen) / replicas, found / len(chosen))
