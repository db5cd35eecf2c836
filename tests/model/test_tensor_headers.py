"""The header parsers: right answers for right files however the bytes arrive, `DecodeError` for everything else."""

from __future__ import annotations

import json
import struct
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from p2pmodel.errors import DecodeError
from p2pmodel.limits import TENSOR_HEADER_BYTES_MAX, TENSORS_MAX
from p2pmodel.model.gguf import parse_gguf
from p2pmodel.model.safetensors import parse_safetensors
from p2pmodel.model.tensors import NeedBytes, TensorHeader

PARSERS = [parse_safetensors, parse_gguf]
shapes = st.dictionaries(st.text(max_size=8), st.binary(max_size=100), min_size=1, max_size=6)
relaxed = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)


def feed(parse, content: bytes) -> TensorHeader:
    """Give the parser what it asks for, and check that it never asks for what it has or cannot get."""
    given_bytes = 0
    while isinstance(answer := parse(content[:given_bytes], len(content)), NeedBytes):
        assert given_bytes < answer.prefix_bytes <= len(content)
        given_bytes = answer.prefix_bytes
    return answer


@relaxed
@given(tensors=shapes, metadata=st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3))
def test_safetensors_spans_hold_exactly_the_tensors(make_safetensors, tensors, metadata):
    tensors.pop("__metadata__", None)
    content = make_safetensors(tensors, metadata)
    header = feed(parse_safetensors, content)
    found = {span.name: content[span.offset : span.offset + span.length] for span in header.tensors}
    assert found == tensors and header.metadata == metadata
    assert header.length + sum(span.length for span in header.tensors) == len(content)


@relaxed
@given(tensors=shapes, alignment=st.sampled_from([1, 8, 32, 64]), version=st.sampled_from([2, 3]))
def test_gguf_spans_begin_with_the_tensors_and_run_to_the_next(make_gguf, tensors, alignment, version):
    content = make_gguf(tensors, alignment=alignment, version=version)
    header = feed(parse_gguf, content)
    end = header.length
    for span in header.tensors:
        assert span.offset == end
        end += span.length
    assert end == len(content)
    by_name = {span.name: content[span.offset : span.offset + len(tensors[span.name])] for span in header.tensors}
    assert by_name == tensors


def test_gguf_metadata_of_every_type_is_skipped(make_gguf):
    text = struct.pack("<I", 8) + struct.pack("<Q", 3) + b"abc"
    nested = struct.pack("<IIQ", 9, 9, 2) + 2 * (struct.pack("<IQ", 8, 2) + 2 * (struct.pack("<Q", 1) + b"x"))
    metadata = {
        **{f"fixed{kind}": struct.pack("<I", kind) + bytes(size) for kind, size in [(0, 1), (3, 2), (6, 4), (12, 8)]},
        "text": text,
        "numbers": struct.pack("<IIQ", 9, 5, 1000) + bytes(4000),
        "words": struct.pack("<IIQ", 9, 8, 3) + 3 * (struct.pack("<Q", 2) + b"ab"),
        "nested": nested,
        "empty": struct.pack("<IIQ", 9, 8, 0),
    }
    header = feed(parse_gguf, make_gguf({"t": b"data"}, metadata=metadata))
    assert [span.name for span in header.tensors] == ["t"]


@relaxed
@given(tensors=shapes, data=st.data())
@pytest.mark.parametrize("parse", PARSERS)
def test_a_damaged_header_parses_or_is_a_decode_error(make_safetensors, make_gguf, parse, tensors, data):
    tensors.pop("__metadata__", None)
    content = bytearray((make_safetensors if parse is parse_safetensors else make_gguf)(tensors))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, min(len(content), 200) - 1))] = data.draw(st.integers(0, 255))
    try:
        header = feed(parse, bytes(content))
    except DecodeError:
        return
    assert header.length + sum(span.length for span in header.tensors) == len(content)


@given(content=st.binary(max_size=200))
@pytest.mark.parametrize("parse", PARSERS)
def test_any_bytes_parse_or_are_a_decode_error(parse, content):
    for start in (b"", b"GGUF\x03\0\0\0", b"\x20\0\0\0\0\0\0\0{"):
        try:
            feed(parse, start + content)
        except DecodeError:
            pass


def header_of(document: object, data_bytes: int) -> bytes:
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    return struct.pack("<Q", len(text)) + text + bytes(data_bytes)


def one(begin: object, end: object) -> dict[str, object]:
    return {"dtype": "F32", "shape": [1], "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    "content",
    [
        b"", bytes(7), struct.pack("<Q", 1 << 63), struct.pack("<Q", TENSOR_HEADER_BYTES_MAX), header_of([], 0),
        header_of({"a": one(0, 4)}, 5), header_of({"a": one(0, 4)}, 3), header_of({"a": one(1, 4)}, 4),
        header_of({"a": one(0, 4), "b": one(2, 6)}, 6), header_of({"a": one(0, 4), "b": one(5, 6)}, 6),
        header_of({"a": one(4, 0)}, 0), header_of({"a": one(-4, 0)}, 0), header_of({"a": one(0, 1 << 70)}, 4),
        header_of({"a": one(0, 4.5)}, 4), header_of({"a": one("0", 4)}, 4), header_of({"a": {}}, 0),
        header_of({"a": 1}, 0), header_of({"__metadata__": {"a": 1}}, 0), header_of(b"[" * 100_000, 0),
        header_of(b'{"a":' * 100_000, 0), header_of(b"\xff\xfe", 0), header_of(b"{", 0), header_of({}, 1),
    ],
)  # fmt: skip
def test_what_is_no_safetensors_file_is_a_decode_error(content):
    with pytest.raises(DecodeError):
        feed(parse_safetensors, content)


def gguf_head(tensors: int, pairs: int, rest: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, pairs) + rest


def pair(key: bytes, value: bytes) -> bytes:
    return struct.pack("<Q", len(key)) + key + value


@pytest.mark.parametrize(
    "content",
    [
        b"", b"GGUX" + bytes(100), b"GGUF" + bytes(100), gguf_head(0, 0, bytes(100)), gguf_head(1 << 62, 0, bytes(100)),
        gguf_head(TENSORS_MAX + 1, 0, bytes(100)), gguf_head(0, 1 << 62, bytes(100)), gguf_head(1, 0, b"\xff" * 100),
        gguf_head(1, 1, pair(b"k", struct.pack("<I", 99)) + bytes(100)),
        gguf_head(1, 1, pair(b"k", struct.pack("<IIQ", 9, 8, 1 << 61)) + bytes(100)),
        gguf_head(1, 1, pair(b"k", struct.pack("<IIQ", 9, 0, 1 << 61)) + bytes(100)),
        gguf_head(1, 1, pair(b"k", struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 8) + bytes(100)),
        gguf_head(1, 1, pair(b"general.alignment", struct.pack("<II", 4, 0)) + bytes(100)),
        gguf_head(1, 1, pair(b"general.alignment", struct.pack("<II", 4, 3)) + bytes(100)),
        gguf_head(1, 1, pair(b"general.alignment", struct.pack("<II", 4, 1 << 31)) + bytes(100)),
        gguf_head(1, 0, struct.pack("<QIIQ", 0, 9, 0, 0) + bytes(100)),
        gguf_head(1, 0, struct.pack("<QIQIQ", 0, 1, 4, 0, 32) + bytes(100)),
        gguf_head(1, 0, struct.pack("<QIQIQ", 0, 1, 4, 0, 1 << 63) + bytes(100)),
    ],
)  # fmt: skip
def test_what_is_no_gguf_file_that_we_know_is_a_decode_error(content):
    with pytest.raises(DecodeError):
        feed(parse_gguf, content)


@pytest.mark.slow
def test_a_large_vocabulary_is_skipped_in_time_linear_in_its_bytes(make_gguf):
    def seconds(words: int) -> float:
        vocabulary = struct.pack("<IIQ", 9, 8, words) + words * (struct.pack("<Q", 6) + b"abcdef")
        content = make_gguf({"t": b"x"}, metadata={"words": vocabulary})
        start = time.process_time()
        assert len(feed(parse_gguf, content).tensors) == 1
        return time.process_time() - start

    assert min(seconds(200_000) for _ in range(3)) <= 25 * min(seconds(20_000) for _ in range(3)) + 0.05
