"""What hostile bytes can reach, one function each: it returns for any input, or the code has a fault.

Here is the overlay; `peer_targets.py` has what belongs to connections.

A decoder may raise `DecodeError` and nothing else. A whole node may raise nothing at all.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import msgspec
from peer_targets import PEER_TARGETS

from p2pmodel.errors import DecodeError
from p2pmodel.model import SecretKey
from p2pmodel.net import Address
from p2pmodel.overlay.announcements import Announcements
from p2pmodel.overlay.neighbours import decode_neighbours
from p2pmodel.overlay.node_id import challenge_for, node_id
from p2pmodel.overlay.package import REPLY, REQUEST, NodeServer, frame
from p2pmodel.overlay.protocol import OverlayProtocol
from p2pmodel.overlay.records import check_evidence, split_keys
from p2pmodel.overlay.routing import RoutingTable
from p2pmodel.overlay.wire import (
    ANNOUNCE,
    DIAL_BACK,
    FIND_NODE,
    GET_PROVIDERS,
    HELLO,
    AnnounceRequest,
    HelloRequest,
    Request,
    WireEvidence,
    decode_reply,
    decode_request,
    dial_back,
    encode_reply,
    encode_request,
    find_node,
    get_providers,
    unpack_nodes,
)

NETWORK_ID = bytes(range(16))
KEY = bytes(range(20))
NODE, STRANGER = SecretKey.from_seed(bytes([1]) * 32), SecretKey.from_seed(bytes([2]) * 32)
NODE_AT, STRANGER_AT = Address("50.1.1.1", 4000), Address("60.1.1.1", 4000)
CHALLENGE = challenge_for(bytes(16), STRANGER_AT)
REQUESTS: dict[str, Request] = {
    HELLO: HelloRequest(NETWORK_ID, node_id(NODE.public), CHALLENGE),
    FIND_NODE: find_node(NETWORK_ID, node_id(NODE.public), CHALLENGE, KEY, ipv6=False),
    GET_PROVIDERS: get_providers(NETWORK_ID, node_id(NODE.public), CHALLENGE, KEY, 0),
    ANNOUNCE: AnnounceRequest(NETWORK_ID, node_id(NODE.public), bytes(8), NODE.public.raw, 4000, 60, 1, KEY, bytes(64)),
    DIAL_BACK: dial_back(NETWORK_ID, node_id(NODE.public), bytes(8), bytes(16)),
}
AWAITED_SEED = 2
"""Of the nonce with which the node waits to be dialled back."""
_evidence = msgspec.msgpack.Decoder(WireEvidence)
DATAGRAMS_MAX = 16


def request(data: bytes) -> None:
    try:
        decoded = decode_request(data)
    except DecodeError:
        return
    assert decode_request(encode_request(decoded)) == decoded


def reply_to(name: str) -> Callable[[bytes], None]:
    def reply(data: bytes) -> None:
        try:
            decoded = decode_reply(REQUESTS[name], data)
        except DecodeError:
            return
        assert decode_reply(REQUESTS[name], encode_reply(decoded)) == decoded

    return reply


def nodes(data: bytes) -> None:
    """The first byte says how many bytes are the list of IPv4 nodes, in entries of 26."""
    at = 1 + 26 * data[0] if data else 0
    try:
        assert len(unpack_nodes(data[1:at], data[at:])) <= 20
    except DecodeError:
        pass


def address(data: bytes) -> None:
    try:
        assert Address.unpack(data).ip is not None
    except DecodeError:
        pass


def keys(data: bytes) -> None:
    try:
        assert b"".join(split_keys(data)) == data
    except DecodeError:
        pass


def evidence(data: bytes) -> None:
    """Decoded and checked as in a lookup; a record at random is never believed."""
    try:
        decoded = _evidence.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return
    try:
        check_evidence(decoded, KEY, NETWORK_ID, node_id(NODE.public), NODE_AT)
    except DecodeError:
        pass


def neighbours(data: bytes) -> None:
    try:
        decode_neighbours(data)
    except DecodeError:
        pass


def announce_state(data: bytes) -> None:
    kept = Announcements(600.0, 0.0)
    try:
        kept.restore(data, 0.0, 1e9)
    except DecodeError:
        pass
    kept.add([KEY])
    kept.take_due(1.0)


class Wire:
    """A socket that takes everything, and the time."""

    def __init__(self) -> None:
        self.address = NODE_AT
        self.now = 1000.0
        self.sent: list[tuple[bytes, Address]] = []

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return 1.8e9 + self.now

    def send(self, data: bytes, to: Address) -> None:
        assert type(data) is bytes
        self.sent.append((data, to))

    def send_aside(self, data: bytes, to: Address) -> bool:
        self.send(data, to)
        return True

    def close(self) -> None:
        """Nothing is open."""


def make_node(wire: Wire) -> OverlayProtocol:
    """A node that knows nobody, with all its dice seeded."""
    own = node_id(NODE.public)

    def make(node: object, storage: object) -> OverlayProtocol:
        table = RoutingTable(own, wire.now, group_nodes_max=3, stale_s=900.0, changed=lambda: None)
        return OverlayProtocol(
            node,
            storage,
            key=NODE,
            network_id=NETWORK_ID,
            clock=wire,
            rng=random.Random(1),
            table=table,
            client_only=False,
            own_evidence=lambda key: None,
            send_aside=wire.send_aside,
        )

    protocol = NodeServer(own, make)._create_protocol()
    assert isinstance(protocol, OverlayProtocol)
    protocol.connection_made(wire)
    return protocol


def pack_story(*datagrams: tuple[int, bytes]) -> bytes:
    """What `node` reads: kind, length, bytes. Kinds 0 to 4 answer the node's requests, 5 is a request, others raw."""
    return b"".join(bytes([kind]) + len(data).to_bytes(2, "big") + data for kind, data in datagrams)


_loop: list[asyncio.AbstractEventLoop] = []


def node(data: bytes) -> None:
    """A whole node that has asked five things, waits to be dialled back, and gets up to `DATAGRAMS_MAX` datagrams."""
    if not _loop:
        _loop.append(asyncio.new_event_loop())
    _loop[0].run_until_complete(_node(data))


async def _node(data: bytes) -> None:
    wire = Wire()
    protocol = make_node(wire)
    asked = [
        protocol.calls.start(STRANGER_AT, sent, on_reply=lambda _: None, on_failed=lambda: None)
        for sent in REQUESTS.values()
    ]
    protocol.awaited.expect(random.Random(AWAITED_SEED), lambda source: False)
    at = 0
    for _ in range(DATAGRAMS_MAX):
        if at + 3 > len(data):
            break
        kind, length = data[at], int.from_bytes(data[at + 1 : at + 3], "big")
        body = data[at + 3 : at + 3 + length]
        at += 3 + length
        if kind < len(asked):
            body = frame(REPLY, asked[kind].message_id, body)
        elif kind == len(asked):
            body = frame(REQUEST, bytes(20), body)
        protocol.datagram_received(body, STRANGER_AT)
        wire.now += 0.01
    protocol.calls.close()
    assert len(protocol.providers) <= 50 * DATAGRAMS_MAX
    assert all(len(datagram) <= 1400 for datagram, _ in wire.sent)


TARGETS: dict[str, Callable[[bytes], Any]] = {
    "request": request,
    "reply_hello": reply_to(HELLO),
    "reply_find_node": reply_to(FIND_NODE),
    "reply_get_providers": reply_to(GET_PROVIDERS),
    "reply_announce": reply_to(ANNOUNCE),
    "reply_dial_back": reply_to(DIAL_BACK),
    "nodes": nodes,
    "address": address,
    "keys": keys,
    "evidence": evidence,
    "neighbours": neighbours,
    "announce_state": announce_state,
    "node": node,
    **PEER_TARGETS,
}
