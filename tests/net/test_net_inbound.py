"""The receiving half as a plain object: the size of the pieces never matters, and no rule can be bent.

A random conversation is fed whole, byte by byte, and in random pieces, sealed and in the clear; a socket that writes
directly into `target` is played too.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_net_records import SECRET, records
from wire_pairs import Received, feed_fails

from p2pmodel.net.records import BULK_BEGIN, DirectionKeys, Kind

SECRETS = pytest.mark.parametrize("secret", [SECRET, None], ids=["sealed", "clear"])


@st.composite
def conversations(draw: st.DrawFn) -> tuple[list[tuple[Kind, bytes]], list[tuple]]:
    """Records in an order that the rules allow, and what a receiver must make of them."""
    script, expected = [], []
    for request_id in range(draw(st.integers(1, 4))):
        for _ in range(draw(st.integers(0, 2))):
            script.append((Kind.MESSAGE, draw(st.binary(min_size=1, max_size=50))))
            expected.append(("message", script[-1][1]))
        pieces = draw(st.lists(st.binary(min_size=1, max_size=50), min_size=1, max_size=4))
        script.append((Kind.BULK_BEGIN, BULK_BEGIN.pack(request_id, sum(map(len, pieces)))))
        for number, piece in enumerate(pieces):
            if number and draw(st.booleans()):
                script.append((Kind.MESSAGE, b"between"))
                expected.append(("message", b"between"))
            script.append((Kind.BULK_DATA, piece))
        expected.append(("bulk", request_id, b"".join(pieces)))
    return script, expected


def receiver(secret: bytes | None, **options) -> Received:
    return Received(None if secret is None else DirectionKeys(secret), **options)


def write_as_a_socket_does(received: Received, data: bytes, scratch_bytes: int) -> None:
    """As `recvmsg_into([target, scratch])` would: first what is missing of the record, then what lies behind it."""
    while data:
        target = received.inbound.target
        direct = min(len(target), len(data))
        if direct:
            target[:direct] = data[:direct]
        beyond = data[direct : direct + scratch_bytes]
        data = data[direct + len(beyond) :]
        received.inbound.wrote(direct, memoryview(beyond))


@pytest.mark.slow
@SECRETS
@settings(max_examples=60)
@given(conversation=conversations(), cuts=st.lists(st.integers(1, 70), max_size=30), scratch=st.integers(1, 80))
def test_pieces_of_any_size_give_the_same_events(secret, conversation, cuts, scratch) -> None:
    script, expected = conversation
    stream = b"".join(records(*script, secret=secret))
    whole, single, pieces, socket = (receiver(secret) for _ in range(4))
    whole.inbound.feed(stream)
    for position in range(len(stream)):
        single.inbound.feed(stream[position : position + 1])
    start = 0
    for cut in [*cuts, len(stream)]:
        pieces.inbound.feed(stream[start : start + cut])
        start += cut
    write_as_a_socket_does(socket, stream, scratch)
    assert whole.events == single.events == pieces.events == socket.events == expected


@SECRETS
@settings(max_examples=60)
@given(conversation=conversations(), cuts=st.lists(st.integers(1, 70), max_size=30))
def test_a_buffer_that_comes_late_changes_nothing(secret, conversation, cuts) -> None:
    script, expected = conversation
    stream = b"".join(records(*script, secret=secret))
    received = receiver(secret, lends=False)
    for cut in [*cuts, len(stream)]:
        received.inbound.feed(stream[:cut])
        stream = stream[cut:]
    while received.inbound.stalled:
        received.lend()
    assert received.events == expected


@SECRETS
@pytest.mark.parametrize(
    "script",
    [
        [(Kind.BULK_DATA, b"x")],
        [(Kind.BULK_BEGIN, BULK_BEGIN.pack(1, 2)), (Kind.BULK_DATA, b"abc")],
        [(Kind.BULK_BEGIN, BULK_BEGIN.pack(1, 2)), (Kind.BULK_DATA, b"a"), (Kind.BULK_DATA, b"bc")],
        [(Kind.BULK_BEGIN, BULK_BEGIN.pack(1, 2)), (Kind.BULK_DATA, b"ab"), (Kind.BULK_DATA, b"c")],
        [(Kind.BULK_BEGIN, BULK_BEGIN.pack(1, 2)), (Kind.BULK_BEGIN, BULK_BEGIN.pack(2, 2))],
        [(Kind.BULK_BEGIN, BULK_BEGIN.pack(1, 0))],
    ],
    ids=["unannounced", "too long", "too long in the end", "after the end", "two at once", "empty"],
)
def test_bulk_that_breaks_the_rules_ends_the_channel(secret, script) -> None:
    assert feed_fails(receiver(secret), b"".join(records(*script, secret=secret)))


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_noise_in_the_clear_raises_nothing_but_a_protocol_error(noise: bytes) -> None:
    feed_fails(receiver(None), noise)


@given(st.binary(max_size=200))
def test_noise_is_never_delivered_from_a_sealed_channel(noise: bytes) -> None:
    received = receiver(SECRET)
    feed_fails(received, noise)
    assert received.events == []
