"""Which chunk to ask of which peer, and when to ask somebody else: a plain object driven with `now` and a `Random`.

Preferred chunks first, among them the rarest, the very first few at random. Each peer has a window of requests that
follows its measured rate, and each request a deadline from the same history; one past its deadline does not count
against the chunk any more, so another peer may be asked. A peer for which nothing is left takes over what waits behind
other chunks at a slower one, and in the end game also asks for a second copy of what such a one may have begun.
Whatever arrives first and verifies counts; nothing here ever gives up on a chunk.

A chunk costs a few microseconds, however many there are: the whole sets are only touched for a batch of picks.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from random import Random
from typing import Generic, TypeVar

from p2pmodel.limits import (
    QUEUES_MAX,
    RANDOM_FIRST_CHUNKS,
    REFUSALS_IN_A_ROW_MAX,
    REQUEST_WINDOW_CHUNKS_START,
    REQUESTS_BEGUN,
)
from p2pmodel.model.have_map import iter_bits
from p2pmodel.swarm.in_flight import InFlight
from p2pmodel.swarm.overtaking import Overtaking
from p2pmodel.swarm.rarity import FlippedBits, Rarity, random_bit
from p2pmodel.swarm.source import Request, Source

K = TypeVar("K", bound=Hashable)
"""How a peer is named."""

_HERE, _FREE, _ASKED = 0, 1, 2
"""A chunk is not missing; missing, and nobody who is in time is asked for it; asked of somebody who is in time."""
_BATCH_S = 0.1
"""Chunks are picked ahead for so long: meanwhile others may get what is rare now."""
_BATCH_CHUNKS_MAX = 64
_LOOK_AGAIN_S = 0.05
"""A peer for which nothing better was found in what others owe is not looked at for so long, in a crowd of such."""
_QUEUES_LOOK_S = 0.02


class Schedule(Generic[K]):
    """The plan of one download. `wanted` and `have` are sets of chunk indices as integers; `length_of` is in bytes."""

    def __init__(self, count: int, wanted: int, have: int, length_of: Callable[[int], int], rng: Random) -> None:
        missing = wanted & ~have
        self._length_of = length_of
        self._rng = rng
        self._rarity = Rarity(count)
        self._state = bytearray(count)
        for index in iter_bits(missing):
            self._state[index] = _FREE
        self._missing = FlippedBits(count, missing)
        self._missing_count = missing.bit_count()
        self._free = FlippedBits(count, missing)
        self._preferred = 0
        self._order: Sequence[int] = ()
        """Of the preferred chunks those that have an order; a few."""
        self._askers: dict[int, dict[K, None]] = {}
        """Of whom each chunk is asked, in that order: sets of keys have another order in every process."""
        self._sources: dict[K, Source] = {}
        self._busy: dict[K, Source] = {}
        """Those of them that owe something: few, where a crowd is connected."""
        self._withdrawn: list[tuple[K, int]] = []
        self._in_flight = InFlight()
        self.overtaking: Overtaking[K] = Overtaking(self._sources, self._askers)
        self._queues_count, self._queues_until = 0, 0.0
        self._arrived = 0

    # --- what is known -------------------------------------------------------------------------------------------

    @property
    def complete(self) -> bool:
        return not self._missing_count

    @property
    def missing(self) -> int:
        return self._missing.bits

    @property
    def unheld(self) -> int:
        """Missing chunks that no known peer holds."""
        return self._rarity.unheld(self._missing.bits)

    def rare(self, bits: int) -> int:
        """Those of `bits` that fewer than four known peers hold."""
        return self._rarity.rare(bits)

    @property
    def in_flight_bytes(self) -> int:
        return self._in_flight.bytes

    def is_missing(self, index: int) -> bool:
        """May be called from any thread."""
        return self._state[index] != _HERE

    def has_source(self, peer: K) -> bool:
        return peer in self._sources

    def idle(self, peer: K) -> bool:
        """Whether nothing is to be hoped from this peer: it holds nothing that is missing, or refuses it all."""
        source = self._sources[peer]
        return source.empty_words or not (source.requests or source.bits & self._missing.bits)

    def proven(self, peer: K) -> bool:
        """Whether this peer has delivered a chunk that verified."""
        return self._sources[peer].proven

    def fails(self, peer: K) -> bool:
        """Whether this peer is late with everything, or refuses it."""
        source = self._sources[peer]
        return source.snubbed or source.empty_words

    @property
    def busy(self) -> list[K]:
        """The peers that owe something."""
        return list(self._busy)

    @property
    def only_begun(self) -> bool:
        """Whether as much is asked for as may be, and nobody has delivered anything yet."""
        return not self._in_flight.deliverers and self._in_flight.full

    @property
    def usual_s(self) -> float:
        """How long an answer takes, of late, over all peers."""
        return self.overtaking.usual_s

    def ranking(self) -> list[K]:
        """Peers that hold what is missing, the nearest first, the fastest of those first: who is to be asked first."""
        missing = self._missing.bits
        keys = [(peer, source) for peer, source in self._sources.items() if source.bits & missing]
        return [peer for peer, _ in sorted(keys, key=lambda item: (-item[1].nearness, -item[1].rate_bytes_per_s))]

    # --- peers come, tell and go ---------------------------------------------------------------------------------

    def peer_joined(self, peer: K, nearness: int = 0, lanes: int = 1) -> None:
        """`nearness` as `Address.scope`: 2 on this machine, 1 in a private network, 0 on the internet.

        `lanes`: connections to it, each of which begins slowly and wants chunks of its own from the start.
        """
        self._sources.setdefault(peer, Source(nearness, window=REQUEST_WINDOW_CHUNKS_START * lanes))

    def peer_has(self, peer: K, bits: int) -> bool:
        """The peer holds these chunks too. Whether nobody is asked for one of them, so that it can be."""
        source = self._sources[peer]
        new = bits ^ (bits & source.bits)
        source.bits |= new
        self._rarity.add(new)
        return bool(new & self._free.bits)

    def peer_lost(self, peer: K, bits: int) -> None:
        """The peer does not hold these chunks (any more)."""
        source = self._sources[peer]
        gone = bits & source.bits
        source.bits ^= gone
        source.batch.clear()
        self._rarity.remove(gone)

    def peer_left(self, peer: K) -> None:
        """What was asked of it becomes free again."""
        source = self._sources.pop(peer, None)
        if source is None:
            return
        self._rarity.remove(source.bits)
        for index in list(source.requests):
            self._drop(peer, source, index)
        if source.proven:
            self._in_flight.count(self._sources.values())

    # --- requests ------------------------------------------------------------------------------------------------

    def prefer(self, bits: int, order: Sequence[int] = ()) -> None:
        """Ask for these chunks before all others, from now on and until they are here or others are preferred.

        Those in `order` in that order, for somebody reads them so; the rest by rarity.
        """
        self._preferred, self._order = bits, order
        for source in self._sources.values():
            source.batch.clear()

    def want(self, bits: int) -> None:
        """Ask for these chunks too, none of which is here."""
        for index in iter_bits(bits & ~self._missing.bits):
            self._state[index] = _FREE
            self._missing.flip(index)
            self._free.flip(index)
            self._missing_count += 1

    def drop(self, bits: int) -> None:
        """Nobody wants these chunks any more; what is asked of somebody in time may come all the same."""
        for index in iter_bits(bits & self._free.bits):
            self._now_here(index)

    def next_requests(self, peer: K, now: float) -> Iterator[int]:
        """Chunks to ask of this peer now; each counts as asked when it is yielded. See `withdrawn`."""
        source = self._sources[peer]
        while self._may_ask(source, now):
            if self._in_flight.room_for(source):
                index = self._pick(peer, source, now)
            else:
                index = self._pick_beyond(peer, source, now)
            if index is None:
                return
            self._ask(peer, source, index, now)
            yield index

    def withdrawn(self) -> list[tuple[K, int]]:
        """Requests that count as made no more since this was last called: what was asked of whom can be cancelled."""
        withdrawn, self._withdrawn = self._withdrawn, []
        return withdrawn

    def _may_ask(self, source: Source, now: float) -> bool:
        if len(source.requests) >= self._window(source):
            return False
        if source.proven or not self._in_flight.deliverers:
            return True
        return now >= source.paused_until and self._in_flight.room_for_strangers()

    def _pick_beyond(self, peer: K, source: Source, now: float) -> int | None:
        """A chunk to ask for although as much is out as may be; it may always be one that waits elsewhere.

        One more at a time, so that a few slow peers with full windows cannot starve the rest. But where enough of them
        keep us waiting for our turn only what is rare: anything else makes their queues longer and comes no sooner.
        """
        if source.requests:
            return self._take_over(peer, source, now, more=False)
        if self._queues(now) < QUEUES_MAX:
            return self._pick(peer, source, now)
        if rare := self._rarity.rare(self._free.bits & source.bits):
            return self._rarity.rarest(rare, 1, self._rng)[0]
        return self._take_over(peer, source, now, more=False)

    def _window(self, source: Source) -> int:
        if source.snubbed or source.refusals >= REFUSALS_IN_A_ROW_MAX:
            return 1
        if source.proven:
            return source.window
        # A stranger has to show one chunk before it is trusted with more, unless there is hardly anybody else.
        return 1 if self._in_flight.deliverers else max(1, source.window // len(self._sources))

    def _queues(self, now: float) -> int:
        """Peers that owe something and of which nothing is coming in, as of a moment ago."""
        if now >= self._queues_until:
            self._queues_count = sum(not self.overtaking.coming(peer) for peer in self._busy)
            self._queues_until = now + _QUEUES_LOOK_S
        return self._queues_count

    def _pick(self, peer: K, source: Source, now: float) -> int | None:
        if now >= source.batch_until:
            source.batch.clear()
        while source.batch:
            index = source.batch.pop()
            if self._state[index] == _FREE and index not in source.requests:
                return index
        free = self._free.bits & source.bits
        if not source.proven:
            free &= ~self._in_flight.soon_here(self._missing_count, now)
        for index in source.requests:
            if self._state[index] == _FREE:  # it is late with this one itself
                free &= ~(1 << index)
        if self._preferred:
            self._preferred &= self._missing.bits
        first = free & self._preferred
        if self._preferred and not first:
            late = self._take_over(peer, source, now, self._preferred)
            if late is not None:
                return late
        if not free:
            return self._take_over(peer, source, now)
        for index in self._order if first else ():
            if self._state[index] == _FREE and first & 1 << index:
                return index
        if self._arrived < RANDOM_FIRST_CHUNKS:
            return random_bit(first or free, self._rng)
        ahead = min(1 + int(source.chunks_per_s * _BATCH_S), _BATCH_CHUNKS_MAX)
        source.batch = self._rarity.rarest(first or free, ahead, self._rng)
        source.batch.reverse()
        source.batch_until = now + _BATCH_S
        return source.batch.pop()

    def _take_over(self, peer: K, source: Source, now: float, urgent: int = 0, *, more: bool = True) -> int | None:
        """A chunk that waits at a peer from which it will come much later than from this one; an urgent one, if so.

        A second copy of what may have begun to leave there is asked for (if there may be `more`) where it is urgent,
        or in the end game: as long as somebody can be asked for a chunk that nobody is asked for, it would take that
        one's place on the line.
        """
        if not source.proven or (now < source.content_until and not urgent):
            return None
        free = self._free.bits
        among = source.bits & (urgent or self._missing.bits)
        if among == among & free:  # nobody else is asked for any of them
            return None
        second = more and (bool(urgent) or not free or free == self._rarity.unheld(free))
        best = self.overtaking.best(peer, among, now, second=second)
        if best is None:
            source.content_until = now + min(_LOOK_AGAIN_S, self.overtaking.usual_s / 2)
            return None
        if best.moves:
            self._withdraw(best.peer, best.index)
        else:
            self.overtaking.asked_twice(best.index, self._length_of(best.index))
        return best.index

    def _ask(self, peer: K, source: Source, index: int, now: float) -> None:
        length = self._length_of(index)
        if not source.requests:
            source.arrivals.resume(now)
            self._busy[peer] = source
            self._queues_count += not self.overtaking.coming(peer)
        deadline = now + source.patience_s(length, self.overtaking.usual_s)
        source.requests[index] = Request(index, length, now, deadline)
        source.queued_bytes += length
        self._in_flight.add(source, length)
        self._askers.setdefault(index, {})[peer] = None
        if self._state[index] == _FREE:
            self._state[index] = _ASKED
            self._free.flip(index)

    def _drop(self, peer: K, source: Source, index: int) -> Request | None:
        request = source.requests.pop(index, None)
        if request is None:
            return None
        source.queued_bytes -= request.length
        if not source.requests:
            self._busy.pop(peer, None)
        if not request.overdue:
            self._in_flight.add(source, -request.length)
        askers = self._askers[index]
        askers.pop(peer, None)
        if not askers:
            del self._askers[index]
        if len(askers) < 2:
            self.overtaking.asked_once(index)
        self._free_unless_asked(index)
        return request

    def _withdraw(self, peer: K, index: int) -> None:
        self._drop(peer, self._sources[peer], index)
        self._withdrawn.append((peer, index))

    def _free_unless_asked(self, index: int) -> None:
        """Nobody who is in time may be asked for this chunk any more; then anybody may be."""
        if self._state[index] != _ASKED:
            return
        for peer in self._askers.get(index, ()):
            source = self._sources.get(peer)  # None for one that is leaving
            if source is not None and not source.requests[index].overdue:
                return
        self._state[index] = _FREE
        self._free.flip(index)

    # --- what comes back -----------------------------------------------------------------------------------------

    def arrived(self, peer: K, index: int, now: float) -> list[K]:
        """A chunk came and verified. Returns the other peers that it was asked of, whose requests can be cancelled."""
        self._now_here(index)
        source = self._sources.get(peer)
        if source is not None and (request := self._drop(peer, source, index)) is not None:
            self.overtaking.arrived(request, now)
            new = not source.proven
            source.delivered(request, now)
            if new:
                self._in_flight.count(self._sources.values())
        self._arrived += 1
        others = list(self._askers.get(index, ()))
        for other in others:
            self._drop(other, self._sources[other], index)
        return others

    def held(self, bits: int) -> None:
        """These chunks are here now, from wherever."""
        for index in iter_bits(bits & self._missing.bits):
            self._now_here(index)

    def _now_here(self, index: int) -> None:
        state = self._state[index]
        if state == _HERE:
            return
        self._state[index] = _HERE
        self._missing.flip(index)
        self._missing_count -= 1
        if state == _FREE:
            self._free.flip(index)

    def refused(self, peer: K, index: int, now: float) -> None:
        """The peer will not send this chunk; it is not asked for it again until it says anew that it holds it."""
        source = self._sources.get(peer)
        if source is not None:
            self._drop(peer, source, index)
            self.peer_lost(peer, 1 << index)
            source.has_refused(now)

    def failed(self, peer: K, index: int) -> None:
        """What came did not verify; the chunk is free again."""
        source = self._sources.get(peer)
        if source is not None:
            self._drop(peer, source, index)

    # --- time ----------------------------------------------------------------------------------------------------

    def expire(self, now: float) -> list[K]:
        """Free what is past its deadline. Returns the peers that have become late.

        What they may have begun to send stays out, for it may still be the first to come; the rest is withdrawn, and
        `withdrawn` is to be called before anything is asked for again.
        """
        late: dict[K, None] = {}
        for peer, source in list(self._busy.items()):
            for place, request in enumerate(list(source.requests.values())):
                if request.overdue or now < min(request.deadline, source.deadline(request, self.overtaking.usual_s)):
                    continue
                late[peer] = None
                source.was_late(request, now)
                if place >= REQUESTS_BEGUN:
                    self._withdraw(peer, request.index)
                    continue
                request.overdue = True
                self._in_flight.add(source, -request.length)
                self._free_unless_asked(request.index)
        return list(late)

    def late_s(self, peer: K, now: float) -> float:
        """How long ago the oldest request that is past its deadline was made; 0 where there is none."""
        requests = self._sources[peer].requests.values()
        return max((now - request.asked_at for request in requests if request.overdue), default=0.0)
