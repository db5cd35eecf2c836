"""Listens on every simulated connection: what an honest peer says it has must be on its disk, what it sends be right.

A chunk is looked up on the disk when a peer tells of it for the first time, and again now and then.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from p2pmodel.errors import CorruptChunkError, DecodeError
from p2pmodel.model import Bundle, Digest, HaveMap, ModelId
from p2pmodel.model.have_map import iter_bits
from p2pmodel.swarm import wire
from p2pmodel.testing.channel import SimChannel
from p2pmodel.testing.loop import Process
from p2pmodel.testing.promises import chunk_on_disk

if TYPE_CHECKING:
    from p2pmodel.testing.peers import SimPeer

_AGAIN = 64
"""One in so many tellings of a chunk that was looked up before is looked up again."""
_HAVE_MAP, _HAVE, _REQUEST_CHUNK, _REQUEST_OBJECT, _REQUEST_CHUNKS = 3, 5, 6, 7, 18
"""Tags of `swarm.wire`: the second byte of a message."""


class WireWatch:
    """Fills `internet.Watch`. `peer_of` names the peer that a process belongs to, None for one that is not watched."""

    def __init__(
        self, seed: int, peer_of: Callable[[Process], SimPeer | None], fail: Callable[[str, SimPeer], None]
    ) -> None:
        self.chunks_checked = 0
        """Chunks that a peer told of, looked up on its disk."""
        self.answers_checked = 0
        self._peer_of = peer_of
        self._fail = fail
        self._rng = Random(f"{seed} watch")
        self._seen: dict[int, dict[ModelId, int]] = {}
        """By number of the peer: chunks that were found on its disk."""
        self._asked: WeakKeyDictionary[SimChannel, dict[int, tuple[Digest, bool]]] = WeakKeyDictionary()
        """By the end that is asked: the hash that each request names, and whether chunk lists may come behind it."""

    def forget(self, peer: SimPeer) -> None:
        """After a crash nothing that was on the disk needs to be there."""
        self._seen.pop(peer.number, None)

    # --- as the internet calls it ------------------------------------------------------------------------------------

    def message(self, channel: SimChannel, message: bytes) -> None:
        """`channel` is the end that sends."""
        tag = message[1] if len(message) > 1 else 0
        if tag not in (_HAVE_MAP, _HAVE, _REQUEST_CHUNK, _REQUEST_OBJECT, _REQUEST_CHUNKS):
            return
        try:
            said = wire.decode(message)
        except DecodeError:
            return  # a hostile peer's
        if isinstance(said, wire.RequestChunk | wire.RequestObject | wire.RequestChunks):
            asked = self._asked.setdefault(channel.other, {})
            for one in said.each() if isinstance(said, wire.RequestChunks) else [said]:
                bundled = isinstance(one, wire.RequestObject) and one.lists_bytes > 0
                asked[one.request] = Digest(one.digest), bundled
            return
        peer = self._peer_of(channel.process)
        if peer is None or not peer.alive or not peer.honest:
            return
        if isinstance(said, wire.HaveMapOf):
            self._told(peer, ModelId(Digest(said.model)), HaveMap.decode(said.count, said.bits).bits)
        elif isinstance(said, wire.Have):
            bits = HaveMap.of(max(said.chunks) + 1, said.chunks).bits
            self._told(peer, ModelId(Digest(said.model)), bits)

    def answer(self, channel: SimChannel, request_id: int, data: memoryview) -> None:
        """`channel` is the end that sends."""
        asked = self._asked.get(channel, {}).pop(request_id, None)
        peer = self._peer_of(channel.process)
        if asked is None or peer is None or not peer.alive or not peer.honest:
            return
        self.answers_checked += 1
        digest, bundled = asked
        if not (_is_bundle(data, digest) if bundled else digest.is_of(data)):
            self._fail(f"it sent bytes that do not have the hash {digest.hex[:16]}... which was asked for", peer)

    # --- inside ------------------------------------------------------------------------------------------------------

    def _told(self, peer: SimPeer, model_id: ModelId, bits: int) -> None:
        seen = self._seen.setdefault(peer.number, {})
        known = seen.get(model_id, 0)
        again = bits & known
        looked_up = bits & ~known
        if again and self._rng.randrange(_AGAIN) == 0:
            looked_up |= 1 << self._rng.choice(list(iter_bits(again)))
        for index in iter_bits(looked_up):
            self.chunks_checked += 1
            if not chunk_on_disk(peer.peer.store, peer.disk, model_id, index):
                which = f"chunk {index} of {model_id.hex[:16]}..."
                self._fail(f"it tells that it has {which}, which is not on its disk", peer)
                return
        seen[model_id] = known | bits


def _is_bundle(data: memoryview, digest: Digest) -> bool:
    try:
        Bundle.decode(data, digest)
    except CorruptChunkError:
        return False
    return True
