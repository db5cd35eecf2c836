"""A manifest and, behind it, the chunk lists of its first files: one answer, so that a small model costs no second one.

Encoding: the manifest, the lists in the order of its files, and the manifest's length as 4 bytes, big-endian. The end
of a manifest is text, which as a length would be more than any answer may have; so a manifest alone is a bundle too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from p2pmodel.errors import CorruptChunkError, DecodeError
from p2pmodel.limits import BUNDLED_LISTS_BYTES_MAX, BUNDLED_LISTS_MAX, BUNDLED_MANIFEST_BYTES_MAX
from p2pmodel.model.chunk_list import ENTRY_BYTES
from p2pmodel.model.digest import Digest
from p2pmodel.model.manifest import FileEntry, Manifest

FOOTER_BYTES = 4


@dataclass(frozen=True, slots=True)
class Bundle:
    """`manifest` as it was sent; `lists` that came with it, by their hashes. All of them are what they should be."""

    manifest: bytes
    lists: Mapping[Digest, bytes]

    @classmethod
    def decode(cls, data: bytes | memoryview, digest: Digest) -> Bundle:
        """Raises `CorruptChunkError` where the manifest is not `digest`, or what stands behind it is not its lists."""
        view = memoryview(data)
        size = int.from_bytes(view[-FOOTER_BYTES:], "big")
        if size > len(view) - FOOTER_BYTES or not digest.is_of(view[:size]):
            if not digest.is_of(view):
                raise CorruptChunkError(f"the object {digest} came with other bytes")
            return cls(bytes(view), {})
        encoded, behind = bytes(view[:size]), view[size:-FOOTER_BYTES]
        if size > BUNDLED_MANIFEST_BYTES_MAX:
            raise CorruptChunkError("chunk lists behind a long manifest")
        try:
            return cls(encoded, _split(Manifest.decode(encoded), behind))
        except DecodeError as error:
            raise CorruptChunkError("chunk lists behind what is not a manifest") from error


def _split(manifest: Manifest, behind: memoryview) -> dict[Digest, bytes]:
    lists: dict[Digest, bytes] = {}
    for file in bundled(manifest, len(behind)):
        size = file.chunk_count * ENTRY_BYTES
        if len(behind) < size:
            break
        if not file.chunk_list.is_of(behind[:size]):
            raise CorruptChunkError(f"the chunk list {file.chunk_list} came with other bytes")
        lists[file.chunk_list], behind = bytes(behind[:size]), behind[size:]
    if behind:
        raise CorruptChunkError("more behind a manifest than its chunk lists")
    return lists


def bundled(manifest: Manifest, room_bytes: int) -> Iterator[FileEntry]:
    """The first files whose lists fit into `room_bytes`; equal lists and empty ones are not sent (again)."""
    room_bytes = min(room_bytes, BUNDLED_LISTS_BYTES_MAX)
    sent: set[Digest] = set()
    for file in manifest.files:
        if not file.chunk_count or file.chunk_list in sent:
            continue
        room_bytes -= file.chunk_count * ENTRY_BYTES
        if room_bytes < 0 or len(sent) == BUNDLED_LISTS_MAX:
            return
        sent.add(file.chunk_list)
        yield file


def encode_bundle(manifest: bytes, lists: list[bytes]) -> bytes:
    return b"".join([manifest, *lists, len(manifest).to_bytes(FOOTER_BYTES, "big")])
