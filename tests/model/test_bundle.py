"""A manifest with chunk lists behind it: what comes out is what the manifest names, whatever is sent."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pmodel.errors import CorruptChunkError
from p2pmodel.limits import BUNDLED_LISTS_BYTES_MAX, BUNDLED_LISTS_MAX
from p2pmodel.model import (
    Bundle,
    ChunkList,
    Digest,
    FileEntry,
    Manifest,
    PortablePath,
    Sha256,
    bundled,
    encode_bundle,
)


def chunk_list(number: int, count: int) -> ChunkList:
    return ChunkList.of((Digest.of(b"%d %d" % (number, index)), 1000) for index in range(count))


def model(*counts: int) -> tuple[Manifest, list[bytes]]:
    """A manifest with a file of so many chunks each, and their lists."""
    lists = [chunk_list(number, count) for number, count in enumerate(counts)]
    files = (
        FileEntry(
            path=PortablePath(f"{number:04}"),
            size=one.size,
            blake3=Digest.of(b""),
            sha256=Sha256(sha256(b"").digest()),
            chunk_count=len(one),
            chunk_list=one.digest,
        )
        for number, one in enumerate(lists)
    )
    return Manifest.of(files), [one.encoded for one in lists]


def test_what_is_packed_comes_out_by_its_hashes() -> None:
    manifest, lists = model(1, 0, 3)
    bundle = Bundle.decode(encode_bundle(manifest.encode(), [lists[0], lists[2]]), manifest.model_id)
    assert bundle.manifest == manifest.encode()
    assert bundle.lists == {Digest.of(lists[0]): lists[0], Digest.of(lists[2]): lists[2]}


def test_a_manifest_alone_is_a_bundle_without_lists_and_so_is_any_object_by_its_hash() -> None:
    manifest, _ = model(1)
    assert Bundle.decode(manifest.encode(), manifest.model_id).lists == {}
    odd = b"ends like a footer" + (5).to_bytes(4, "big")
    assert Bundle.decode(odd, Digest.of(odd)) == Bundle(odd, {})


def test_only_the_first_files_that_fit_are_bundled_and_equal_lists_once() -> None:
    manifest, lists = model(10, 10, 1)
    assert [file.path.text for file in bundled(manifest, len(lists[0]) + 5)] == ["0000"]
    assert list(bundled(manifest, 0)) == []
    same = Manifest.of(
        FileEntry(PortablePath(name), 1000, Digest.of(b""), Sha256(bytes(32)), 1, chunk_list(1, 1).digest)
        for name in ("a", "b")
    )
    assert len(list(bundled(same, 1 << 20))) == 1


def test_no_room_that_is_asked_for_is_more_than_the_limits() -> None:
    many, _ = model(*[1] * (BUNDLED_LISTS_MAX + 1))
    assert len(list(bundled(many, 1 << 30))) == BUNDLED_LISTS_MAX
    long, lists = model(BUNDLED_LISTS_BYTES_MAX // 36 - 1, 2)
    assert len(list(bundled(long, 1 << 30))) == 1
    assert len(lists[0]) < BUNDLED_LISTS_BYTES_MAX


@pytest.mark.parametrize(
    "forge",
    [
        lambda manifest, lists: encode_bundle(manifest, [lists[1], lists[0]]),
        lambda manifest, lists: encode_bundle(manifest, [lists[0] + b"more"]),
        lambda manifest, lists: encode_bundle(manifest, [lists[0][:-1]]),
        lambda manifest, lists: encode_bundle(manifest, [*lists, b"x"]),
        lambda manifest, lists: encode_bundle(manifest[:-1] + b"]", lists),
        lambda manifest, lists: encode_bundle(manifest, lists)[:-1],
        lambda manifest, lists: encode_bundle(manifest, lists)[:-4] + bytes(4),
        lambda manifest, lists: b"",
    ],
)
def test_anything_else_behind_a_manifest_is_the_senders_fault(forge) -> None:
    manifest, lists = model(2, 1)
    with pytest.raises(CorruptChunkError):
        Bundle.decode(forge(manifest.encode(), lists), manifest.model_id)


def test_lists_behind_what_is_not_a_manifest_are_the_senders_fault() -> None:
    with pytest.raises(CorruptChunkError):
        Bundle.decode(encode_bundle(b"{}", [b"x"]), Digest.of(b"{}"))


@given(st.binary(max_size=200), st.integers(0, 2000))
def test_no_bytes_behind_a_manifest_make_anything_else_of_it(behind: bytes, at: int) -> None:
    manifest, lists = model(2, 1)
    whole = encode_bundle(manifest.encode(), lists)
    at = min(at, len(whole))
    try:
        bundle = Bundle.decode(whole[:at] + behind, manifest.model_id)
    except CorruptChunkError:
        return
    assert bundle.manifest == manifest.encode()
    assert all(Digest.of(encoded) == digest for digest, encoded in bundle.lists.items())
