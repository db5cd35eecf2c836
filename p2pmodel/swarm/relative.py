"""A model that shares chunks with the one that is being pulled: who holds parts of it holds parts of ours.

A peer that has only the base model knows nothing of the id of a fine-tune. But it tells, as to anybody, which chunks of
the base it holds, now and as they come; here that is read as what it holds of the fine-tune.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain

from p2pmodel.errors import P2PModelError, ProtocolError
from p2pmodel.model import HaveMap, Layout, ModelId, PublicKey
from p2pmodel.model.chunk_list import ENTRY_BYTES
from p2pmodel.model.have_map import iter_bits
from p2pmodel.net import Address
from p2pmodel.swarm.download import Download
from p2pmodel.swarm.link import Link

OnPeers = Callable[[Sequence[tuple[PublicKey, Address]]], None]


def shared_chunks(ours: Layout, theirs: Layout) -> dict[int, tuple[int, ...]]:
    """For each chunk of `theirs` that stands in `ours` as well, its numbers there. A microsecond for each of theirs."""
    places: dict[bytes, tuple[int, ...]] = {}
    index = 0
    for chunks in ours.chunk_lists:
        for at in range(0, len(chunks.encoded), ENTRY_BYTES):
            entry = chunks.encoded[at : at + ENTRY_BYTES]
            places[entry] = (*places.get(entry, ()), index)
            index += 1
    found: dict[int, tuple[int, ...]] = {}
    index = 0
    for chunks in theirs.chunk_lists:
        for at in range(0, len(chunks.encoded), ENTRY_BYTES):
            if same := places.get(chunks.encoded[at : at + ENTRY_BYTES]):
                found[index] = same
            index += 1
    return found


class Relative:
    """One such model. Fills `following.Listening`: `follow` it on a link, `leave` all of them in the end."""

    def __init__(
        self, model_id: ModelId, count: int, shared: dict[int, tuple[int, ...]], download: Download, on_peers: OnPeers
    ) -> None:
        """`count` chunks has the other model; `shared` is of `shared_chunks`; `on_peers` hears who else follows it."""
        self.model_id = model_id
        self.background = download.background
        self._count, self._shared, self._download, self._on_peers = count, shared, download, on_peers
        self._theirs = HaveMap.of(count, shared).bits
        self.bits = HaveMap.of(len(download.layout), chain.from_iterable(shared.values())).bits
        """The chunks of ours that stand in it."""
        self._links: dict[Link, int] = {}
        """Where it is followed, with what of it the peer was known to hold when it last spoke."""

    def follow(self, link: Link) -> None:
        """Take from this peer what it holds of the other model."""
        if link in self._links or link.peer in self._download.banned:
            return
        self._links[link] = 0
        self._download.add_link(link)
        if self.model_id in link.followers:  # the other model is being pulled too, and its download hears the peer
            if (held := link.held.get(self.model_id)) is not None:
                self.link_has(link, held, held.bits)
            return
        link.follow(self.model_id, self)

    def leave(self) -> None:
        for link in self._links:
            if link.followers.get(self.model_id) is self:
                link.unfollow(self.model_id)
        self._links.clear()

    # --- following.Listening -------------------------------------------------------------------------------------

    def link_has(self, link: Link, held: HaveMap, new: int) -> None:
        if held.count != self._count:
            raise ProtocolError(f"a have-map of {held.count} chunks for a model of {self._count}")
        known = self._links.get(link, 0)
        self._links[link] = held.bits
        if useful := new & ~known & self._theirs:
            ours = chain.from_iterable(self._shared[index] for index in iter_bits(useful))
            self._download.offer(link, HaveMap.of(len(self._download.layout), ours).bits)

    def link_lost(self, link: Link, bits: int) -> None:
        """As with what is unknown."""

    def link_unknown(self, link: Link) -> None:
        """What it was known to hold it may hold all the same, in another model; it says so when it is asked."""

    def link_peers(self, link: Link, peers: Sequence[tuple[PublicKey, Address]]) -> None:
        self._on_peers(peers)

    def link_closed(self, link: Link, reason: P2PModelError) -> None:
        self._links.pop(link, None)
