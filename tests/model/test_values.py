"""Digests, keys, have-maps and chunk lists: whatever bytes come in, either a valid value or `DecodeError` comes out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pmodel.errors import DecodeError
from p2pmodel.limits import CHUNK_BYTES_MAX
from p2pmodel.model import (
    ChunkList,
    Digest,
    FileEntry,
    HaveMap,
    Layout,
    Manifest,
    PortablePath,
    PublicKey,
    SecretKey,
    Sha256,
)
from p2pmodel.model.have_map import bits_of, iter_bits

digests = st.binary(min_size=32, max_size=32).map(Digest)
chunk_lists = st.lists(st.tuples(digests, st.integers(1, CHUNK_BYTES_MAX)), max_size=30).map(ChunkList.of)


@given(digests)
def test_a_digest_survives_its_hex_form(digest):
    assert Digest.from_hex(digest.hex) == digest
    assert Sha256.from_hex(digest.hex) != digest


@given(st.text(max_size=70) | st.binary(max_size=70).map(bytes.hex))
def test_any_text_is_a_digest_or_a_decode_error(text):
    try:
        assert Digest.from_hex(text).hex == text
    except DecodeError:
        pass


@pytest.mark.parametrize("raw", [b"", b"x" * 31, b"x" * 33, bytearray(32), "x" * 32, None])
def test_a_digest_comes_only_from_32_bytes(raw):
    with pytest.raises(DecodeError):
        Digest(raw)


def test_blake3_of_nothing_is_the_published_vector():
    assert Digest.of(b"").hex == "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=40))
def test_a_key_survives_its_text_and_pem_and_verifies_what_it_signed(seed, message):
    key = SecretKey.from_seed(seed)
    assert PublicKey.from_text(key.public.text) == key.public
    assert PublicKey.from_text(key.public.raw.hex()) == key.public
    assert SecretKey.from_pem(key.to_pem()).public == key.public
    signature = key.sign(message)
    assert key.public.verify(signature, message)
    assert not key.public.verify(signature, message + b"!")
    assert not key.public.verify(signature[:-1], message)


@given(st.text(max_size=60) | st.text("abcdefghijklmnopqrstuvwxyz234567", min_size=52, max_size=52))
def test_any_text_is_a_public_key_in_canonical_spelling_or_a_decode_error(text):
    try:
        assert text in (PublicKey.from_text(text).text, PublicKey.from_text(text).raw.hex())
    except DecodeError:
        pass


@given(st.binary(max_size=200))
def test_any_bytes_are_a_secret_key_or_a_decode_error(pem):
    with pytest.raises(DecodeError):
        SecretKey.from_pem(pem)


def test_a_secret_key_does_not_show_itself():
    key = SecretKey.from_seed(bytes(range(32)))
    assert bytes(range(32)).hex() not in repr(key)


@given(st.integers(0, 300), st.data())
def test_a_have_map_survives_the_wire_and_lists_what_it_holds(count, data):
    held = data.draw(st.sets(st.integers(0, count - 1))) if count else set()
    have = HaveMap.of(count, held)
    assert HaveMap.decode(count, have.encode()) == have
    assert list(have) == sorted(held) == list(iter_bits(have.bits))
    assert bits_of(list(held)) == have.bits
    far = 5000 * 8  # behind blocks that are passed over
    assert list(iter_bits(have.bits << far | 1)) == [0, *(index + far for index in sorted(held))]
    assert have.held == len(held) and have.whole == (len(held) == count)
    assert all(index in have for index in held) and count not in have and -1 not in have


@given(st.integers(0, 64), st.binary(max_size=10))
def test_a_have_map_with_a_wrong_length_or_a_spare_bit_is_refused(count, encoded):
    try:
        assert HaveMap.decode(count, encoded).encode() == encoded
    except DecodeError:
        assert len(encoded) != (count + 7) // 8 or int.from_bytes(encoded, "little") >> count


@pytest.mark.parametrize("index", [-1, 8, 1 << 70])
def test_a_chunk_outside_the_model_cannot_be_held(index):
    with pytest.raises(DecodeError):
        HaveMap(8).with_chunk(index)
    with pytest.raises(DecodeError):
        HaveMap.of(8, [index])


@given(chunk_lists)
def test_a_chunk_list_survives_its_encoding_and_finds_every_byte(chunks):
    again = ChunkList(chunks.encoded)
    assert again == chunks and again.digest == chunks.digest and again.size == sum(chunk.length for chunk in chunks)
    offset = 0
    for index, chunk in enumerate(again):
        assert chunk.offset == offset
        assert again.at(offset) == again.at(offset + chunk.length - 1) == index
        offset += chunk.length
    for outside in (-1, offset):
        with pytest.raises(IndexError):
            again.at(outside)


@given(st.binary(max_size=36 * 4))
def test_any_bytes_are_a_chunk_list_that_encodes_to_them_or_a_decode_error(encoded):
    try:
        assert ChunkList.of((chunk.digest, chunk.length) for chunk in ChunkList(encoded)).encoded == encoded
    except DecodeError:
        pass


@pytest.mark.parametrize("length", [0, CHUNK_BYTES_MAX + 1, (1 << 32) - 1])
def test_a_chunk_that_is_empty_or_too_long_is_refused(length):
    with pytest.raises(DecodeError):
        ChunkList(bytes(32) + length.to_bytes(4, "big"))


def test_a_layout_names_the_places_of_repeated_chunks():
    def entry(name: str, chunks: ChunkList) -> FileEntry:
        return FileEntry(PortablePath(name), chunks.size, Digest.of(b""), Sha256(bytes(32)), len(chunks), chunks.digest)

    one, two, three = (Digest.of(bytes([number])) for number in range(3))
    lists = [ChunkList.of([(one, 5), (two, 5), (one, 5)]), ChunkList.of([(three, 5), (one, 5)])]
    layout = Layout(Manifest.of([entry("a", lists[0]), entry("b", lists[1])]), lists)
    assert layout.repeated() == [(0, 2, 4)]
