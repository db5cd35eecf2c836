"""Pulling the chunks of one model from every peer that has some: the thin shell of IO around `schedule.Schedule`.

A peer that fails, stalls or lies costs a retry elsewhere, never the download: its requests go back to the schedule, and
the loop goes on until every wanted chunk is verified. Only trouble of our own (no space, no permission) ends it.

An answer lets its own peer be asked for more; all peers are looked at when chunks have become free, and once a tick.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from p2pmodel.errors import CorruptChunkError, P2PModelError, PeerFault, PeerGoneError, ProtocolError
from p2pmodel.limits import (
    IDLERS_REMEMBERED_MAX,
    LINKS_PER_FETCH_ENOUGH,
    LINKS_PER_FETCH_MAX,
    MIB,
    REQUEST_DEADLINE_MAX_S,
)
from p2pmodel.model import HaveMap, Layout, PublicKey
from p2pmodel.model.have_map import bits_of, iter_bits
from p2pmodel.net import Address, Clock
from p2pmodel.swarm.accounting import Account, Waste
from p2pmodel.swarm.link import Link
from p2pmodel.swarm.pace import Pace
from p2pmodel.swarm.requests import ChunkRequest
from p2pmodel.swarm.schedule import Schedule
from p2pmodel.swarm.shelf import Intake
from p2pmodel.swarm.twins import Twins

_TICK_MAX_S = 0.1
_TICK_MIN_S = 0.02
_ASK_AGAIN_S = 5.0
_STILL_S = 2.0
_RATE_WINDOW_S = 3.0
_RATE_MOMENT_S = 0.05
_WIDE_LINKS = 2
"""So many links are told at once how much may come; with more of them, each has to show that it needs room,"""
_CARRIES_BYTES = 8 * MIB
"""by having brought so much of this fetch, and most of it: a crowd may be connected of which only one delivers."""


@dataclass(slots=True)
class Served:
    """What one peer contributed: verified bytes, and chunks that were not what was asked for."""

    address: str
    bytes: int = 0
    rejected: int = 0


@dataclass(slots=True)
class Tally:
    """Where the bytes of a download came from."""

    bytes_fetched: int = 0
    bytes_repeated: int = 0
    """Filled by chunks that came once and stand at several places."""
    bytes_wasted: int = 0
    chunks_rejected: int = 0
    served: dict[PublicKey, Served] = field(default_factory=dict)


class _Sink:
    """Verifies and writes one chunk in a thread, and keeps which chunks the write has made whole."""

    __slots__ = ("clock", "held_bits", "index", "intake", "kept", "wanted", "worked_s")

    def __init__(self, intake: Intake, index: int, wanted: Callable[[int], bool], clock: Clock) -> None:
        self.intake = intake
        self.index = index
        self.wanted = wanted
        self.clock = clock
        self.held_bits = 0
        self.kept = False
        """It is on the disk, from here or from another peer's answer."""
        self.worked_s = 0.0

    def consume(self, data: memoryview) -> None:
        # In the end game a second copy may come just after the first: its bytes need no work.
        if self.wanted(self.index):
            began = self.clock.monotonic()
            self.held_bits = self.intake.write(self.index, data)
            self.kept = True
            self.worked_s = self.clock.monotonic() - began


class Download:
    """One model being pulled. Give it links with `add_link`, await `run`; `tally` says what came from where."""

    def __init__(
        self,
        layout: Layout,
        wanted: HaveMap,
        have: HaveMap,
        intake: Intake,
        *,
        clock: Clock,
        rng: Random,
        pace: Pace,
        on_have: Callable[[int], None],
        account: Account[PublicKey] | None = None,
        background: bool = False,
        asked: int | None = None,
    ) -> None:
        """`asked`: only these of the wanted chunks, then those that `want` names; `run` does not end by itself."""
        self.layout = layout
        self.background: bool | None = background
        self.tally = Tally()
        self.account = account or Account(clock.monotonic())
        """Where the time goes, and what each peer gives."""
        self.links: dict[PublicKey, Link] = {}
        self.banned: set[PublicKey] = set()
        """Peers that sent a corrupt chunk of this model: not asked again."""
        self.on_peers: Callable[[Sequence[tuple[PublicKey, Address]]], None] = lambda peers: None
        """Told of peers that others name; whoever connects to them gives the link to `add_link`."""
        self._wanted = wanted
        self._intake = intake
        self._clock = clock
        self._pace = pace
        self._on_have = on_have
        self._twins = Twins(layout, wanted.bits & ~have.bits)
        self._open_ended = asked is not None
        first_asked = self._twins.asked_for(wanted.bits if asked is None else wanted.bits & asked)
        self._schedule: Schedule[Link] = Schedule(len(layout), first_asked, have.bits, layout.length, rng)
        self._schedule.overtaking.coming = self._answers
        self.account.pull(self._schedule.missing.bit_count(), clock.monotonic())
        self._request_ids: dict[tuple[Link, int], int] = {}
        self._offered: dict[PublicKey, int] = {}
        self._carriers: set[Link] = set()
        """Peers that turned out to bring most of it, and were told how much may come."""
        self._wasted_before: dict[PublicKey, int] = {}
        """What each connection had wasted when it joined: earlier downloads have accounted for that."""
        self._refused: set[Link] = set()
        self._empty_handed: dict[PublicKey, None] = {}
        """They left without having kept a word: when they come back, nothing is hoped from them until they do."""
        self._gave_nothing: dict[PublicKey, None] = {}
        """They left with nothing to their name, in that order; the oldest are forgotten."""
        self._answer_bytes = 0
        self._came_in: dict[Link, int] = {}
        """What had come in over each connection when we last looked."""
        self._filling_soon = False
        self._failure: P2PModelError | None = None
        self._changed = asyncio.Event()
        self._not_before = 0.0
        self._arrivals: list[tuple[float, int, PublicKey]] = []
        self._settled_links: dict[Link, None] = {}
        """Whose answers have been settled in this turn of the loop,"""
        self._held_now = 0
        """and the chunks that they have made whole."""
        self._arrived_at = clock.monotonic()

    # --- what is known -------------------------------------------------------------------------------------------

    @property
    def complete(self) -> bool:
        return self._schedule.complete

    @property
    def wanted(self) -> int:
        """What it may bring at all, as bits."""
        return self._wanted.bits

    @property
    def missing(self) -> int:
        """Wanted chunks that are not verified yet, as bits."""
        return self._twins.filled_by(self._schedule.missing)

    @property
    def unheld(self) -> int:
        """Missing chunks that no connected peer holds, as bits."""
        return self._schedule.unheld

    @property
    def sources(self) -> int:
        """Connected peers that hold something that is missing, and may be believed to give it."""
        links = self.links.items()
        return sum(not self._schedule.idle(link) and peer not in self._empty_handed for peer, link in links)

    def rare(self, bits: int) -> int:
        """Those of these chunks that hardly anybody holds whom we know."""
        return self._schedule.rare(bits)

    @property
    def links_enough(self) -> bool:
        """Whether more connections would hardly help. Peers that promise and do not deliver are not counted."""
        delivering = sum(not self._schedule.fails(link) for link in self.links.values())
        # What nobody here holds yet comes to neighbours while anything comes: a seed spreads it part by part.
        stands_still = self._clock.monotonic() - self._arrived_at > _STILL_S and self._schedule.unheld
        return delivering >= (LINKS_PER_FETCH_MAX if stands_still else LINKS_PER_FETCH_ENOUGH)

    @property
    def answer_bytes(self) -> int:
        """What answers have brought, chunks that are not whole yet too: grows while there is hope for another chunk.

        As exact as the loop is quick. Nothing that a peer merely says is counted.
        """
        return self._answer_bytes

    def prefer(self, bits: int, order: Sequence[int] = ()) -> None:
        """Ask for these chunks first, until they are here or others are preferred: somebody waits for them now.

        Those of them that are in `order` in that order.
        """
        self._schedule.prefer(self._twins.asked_for(bits), order)
        self._fill_soon()

    def want(self, bits: int, dropped: int = 0) -> None:
        """Where the download asks for what is named alone: for these chunks as well, and for `dropped` no more.

        None of them is here, whatever was once said of it; what is asked for already may be among them.
        """
        # What has been settled in this turn of the loop is here, though nobody was told of it yet.
        asked_for = self._twins.asked_for(bits & self._wanted.bits & ~self._held_now)
        self._schedule.drop(self._twins.asked_for(dropped) & ~asked_for)
        self._schedule.want(asked_for)
        for link in list(self.links.values()) if len(self.links) <= _WIDE_LINKS else ():
            self._expect_from(link, 1 / len(self.links))
        self._changed.set()
        self._fill_soon()

    def came_otherwise(self, bits: int) -> None:
        """These chunks are here now, from this disk; maybe without others of the same hash, which stay wanted."""
        instead = self._twins.came_otherwise(bits)
        still = bits_of([instead[first] for first in iter_bits(self._schedule.missing & bits_of(instead))])
        self._schedule.held(bits)
        if not instead:
            return
        self._schedule.want(still)
        for link in self.links.values():
            if (held := link.held.get(self.layout.model_id)) is not None:
                self._schedule.peer_has(link, self._twins.implied_by(held.bits))
        self._changed.set()
        self._fill_soon()

    def hurry(self) -> None:
        """In the background no longer."""
        self.background = False
        for link in self.links.values():
            link.yield_line()

    def rate(self, now: float) -> tuple[float, int]:
        """Bytes per second over the last seconds, and how many peers they came from."""
        recent = [entry for entry in self._arrivals if entry[0] > now - _RATE_WINDOW_S]
        self._arrivals = recent
        if not recent:
            return 0.0, 0
        span = max(now - recent[0][0], 0.25)
        return sum(size for _, size, _ in recent) / span, len({peer for *_, peer in recent})

    # --- peers ---------------------------------------------------------------------------------------------------

    def add_link(self, link: Link) -> None:
        if link.peer in self.banned or link.peer in self.links:
            return
        self.links[link.peer] = link
        self._gave_nothing.pop(link.peer, None)
        self._wasted_before[link.peer] = link.wasted_bytes
        address = str(link.listens_at or link.channel.address)
        self.tally.served.setdefault(link.peer, Served(address))
        encrypted, scope = link.channel.encrypted, link.channel.address.scope
        self.account.joined(link.peer, address, encrypted=encrypted, scope=scope, now=self._clock.monotonic())
        self._came_in[link] = link.channel.bytes_received
        lanes = 1
        if len(self.links) <= _WIDE_LINKS and not self.background:
            lanes = self._expect_from(link, 1 / len(self.links))
        self._schedule.peer_joined(link, scope, lanes)
        self._schedule.peer_has(link, self._offered.get(link.peer, 0))
        link.follow(self.layout.model_id, self)

    def _expect_from(self, link: Link, part: float) -> int:
        """Such a part of what is missing may come from this peer. Returns how many connections to it there will be."""
        missing = self._schedule.missing.bit_count() / max(len(self.layout), 1)
        return link.channel.expect(int(self.layout.manifest.bytes_total * missing * part))

    def link_has(self, link: Link, held: HaveMap, new: int) -> None:
        if held.count != len(self.layout):
            raise ProtocolError(f"a have-map of {held.count} chunks for a model of {len(self.layout)}")
        if self._schedule.peer_has(link, new | self._twins.implied_by(new)):
            self._fill(link)

    def offer(self, link: Link, bits: int) -> None:
        """The overlay says that this peer holds these chunks, maybe as part of another model."""
        if link.peer in self.links:
            self._offered[link.peer] = self._offered.get(link.peer, 0) | bits
            self._schedule.peer_has(link, bits)
            self._fill(link)

    def link_lost(self, link: Link, bits: int) -> None:
        self._schedule.peer_lost(link, bits & ~self._offered.get(link.peer, 0))

    def link_unknown(self, link: Link) -> None:
        self._schedule.peer_lost(link, ~self._offered.get(link.peer, 0))

    def link_closed(self, link: Link, reason: P2PModelError) -> None:
        if self.links.get(link.peer) is not link:
            return
        del self.links[link.peer]
        if self._schedule.fails(link) and not self._schedule.proven(link):
            self._empty_handed[link.peer] = None
        self._schedule.peer_left(link)
        self._count_cancelled(link)
        self._came_in.pop(link, None)
        self._carriers.discard(link)
        self.account.left(link.peer, str(reason), self._clock.monotonic())
        served = self.tally.served[link.peer]
        if not served.bytes and not served.rejected:
            self._gave_nothing[link.peer] = None
        while len(self._gave_nothing) > IDLERS_REMEMBERED_MAX:
            self._forget(next(iter(self._gave_nothing)))
        self._fill_soon()

    def _forget(self, peer: PublicKey) -> None:
        """A new key costs nothing, so whoever comes and goes under one after the other must not be remembered."""
        del self._gave_nothing[peer], self.tally.served[peer], self.account.sources[peer]
        self._empty_handed.pop(peer, None)
        self._offered.pop(peer, None)

    def link_peers(self, link: Link, peers: Sequence[tuple[PublicKey, Address]]) -> None:
        self.on_peers(peers)

    # --- the loop ------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Return when every wanted chunk is verified. Raises what our own disk raised. Cancel it to stop."""
        try:
            while self._open_ended or not self._schedule.complete:
                if self._failure is not None:
                    raise self._failure
                self._changed.clear()
                try:
                    async with asyncio.timeout(None if self._schedule.complete else self._tick_s):
                        await self._changed.wait()
                except TimeoutError:
                    self._expire()
                    self._fill_all()
        finally:
            self.leave()

    @property
    def _tick_s(self) -> float:
        """As often as an answer takes: so late may it be seen that a peer has nothing left to wait for.

        As often as can be while many have begun and none has ended: the one that will may not have been asked yet.
        """
        usual_s = 0.0 if self._schedule.only_begun else self._schedule.usual_s
        return min(max(usual_s, _TICK_MIN_S), _TICK_MAX_S)

    def leave(self) -> None:
        """Stop asking and following. A second call does nothing."""
        self._tell()
        for link in list(self.links.values()):
            self._count_cancelled(link)
            for (asked, _), request_id in list(self._request_ids.items()):
                if asked is link:
                    link.questions.cancel(request_id)
            link.unfollow(self.layout.model_id)
        self.links.clear()
        self._came_in.clear()
        self._request_ids.clear()
        self.account.close(self._clock.monotonic())

    def _count_cancelled(self, link: Link) -> None:
        self._waste(link.peer, "cancelled", link.wasted_bytes - self._wasted_before.pop(link.peer))

    def _waste(self, peer: PublicKey, kind: Waste, length: int) -> None:
        self.tally.bytes_wasted += length
        self.account.waste(peer, kind, length)

    def _expire(self) -> None:
        now = self._clock.monotonic()
        cancelled_bytes = sum(link.wasted_bytes - self._wasted_before[peer] for peer, link in self.links.items())
        wasted = self.account.wasted
        self._schedule.overtaking.wasted_bytes = wasted["duplicate"] + wasted["cancelled"] + cancelled_bytes
        self._schedule.expire(now)
        self._cancel_withdrawn()
        for link in self._schedule.busy:
            came_in = link.channel.bytes_received
            if link.answer_begun:
                self._answer_bytes += came_in - self._came_in[link]
            self._came_in[link] = came_in
            # A link that was idle has been silent for long, but may have been asked only just now.
            if min(link.silent_s(now), self._schedule.late_s(link, now)) > REQUEST_DEADLINE_MAX_S:
                link.close(PeerGoneError("it was asked for chunks and has sent nothing for too long"))

    def _answers(self, link: Link) -> bool:
        return self.links.get(link.peer) is not link or link.answer_begun

    def _fill_soon(self) -> None:
        """Look at all peers, once for everything that happens now."""
        if not self._filling_soon:
            self._filling_soon = True
            asyncio.get_running_loop().call_soon(self._fill_all)

    def limit_raised(self) -> None:
        """More may be asked for than when the last pause began."""
        now = self._clock.monotonic()
        self._not_before = now
        self.account.paced(now, now)
        self._fill_all()

    def _fill_all(self) -> None:
        self._filling_soon = False
        for link in self._schedule.ranking():
            self._fill(link)

    def _fill(self, link: Link) -> None:
        now = self._clock.monotonic()
        if now < self._not_before or self._failure is not None or not link.may_ask:
            return
        if self.links.get(link.peer) is not link or link.peer in self.banned or self._paced(now):
            return
        for index in self._schedule.next_requests(link, now):
            self._cancel_withdrawn()
            self._request(link, index)
            self._pace.spend(self.layout.length(index))
            if self._paced(now) or not link.may_ask:
                break
        link.questions.ask()

    def _paced(self, now: float) -> bool:
        """Whether our own limit wants a pause before the next request; then it has begun."""
        wait_s = self._pace.wait_s(now)
        if wait_s > 0:
            self._not_before = now + wait_s
            self.account.paced(self._not_before, now)
            asyncio.get_running_loop().call_later(wait_s, self._fill_all)
        return wait_s > 0

    def _cancel_withdrawn(self) -> None:
        for link, index in self._schedule.withdrawn():
            self._cancel(link, index)

    def _cancel(self, link: Link, index: int) -> None:
        request_id = self._request_ids.pop((link, index), None)
        if request_id is not None and self.links.get(link.peer) is link:
            link.questions.cancel(request_id)
        self.account.settled(link.peer, index, 0.0, self._clock.monotonic())

    def _request(self, link: Link, index: int) -> None:
        place = self.layout[index]
        if not self.account.sources[link.peer].open:
            self._came_in[link] = link.channel.bytes_received  # what came while it owed nothing was talk
        sink = _Sink(self._intake, index, self._schedule.is_missing, self._clock)
        self.account.asked(link.peer, index, self._clock.monotonic())
        request = ChunkRequest(place.length, sink, lambda error: self._settled(link, index, sink, error))
        self._request_ids[link, index] = link.questions.chunk(self.layout.model_id, index, place.digest, request)

    def _settled(self, link: Link, index: int, sink: _Sink, error: P2PModelError | None) -> None:
        self._request_ids.pop((link, index), None)
        self.account.settled(link.peer, index, sink.worked_s, self._clock.monotonic())
        length = self.layout.length(index)
        served = self.tally.served[link.peer]
        if error is None and not sink.kept and self._schedule.is_missing(index):
            # Nobody wanted it when it came, and somebody does by now.
            self._waste(link.peer, "duplicate", length)
            self._schedule.failed(link, index)
            self._fill_soon()
        elif error is None:
            self._verified(link, index, sink, length, served)
        elif isinstance(error, CorruptChunkError):
            served.rejected += 1
            self.tally.chunks_rejected += 1
            self._waste(link.peer, "corrupt", length)
            self.account.left(link.peer, "it sent a corrupt chunk", self._clock.monotonic())
            self.banned.add(link.peer)
            self._schedule.failed(link, index)
            self._fill_soon()
        elif isinstance(error, PeerFault):
            self._schedule.refused(link, index, self._clock.monotonic())
            if self.links.get(link.peer) is link:
                self.account.refused(link.peer)
            self._ask_again_later(link)
            self._fill_soon()
        else:
            self._failure = error
        if not self._settled_links:
            asyncio.get_running_loop().call_soon(self._go_on)
        self._settled_links[link] = None
        if self._failure is not None or self._schedule.complete:
            self._tell()
            self._changed.set()

    def _tell(self) -> None:
        held, self._held_now = self._held_now, 0
        if held:
            self._on_have(held)

    def _go_on(self) -> None:
        """Once for all answers that have been settled in one turn of the loop."""
        links, self._settled_links = self._settled_links, {}
        self._tell()
        for link in links:
            self._fill(link)

    def _ask_again_later(self, link: Link) -> None:
        """A refusal may be passing trouble, and this the only holder: ask for its have-map again after a while."""
        if link not in self._refused:
            self._refused.add(link)
            asyncio.get_running_loop().call_later(_ASK_AGAIN_S, self._ask_again, link)

    def _ask_again(self, link: Link) -> None:
        self._refused.discard(link)
        if self.links.get(link.peer) is link:
            link.follow(self.layout.model_id, self)

    def _verified(self, link: Link, index: int, sink: _Sink, length: int, served: Served) -> None:
        now = self._clock.monotonic()
        first = self._schedule.is_missing(index)
        self._empty_handed.pop(link.peer, None)
        for other in self._schedule.arrived(link, index, now):
            self._cancel(other, index)
            self._fill_soon()
        if first:
            served.bytes += length
            self.tally.bytes_fetched += length
            self._count_arrival(now, length, link.peer)
            self._arrived_at = now
            self.account.gave(link.peer, length)
            if served.bytes >= _CARRIES_BYTES and link not in self._carriers:
                self._may_carry(link, served)
        else:
            self._waste(link.peer, "duplicate", length)
        twins = self._twins.arrived(index) if sink.kept else ()
        if first:
            self.tally.bytes_repeated += len(twins) * length
        # Where another peer's answer was written just before and is settled only now, or never, as it is cancelled with
        # this one, nobody else says that the chunk is here.
        self._held_now |= sink.held_bits or (bits_of([index, *twins]) if first else 0)

    def _may_carry(self, link: Link, served: Served) -> None:
        if 2 * served.bytes > self.tally.bytes_fetched and not self.background and self.links.get(link.peer) is link:
            self._carriers.add(link)
            self._expect_from(link, 1.0)

    def _count_arrival(self, now: float, length: int, peer: PublicKey) -> None:
        """What comes from one peer in one moment is one entry: `rate` looks at all of them, a few times a second."""
        if self._arrivals:
            since, so_far, last = self._arrivals[-1]
            if last is peer and now - since < _RATE_MOMENT_S:
                self._arrivals[-1] = since, so_far + length, peer
                return
        self._arrivals.append((now, length, peer))
