"""A connection over which messages pour in: they come in order, and others have a turn in between."""

from __future__ import annotations

import asyncio
import time

import pytest
from raw_peer import RawPeer
from wire_pairs import Handler, comes_true, identity

from p2pmodel.errors import ProtocolError
from p2pmodel.net import receiver
from p2pmodel.net.records import Kind

pytestmark = pytest.mark.slow
_DEAR_S = 0.0005
"""What the dearest message costs."""


def dear(message: bytes) -> None:
    until = time.perf_counter() + _DEAR_S
    while time.perf_counter() < until:
        pass


async def test_a_flood_of_dear_messages_leaves_the_loop_to_others_after_each_few(town) -> None:
    """Without a limit on a turn a read of messages, a quarter of a megabyte, held the loop for half a second."""
    handlers: dict[object, Handler] = {}

    def accept(channel) -> None:
        handlers[channel.peer] = Handler(on_message=dear)
        channel.start(handlers[channel.peer])

    address = await town.listen(town.network(identity(1)), accept)
    rude = await RawPeer.connect(address, identity(2))
    await comes_true(lambda: rude.key in handlers)
    handler, count = handlers[rude.key], 1000
    await rude.send(*(rude.record(Kind.MESSAGE, number.to_bytes(4, "big")) for number in range(count)))
    turns = []
    while len(handler.messages) < count:
        before = len(handler.messages)
        await asyncio.sleep(0)
        turns.append(len(handler.messages) - before)
    assert handler.messages == [number.to_bytes(4, "big") for number in range(count)]
    assert max(turns) <= receiver._TELL_S / _DEAR_S + 1
    rude.close()
    await handler.until_closed()


async def test_messages_before_a_bad_record_are_told_before_the_end_however_many_they_are(town, monkeypatch) -> None:
    monkeypatch.setattr(receiver, "_TELL_S", 0.0)  # one message in a turn
    handlers: dict[object, Handler] = {}

    def accept(channel) -> None:
        handlers[channel.peer] = Handler()
        channel.start(handlers[channel.peer])

    address = await town.listen(town.network(identity(1)), accept)
    rude = await RawPeer.connect(address, identity(2))
    await comes_true(lambda: rude.key in handlers)
    handler = handlers[rude.key]
    await rude.send(*(rude.record(Kind.MESSAGE, b"%d" % number) for number in range(50)), b"\xff" * 40)
    assert isinstance(await handler.until_closed(), ProtocolError)
    assert handler.messages == [b"%d" % number for number in range(50)]
    rude.close()
