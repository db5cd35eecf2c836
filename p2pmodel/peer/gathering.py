"""Peers that gather one file which nobody has published: what each has of it, and its parts from one to another.

To each other they are followers of a model that does not exist: its id is made of the file's SHA-256 and size
(`model.parts`), its chunks are the parts, and what says who holds which and asks for them are the messages of any
download. What differs: a part is asked for by its number, because nobody can know its hash, and that it is right only
the whole will show (`draft.py`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from random import Random

from p2pmodel.errors import P2PModelError, ProtocolError
from p2pmodel.limits import (
    GATHERING_MEMBERS_MAX,
    PART_BYTES_PER_S_MIN,
    PART_DEADLINE_S,
    PARTS_ASKED_BYTES,
    PARTS_ASKED_PER_PEER,
)
from p2pmodel.model import Digest, HaveMap, ModelId, PublicKey
from p2pmodel.model.have_map import bits_of, iter_bits
from p2pmodel.net import Address
from p2pmodel.peer.draft import Draft
from p2pmodel.peer.leases import Leases
from p2pmodel.swarm import Link
from p2pmodel.swarm.requests import ChunkRequest
from p2pmodel.swarm.shelf import ObjectInMemory

log = logging.getLogger(__name__)

_AMONG = 16
"""The next parts of which one is drawn: those who read along want the first ones, and not all of them the same."""


_LATE_MAX = 3


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
    claimed: int = 0
    gave_at: float = 0.0
    """When the last part came, or was asked for where nothing else was."""
    late: int = 0
    """How often in a row it brought nothing that it was asked for."""
    asked: dict[int, int] = field(default_factory=dict)
    """Request ids by part."""


class Gathering:
    """Fills `swarm.Listening`. `position` is the part that somebody waits for."""

    background = False

    def __init__(self, draft: Draft, leases: Leases, *, now: Callable[[], float], rng: Random) -> None:
        self.draft, self.leases = draft, leases
        self.model_id = draft.parts.gathering_id
        self.position = 0
        self.coming = 0
        """Parts that are being read from the origin, as bits: they need not be asked of anybody."""
        self.bytes_from_peers = 0
        self.reading = 0
        """Runs that this peer reads from the origin, or has read, as bits."""
        self.on_news: Callable[[], None] = lambda: None
        self.on_claim: Callable[[PublicKey, int], None] = lambda peer, runs: None
        self.on_peers: Callable[[Sequence[tuple[PublicKey, Address]]], None] = lambda peers: None
        self._members: dict[PublicKey, _Member] = {}
        self._banned: set[PublicKey] = set()
        self._now, self._rng = now, rng
        draft.on_liar = self._lied
        self._asked_max = max(PARTS_ASKED_PER_PEER, PARTS_ASKED_BYTES // draft.parts.part_bytes)

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
        self.leases.joined(link.peer.raw, self._now())
        link.follow(self.model_id, self)
        link.hear(self.draft.parts.leases_id, self._claims)

    def claim(self, run: int) -> None:
        """This peer begins to read a run: the others hear of it at once."""
        self.reading |= 1 << run
        for link in self.links:
            if self.draft.parts.leases_id in link.interests:
                link.tell_have(self.draft.parts.leases_id, 1 << run)

    def _claims(self, link: Link, runs: HaveMap) -> None:
        member = self._members.get(link.peer)
        if member is None or runs.count != self.draft.parts.runs:
            return
        fresh = runs.bits & ~member.claimed
        member.claimed = runs.bits
        self.leases.claimed(link.peer.raw, list(iter_bits(fresh)), self._now())
        self.on_claim(link.peer, fresh)

    def _lied(self, peer: PublicKey) -> None:
        if peer not in self._banned:
            log.warning("peer %s gave parts that are not the origin's", peer.text)
        self.ban(peer)

    def ban(self, peer: PublicKey) -> None:
        """Nothing more is asked of it, nor given to it."""
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
        member.link.hear_no_more(self.draft.parts.leases_id)

    # --- swarm.Listening

    def link_has(self, link: Link, held: HaveMap, new: int) -> None:
        member = self._members.get(link.peer)
        if held.count != self.draft.parts.count:
            raise ProtocolError(f"{held.count} parts of a file that has {self.draft.parts.count}")
        if member is None or member.link is not link:
            return
        self.leases.heard(link.peer.raw, (held.bits & ~member.held).bit_count(), self._now())
        member.held = held.bits
        self.fill(link)

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
        link.questions.ask()
        if len(member.asked) == 1:
            member.gave_at = self._now()

    def _settled(self, member: _Member, index: int, sink: _Sink, error: P2PModelError | None) -> None:
        member.asked.pop(index, None)
        if error is None:
            member.late, member.gave_at = 0, self._now()
        if error is None and sink.digest is not None and self.draft.is_missing(index):
            start, end = self.draft.parts.span(index)
            self.bytes_from_peers += end - start
            self.draft.arrived(index, sink.digest, member.link.peer)
        elif error is not None:
            member.held &= ~(1 << index)  # it says so again when it has it again
            log.debug("part %d did not come from %s: %s", index, member.link.peer.text, error)
        self.fill(member.link)
        self.on_news()

    def expire(self) -> None:
        """Ask others for what a member does not bring. Called now and then."""
        start, end = self.draft.parts.span(0)
        patience_s, now = PART_DEADLINE_S + (end - start) / PART_BYTES_PER_S_MIN, self._now()
        for member in list(self._members.values()):
            if not member.asked or now - member.gave_at < patience_s:
                continue
            member.late += 1
            for index, request_id in list(member.asked.items()):
                member.link.questions.cancel(request_id)
                member.held &= ~(1 << index)
            member.asked.clear()
            if member.late >= _LATE_MAX:
                self.ban(member.link.peer)


class PartSource(ObjectInMemory):
    """A `net.BulkSource` for a part, which is read and checked when it is opened."""

    __slots__ = ("_draft", "_index", "_length")

    def __init__(self, draft: Draft, index: int) -> None:
        super().__init__(b"")
        start, end = draft.parts.span(index)
        self._draft, self._index, self._length = draft, index, end - start

    @property
    def length(self) -> int:
        return self._length

    def open(self) -> bool:
        try:
            self._data = self._draft.read_part(self._index)
        except P2PModelError:
            return False
        return True

    def release(self) -> None:
        self._data = b""


class Gatherings:
    """All that this peer takes part in, by their ids. What is looked up here is looked up in any thread."""

    def __init__(self) -> None:
        self._by_id: dict[ModelId, Gathering] = {}
        self._leases: dict[ModelId, Gathering] = {}

    def enter(self, gathering: Gathering) -> None:
        self._by_id[gathering.model_id] = gathering
        self._leases[gathering.draft.parts.leases_id] = gathering

    def remove(self, gathering: Gathering) -> None:
        if self._by_id.get(gathering.model_id) is gathering:
            del self._by_id[gathering.model_id]
            del self._leases[gathering.draft.parts.leases_id]

    def followed(self, link: Link, model_id: ModelId) -> bool:
        """A peer follows a model here. Whether it is a gathering of ours."""
        gathering = self._by_id.get(model_id)
        if gathering is not None:
            gathering.add_link(link)
        return gathering is not None or model_id in self._leases

    def have_map(self, model_id: ModelId) -> HaveMap | None:
        if (leased := self._leases.get(model_id)) is not None:
            return HaveMap(leased.draft.parts.runs, leased.reading)
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
