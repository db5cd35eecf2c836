"""Hostile overlay nodes: Sybils beside a key, liars who name each other, floods of ids from a few addresses.

All speak the protocol well. What they do wrong is what no check of form can see: they keep nothing, withhold what they
know, and name only their own kind.
"""

from __future__ import annotations

import heapq
import random
from bisect import bisect_left
from collections.abc import Sequence

from p2pmodel.errors import DecodeError
from p2pmodel.limits import BUCKET_SIZE, OVERLAY_KEY_BYTES, REPLY_NODES_MAX
from p2pmodel.model import SecretKey
from p2pmodel.net import Address, Clock, DatagramHandler, Datagrams
from p2pmodel.overlay import node_id
from p2pmodel.overlay.node_id import challenge_for, challenged_address, prove
from p2pmodel.overlay.package import FRAME_BYTES, REPLY, REQUEST, frame
from p2pmodel.overlay.wire import (
    STORED,
    AnnounceReply,
    AnnounceRequest,
    FindNodeRequest,
    GetProvidersRequest,
    HelloReply,
    NodesReply,
    ProvidersReply,
    Reply,
    Request,
    decode_request,
    encode_reply,
    encode_request,
    find_node,
)
from p2pmodel.testing.host import Host
from p2pmodel.testing.internet import Internet
from p2pmodel.testing.network import SimNetwork

_TOKEN = bytes(8)


def keys_near(target: bytes, count: int, tries: int, rng: random.Random) -> list[SecretKey]:
    """Of `tries` keys the `count` whose ids are nearest to `target`: the only way to choose an id."""
    place = int.from_bytes(target, "big")

    def distance(key: SecretKey) -> int:
        return int.from_bytes(node_id(key.public), "big") ^ place

    return heapq.nsmallest(count, (SecretKey.from_seed(rng.randbytes(32)) for _ in range(tries)), key=distance)


class Colluders:
    """Who names whom: every one of them names the others that are nearest to what was asked for."""

    def __init__(self) -> None:
        self._by_place: list[tuple[int, bytes]] = []

    def add(self, id: bytes, address: Address) -> None:
        entry = (int.from_bytes(id, "big"), id + address.pack())
        self._by_place.insert(bisect_left(self._by_place, entry), entry)

    def __len__(self) -> int:
        return len(self._by_place)

    def nearest(self, target: bytes, asked: bytes) -> bytes:
        """The compact list of the nearest to `target`, without the one that was asked."""
        place = int.from_bytes(target, "big")
        at = bisect_left(self._by_place, (place, b""))
        # Around the place in numerical order stand its neighbours in XOR distance too, but for some at the seams.
        near = self._by_place[max(0, at - 3 * BUCKET_SIZE) : at + 3 * BUCKET_SIZE]
        near.sort(key=lambda entry: entry[0] ^ place)
        packed = [entry[1] for entry in near if not entry[1].startswith(asked)]
        return b"".join(packed[:REPLY_NODES_MAX])


class Forgetful:
    """Answers as everybody does, says that it stores, and stores nothing: a passive Sybil."""

    def answer(self, request: Request, proof: bytes, own_id: bytes) -> Reply | None:
        """None: let the honest code answer."""
        if isinstance(request, AnnounceRequest):
            return AnnounceReply(STORED, len(request.keys) // OVERLAY_KEY_BYTES, _TOKEN, 0)
        return None


class Withholding(Forgetful):
    """Names colluders only, and no providers: an active Sybil. Honest until `active`."""

    def __init__(self, colluders: Colluders, *, active: bool = True) -> None:
        self.active = active
        self._colluders = colluders

    def add_colluder(self, id: bytes, address: Address) -> None:
        self._colluders.add(id, address)

    def answer(self, request: Request, proof: bytes, own_id: bytes) -> Reply | None:
        if not self.active:
            return None
        if isinstance(request, FindNodeRequest):
            return NodesReply(proof, _TOKEN, self._colluders.nearest(request.target, own_id), b"")
        if isinstance(request, GetProvidersRequest):
            nodes = self._colluders.nearest(request.key, own_id)
            return ProvidersReply(proof, _TOKEN, nodes, b"", 0, [])
        return super().answer(request, proof, own_id)


class HostileNetwork(SimNetwork):
    """The network of a node whose requests are answered by its `temper` first: the rest of it is the honest code."""

    def __init__(self, internet: Internet, host: Host, key: SecretKey, network_id: bytes, temper: Forgetful) -> None:
        super().__init__(internet, host)
        self._key = key
        self._network_id = network_id
        self._temper = temper

    async def open_datagrams(self, host: str, port: int, handler: DatagramHandler) -> Datagrams:
        own_id = node_id(self._key.public)

        def heard(data: bytes, source: Address) -> None:
            request = _request(data)
            reply = None
            if request is not None:
                proof = _proof(self._key, self._network_id, request)
                reply = self._temper.answer(request, proof, own_id)
            if reply is None:
                handler(data, source)
            else:
                datagrams.send(frame(REPLY, data[1:FRAME_BYTES], encode_reply(reply)), source)

        datagrams = await super().open_datagrams(host, port, heard)
        return datagrams


class IdFarm:
    """Thousands of ids behind a few addresses, without tables: they answer, name each other, and press into tables."""

    def __init__(self, internet: Internet, hosts: Sequence[Host], network_id: bytes, rng: random.Random) -> None:
        self.colluders = Colluders()
        self.ids: list[FarmedId] = []
        self.network_id = network_id
        self.rng = rng
        self._networks = [SimNetwork(internet, host) for host in hosts]

    @property
    def clock(self) -> Clock:
        return self._networks[0].clock

    async def breed(self, count: int) -> None:
        """`count` ids, evenly over the addresses, each at a port of its own."""
        for number in range(count):
            network = self._networks[number % len(self._networks)]
            farmed = FarmedId(self, SecretKey.from_seed(self.rng.randbytes(32)))
            farmed.datagrams = await network.open_datagrams(network.host.ip4, 0, farmed.heard)
            self.colluders.add(farmed.id, farmed.datagrams.address)
            self.ids.append(farmed)

    def nearest(self, place: int, count: int) -> list[FarmedId]:
        return heapq.nsmallest(count, self.ids, key=lambda farmed: farmed.place ^ place)


class FarmedId:
    """One id of a farm."""

    datagrams: Datagrams

    def __init__(self, farm: IdFarm, key: SecretKey) -> None:
        self.key = key
        self.id = node_id(key.public)
        self.place = int.from_bytes(self.id, "big")
        self._farm = farm
        self._temper = Withholding(farm.colluders)

    def press(self, victim: Address) -> None:
        """Ask the victim something, so that it may want to know us."""
        farm = self._farm
        target = farm.rng.randbytes(OVERLAY_KEY_BYTES)
        request = find_node(farm.network_id, self.id, challenge_for(farm.rng.randbytes(16), victim), target, ipv6=False)
        self.datagrams.send(frame(REQUEST, farm.rng.randbytes(20), encode_request(request)), victim)

    def heard(self, data: bytes, source: Address) -> None:
        request = _request(data)
        if request is None:
            return
        proof = _proof(self.key, self._farm.network_id, request)
        reply = self._temper.answer(request, proof, self.id) or HelloReply(proof, _TOKEN)
        self.datagrams.send(frame(REPLY, data[1:FRAME_BYTES], encode_reply(reply)), source)


def _request(data: bytes) -> Request | None:
    if len(data) <= FRAME_BYTES or data[0] != REQUEST:
        return None
    try:
        return decode_request(data[FRAME_BYTES:])
    except DecodeError:
        return None


def _proof(key: SecretKey, network_id: bytes, request: Request) -> bytes:
    challenge: bytes = getattr(request, "challenge", b"")
    return prove(key, network_id, challenge) if challenge and challenged_address(challenge) else b""
