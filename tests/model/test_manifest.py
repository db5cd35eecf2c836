"""Manifests and layouts: one encoding for each, no other byte string is accepted, and every chunk is found."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pmodel.errors import DecodeError
from p2pmodel.limits import CHUNK_BYTES_MAX
from p2pmodel.model import ChunkList, Digest, FileEntry, HaveMap, Layout, Manifest, PortablePath, Sha256
from p2pmodel.model.have_map import iter_bits
from p2pmodel.model.manifest import MANIFEST_FORMAT

digests = st.binary(min_size=32, max_size=32).map(Digest)
names = st.lists(st.sampled_from(["a", "bé", "config.json", "模型", '%"'.replace('"', "'")]), min_size=1, max_size=3)
lists = st.lists(st.tuples(digests, st.integers(1, CHUNK_BYTES_MAX)), max_size=8).map(ChunkList.of)


def entry(path: str, chunks: ChunkList) -> FileEntry:
    whole = Digest.of(path.encode())
    return FileEntry(PortablePath(path), chunks.size, whole, Sha256(whole.raw), len(chunks), chunks.digest)


@st.composite
def layouts(draw):
    contents = draw(st.lists(lists, min_size=1, max_size=6))
    files = {f"{number}/{'/'.join(draw(names))}": chunks for number, chunks in enumerate(contents)}
    manifest = Manifest.of(entry(path, chunks) for path, chunks in files.items())
    return Layout(manifest, [files[file.path.text] for file in manifest.files])


@pytest.mark.slow
@given(layouts())
def test_a_manifest_survives_its_encoding(layout):
    manifest = layout.manifest
    again = Manifest.decode(manifest.encode())
    assert again == manifest and again.model_id == manifest.model_id == Digest.of(manifest.encode())
    assert again.bytes_total == sum(file.size for file in again.files)


@pytest.mark.slow
@given(layouts())
def test_the_encoding_is_json_with_sorted_keys_and_no_white_space(layout):
    encoded = layout.manifest.encode()
    plain = json.dumps(json.loads(encoded), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert plain.encode() == encoded


@settings(max_examples=30)
@given(layouts(), st.data())
def test_a_manifest_with_one_bit_changed_is_refused_or_has_another_id(layout, data):
    encoded = bytearray(layout.manifest.encode())
    bit = data.draw(st.integers(0, 8 * len(encoded) - 1))
    encoded[bit >> 3] ^= 1 << (bit & 7)
    try:
        assert Manifest.decode(bytes(encoded)).model_id != layout.model_id
    except DecodeError:
        pass


@given(st.binary(max_size=300) | st.text(max_size=100).map(str.encode))
def test_any_bytes_are_no_manifest_but_a_decode_error(encoded):
    with pytest.raises(DecodeError):
        Manifest.decode(encoded)


GOLDEN = (
    b'{"chunker":"tensor-1","files":[{"blake3":"af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",'
    b'"chunk_list":"af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262","chunks":0,"path":"empty",'
    b'"sha256":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0}],'
    b'"format":"p2pmodel-manifest-1"}'
)


def test_the_golden_manifest_keeps_its_bytes_and_its_id():
    manifest = Manifest.decode(GOLDEN)
    assert manifest.encode() == GOLDEN
    assert manifest.model_id.hex == "8753e3f6dd9e692b78415ff8fe769e80c058cf940c9ecadf9ec029f5b6f1b06e"


def wire(**changes):
    document = json.loads(GOLDEN)
    document["files"][0].update({key: value for key, value in changes.items() if key in document["files"][0]})
    document.update({key: value for key, value in changes.items() if key in ("format", "chunker", "files", "extra")})
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


@pytest.mark.parametrize(
    "changes",
    [
        {"size": -1}, {"size": 1}, {"size": 1 << 60, "chunks": 1}, {"chunks": 1}, {"chunks": -1}, {"chunks": 1 << 62},
        {"size": 1.5}, {"size": "0"}, {"size": True}, {"path": "../x"}, {"path": ""}, {"path": 1}, {"sha256": "00"},
        {"blake3": "A" * 64}, {"format": MANIFEST_FORMAT + "x"}, {"format": "p2pmodel-manifest-2"}, {"chunker": ""},
        {"chunker": "x" * 33}, {"chunker": "é"}, {"files": []}, {"files": {}}, {"extra": 1},
        {"files": json.loads(GOLDEN)["files"] * 2},
    ],
)  # fmt: skip
def test_a_manifest_that_breaks_a_rule_is_refused(changes):
    with pytest.raises(DecodeError):
        Manifest.decode(wire(**changes))


@pytest.mark.parametrize(
    "encoded",
    [
        GOLDEN + b"\n", b" " + GOLDEN, GOLDEN.replace(b":0", b":0.0"), GOLDEN.replace(b":0", b":-0"),
        GOLDEN.replace(b"empty", b"\\u0065mpty"), GOLDEN.replace(b'"chunks":0,', b'"chunks":0,"chunks":0,'), b"",
        b"null", b"[" * 100_000, b'{"a":' * 50_000, GOLDEN.replace(b"empty", b"\xff"),
    ],
)  # fmt: skip
def test_another_spelling_of_the_same_manifest_is_refused(encoded):
    with pytest.raises(DecodeError):
        Manifest.decode(encoded)


def test_files_out_of_order_or_clashing_are_refused():
    empty = ChunkList(b"")
    a, b, capital = entry("a", empty), entry("b", empty), entry("A", empty)
    assert Manifest.of([b, a]).files == (a, b)
    for files in ((b, a), (a, a), (capital, a)):
        with pytest.raises(DecodeError):
            Manifest(files)


@pytest.mark.slow
@given(layouts())
def test_a_layout_numbers_every_chunk_of_every_file_once(layout):
    places = list(layout)
    assert (
        len(places)
        == len(layout)
        == layout.manifest.chunk_count
        == len(layout.have_map().encode()) * 8 - (-len(layout) % 8)
    )
    for file_index, chunks in enumerate(layout.chunk_lists):
        span = layout.chunks_of(file_index)
        assert [(place.offset, place.length, place.digest) for place in places[span.start : span.stop]] == [
            (chunk.offset, chunk.length, chunk.digest) for chunk in chunks
        ]
        assert all(places[index].file_index == file_index and places[index].index == index for index in span)
        assert list(layout.have_map([file_index])) == list(span)
    assert layout.have_map() == HaveMap.full(len(layout))
    bits = layout.have_map().bits & (1 << 40) // 3
    assert layout.hashes(bits) == [layout[index].digest.raw for index in iter_bits(bits)]
    assert layout.hashes(layout.have_map().bits, 20) == [place.digest.raw[:20] for place in layout]
    assert [layout.length(place.index) for place in layout] == [place.length for place in layout]


@given(layouts(), st.data())
def test_the_chunks_that_hold_a_range_of_bytes_are_those_that_have_one_of_them(layout, data):
    file_index = data.draw(st.integers(0, len(layout.files) - 1))
    size = layout.files[file_index].size
    start = data.draw(st.integers(0, size + 2))
    stop = data.draw(st.integers(0, size + 2))
    held = [
        index
        for index in layout.chunks_of(file_index)
        if layout[index].offset < stop and start < layout[index].offset + layout[index].length and start < stop
    ]
    assert list(layout.chunks_holding(file_index, start, stop)) == held


@pytest.mark.slow
@given(layouts())
def test_a_layout_refuses_chunk_lists_that_the_manifest_does_not_name(layout):
    other = ChunkList.of([(Digest.of(b"other"), 1)])
    for index in range(len(layout.files)):
        lists_ = list(layout.chunk_lists)
        if lists_[index] == other:
            continue
        lists_[index] = other
        with pytest.raises(DecodeError):
            Layout(layout.manifest, lists_)
    with pytest.raises(DecodeError):
        Layout(layout.manifest, layout.chunk_lists[:-1])


def test_a_chunk_list_of_the_right_hash_but_another_size_is_refused():
    chunks = ChunkList.of([(Digest.of(b"x"), 5)])
    wrong = replace(entry("a", chunks), size=6)
    with pytest.raises(DecodeError):
        Layout(Manifest.of([wrong]), [chunks])
