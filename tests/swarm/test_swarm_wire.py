"""The codec of the peer wire: what is encoded decodes to itself, and nothing else raises anything but `DecodeError`."""

from __future__ import annotations

import tracemalloc

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pmodel.errors import DecodeError
from p2pmodel.limits import (
    CHUNKS_PER_MODEL_MAX,
    HAVES_PER_MESSAGE_MAX,
    MODELS_PER_ANSWER_MAX,
    OBJECT_BYTES_MAX,
    PEERS_PER_MESSAGE_MAX,
    PROBES_PER_MESSAGE_MAX,
    SHORT_MESSAGE_BYTES_MAX,
    STATEMENT_BYTES_MAX,
    STATEMENTS_PER_MODEL_MAX,
)
from p2pmodel.swarm import wire

HASH = st.binary(min_size=32, max_size=32)
REQUEST = st.integers(0, (1 << 32) - 1)
TEXT = st.text(max_size=96)
NAME = st.from_regex(r"[a-zA-Z0-9_\-.]{0,96}", fullmatch=True)
ASKED = st.builds(wire.Asked, REQUEST, HASH, st.integers(1, OBJECT_BYTES_MAX), st.integers(0, CHUNKS_PER_MODEL_MAX - 1))

MESSAGES = st.one_of(
    st.builds(wire.Subscribe, HASH),
    st.builds(wire.Unsubscribe, HASH),
    st.builds(wire.HaveMapOf, HASH, st.integers(0, CHUNKS_PER_MODEL_MAX), st.binary(max_size=100)),
    st.builds(wire.Unknown, HASH),
    st.builds(wire.Have, HASH, st.lists(st.integers(0, CHUNKS_PER_MODEL_MAX - 1), min_size=1, max_size=20)),
    st.builds(wire.Lost, HASH, st.lists(st.integers(0, CHUNKS_PER_MODEL_MAX - 1), min_size=1, max_size=20)),
    st.builds(wire.RequestChunk, REQUEST, HASH, HASH, st.integers(1, OBJECT_BYTES_MAX)),
    st.builds(wire.RequestChunks, HASH, st.lists(ASKED, min_size=1, max_size=5)),
    st.builds(wire.RequestObject, REQUEST, HASH),
    st.builds(wire.Cancel, REQUEST),
    st.builds(wire.Reject, REQUEST, TEXT),
    st.builds(wire.RequestStatements, REQUEST, HASH),
    st.builds(wire.RequestName, REQUEST, HASH, NAME, NAME),
    st.builds(wire.Statements, REQUEST, st.lists(st.binary(max_size=50), max_size=5)),
    st.builds(wire.Ping),
    st.builds(wire.RequestModels, REQUEST, st.lists(HASH, min_size=1, max_size=PROBES_PER_MESSAGE_MAX)),
    st.builds(wire.Models, REQUEST, st.lists(HASH, max_size=MODELS_PER_ANSWER_MAX)),
    st.builds(wire.Peers, HASH, st.lists(st.tuples(HASH, st.binary(max_size=18)), max_size=5)),
)


def decodes(encoded: bytes) -> bool:
    try:
        wire.decode(encoded)
    except DecodeError:
        return False
    return True


@given(MESSAGES)
def test_every_message_decodes_to_itself(message) -> None:
    assert wire.decode(wire.encode(message)) == message


def test_every_kind_of_message_is_in_the_round_trip() -> None:
    tried = {message.__struct_config__.tag for message in wire.AnyMessage.__args__}
    assert tried == set(range(1, 19)), "a new kind of message needs a line in MESSAGES"


@given(MESSAGES, st.lists(st.one_of(st.integers(-9, 9), st.binary(max_size=9), st.none()), min_size=1, max_size=4))
def test_elements_that_a_later_version_appends_are_ignored(message, more: list) -> None:
    fields = msgspec.msgpack.decode(wire.encode(message))
    assert wire.decode(msgspec.msgpack.encode([*fields, *more])) == message


def test_only_a_have_map_and_statements_may_be_long_and_then_nothing_is_appended_to_them() -> None:
    """To skip so much of what a later version might append costs more than any message that is meant."""
    chunks = SHORT_MESSAGE_BYTES_MAX * 16
    have_map = [3, H, chunks, bytes(chunks // 8)]
    statements = [12, 7, [bytes(STATEMENT_BYTES_MAX), bytes(STATEMENT_BYTES_MAX)]]
    for long in (have_map, statements):
        assert decodes(msgspec.msgpack.encode(long))
        assert not decodes(msgspec.msgpack.encode([*long, 0]))
    ping = [13, *([0] * (SHORT_MESSAGE_BYTES_MAX - 4))]
    assert len(msgspec.msgpack.encode(ping)) == SHORT_MESSAGE_BYTES_MAX and decodes(msgspec.msgpack.encode(ping))
    assert not decodes(msgspec.msgpack.encode([*ping, 0]))


@settings(max_examples=500)
@given(st.binary(max_size=200))
def test_noise_raises_nothing_but_decode_errors(noise: bytes) -> None:
    decodes(noise)


@given(MESSAGES, st.data())
def test_a_damaged_message_raises_nothing_but_decode_errors(message, data: st.DataObject) -> None:
    encoded = bytearray(wire.encode(message))
    encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    decodes(bytes(encoded))


@given(MESSAGES, st.data())
def test_a_truncated_message_does_not_decode(message, data: st.DataObject) -> None:
    encoded = wire.encode(message)
    assert not decodes(encoded[: data.draw(st.integers(0, len(encoded) - 1))])


@given(MESSAGES)
def test_bytes_behind_a_message_make_it_invalid(message) -> None:
    assert not decodes(wire.encode(message) + b"\x00")


H = bytes(32)


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [0, H],
        [15, H],
        [1],
        [1, H[:-1]],
        [1, H + b"x"],
        [1, "x" * 32],
        [3, H, -1, b""],
        [3, H, CHUNKS_PER_MODEL_MAX + 1, b""],
        [3, H, 8, bytes(CHUNKS_PER_MODEL_MAX // 8 + 1)],
        [5, H, []],
        [5, H, [-1]],
        [5, H, [CHUNKS_PER_MODEL_MAX]],
        [5, H, [0] * (HAVES_PER_MESSAGE_MAX + 1)],
        [6, 1, H, H, 0],
        [6, 1, H, H, OBJECT_BYTES_MAX + 1],
        [6, 1 << 32, H, H, 1],
        [6, -1, H, H, 1],
        [6, True, H, H, 1],
        [6, 1.0, H, H, 1],
        [8, None],
        [9, 1, "x" * 201],
        [11, 1, H, "x" * 97, ""],
        [11, 1, H, "a/b", ""],
        [11, 1, H, "", "\U0001f600"],
        [11, 1, H, "x\n", ""],
        [12, 1, [bytes(STATEMENT_BYTES_MAX + 1)]],
        [12, 1, [b""] * (STATEMENTS_PER_MODEL_MAX + 1)],
        [14, H, [[H, bytes(19)]]],
        [14, H, [[H]]],
        [14, H, [[H, bytes(6)]] * (PEERS_PER_MESSAGE_MAX + 1)],
        {"model": H},
    ],
)
def test_a_message_outside_its_limits_does_not_decode(fields) -> None:
    assert not decodes(msgspec.msgpack.encode(fields))


@pytest.mark.parametrize("depth", [100, 10_000, 1_000_000])
@pytest.mark.parametrize("before", [b"", b"\x92\x05\xc4\x20" + H], ids=["alone", "as an extra field"])
def test_deep_nesting_is_a_decode_error(depth: int, before: bytes) -> None:
    assert not decodes(before + b"\x91" * depth)


@pytest.mark.parametrize(
    "bomb",
    [
        b"\xdd\xff\xff\xff\xff",
        b"\x93\x05\xc4\x20" + H + b"\xdd\x7f\xff\xff\xff",
        b"\x92\x01\xc6\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
    ],
    ids=["array", "list of chunks", "bytes", "map"],
)
def test_a_length_that_is_not_there_is_not_allocated(bomb: bytes) -> None:
    tracemalloc.start()
    try:
        assert not decodes(bomb)
        assert tracemalloc.get_traced_memory()[1] < (1 << 20) + 64 * len(bomb)
    finally:
        tracemalloc.stop()
