"""What travels in the frames: every request and reply as a typed value, checked while it is decoded.

A request is `[name, [network, sender, …]]`, a reply the bare array of its fields. Fields that a later version appends
are ignored. Lists of nodes are compact (BEP 5, BEP 32): id 20, address 4 or 16, port 2. Requests that ask for much are
padded, because a reply has at most `AMPLIFICATION_MAX` times the bytes of its request.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from p2pmodel.errors import DecodeError
from p2pmodel.limits import (
    KEYS_PER_ANNOUNCE_MAX,
    OVERLAY_KEY_BYTES,
    PROVIDERS_PER_REPLY_MAX,
    RECORD_TTL_MAX_S,
    REPLY_NODES_MAX,
)
from p2pmodel.net import Address
from p2pmodel.overlay.node_id import NONCE_BYTES, PROOF_BYTES, address_of

NODE4_BYTES, NODE6_BYTES = OVERLAY_KEY_BYTES + 6, OVERLAY_KEY_BYTES + 18
SEQUENCE_MAX = (1 << 62) - 1
FIND_NODE_BYTES, FIND_NODE6_BYTES = 270, 350
"""Length of a padded request: a third of twenty nodes, a proof and the challenge that may come with them."""
GET_PROVIDERS_BYTES = 460
"""A third of the longest datagram."""
DIAL_BACK_BYTES = 110
"""Length of a padded request: its answer (33) and the dial-back (67) together are shorter."""
_PADDING = bytes(512)

NetworkId = Annotated[bytes, Meta(min_length=16, max_length=16)]
Key = Annotated[bytes, Meta(min_length=OVERLAY_KEY_BYTES, max_length=OVERLAY_KEY_BYTES)]
Challenge = Annotated[bytes, Meta(max_length=34)]
"""Nonce 16 and the dialled address 6 or 18; empty where no proof is asked for."""
Proof = Annotated[bytes, Meta(max_length=PROOF_BYTES)]
Token = Annotated[bytes, Meta(min_length=8, max_length=8)]
Peer = Annotated[bytes, Meta(min_length=32, max_length=32)]
Nonce = Annotated[bytes, Meta(min_length=NONCE_BYTES, max_length=NONCE_BYTES)]
Signature = Annotated[bytes, Meta(min_length=64, max_length=64)]
Ttl = Annotated[int, Meta(ge=0, le=RECORD_TTL_MAX_S)]
Sequence = Annotated[int, Meta(ge=0, le=SEQUENCE_MAX)]


class Message(msgspec.Struct, array_like=True, gc=False):
    """Common base, so that all messages are encoded and decoded alike."""


class HelloRequest(Message):
    network: NetworkId
    sender: Key
    challenge: Challenge


class FindNodeRequest(Message):
    network: NetworkId
    sender: Key
    challenge: Challenge
    target: Key
    padding: bytes = b""


class GetProvidersRequest(Message):
    network: NetworkId
    sender: Key
    challenge: Challenge
    key: Key
    start: Annotated[int, Meta(ge=0, le=0xFFFF)]
    """Which of the holder's providers to begin with, modulo their number: readers begin at different ones."""
    padding: bytes = b""


class AnnounceRequest(Message):
    """`ttl_s` 0 withdraws `keys`, or whatever the provider announced here where `keys` is empty."""

    network: NetworkId
    sender: Key
    token: Token
    peer: Peer
    port: Annotated[int, Meta(ge=1, le=65535)]
    ttl_s: Ttl
    sequence: Sequence
    keys: Annotated[bytes, Meta(max_length=KEYS_PER_ANNOUNCE_MAX * OVERLAY_KEY_BYTES)]
    signature: Signature


class DialBackRequest(Message):
    """Please send `nonce` to where this comes from, from another port than the one that it goes to."""

    network: NetworkId
    sender: Key
    token: Token
    """Bound to our address and port; any, at first, to get one."""
    nonce: Nonce
    padding: bytes = b""


class DialledRequest(Message):
    """The dial-back itself. It has no reply."""

    network: NetworkId
    nonce: Nonce


class HelloReply(Message):
    proof: Proof
    token: Token


class NodesReply(Message):
    proof: Proof
    token: Token
    nodes4: Annotated[bytes, Meta(max_length=REPLY_NODES_MAX * NODE4_BYTES)]
    nodes6: Annotated[bytes, Meta(max_length=REPLY_NODES_MAX * NODE6_BYTES)]


class WireEvidence(Message):
    """One provider of the key asked for, checkable alone: see `records.Evidence`."""

    peer: Peer
    address: Annotated[bytes, Meta(min_length=2, max_length=18)]
    """IP and port; the port alone where the provider is the node that answers."""
    ttl_s: Ttl
    remaining_s: Ttl
    sequence: Sequence
    index: Annotated[int, Meta(ge=0, lt=KEYS_PER_ANNOUNCE_MAX)]
    count: Annotated[int, Meta(ge=1, le=KEYS_PER_ANNOUNCE_MAX)]
    path: Annotated[bytes, Meta(max_length=6 * OVERLAY_KEY_BYTES)]
    signature: Signature


class ProvidersReply(Message):
    proof: Proof
    token: Token
    nodes4: Annotated[bytes, Meta(max_length=REPLY_NODES_MAX * NODE4_BYTES)]
    nodes6: Annotated[bytes, Meta(max_length=REPLY_NODES_MAX * NODE6_BYTES)]
    total: Annotated[int, Meta(ge=0, le=0xFFFF)]
    providers: Annotated[list[WireEvidence], Meta(max_length=PROVIDERS_PER_REPLY_MAX)]


STORED, BAD_TOKEN, STALE, REFUSED = range(4)
"""What became of an announcement."""


class AnnounceReply(Message):
    status: Annotated[int, Meta(ge=0, le=255)]
    stored: Annotated[int, Meta(ge=0, le=KEYS_PER_ANNOUNCE_MAX)]
    token: Token
    """Fresh, for the case that the one shown had become too old."""
    sequence: Sequence
    """The highest that the holder has of this provider; a `STALE` announcement needs a higher one."""


DIALLED, WRONG_TOKEN, BUSY = range(3)
"""What became of a request to be dialled back."""


class DialBackReply(Message):
    status: Annotated[int, Meta(ge=0, le=255)]
    token: Token


Request = HelloRequest | FindNodeRequest | GetProvidersRequest | AnnounceRequest | DialBackRequest | DialledRequest
Reply = HelloReply | NodesReply | ProvidersReply | AnnounceReply | DialBackReply
HELLO, FIND_NODE, GET_PROVIDERS, ANNOUNCE = "hello", "find_node", "get_providers", "announce"
DIAL_BACK, DIALLED_YOU = "dial_back", "dialled"
_NAMES: dict[type[Message], str] = {
    HelloRequest: HELLO,
    FindNodeRequest: FIND_NODE,
    GetProvidersRequest: GET_PROVIDERS,
    AnnounceRequest: ANNOUNCE,
    DialBackRequest: DIAL_BACK,
    DialledRequest: DIALLED_YOU,
}
_request_decoders: dict[str, msgspec.msgpack.Decoder[Any]] = {
    name: msgspec.msgpack.Decoder(kind) for kind, name in _NAMES.items()
}
_reply_decoders: dict[type[Message], msgspec.msgpack.Decoder[Any]] = {
    HelloRequest: msgspec.msgpack.Decoder(HelloReply),
    FindNodeRequest: msgspec.msgpack.Decoder(NodesReply),
    GetProvidersRequest: msgspec.msgpack.Decoder(ProvidersReply),
    AnnounceRequest: msgspec.msgpack.Decoder(AnnounceReply),
    DialBackRequest: msgspec.msgpack.Decoder(DialBackReply),
}
_envelope_decoder = msgspec.msgpack.Decoder(tuple[str, msgspec.Raw])
_encoder = msgspec.msgpack.Encoder()
_BAD_INPUT = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def encode_request(request: Request) -> bytes:
    return _encoder.encode((_NAMES[type(request)], request))


def decode_request(body: bytes) -> Request:
    """Raises `DecodeError` for anything but one of the six requests."""
    try:
        name, arguments = _envelope_decoder.decode(body)
        decoder = _request_decoders.get(name)
        if decoder is None:
            raise DecodeError("a request of unknown name")
        request: Request = decoder.decode(arguments)
    except _BAD_INPUT as error:
        raise DecodeError("not a request") from error
    challenge = getattr(request, "challenge", b"")
    if len(challenge) not in (0, 22, 34):
        raise DecodeError("a challenge is a nonce and an address")
    return request


def encode_reply(reply: Reply) -> bytes:
    return _encoder.encode(reply)


def decode_reply(request: Request, body: bytes) -> Reply:
    """Raises `DecodeError` for anything but a reply to `request`."""
    try:
        reply: Reply = _reply_decoders[type(request)].decode(body)
    except _BAD_INPUT as error:
        raise DecodeError("not a reply") from error
    return reply


def find_node(network: bytes, sender: bytes, challenge: bytes, target: bytes, *, ipv6: bool) -> FindNodeRequest:
    length = FIND_NODE6_BYTES if ipv6 else FIND_NODE_BYTES
    # Frame 21, array and name 12, network 18, sender 22, challenge 2 and itself, target 22, padding's head 3.
    return FindNodeRequest(network, sender, challenge, target, _PADDING[: length - 100 - len(challenge)])


def get_providers(network: bytes, sender: bytes, challenge: bytes, key: bytes, start: int) -> GetProvidersRequest:
    # As above, with a longer name and up to 3 bytes of `start`.
    padding = _PADDING[: GET_PROVIDERS_BYTES - 107 - len(challenge)]
    return GetProvidersRequest(network, sender, challenge, key, start, padding)


def dial_back(network: bytes, sender: bytes, token: bytes, nonce: bytes) -> DialBackRequest:
    # Frame 21, array and name 12, network 18, sender 22, token 10, nonce 18, padding's head 2.
    return DialBackRequest(network, sender, token, nonce, _PADDING[: DIAL_BACK_BYTES - 103])


def pack_nodes(packed: Iterable[bytes], room_bytes: int) -> tuple[bytes, bytes]:
    """The compact lists of IPv4 and IPv6 nodes, nearest first, as many as `room_bytes` holds."""
    nodes4: list[bytes] = []
    nodes6: list[bytes] = []
    for node in islice(packed, REPLY_NODES_MAX):
        room_bytes -= len(node)
        if room_bytes < 0:
            break
        (nodes4 if len(node) == NODE4_BYTES else nodes6).append(node)
    return b"".join(nodes4), b"".join(nodes6)


def unpack_nodes(nodes4: bytes, nodes6: bytes) -> list[tuple[bytes, Address]]:
    """Ids and addresses, at most `REPLY_NODES_MAX`. Raises `DecodeError`."""
    found = []
    for packed, size in ((nodes4, NODE4_BYTES), (nodes6, NODE6_BYTES)):
        if len(packed) % size:
            raise DecodeError("a list of nodes with a broken entry")
        for at in range(0, len(packed), size):
            node = packed[at : at + size]
            found.append((node[:OVERLAY_KEY_BYTES], address_of(node[OVERLAY_KEY_BYTES:])))
    if len(found) > REPLY_NODES_MAX:
        raise DecodeError("too many nodes in a reply")
    return found
