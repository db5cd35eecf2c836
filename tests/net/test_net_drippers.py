"""Peers that begin an answer and then send it a byte at a time, or not at all: what is shared is not theirs alone."""

from __future__ import annotations

import asyncio
import socket

import pytest
from raw_peer import RawPeer, header
from wire_pairs import Handler, Keeps, comes_true, identity

from p2pmodel.errors import PeerGoneError
from p2pmodel.limits import BULK_BLANK_BYTES, CHUNK_BYTES, MIB, RECORD_BYTES
from p2pmodel.net import real, tempo
from p2pmodel.net.receiver import SCRATCH_BYTES, Receiver
from p2pmodel.net.records import BULK_BEGIN, Kind
from p2pmodel.net.threads import SharedSocket

pytestmark = pytest.mark.slow
BOTH_WAYS = pytest.mark.parametrize("encryption", [True, False], ids=["sealed", "clear"])


class Door:
    """A peer that listens, and a handler for each who comes."""

    def __init__(self, town, encryption: bool) -> None:
        self._town = town
        self._encryption = encryption
        self.handlers: dict[object, Handler] = {}

    async def open(self) -> None:
        self.network = self._town.network(identity(1, encryption=self._encryption))
        self.address = await self._town.listen(self.network, self._accept)

    def _accept(self, channel) -> None:
        self.handlers[channel.peer] = Handler()
        channel.start(self.handlers[channel.peer])

    async def comes(self, number: int) -> tuple[RawPeer, Handler]:
        peer = await RawPeer.connect(self.address, identity(number, encryption=self._encryption))
        await comes_true(lambda: peer.key in self.handlers)
        return peer, self.handlers[peer.key]


async def begins(peer: RawPeer, more: bytes = b"") -> None:
    """An answer of a megabyte, of which the header of the first record comes, this, and nothing else."""
    announcement = peer.record(Kind.BULK_BEGIN, BULK_BEGIN.pack(1, CHUNK_BYTES))
    await peer.send(announcement, header(Kind.BULK_DATA, RECORD_BYTES), more)


WORTH_A_BUFFER = bytes(2 * BULK_BLANK_BYTES)


async def gives(peer: RawPeer, request_id: int = 1) -> None:
    """A whole answer."""
    await peer.send(peer.record(Kind.BULK_BEGIN, BULK_BEGIN.pack(request_id, CHUNK_BYTES)))
    for _ in range(CHUNK_BYTES // RECORD_BYTES):
        await peer.send(peer.record(Kind.BULK_DATA, bytes(RECORD_BYTES)))


async def until_silent(door: Door) -> None:
    await comes_true(lambda: door.network.shared.receiving.load == 0)


@BOTH_WAYS
async def test_answers_that_drip_or_stand_still_keep_no_receiving_thread(town, encryption: bool) -> None:
    door = Door(town, encryption)
    await door.open()
    crowd = [await door.comes(number) for number in range(2, 2 + real._BULK_THREADS + 8)]
    for peer, _ in crowd:
        await begins(peer)
    loads = []
    for _ in range(50):
        for peer, _ in crowd:
            peer.sock.send(b"x")
        await asyncio.sleep(0.005)  # a byte from each, well before a thread that waits would give up
        loads.append(door.network.shared.receiving.load)
    assert max(loads[30:]) <= 1, "those for whom no thread was free have had one by then, for a moment"
    assert len(door.network.shared.holders) == door.network.shared.receive_buffers.lent_bytes == 0
    await until_silent(door)
    honest, handler = await door.comes(250)
    await gives(honest)
    await handler.until(lambda: handler.of("finished"))
    assert all(not other.of("closed") for _, other in crowd), "nobody wanted for a buffer, so nobody had to go"
    for peer, _ in [*crowd, (honest, handler)]:
        peer.close()
    for _, other in crowd:
        await other.until_closed()


@BOTH_WAYS
async def test_who_goes_no_further_with_first_answers_holds_no_more_than_half_of_the_buffers(
    town, encryption: bool
) -> None:
    door = Door(town, encryption)
    await door.open()
    door.network.shared.receive_buffers._bytes_max = 8 * MIB
    honest, handler = await door.comes(250)
    await gives(honest)
    await handler.until(lambda: handler.of("finished"))
    crowd = [await door.comes(number) for number in range(2, 10)]
    for peer, _ in crowd:
        await begins(peer, WORTH_A_BUFFER)
    await comes_true(lambda: sum(bool(other.of("begins")) for _, other in crowd) == len(crowd))
    await until_silent(door)
    assert door.network.shared.receive_buffers.lent_bytes == 4 * MIB
    for number in range(2, 6):
        await gives(honest, number)
    await handler.until(lambda: len(handler.of("finished")) == 5)
    for peer, _ in [*crowd, (honest, handler)]:
        peer.close()
    for _, other in crowd:
        await other.until_closed()


@BOTH_WAYS
async def test_an_answer_that_waits_for_a_buffer_puts_out_the_slowest_that_holds_one(
    town, monkeypatch, encryption: bool
) -> None:
    monkeypatch.setattr(tempo, "BULK_CROWDED_S", 0.05)
    door = Door(town, encryption)
    await door.open()
    door.network.shared.receive_buffers._bytes_max = 4 * MIB
    (slow, slow_handler), (slower, slower_handler) = [await door.comes(number) for number in (2, 3)]
    for peer in (slow, slower):
        await begins(peer, WORTH_A_BUFFER)
    await comes_true(lambda: len(door.network.shared.holders) == 2)
    await slow.send(bytes(20_000))
    await comes_true(lambda: any(one.bytes_received >= 20_000 for one in door.network.shared.holders.holders))
    honest, handler = await door.comes(4)
    await gives(honest)
    await handler.until(lambda: handler.of("finished"))
    reason = await slower_handler.until_closed()
    assert isinstance(reason, PeerGoneError) and "others waited" in str(reason)
    assert not slow_handler.of("closed")
    for peer in (slow, slower, honest):
        peer.close()
    await slow_handler.until_closed()


class Owner:
    """Of a `Receiver` whose answers nobody waits for."""

    def sink_of(self, request_id: int, length: int) -> Keeps:
        return Keeps()

    def receiver_idle(self) -> None: ...


async def test_of_a_first_answer_that_comes_at_once_no_more_is_read_than_may_be_before_its_buffer_counts(town) -> None:
    shared = town.network(identity(1)).shared
    shared.receive_buffers._bytes_max = 2 * CHUNK_BYTES
    lent = [shared.receive_buffers.lease(CHUNK_BYTES) for _ in range(2)]
    near, far = socket.socketpair()
    for sock in (near, far):
        sock.setblocking(False)
    announcement = header(Kind.BULK_BEGIN, BULK_BEGIN.size) + BULK_BEGIN.pack(1, CHUNK_BYTES)
    sent = far.send(announcement + header(Kind.BULK_DATA, RECORD_BYTES) + WORTH_A_BUFFER)
    assert sent > len(WORTH_A_BUFFER), "all of it waits in the socket"
    receiver = Receiver(SharedSocket(near), shared, None, Owner())
    receiver.start(b"")
    await comes_true(lambda: receiver.waits_for_a_buffer)
    assert receiver.bytes_received <= BULK_BLANK_BYTES + SCRATCH_BYTES
    for buffer in lent:
        shared.receive_buffers.release(buffer)
    await comes_true(lambda: receiver.bytes_received == sent)
    await comes_true(lambda: receiver.idle)
    receiver.end()
    far.close()
    near.close()
