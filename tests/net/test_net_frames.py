"""Frames of every wrong kind and length, from a peer that has the proper keys, in the clear and sealed.

The victim ends that one connection, lends nothing to it any more, and goes on with the honest peer that is connected
to it at the same time.
"""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncIterator

import pytest
from footprint import Footprint, returns_to
from raw_peer import RawPeer, header
from wire_pairs import Handler, comes_true, identity

from p2pmodel.errors import PeerFault
from p2pmodel.limits import CONTROL_BYTES_MAX, KIB, MIB, OBJECT_BYTES_MAX, RECORD_BYTES
from p2pmodel.net.records import BULK_BEGIN, Kind

pytestmark = pytest.mark.slow
BOTH_WAYS = pytest.mark.parametrize("encryption", [True, False], ids=["sealed", "clear"])


class Victim:
    """A peer that listens, an honest peer that is connected to it, and the rude ones."""

    def __init__(self, town, encryption: bool) -> None:
        self._town = town
        self._encryption = encryption
        self._handlers: dict[object, Handler] = {}
        self._channels: dict[object, object] = {}
        self._callers = 0

    def _accept(self, channel) -> None:
        handler = Handler()
        self._handlers[channel.peer], self._channels[channel.peer] = handler, channel
        channel.start(handler)

    async def open(self) -> None:
        who = identity(1, encryption=self._encryption)
        self.address = await self._town.listen(self._town.network(who), self._accept)
        self._honest = await self._town.network(identity(2, encryption=self._encryption)).connect(self.address, None)
        self._town._channels.append(self._honest)
        self._honest.start(Handler())

    async def rude(self) -> tuple[RawPeer, Handler]:
        self._callers += 1
        who = identity(3 + self._callers % 250, encryption=self._encryption)
        peer = await RawPeer.connect(self.address, who)
        await comes_true(lambda: who.key.public in self._handlers)
        return peer, self._handlers.pop(who.key.public)

    async def still_serves(self) -> None:
        handler = self._handlers[identity(2).key.public]
        heard = len(handler.messages)
        self._honest.send(b"are you there")
        await handler.until(lambda: len(handler.messages) == heard + 1)


@pytest.fixture
async def victim(town, encryption: bool) -> AsyncIterator[Victim]:
    made = Victim(town, encryption)
    await made.open()
    yield made
    await made.still_serves()


def begin(request_id: int, length: int) -> bytes:
    return BULK_BEGIN.pack(request_id, length)


WRONG: dict[str, list[tuple[int, bytes, int | None]]] = {
    **{f"kind {kind}": [(kind, b"12345678", None)] for kind in (0, 4, 5, 20, 22, 23, 127, 255)},
    **{f"empty {kind.name}": [(kind, b"", None)] for kind in Kind},
    "long message": [(Kind.MESSAGE, bytes(100), CONTROL_BYTES_MAX + 1)],
    "longest": [(Kind.MESSAGE, bytes(100), 0xFFFFFF)],
    "long data": [(Kind.BULK_BEGIN, begin(1, 2 * MIB), None), (Kind.BULK_DATA, bytes(100), RECORD_BYTES + 1)],
    **{f"announcement of {size}": [(Kind.BULK_BEGIN, bytes(size), None)] for size in (1, 4, 7, 9, 16, 255)},
    "announcement of nothing": [(Kind.BULK_BEGIN, begin(1, 0), None)],
    "announcement of too much": [(Kind.BULK_BEGIN, begin(1, OBJECT_BYTES_MAX + 1), None)],
    "two at once": [(Kind.BULK_BEGIN, begin(1, 10), None)] * 2,
    "data unasked": [(Kind.BULK_DATA, b"x", None)],
    "data too much": [(Kind.BULK_BEGIN, begin(1, 3), None), (Kind.BULK_DATA, b"four", None)],
    "data after the end": [(Kind.BULK_BEGIN, begin(1, 1), None)] + [(Kind.BULK_DATA, b"x", None)] * 2,
}


@BOTH_WAYS
async def test_a_frame_of_any_wrong_kind_or_length_ends_that_connection_and_no_other(victim) -> None:
    """`WRONG` has what each one sends: kind, body, and the length that the header claims."""
    before = None
    for name, frames in WRONG.items():
        rude, handler = await victim.rude()
        try:
            await rude.send(rude.record(Kind.MESSAGE, b"good"), *(rude.record(k, b, length=n) for k, b, n in frames))
        except ConnectionError:
            pass
        reason = await handler.until_closed()
        assert isinstance(reason, PeerFault), (name, reason)
        assert handler.messages == [b"good"], name
        await rude.until_hung_up()
        await victim.still_serves()
        assert victim._town.lent_bytes == 0, name
        before = before or Footprint.now()
    await returns_to(before)


@BOTH_WAYS
async def test_a_message_that_is_announced_and_does_not_come_is_given_no_more_memory_than_came(victim) -> None:
    """Five bytes must not buy half a megabyte: not from one peer, and not from a hundred."""
    crowd = [await victim.rude() for _ in range(40)]
    await victim.still_serves()
    tracemalloc.start()
    try:
        for rude, _ in crowd:
            await rude.send(header(Kind.MESSAGE, CONTROL_BYTES_MAX), bytes(8))
        await comes_true(lambda: all(channel.bytes_received >= 12 for channel in channels_of(victim, crowd)))
        await victim.still_serves()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    for rude, _ in crowd:
        rude.close()
    for _, handler in crowd:
        await handler.until_closed()
    assert peak / len(crowd) < 48 * KIB, f"{peak / len(crowd) / KIB:.0f} KiB for each"


@BOTH_WAYS
async def test_messages_come_in_no_faster_than_they_are_dealt_with(victim) -> None:
    """In the middle of an answer a thread reads, and could read far ahead of the loop."""
    rude, handler = await victim.rude()
    channel, most = victim._channels[rude.key], 0
    size, count = 1000, 6_000

    def busy(message: bytes) -> None:
        nonlocal most
        most = max(most, channel.bytes_received - size * len(handler.events))
        sum(range(1000))

    handler._on_message = busy
    pieces = [rude.record(Kind.BULK_BEGIN, begin(1, MIB)), rude.record(Kind.BULK_DATA, b"x")]
    pieces += [rude.record(Kind.MESSAGE, bytes(size)) for _ in range(count)]
    sending = asyncio.ensure_future(rude.send(*pieces))
    await handler.until(lambda: len(handler.messages) == count)
    await sending
    assert most < 2 * MIB
    rude.close()
    await handler.until_closed()


def channels_of(victim: Victim, crowd) -> list:
    return [victim._channels[rude.key] for rude, _ in crowd]
