"""What hostile bytes can reach on a connection, one function each: handshake, records, messages, and a whole link.

A decoder may raise `PeerFault` and nothing else; a link may close, and nothing else.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from p2pmodel.errors import DecodeError, HandshakeError, P2PModelError, PeerFault, ProtocolError
from p2pmodel.model import ChunkList, Digest, FileEntry, HaveMap, Layout, Manifest, PortablePath, SecretKey, Sha256
from p2pmodel.net import Address, Hello, Identity, RealNetwork, network_id
from p2pmodel.net.handshake import Handshake, tls_context
from p2pmodel.net.identity import decode_hello, encode_hello
from p2pmodel.net.inbound import Bulk, Inbound
from p2pmodel.net.records import DirectionKeys
from p2pmodel.swarm import Swarm, wire
from p2pmodel.swarm.schedule import Schedule

NETWORK = network_id("fuzz")
SERVER, CLIENT = (Identity(SecretKey.from_seed(bytes([number]) * 32), NETWORK) for number in (1, 2))
SECRET = bytes(range(32))
_context: list[Any] = []


def handshake(data: bytes) -> None:
    """What a stranger sends first, in pieces: the first byte says how long they are."""
    if not _context:
        _context.append(tls_context(SERVER))
    server = Handshake(SERVER, _context[0], outgoing=False)
    size = 1 + (data[0] if data else 0)
    try:
        for start in range(1, len(data), size):
            server.receive(data[start : start + size])
            server.to_send()
    except HandshakeError:
        return
    assert server.session is None, "nobody gets in without a key"


def hello(data: bytes) -> None:
    try:
        decoded = decode_hello(data)
    except DecodeError:
        return
    assert decode_hello(encode_hello(decoded)) == decoded


class _Nowhere:
    def consume(self, data: memoryview) -> None:
        """Nothing is kept."""


@dataclass
class _Owner:
    events: list[tuple[object, ...]] = field(default_factory=list)
    inbound: Inbound = field(init=False)

    def message_in(self, message: bytes) -> None:
        self.events.append((1, message))

    def bulk_begins(self, request_id: int, length: int) -> None:
        if length > 1 << 16:
            raise ProtocolError("more than this test asks for")
        self.inbound.lend(Bulk(request_id, length, _Nowhere(), bytearray(length)))

    def bulk_complete(self, bulk: Bulk) -> None:
        self.events.append((bulk.request_id, bytes(bulk.buffer[: bulk.length])))


def _received(data: bytes, size: int, keys: DirectionKeys | None) -> tuple[list[tuple[object, ...]], bool]:
    owner = _Owner()
    owner.inbound = Inbound(keys, owner)
    try:
        for start in range(0, len(data), size):
            owner.inbound.feed(data[start : start + size])
    except ProtocolError:
        return owner.events, False
    return owner.events, True


def records(data: bytes) -> None:
    """In the clear: whole and byte by byte it means the same."""
    assert _received(data, max(len(data), 1), None) == _received(data, 1, None)


def sealed_records(data: bytes) -> None:
    """Without the key nothing is ever delivered."""
    events, _ = _received(data, 64, DirectionKeys(SECRET))
    assert not events


def message(data: bytes) -> None:
    try:
        decoded = wire.decode(data)
    except DecodeError:
        return
    assert wire.decode(wire.encode(decoded)) == decoded


def manifest(data: bytes) -> None:
    try:
        decoded = Manifest.decode(data)
    except DecodeError:
        return
    assert decoded.encode() == data


def chunk_list(data: bytes) -> None:
    try:
        decoded = ChunkList(data)
    except DecodeError:
        return
    assert ChunkList.of((chunk.digest, chunk.length) for chunk in decoded) == decoded


def have_map(data: bytes) -> None:
    """The first two bytes are the number of chunks."""
    count = int.from_bytes(data[:2], "big")
    try:
        decoded = HaveMap.decode(count, data[2:])
    except DecodeError:
        return
    assert decoded.encode() == data[2:] and decoded.held <= count


def _model() -> Layout:
    chunks = [(Digest.of(bytes([number % 5])), 1000) for number in range(12)]
    listed = ChunkList.of(chunks)
    entry = FileEntry(
        path=PortablePath("weights.bin"),
        size=12_000,
        blake3=Digest.of(b"file"),
        sha256=Sha256(sha256(b"file").digest()),
        chunk_count=12,
        chunk_list=listed.digest,
    )
    return Layout(Manifest((entry,)), [listed])


MODEL = _model()


class _Shelf:
    """Holds the model's first chunks, and keeps nothing."""

    def have_map(self, model_id: object) -> HaveMap | None:
        return HaveMap(12, 0b111) if model_id == MODEL.model_id else None

    def layout(self, model_id: object) -> Layout | None:
        return None

    def chunk(self, digest: object, *_: object) -> None:
        return None

    def object(self, digest: object) -> None:
        return None

    def models(self, digests: object) -> list[object]:
        return []

    def statements(self, model_id: object) -> list[bytes]:
        return [b"statement"]

    def named(self, *_: object) -> list[bytes]:
        return []

    def write(self, index: int, data: memoryview) -> int:
        raise AssertionError("nothing came")


class _Deaf:
    """A channel whose other end is the input."""

    outgoing = False
    encrypted = True
    runs_ahead = 2
    run_answers = 1
    bytes_received = bytes_sent = 0
    hello = Hello(1, NETWORK, True, 4000, "fuzz")
    address = Address("60.1.1.1", 4000)
    peer = CLIENT.key.public

    def __init__(self) -> None:
        self.reason: P2PModelError | None = None
        self.handler: Any = None

    def start(self, handler: Any) -> None:
        self.handler = handler

    def send(self, message: bytes) -> None:
        wire.decode(message)

    def expect(self, size_bytes: int) -> int:
        """Nothing will come, over one connection."""
        return 1

    def yield_line(self, *, sending: bool, receiving: bool) -> None:
        """There is no line."""

    async def send_run(self, answers: Sequence[tuple[int, Any]]) -> list[bool]:
        for _, source in answers:
            source.release()
        return [False] * len(answers)

    def close(self, reason: P2PModelError) -> None:
        if self.reason is None:
            self.reason = reason
            asyncio.get_running_loop().call_soon(self.handler.closed, reason)

    def say(self, message: bytes) -> None:
        try:
            self.handler.message_received(message)
        except PeerFault as fault:
            self.close(fault)

    def announce(self, request_id: int, length: int) -> None:
        try:
            self.handler.bulk_begins(request_id, length)
        except PeerFault as fault:
            self.close(fault)


STORY_MAX = 24


def pack_conversation(*messages: bytes) -> bytes:
    """What `link` reads: two bytes of length and a message, or length 0 and an announcement of 8 bytes."""
    return b"".join(len(message).to_bytes(2, "big") + message for message in messages)


_loop: list[asyncio.AbstractEventLoop] = []


def link(data: bytes) -> None:
    """A whole connection of a peer that pulls and serves a model, and up to `STORY_MAX` things said on it."""
    if not _loop:
        _loop.append(asyncio.new_event_loop())
    _loop[0].run_until_complete(_link(data))


async def _link(data: bytes) -> None:
    faults: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    network = RealNetwork(SERVER)
    swarm = Swarm(key=SERVER.key.public, network=network, shelf=_Shelf(), rng=random.Random(1))
    channel = _Deaf()
    download = swarm.open_download(MODEL, HaveMap.full(12), HaveMap(12), _Shelf())
    swarm.accept(channel)
    download.add_link(swarm.links[channel.peer])
    at = 0
    for _ in range(STORY_MAX):
        if at + 2 > len(data) or channel.reason is not None:
            break
        length = int.from_bytes(data[at : at + 2], "big")
        at += 2
        if length:
            channel.say(data[at : at + length])
            at += length
        else:
            body = data[at : at + 8].ljust(8, b"\0")
            channel.announce(int.from_bytes(body[:4], "big"), int.from_bytes(body[4:], "big"))
            at += 8
        await asyncio.sleep(0)
    swarm.close_download(download)
    await swarm.stop()
    await network.close()
    assert not faults, faults


def schedule(data: bytes) -> None:
    """Peers that join, tell, refuse and leave in any order: the plan stays consistent."""
    plan: Schedule[int] = Schedule(12, 0xFFF, 0, lambda index: 1000, random.Random(1))
    now = 0.0
    for at in range(0, min(len(data) - 3, 200), 3):
        what, peer, bits = data[at] % 6, data[at + 1] % 5, data[at + 2] << 4 | data[at + 1] >> 4
        now += 0.1
        plan.peer_joined(peer)
        if what == 0:
            plan.peer_has(peer, bits & 0xFFF)
        elif what == 1:
            plan.peer_lost(peer, bits & 0xFFF)
        elif what == 2:
            plan.peer_left(peer)
        elif what == 3:
            list(plan.next_requests(peer, now))
        elif what == 4:
            plan.refused(peer, bits % 12, now)
        else:
            plan.expire(now)
        assert plan.in_flight_bytes >= 0


PEER_TARGETS: dict[str, Callable[[bytes], Any]] = {
    "handshake": handshake,
    "hello": hello,
    "records": records,
    "sealed_records": sealed_records,
    "message": message,
    "manifest": manifest,
    "chunk_list": chunk_list,
    "have_map": have_map,
    "schedule": schedule,
    "link": link,
}
