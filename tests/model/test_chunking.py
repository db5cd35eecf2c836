"""The rule `tensor-1`: chunks fill the file, stay below their limit, and depend on the tensors alone."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pmodel.errors import UsageError
from p2pmodel.limits import (
    CHUNK_BYTES,
    CHUNK_BYTES_LARGE,
    CHUNK_BYTES_MAX,
    CHUNKS_PER_FILE_MAX,
    FILE_BYTES_MAX,
    LARGE_FILE_BYTES,
    LARGE_TENSOR_BYTES,
    SMALL_TENSOR_BYTES,
    TENSOR_GROUP_BYTES,
)
from p2pmodel.model import Digest, PortablePath
from p2pmodel.model.chunking import chunk_lengths, header_parser
from p2pmodel.model.gguf import parse_gguf
from p2pmodel.model.safetensors import parse_safetensors
from p2pmodel.model.tensors import TensorHeader, TensorSpan

tensor_sizes = st.integers(0, 3 * CHUNK_BYTES) | st.integers(0, 2 * SMALL_TENSOR_BYTES) | st.integers(0, 100)
size_lists = st.lists(tensor_sizes, max_size=40)


def header(header_bytes: int, sizes: list[int]) -> TensorHeader:
    spans, offset = [], header_bytes
    for number, size in enumerate(sizes):
        spans.append(TensorSpan(str(number), "U8", (size,), offset, size))
        offset += size
    return TensorHeader(header_bytes, tuple(spans), {})


@given(st.integers(8, 3 * CHUNK_BYTES), size_lists)
def test_chunks_of_a_tensor_file_are_positive_short_and_fill_it(header_bytes, sizes):
    lengths = chunk_lengths(header_bytes + sum(sizes), header(header_bytes, sizes))
    assert sum(lengths) == header_bytes + sum(sizes)
    assert all(0 < length <= CHUNK_BYTES <= CHUNK_BYTES_MAX for length in lengths)


@given(st.integers(8, CHUNK_BYTES), size_lists)
def test_a_chunk_begins_at_the_end_of_the_header_and_at_every_large_tensor(header_bytes, sizes):
    made = header(header_bytes, sizes)
    starts, end = set(), 0
    for length in chunk_lengths(header_bytes + sum(sizes), made):
        starts.add(end)
        end += length
    assert not sizes or sum(sizes) == 0 or header_bytes in starts
    assert all(span.offset in starts for span in made.tensors if span.length >= SMALL_TENSOR_BYTES)


@given(st.integers(8, CHUNK_BYTES), st.integers(8, CHUNK_BYTES), size_lists, size_lists)
def test_the_chunks_of_a_large_tensor_are_the_same_wherever_it_lies(one, other, before, after):
    big = [2 * CHUNK_BYTES + 7, SMALL_TENSOR_BYTES]
    alone = list(chunk_lengths(one + sum(big), header(one, big)))[1:]
    assert alone == [CHUNK_BYTES, CHUNK_BYTES, 7, SMALL_TENSOR_BYTES]
    sizes = [*before, *big, *after]
    lengths = list(chunk_lengths(other + sum(sizes), header(other, sizes)))
    assert any(lengths[at : at + len(alone)] == alone for at in range(len(lengths)))


@given(st.integers(0, 20 * CHUNK_BYTES))
def test_a_plain_file_is_cut_at_a_fixed_length(size):
    lengths = list(chunk_lengths(size))
    assert sum(lengths) == size and all(lengths)
    assert all(length == CHUNK_BYTES for length in lengths[:-1])


def test_a_very_large_file_gets_longer_chunks():
    assert set(chunk_lengths(LARGE_FILE_BYTES)) == {CHUNK_BYTES}
    assert set(chunk_lengths(LARGE_FILE_BYTES + CHUNK_BYTES_LARGE)) == {CHUNK_BYTES_LARGE}


@pytest.mark.slow
def test_a_file_of_too_many_chunks_is_refused_and_one_of_too_many_tensors_cut_at_a_fixed_length():
    with pytest.raises(UsageError):
        chunk_lengths(FILE_BYTES_MAX)
    sizes = [SMALL_TENSOR_BYTES] * (CHUNKS_PER_FILE_MAX + 1)
    size = 8 + sum(sizes)
    assert set(chunk_lengths(size, header(8, sizes))) == {CHUNK_BYTES_LARGE, size % CHUNK_BYTES_LARGE}


def named(header_bytes: int, sizes: dict[str, int]) -> TensorHeader:
    spans, offset = [], header_bytes
    for name, size in sizes.items():
        spans.append(TensorSpan(name, "U8", (size,), offset, size))
        offset += size
    return TensorHeader(header_bytes, tuple(spans), {})


def test_small_tensors_are_gathered_but_never_across_a_large_one():
    sizes = [10, 20, SMALL_TENSOR_BYTES, 30, 40]
    assert list(chunk_lengths(8 + sum(sizes), header(8, sizes))) == [8, 30, SMALL_TENSOR_BYTES, 70]


def test_small_tensors_share_chunks_of_a_quarter_of_a_mebibyte_on_the_average_and_none_is_longer_than_one():
    for size in (100, 8_192, SMALL_TENSOR_BYTES - 1):
        sizes = {f"layers.{number}.norm": size for number in range(64 * TENSOR_GROUP_BYTES // size)}
        lengths = list(chunk_lengths(8 + sum(sizes.values()), named(8, sizes)))[1:]
        assert sum(lengths) == sum(sizes.values()) and max(lengths) <= CHUNK_BYTES
        assert TENSOR_GROUP_BYTES // 2 < sum(lengths) / len(lengths) < 2 * TENSOR_GROUP_BYTES


def test_a_small_tensor_that_is_new_gone_or_grown_spoils_the_chunk_that_it_is_in_and_no_other():
    sizes = {f"layers.{number}.norm": 8_192 for number in range(1_000)}
    for changed in (
        {**{f"layers.{number}.first": 8_192 for number in range(3)}, **sizes},
        {name: size for name, size in sizes.items() if name != "layers.500.norm"},
        {**sizes, "layers.500.norm": 9_000},
    ):
        before, after = (set(groups(tensors)) for tensors in (sizes, changed))
        assert len(before - after) <= 2 and len(after - before) <= 3 and len(before) > 20


def groups(sizes: dict[str, int]) -> list[tuple[str, ...]]:
    """The names of the small tensors that stand in one chunk, chunk by chunk."""
    made, names = named(8, sizes), iter(sizes.items())
    found = []
    for length in list(chunk_lengths(8 + sum(sizes.values()), made))[1:]:
        group, room = [], length
        while room:
            name, size = next(names)
            group.append(name)
            room -= size
        found.append(tuple(group))
    return found


def test_the_chunks_of_a_very_large_tensor_are_the_same_in_one_file_and_in_a_shard_of_it():
    big = LARGE_TENSOR_BYTES + 5
    shard = list(chunk_lengths(8 + big, header(8, [big])))
    whole = list(chunk_lengths(8 + 80 * big, header(8, [big] * 80)))
    assert shard == [8, *[CHUNK_BYTES_LARGE] * 64, 5] and whole == [8, *shard[1:] * 80]
    assert 8 + big < LARGE_FILE_BYTES < 8 + 80 * big


@pytest.mark.parametrize(
    ("name", "parser"),
    [("a.safetensors", parse_safetensors), ("x/B.SAFETENSORS", parse_safetensors), ("m.gguf", parse_gguf),
     ("model.safetensors.index.json", None), ("safetensors", None), ("gguf", None), ("a.bin", None)],
)  # fmt: skip
def test_the_parser_is_chosen_by_the_end_of_the_name(name, parser):
    assert header_parser(PortablePath(name)) is parser


# --- how much of a changed model is held already: the cases of a synthetic network of ten layers

LAYERS, WIDTH = 10, 128 * 1024


def model(seed: int = 1, rows: int = 40) -> dict[str, bytes]:
    """A tenth of the bytes in the embedding and the head each; attention and feed-forward as large as in real ones."""
    dice = random.Random(seed)
    tensors = {"embed": dice.randbytes(rows * WIDTH // 4)}
    for layer in range(LAYERS):
        for part, scale in (("q", 1), ("k", 1), ("v", 1), ("o", 1), ("up", 4), ("gate", 4), ("down", 4)):
            tensors[f"layers.{layer}.{part}"] = dice.randbytes(scale * WIDTH)
        tensors[f"layers.{layer}.norm"] = dice.randbytes(512)
    tensors["head"] = dice.randbytes(rows * WIDTH // 4)
    return tensors


def chunks_of(content: bytes, parse) -> dict[Digest, int]:
    chunks, at = {}, 0
    for length in chunk_lengths(len(content), parse(content, len(content))):
        chunks[Digest.of(content[at : at + length])] = length
        at += length
    return chunks


def percent_held(base: list[bytes], changed: list[bytes], parse) -> float:
    held = {digest for content in base for digest in chunks_of(content, parse)}
    wanted = {digest: length for content in changed for digest, length in chunks_of(content, parse).items()}
    return 100 * sum(length for digest, length in wanted.items() if digest in held) / sum(wanted.values())


def replaced(tensors: dict[str, bytes], keys: list[str]) -> dict[str, bytes]:
    dice = random.Random(2)
    return {name: dice.randbytes(len(data)) if name in keys else data for name, data in tensors.items()}


def grown(tensors: dict[str, bytes], keys: list[str]) -> dict[str, bytes]:
    return {name: data + random.Random(3).randbytes(2048) if name in keys else data for name, data in tensors.items()}


@pytest.fixture(params=["safetensors", "gguf"])
def make(request, make_safetensors, make_gguf):
    """A maker of files with an adjustable header, and the parser that reads them."""
    if request.param == "safetensors":
        return lambda tensors, note="": make_safetensors(tensors, {"note": note}), parse_safetensors
    text = lambda note: {"note": b"\x08\0\0\0" + len(note).to_bytes(8, "little") + note.encode()}  # noqa: E731
    return lambda tensors, note="": make_gguf(tensors, metadata=text(note)), parse_gguf


@pytest.mark.slow
def test_frozen_layers_are_held(make):
    build, parse = make
    base = model()
    trained = [name for name in base if name == "head" or (name.startswith("layers.") and int(name.split(".")[1]) >= 5)]
    assert percent_held([build(base)], [build(replaced(base, trained), "fine-tuned " * 50)], parse) >= 49


@pytest.mark.slow
def test_all_but_the_merged_adapters_is_held(make):
    build, parse = make
    base = model()
    adapted = [name for name in base if name.endswith((".q", ".v"))]
    assert percent_held([build(base)], [build(replaced(base, adapted))], parse) >= 85


@pytest.mark.slow
def test_all_but_a_changed_header_is_held(make):
    build, parse = make
    assert percent_held([build(model())], [build(model(), "another description")], parse) >= 99


@pytest.mark.slow
def test_all_but_the_new_rows_of_a_vocabulary_is_held(make):
    build, parse = make
    assert percent_held([build(model(rows=1590))], [build(grown(model(rows=1590), ["embed", "head"]))], parse) >= 98


@pytest.mark.slow
def test_a_model_in_four_shards_is_held_by_one_in_a_single_file(make):
    build, parse = make
    items = list(model().items())
    quarter = -(-len(items) // 4)
    shards = [build(dict(items[at : at + quarter])) for at in range(0, len(items), quarter)]
    assert len(shards) == 4
    assert percent_held([build(dict(items))], shards, parse) >= 99
