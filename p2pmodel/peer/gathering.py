"""Peers that gather one file which nobody has published: what each has of it, and its parts from one to another.

To each other they are followers of a model that does not exist: its id is made of the file's SHA-256 and size
(`model.parts`), its chunks are the parts, and what says who holds which and asks for them are the messages of any
download. What differs: a part is asked for by its number, because nobody can know its hash, and that it is right only
the whole will show (`draft.py`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from random import Random

from p2pmodel.errors import P2PModelError, ProtocolError
from p2pmodel.limits import GATHERING_MEMBERS_MAX, PART_BYTES_MAX, PART_DEADLINE_S, PARTS_ASKED_PER_PEER
from p2pmodel.model import Digest, HaveMap, ModelId, PublicKey
from p2pmodel.model.have_map import bits_of, iter_bits
from p2pmodel.net import Address, Clock
from p2pmodel.peer.draft import Draft
from p2pmodel.peer.leases import Leases
from p2pmodel.swarm import Link
from p2pmodel.swarm.requests import ChunkRequest

log = logging.getLogger(__name__)

_AMONG = 16
"""The next parts of which one is drawn: those who read along want the first ones, and not all of them the same."""


@dataclass(slots=True)
class _Sink:
    """Writes one part in a thread."""

    draft: Draft
    index: int
    digest: Digest | None = None

    def consume(self, data: memoryview) -> None:
        self.digest = self.draft.write(self.index, data)


@dataclass(slots=True)
class _Member:
    link: Link
    held: int = 0
    asked: dict[int, int] = field(default_factory=dict)
    """Request ids by part."""


class Gathering:
    """Fills `swarm.Listening`. `position` is the part that somebody waits for."""

    background = False

    def __init__(self, draft: Draft, leases: Leases, *, clock: Clock, rng: Random) -> None:
        self.draft, self.leases = draft, leases
        self.model_id = draft.parts.gathering_id
        self.position = 0
        self.coming = 0
        """Parts that are being read from the origin, as bits: they need not be asked of anybody."""
        self.bytes_from_peers = 0
        self.on_news: Callable[[], None] = lambda: None
        self.on_peers: Callable[[Sequence[tuple[PublicKey, Address]]], None] = lambda peers: None
        self._members: dict[PublicKey, _Member] = {}
        self._banned: set[PublicKey] = set()
        self._clock, self._rng = clock, rng
        draft.on_liar = self.ban
        at_once = max(PARTS_ASKED_PER_PEER, min(64, PART_BYTES_MAX // draft.parts.part_bytes))
        self._asked_max = at_once

    @property
    def held(self) -> int:
        """Parts that some member says it has, as bits."""
        bits = 0
        for member in self._members.values():
            bits |= member.held
        return bits

    @property
    def links(self) -> list[Link]:
        return [member.link for member in self._members.values()]

    def add_link(self, link: Link) -> None:
        """Somebody gathers the file as well."""
        if link.peer in self._banned or link.peer in self._members or len(self._members) >= GATHERING_MEMBERS_MAX:
            return
        self._members[link.peer] = _Member(link)
        self.leases.joined(link.peer.raw, self._clock.monotonic())
        link.follow(self.model_id, self)

    def ban(self, peer: PublicKey) -> None:
        self._banned.add(peer)
        if (member := self._members.pop(peer, None)) is not None:
            self._leave(member)
            self.leases.left(peer.raw)

    def leave(self) -> None:
        """Nothing more is wanted of anybody."""
        members, self._members = self._members, {}
        for member in members.values():
            self._leave(member)

    def _leave(self, member: _Member) -> None:
        for request_id in member.asked.values():
            member.link.questions.cancel(request_id)
        member.link.unfollow(self.model_id)

    # --- swarm.Listening

    def link_has(self, link: Link, held: HaveMap, new: int) -> None:
        member = self._members.get(link.peer)
        if held.count != self.draft.parts.count:
            raise ProtocolError(f"{held.count} parts of a file that has {self.draft.parts.count}")
        if member is None or member.link is not link:
            return
        self.leases.heard(link.peer.raw, (held.bits & ~member.held).bit_count(), self._clock.monotonic())
        member.held = held.bits
        self.fill(link)
        self.on_news()

    def link_lost(self, link: Link, bits: int) -> None:
        if (member := self._members.get(link.peer)) is not None:
            member.held &= ~bits

    def link_unknown(self, link: Link) -> None:
        if (member := self._members.get(link.peer)) is not None:
            member.held = 0

    def link_closed(self, link: Link, reason: P2PModelError) -> None:
        member = self._members.get(link.peer)
        if member is not None and member.link is link:
            del self._members[link.peer]
            self.leases.left(link.peer.raw)
            self.on_news()

    def link_peers(self, link: Link, peers: Sequence[tuple[PublicKey, Address]]) -> None:
        self.on_peers(peers)

    # --- asking

    def fill_all(self) -> None:
        for link in self.links:
            self.fill(link)

    def fill(self, link: Link) -> None:
        """Ask this member for what it has and nobody else was asked for."""
        member, draft = self._members.get(link.peer), self.draft
        if member is None or draft.distrusted:
            return
        asked = bits_of([index for one in self._members.values() for index in one.asked])
        wanted = member.held & draft.missing & ~asked & ~self.coming
        while wanted and len(member.asked) < self._asked_max and link.may_ask:
            index = self._draw(wanted)
            wanted ^= 1 << index
            self._ask(member, index)

    def _draw(self, bits: int) -> int:
        ahead = list(islice(iter_bits(bits >> self.position), _AMONG))
        if ahead:
            return self._rng.choice(ahead) + self.position
        return next(iter_bits(bits))

    def _ask(self, member: _Member, index: int) -> None:
        sink, parts, link = _Sink(self.draft, index), self.draft.parts, member.link
        start, end = parts.span(index)
        request = ChunkRequest(end - start, sink, lambda error: self._settled(member, index, sink, error))
        member.asked[index] = link.questions.chunk(self.model_id, index, parts.key(index), request)
        asyncio.get_running_loop().call_later(PART_DEADLINE_S, self._expire, member, index, member.asked[index])

    def _settled(self, member: _Member, index: int, sink: _Sink, error: P2PModelError | None) -> None:
        member.asked.pop(index, None)
        if error is None and sink.digest is not None and self.draft.is_missing(index):
            start, end = self.draft.parts.span(index)
            self.bytes_from_peers += end - start
            self.draft.arrived(index, sink.digest, member.link.peer)
        elif error is not None:
            member.held &= ~(1 << index)  # it says so again when it has it again
            log.debug("part %d did not come from %s: %s", index, member.link.peer.text, error)
        self.fill(member.link)
        self.on_news()

    def _expire(self, member: _Member, index: int, request_id: int) -> None:
        if member.asked.get(index) == request_id:
            member.link.questions.cancel(request_id)
            del member.asked[index]
            member.held &= ~(1 << index)
            self.fill_all()


class PartSource:
    """A `net.BulkSource` for a part, which is checked when it is opened."""

    __slots__ = ("_data", "_draft", "_index", "length")

    def __init__(self, draft: Draft, index: int) -> None:
        start, end = draft.parts.span(index)
        self.length = end - start
        self._draft, self._index, self._data = draft, index, b""

    def open(self) -> bool:
        try:
            self._data = self._draft.read_part(self._index)
        except P2PModelError:
            return False
        return True

    def read_into(self, buffer: memoryview, offset: int) -> None:
        buffer[:] = self._data[offset : offset + len(buffer)]

    def view(self, offset: int, length: int) -> memoryview | None:
        return memoryview(self._data)[offset : offset + length]

    def file_range(self) -> tuple[int, int] | None:
        return None

    def release(self) -> None:
        self._data = b""


class Gatherings:
    """All that this peer takes part in, by their ids. What is looked up here is looked up in any thread."""

    def __init__(self) -> None:
        self._by_id: dict[ModelId, Gathering] = {}

    def enter(self, gathering: Gathering) -> None:
        self._by_id[gathering.model_id] = gathering

    def remove(self, gathering: Gathering) -> None:
        if self._by_id.get(gathering.model_id) is gathering:
            del self._by_id[gathering.model_id]

    def followed(self, link: Link, model_id: ModelId) -> bool:
        """A peer follows a model here. Whether it is a gathering of ours."""
        gathering = self._by_id.get(model_id)
        if gathering is not None:
            gathering.add_link(link)
        return gathering is not None

    def have_map(self, model_id: ModelId) -> HaveMap | None:
        gathering = self._by_id.get(model_id)
        if gathering is None or gathering.draft.distrusted:
            return None
        return HaveMap(gathering.draft.parts.count, gathering.draft.have)

    def part(self, digest: Digest, where: tuple[ModelId, int] | None) -> PartSource | None:
        gathering = self._by_id.get(where[0]) if where is not None else None
        if gathering is None or where is None or gathering.draft.distrusted:
            return None
        parts, index = gathering.draft.parts, where[1]
        if index >= parts.count or gathering.draft.is_missing(index) or parts.key(index) != digest:
            return None
        return PartSource(gathering.draft, index)
