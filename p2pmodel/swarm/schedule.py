"""Which chunk to ask of which peer, and when to ask somebody else: a plain object driven with `now` and a `Random`.

Rarest first, the first few at random. Each peer has a window of requests that follows its measured rate, and each
request a deadline from the same history; a request past its deadline does not count against the chunk any more, so
another peer may be asked. When every missing chunk is already asked for (the end game), a fast peer is given chunks
that wait at a much slower one. Whatever arrives first and verifies counts; nothing here ever gives up on a chunk.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Generic, TypeVar

from p2pmodel.limits import (
    DUPLICATE_REQUESTS_MAX,
    IN_FLIGHT_BYTES_MAX,
    RANDOM_FIRST_CHUNKS,
    REQUEST_DEADLINE_MAX_S,
    REQUEST_DEADLINE_MIN_S,
    REQUEST_WINDOW_CHUNKS_MAX,
    REQUEST_WINDOW_CHUNKS_MIN,
    REQUEST_WINDOW_CHUNKS_START,
    WINDOW_ROUND_TRIPS,
)
from p2pmodel.swarm.rarity import Rarity, random_bit

K = TypeVar("K", bound=Hashable)
"""How a peer is named."""

_RATE_MEMORY_S = 1.0
"""Short enough to notice a stall, long enough to smooth over chunks."""


class BusyRate:
    """Bytes per second while something was asked for, forgotten with time constant `_RATE_MEMORY_S`.

    A sum that decays, divided by decayed time: a burst does not look like speed, nor idleness like slowness.
    """

    __slots__ = ("_busy_s", "_bytes", "_mark")

    def __init__(self) -> None:
        self._bytes = self._busy_s = 0.0
        self._mark = 0.0

    def resume(self, now: float) -> None:
        """Something is asked for again, after nothing was."""
        self._mark = now

    def add(self, length: int, now: float) -> None:
        elapsed = max(now - self._mark, 0.0)
        self._mark = now
        keep = math.exp(-elapsed / _RATE_MEMORY_S)
        self._bytes = self._bytes * keep + length
        self._busy_s = self._busy_s * keep + elapsed

    @property
    def rate_bytes_per_s(self) -> float:
        return self._bytes / max(self._busy_s, 1e-3)


@dataclass(slots=True)
class _Request:
    index: int
    length: int
    asked_at: float
    deadline: float
    overdue: bool = False


@dataclass(slots=True)
class _Source:
    """What is known of one peer that can be asked."""

    bits: int = 0
    requests: dict[int, _Request] = field(default_factory=dict)
    queued_bytes: int = 0
    arrivals: BusyRate = field(default_factory=BusyRate)
    rate_bytes_per_s: float = 0.0
    last_arrival: float | None = None
    response_s: float = float("inf")
    """The shortest time from a request to its verified chunk: the path and the chunk, without the queue."""
    window: int = REQUEST_WINDOW_CHUNKS_START
    snubbed: bool = False
    """It let a deadline pass and has sent nothing since."""

    def expected_s(self, length: int) -> float:
        """How long until something asked now would be here; unknown peers are taken to be ordinary."""
        if self.rate_bytes_per_s <= 0:
            return REQUEST_DEADLINE_MIN_S
        return (self.queued_bytes + length) / self.rate_bytes_per_s


class Schedule(Generic[K]):
    """The plan of one download. `wanted` and `have` are sets of chunk indices as integers; `length_of` is in bytes."""

    def __init__(self, count: int, wanted: int, have: int, length_of: Callable[[int], int], rng: Random) -> None:
        self._length_of = length_of
        self._rng = rng
        self._rarity = Rarity(count)
        self._missing = wanted & ~have
        self._asked = 0
        """Missing chunks with a request out that is not overdue."""
        self._askers: dict[int, dict[K, None]] = {}
        """Of whom each chunk is asked, in that order: sets of keys have another order in every process."""
        self._sources: dict[K, _Source] = {}
        self._in_flight_bytes = 0
        self._arrived = 0

    # --- what is known -------------------------------------------------------------------------------------------

    @property
    def complete(self) -> bool:
        return not self._missing

    @property
    def missing(self) -> int:
        return self._missing

    @property
    def unheld(self) -> int:
        """Missing chunks that no known peer holds."""
        return self._rarity.unheld(self._missing)

    @property
    def in_flight_bytes(self) -> int:
        return self._in_flight_bytes

    def is_missing(self, index: int) -> bool:
        return bool(self._missing >> index & 1)

    def has_source(self, peer: K) -> bool:
        return peer in self._sources

    def idle(self, peer: K) -> bool:
        """Whether nothing is asked of this peer and it holds nothing that is missing."""
        source = self._sources[peer]
        return not source.requests and not source.bits & self._missing

    def snubbed(self, peer: K) -> bool:
        """Whether this peer let a deadline pass and has sent nothing since."""
        return self._sources[peer].snubbed

    # --- peers come, tell and go ---------------------------------------------------------------------------------

    def peer_joined(self, peer: K) -> None:
        self._sources.setdefault(peer, _Source())

    def peer_has(self, peer: K, bits: int) -> None:
        """The peer holds these chunks too."""
        source = self._sources[peer]
        new = bits & ~source.bits
        source.bits |= new
        self._rarity.add(new)

    def peer_lost(self, peer: K, bits: int) -> None:
        """The peer does not hold these chunks (any more)."""
        source = self._sources[peer]
        gone = bits & source.bits
        source.bits ^= gone
        self._rarity.remove(gone)

    def peer_left(self, peer: K) -> None:
        """What was asked of it becomes free again."""
        source = self._sources.pop(peer, None)
        if source is None:
            return
        self._rarity.remove(source.bits)
        for index in list(source.requests):
            self._drop(peer, source, index)

    # --- requests ------------------------------------------------------------------------------------------------

    def next_requests(self, peer: K, now: float) -> Iterator[int]:
        """Chunks to ask of this peer now; each counts as asked when it is yielded."""
        source = self._sources[peer]
        while self._may_ask(source):
            index = self._pick(peer, source, now)
            if index is None:
                return
            self._ask(peer, source, index, now)
            yield index

    def _may_ask(self, source: _Source) -> bool:
        window = 1 if source.snubbed else source.window
        # One request at a time is always allowed, so that a few slow peers with full windows cannot starve the rest.
        return len(source.requests) < window and (self._in_flight_bytes < IN_FLIGHT_BYTES_MAX or not source.requests)

    def _pick(self, peer: K, source: _Source, now: float) -> int | None:
        free = self._missing & source.bits & ~self._asked
        if source.requests and free:
            for index in source.requests:
                free &= ~(1 << index)
        if free:
            if self._arrived < RANDOM_FIRST_CHUNKS:
                return random_bit(free, self._rng)
            return self._rarity.rarest(free, self._rng)
        return self._pick_duplicate(peer, source, now)

    def _pick_duplicate(self, peer: K, source: _Source, now: float) -> int | None:
        """A chunk that waits at a peer from which it will come much later than from this one.

        Only in the end game: as long as somebody can be asked for a chunk that nobody is asked for, a second copy of
        another would take its place on the line.
        """
        unasked = self._missing & ~self._asked
        if source.rate_bytes_per_s <= 0 or unasked & ~self._rarity.unheld(unasked):
            return None
        best, best_gain_s = None, 0.0
        for other, their in self._sources.items():
            if other == peer or not their.requests:
                continue
            for index, request in their.requests.items():
                askers = self._askers[index]
                if len(askers) >= DUPLICATE_REQUESTS_MAX or peer in askers or not source.bits >> index & 1:
                    continue
                remaining_s = max(their.expected_s(0) - (now - request.asked_at), 0.0)
                # Without a margin, equal peers would fetch each other's last chunks twice.
                gain_s = remaining_s - 2.0 * source.expected_s(request.length) - 0.1
                if gain_s > best_gain_s:
                    best, best_gain_s = index, gain_s
        return best

    def _ask(self, peer: K, source: _Source, index: int, now: float) -> None:
        length = self._length_of(index)
        if not source.requests:
            source.arrivals.resume(now)
        patience_s = 4.0 * source.expected_s(length)
        deadline = now + min(max(patience_s, REQUEST_DEADLINE_MIN_S), REQUEST_DEADLINE_MAX_S)
        source.requests[index] = _Request(index, length, now, deadline)
        source.queued_bytes += length
        self._in_flight_bytes += length
        self._askers.setdefault(index, {})[peer] = None
        self._asked |= 1 << index

    def _drop(self, peer: K, source: _Source, index: int) -> _Request | None:
        request = source.requests.pop(index, None)
        if request is None:
            return None
        source.queued_bytes -= request.length
        if not request.overdue:
            self._in_flight_bytes -= request.length
        askers = self._askers[index]
        askers.pop(peer, None)
        if not askers:
            del self._askers[index]
        if not any(not self._sources[other].requests[index].overdue for other in askers if other in self._sources):
            self._asked &= ~(1 << index)
        return request

    # --- what comes back -----------------------------------------------------------------------------------------

    def arrived(self, peer: K, index: int, now: float) -> list[K]:
        """A chunk came and verified. Returns the other peers that it was asked of, whose requests can be cancelled."""
        self.held(1 << index)
        source = self._sources.get(peer)
        if source is not None:
            request = self._drop(peer, source, index)
            if request is not None:
                self._measure(source, request, now)
        self._arrived += 1
        others = list(self._askers.get(index, ()))
        for other in others:
            self._drop(other, self._sources[other], index)
        return others

    def held(self, bits: int) -> None:
        """These chunks are here now, from wherever."""
        self._missing &= ~bits

    def _measure(self, source: _Source, request: _Request, now: float) -> None:
        source.arrivals.add(request.length, now)
        source.rate_bytes_per_s = source.arrivals.rate_bytes_per_s
        source.last_arrival = now
        source.snubbed = False
        source.response_s = min(source.response_s, max(now - request.asked_at, 1e-4))
        path_bytes = source.rate_bytes_per_s * source.response_s * WINDOW_ROUND_TRIPS
        chunks = path_bytes / max(request.length, 1) + REQUEST_WINDOW_CHUNKS_MIN
        target = int(min(chunks, REQUEST_WINDOW_CHUNKS_MAX))
        # Doubling at most, so that one lucky sample does not queue a minute of work at a slow peer.
        source.window = min(target, source.window * 2)

    def refused(self, peer: K, index: int) -> None:
        """The peer will not send this chunk; it is not asked for it again."""
        source = self._sources.get(peer)
        if source is not None:
            self._drop(peer, source, index)
            self.peer_lost(peer, 1 << index)

    def failed(self, peer: K, index: int) -> None:
        """What came did not verify; the chunk is free again."""
        source = self._sources.get(peer)
        if source is not None:
            self._drop(peer, source, index)

    # --- time ----------------------------------------------------------------------------------------------------

    def expire(self, now: float) -> list[K]:
        """Free what is past its deadline. Returns the peers that have become late; their requests stay out."""
        late: dict[K, None] = {}
        for peer, source in self._sources.items():
            for index, request in source.requests.items():
                if request.overdue or now < request.deadline:
                    continue
                request.overdue = True
                self._in_flight_bytes -= request.length
                late[peer] = None
                if all(self._sources[other].requests[index].overdue for other in self._askers[index]):
                    self._asked &= ~(1 << index)
            if peer in late and (source.last_arrival is None or now - source.last_arrival > REQUEST_DEADLINE_MIN_S):
                source.snubbed = True
                source.window = REQUEST_WINDOW_CHUNKS_MIN
        return list(late)

    def late_s(self, peer: K, now: float) -> float:
        """How long ago the oldest request that is past its deadline was made; 0 where there is none."""
        requests = self._sources[peer].requests.values()
        return max((now - request.asked_at for request in requests if request.overdue), default=0.0)
