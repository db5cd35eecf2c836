"""The record layer against a hostile wire: whatever is done to sealed records, nothing false is delivered.

The method is to seal a short conversation, damage it in one way, and feed it to the receiving half.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_pairs import Received, feed_fails

from p2pmodel.errors import ProtocolError
from p2pmodel.limits import CONTROL_BYTES_MAX, OBJECT_BYTES_MAX, RECORD_BYTES
from p2pmodel.net.outbox import make_record
from p2pmodel.net.records import (
    BULK_BEGIN,
    HEADER_BYTES,
    TAG_BYTES,
    DirectionKeys,
    Kind,
    decode_bulk_begin,
    decode_header,
    encode_header,
)

SECRET = bytes(range(32))


def records(*bodies: tuple[Kind, bytes], secret: bytes | None = SECRET, records_per_key: int = 1 << 18) -> list[bytes]:
    """Each body as the record that leaves the socket; in the clear where `secret` is None."""
    keys = None if secret is None else DirectionKeys(secret, records_per_key=records_per_key)
    return [bytes(make_record(keys, kind, body)) for kind, body in bodies]


def messages(*texts: bytes, **options) -> list[bytes]:
    return records(*((Kind.MESSAGE, text) for text in texts), **options)


def receiver(secret: bytes = SECRET, **options) -> Received:
    return Received(DirectionKeys(secret, **options))


def test_what_is_sealed_opens_as_it_was() -> None:
    received = receiver()
    for record in messages(b"one", b"two", b"x" * CONTROL_BYTES_MAX):
        received.inbound.feed(record)
    assert received.events == [("message", b"one"), ("message", b"two"), ("message", b"x" * CONTROL_BYTES_MAX)]


@pytest.mark.parametrize("records_per_key", [1, 2, 3, 7])
def test_both_sides_change_keys_at_the_same_record(records_per_key: int) -> None:
    texts = [bytes([number]) for number in range(20)]
    received = receiver(records_per_key=records_per_key)
    for record in messages(*texts, records_per_key=records_per_key):
        received.inbound.feed(record)
    assert [text for _, text in received.events] == texts


def test_a_side_that_changes_keys_at_another_record_is_not_understood() -> None:
    received = receiver(records_per_key=3)
    sealed = messages(b"1", b"2", b"3", b"4", records_per_key=4)
    assert [feed_fails(received, record) for record in sealed] == [False, False, False, True]


def test_a_key_is_never_used_with_the_same_nonce_twice() -> None:
    keys = DirectionKeys(SECRET, records_per_key=5)
    seen = set()
    for _ in range(50):
        nonce = keys._nonce()
        assert (keys._secret, nonce) not in seen
        seen.add((keys._secret, nonce))
    assert len({secret for secret, _ in seen}) == 10


def test_a_record_that_is_sent_again_does_not_open() -> None:
    first, second = messages(b"pay", b"and go")
    received = receiver()
    received.inbound.feed(first)
    assert feed_fails(received, first)
    assert received.events == [("message", b"pay")]
    received = receiver()
    assert feed_fails(received, first + second + second)


def test_records_in_another_order_do_not_open() -> None:
    _, second = messages(b"a", b"b")
    received = receiver()
    assert feed_fails(received, second)
    assert received.events == []


def test_a_record_that_is_left_out_is_noticed_at_the_next() -> None:
    first, _, third = messages(b"a", b"b", b"c")
    received = receiver()
    received.inbound.feed(first)
    assert feed_fails(received, third)
    assert received.events == [("message", b"a")]


def test_our_own_record_sent_back_does_not_open() -> None:
    client, server = bytes([1]) * 32, bytes([2]) * 32
    [ours] = messages(b"hello", secret=client)
    assert feed_fails(receiver(server), ours)


def test_a_record_under_another_key_does_not_open() -> None:
    [record] = messages(b"hello", secret=bytes(32))
    assert feed_fails(receiver(), record)


def test_a_clear_record_is_not_taken_for_a_sealed_one() -> None:
    [clear] = messages(b"x" * 40, secret=None)
    received = receiver()
    # Sixteen bytes more complete what a sealed record of this length would have.
    assert feed_fails(received, clear + bytes(TAG_BYTES))
    assert received.events == []


@given(data=st.data(), body=st.binary(min_size=1, max_size=60))
def test_a_flipped_bit_anywhere_delivers_nothing(data: st.DataObject, body: bytes) -> None:
    [record] = messages(body)
    damaged = bytearray(record)
    position = data.draw(st.integers(0, 8 * len(record) - 1))
    damaged[position // 8] ^= 1 << position % 8
    received = receiver()
    # A length that has grown beyond the bytes at hand waits for more, and they cannot make it right.
    failed = feed_fails(received, bytes(damaged) + bytes(1024))
    assert failed or len(received.inbound.target) > 0
    assert received.events == []


@given(cut=st.integers(0, 100))
def test_a_truncated_record_delivers_nothing(cut: int) -> None:
    [record] = messages(b"m" * 90)
    received = receiver()
    received.inbound.feed(record[: min(cut, len(record) - 1)])
    assert received.events == []


def test_bulk_in_another_order_does_not_open() -> None:
    begin, one, two = records(
        (Kind.BULK_BEGIN, BULK_BEGIN.pack(7, 20)), (Kind.BULK_DATA, b"a" * 10), (Kind.BULK_DATA, b"b" * 10)
    )
    received = receiver()
    received.inbound.feed(begin)
    assert feed_fails(received, two + one)
    assert received.events == []


def test_a_record_of_another_kind_is_not_the_same_record() -> None:
    [message] = messages(b"8 bytes!")
    changed = bytes([Kind.BULK_BEGIN]) + message[1:]
    assert feed_fails(receiver(), changed)


@pytest.mark.parametrize(
    "header",
    [
        encode_header(Kind.MESSAGE, 0),
        encode_header(Kind.MESSAGE, CONTROL_BYTES_MAX + 1),
        encode_header(Kind.BULK_DATA, 0),
        encode_header(Kind.BULK_DATA, RECORD_BYTES + 1),
        encode_header(Kind.BULK_BEGIN, BULK_BEGIN.size - 1),
        encode_header(Kind.BULK_BEGIN, BULK_BEGIN.size + 1),
        *(bytes([kind, 0, 0, 1]) for kind in range(256) if kind not in (1, 2, 3)),
        b"\xff\xff\xff\xff",
    ],
)
def test_a_header_outside_the_limits_is_refused_before_anything_is_allocated(header: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_header(header)


@given(st.binary(min_size=HEADER_BYTES, max_size=HEADER_BYTES))
def test_a_header_that_decodes_encodes_to_itself(header: bytes) -> None:
    try:
        kind, length = decode_header(header)
    except ProtocolError:
        return
    assert encode_header(kind, length) == header


@pytest.mark.parametrize("length", [0, OBJECT_BYTES_MAX + 1, (1 << 32) - 1])
def test_an_answer_of_impossible_length_is_refused(length: int) -> None:
    with pytest.raises(ProtocolError):
        decode_bulk_begin(BULK_BEGIN.pack(1, length))


@given(st.binary(min_size=1, max_size=5000), st.integers(0, 40))
def test_a_record_is_sealed_and_opened_in_place_as_it_is_elsewhere(plain: bytes, before: int) -> None:
    """The data plane relies on it, and no library promises it: ciphertext may stand where the plaintext did."""
    header = encode_header(Kind.BULK_DATA, len(plain))
    elsewhere = bytearray(len(plain) + TAG_BYTES)
    DirectionKeys(SECRET).seal_into(header, plain, memoryview(elsewhere))
    room = memoryview(bytearray(before) + plain + bytes(TAG_BYTES))
    end = before + len(plain)
    DirectionKeys(SECRET).seal_into(header, room[before:end], room[before:])
    assert bytes(room[before:]) == elsewhere
    DirectionKeys(SECRET).open_into(header, room[before:], room[before:end])
    assert bytes(room[before:end]) == plain
