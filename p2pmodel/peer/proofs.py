"""Files of which this peer has itself computed the SHA-256, and in which models they lie.

What a manifest says of a SHA-256 is its publisher's word. It counts here once the bytes were hashed; that is remembered
over a restart, because to hash a shelf of models again takes minutes.
"""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from p2pmodel.errors import DecodeError, P2PModelError
from p2pmodel.limits import PROOFS_BYTES_MAX, PROOFS_MAX
from p2pmodel.model import Digest, Layout, ModelId, Sha256
from p2pmodel.peer.coalescing import Coalesced

if TYPE_CHECKING:
    from p2pmodel.peer.peer import Peer

log = logging.getLogger(__name__)

PROOFS_NAME = "proven.json"


class Proofs:
    """Of one peer, in `directory`."""

    def __init__(self, directory: Path, peer: Peer) -> None:
        self._path, self._peer = directory / PROOFS_NAME, peer
        self._known: OrderedDict[Sha256, tuple[ModelId, int]] = OrderedDict()
        self._refuted: dict[tuple[ModelId, int], None] = {}
        """Files that are not what their manifests say."""
        self._hashing: Coalesced[tuple[ModelId, int], bytes] = Coalesced()
        self._loaded = False

    async def close(self) -> None:
        await self._hashing.close()

    async def held(self, sha256: Sha256) -> tuple[Layout, int] | None:
        """The model, and the file's number in it, where the file is here, whole, and proven: now, if need be.

        Raises `P2PModelError` where the disk fails.
        """
        store, offload = self._peer.store, self._peer.network.offload
        await self._load()
        for model_id, index in await offload(store.models_with_file, sha256):
            layout, have = await offload(store.layout, model_id), await offload(store.have_map, model_id)
            if layout is None or have is None or layout.have_map([index]).bits & ~have.bits:
                continue
            if self._known.get(sha256) == (model_id, index) or await self.prove(sha256, layout, index):
                return layout, index
        return None

    async def prove(self, sha256: Sha256, layout: Layout, index: int) -> bool:
        """Hash a file that is here, and remember it if it is the one. Raises `P2PModelError` where the disk fails."""
        place = layout.model_id, index
        if place in self._refuted or layout.files[index].sha256 != sha256:
            return False
        if await self._hashing.get(place, lambda: self._hash_off_loop(layout, index)) != sha256.raw:
            log.warning("the file %d of model %s has not the SHA-256 that its publisher names", index, layout.model_id)
            self._refuted[place] = None
            while len(self._refuted) > PROOFS_MAX:
                del self._refuted[next(iter(self._refuted))]
            return False
        await self.note(sha256, layout.model_id, index)
        return True

    async def _hash_off_loop(self, layout: Layout, index: int) -> bytes:
        return await self._peer.network.offload(self._hash, layout, index)

    def _hash(self, layout: Layout, index: int) -> bytes:
        hashed = hashlib.sha256()
        for chunk in layout.chunks_of(index):
            hashed.update(read_chunk(self._peer, layout, chunk))
        return hashed.digest()

    async def note(self, sha256: Sha256, model_id: ModelId, index: int) -> None:
        """These bytes were hashed."""
        await self._load()
        self._known[sha256] = model_id, index
        self._known.move_to_end(sha256)
        while len(self._known) > PROOFS_MAX:
            self._known.popitem(last=False)
        told = {known.hex: (place[0].hex, place[1]) for known, place in self._known.items()}
        try:
            await self._peer.network.offload(self._peer.files.write_small, self._path, msgspec.json.encode(told))
        except P2PModelError as error:
            log.warning("%s", error)  # it is hashed again after a restart

    async def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        try:
            content = await self._peer.network.offload(self._peer.files.read_small, self._path, PROOFS_BYTES_MAX)
            told = msgspec.json.decode(content or b"{}", type=dict[str, tuple[str, int]])
            for sha256, (model_id, index) in told.items():
                place = ModelId(Digest.from_hex(model_id)), index
                self._known.setdefault(Sha256.from_hex(sha256), place)
        except (P2PModelError, DecodeError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            log.warning("%s is of no use: %s", self._path, error)


def read_chunk(peer: Peer, layout: Layout, index: int) -> bytes:
    """A chunk that is here, checked in the memory from which it leaves. Raises `P2PModelError`."""
    source = peer.store.chunk(layout[index].digest, (layout.model_id, index))
    if source is None:
        raise P2PModelError("a chunk was let go of while it was being read")
    try:
        block = bytearray(source.length)
        if not source.open():
            raise P2PModelError("a file changed while it was being read")
        source.read_into(memoryview(block), 0)
        return bytes(block)
    finally:
        source.release()
