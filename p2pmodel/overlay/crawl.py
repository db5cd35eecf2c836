"""An iterative lookup as a plain object: which node to ask next, and when the nearest nodes are known.

No IO and no clock: the owner asks `next` for candidates, sends to them, and reports what became of each. A candidate
counts only once it has proved its key (or is known from the routing table), so an id costs its inventor a key; one that
does not answer frees its place for another at once, and may still answer later. What a liar can make of it is capped:
candidates, queries, addresses per node, nodes per address group.
"""

from __future__ import annotations

from bisect import insort
from enum import Enum, auto

from p2pmodel.limits import (
    ADDRESSES_PER_NODE_MAX,
    BUCKET_SIZE,
    LOOKUP_CANDIDATES_MAX,
    LOOKUP_FINAL_PARALLELISM,
    LOOKUP_PARALLELISM,
    LOOKUP_QUERIES_MAX,
)
from p2pmodel.net import Address
from p2pmodel.overlay.node_id import address_group


class State(Enum):
    NEW = auto()
    ASKED = auto()
    STALLED = auto()
    """Asked, and late: it no longer holds up the asking of others, only the end."""
    ANSWERED = auto()
    FAILED = auto()


class Candidate:
    """A node that may be among the nearest. `token` is what its answer gave us for announcing there."""

    __slots__ = ("address", "distance", "id", "long_id", "state", "token")

    def __init__(self, node_id: bytes, address: Address, target: int) -> None:
        self.id = node_id
        self.address = address
        self.long_id = int.from_bytes(node_id, "big")
        self.distance = self.long_id ^ target
        self.state = State.NEW
        self.token = b""


class Crawl:
    """The search for the `k` nodes nearest to `target`."""

    def __init__(self, target: bytes, own_id: bytes, *, k: int = BUCKET_SIZE, group_nodes_max: int = 0) -> None:
        self.target = int.from_bytes(target, "big")
        self._own_id = own_id
        self._k = k
        self._group_nodes_max = group_nodes_max
        self._ranked: list[Candidate] = []
        self._known: dict[bytes, list[Candidate]] = {}
        self._in_flight = 0
        self.queries = 0

    def offer(self, node_id: bytes, address: Address) -> None:
        """A node that somebody named."""
        if node_id == self._own_id:
            return
        alike = self._known.setdefault(node_id, [])
        if len(alike) >= ADDRESSES_PER_NODE_MAX or any(candidate.address == address for candidate in alike):
            return
        candidate = Candidate(node_id, address, self.target)
        alike.append(candidate)
        insort(self._ranked, candidate, key=_distance)
        if len(self._ranked) > LOOKUP_CANDIDATES_MAX:
            self._forget_farthest()

    def recall(self, node: Candidate) -> None:
        """A node that has answered an earlier search of ours: it counts as answered and is not asked again."""
        self.offer(node.id, node.address)
        for candidate in self._known.get(node.id, ()):
            if candidate.address == node.address and candidate.state is State.NEW:
                candidate.state, candidate.token = State.ANSWERED, node.token

    def next(self) -> Candidate | None:
        """The candidate to ask now, marked as asked, or None where that must wait or there is none."""
        if self.queries >= LOOKUP_QUERIES_MAX:
            return None
        nearest = self._nearest(State.FAILED, State.STALLED)
        # The nearest has answered and named nobody nearer: ask the rest together.
        final = bool(nearest) and nearest[0].state is State.ANSWERED
        if self._in_flight >= (LOOKUP_FINAL_PARALLELISM if final else LOOKUP_PARALLELISM):
            return None
        for candidate in nearest:
            if candidate.state is State.NEW:
                candidate.state = State.ASKED
                self._in_flight += 1
                self.queries += 1
                return candidate
        return None

    def stalled(self, candidate: Candidate) -> None:
        if candidate.state is State.ASKED:
            self._in_flight -= 1
            candidate.state = State.STALLED

    def answered(self, candidate: Candidate, token: bytes) -> None:
        """It answered and is who it was said to be."""
        self._settle(candidate, State.ANSWERED)
        candidate.token = token

    def failed(self, candidate: Candidate) -> None:
        """It did not answer, or not as it must."""
        self._settle(candidate, State.FAILED)

    @property
    def finished(self) -> bool:
        """The nearest have all answered, or nobody is left to ask.

        One that is late is replaced at once and waited for only here: it may be alive and one of the nearest.
        """
        waiting = {State.ASKED, State.STALLED}
        if self.queries < LOOKUP_QUERIES_MAX:
            waiting.add(State.NEW)
        return not any(candidate.state in waiting for candidate in self._nearest(State.FAILED))

    def closest(self) -> list[Candidate]:
        """The nearest that have answered, nearest first, each node once."""
        return [candidate for candidate in self._nearest(State.FAILED) if candidate.state is State.ANSWERED]

    def _settle(self, candidate: Candidate, state: State) -> None:
        if candidate.state is State.ASKED:
            self._in_flight -= 1
        candidate.state = state

    def _nearest(self, *without: State) -> list[Candidate]:
        """The k nearest, each node once it has answered, and no more of an address group than allowed."""
        chosen: list[Candidate] = []
        answered: set[bytes] = set()
        groups: dict[bytes, int] = {}
        for candidate in self._ranked:
            if candidate.state in without or candidate.id in answered:
                continue
            if self._group_nodes_max and (group := address_group(candidate.address.host)) is not None:
                groups[group] = groups.get(group, 0) + 1
                if groups[group] > self._group_nodes_max:
                    continue
            if candidate.state is State.ANSWERED:
                answered.add(candidate.id)
            chosen.append(candidate)
            if len(chosen) == self._k:
                break
        return chosen

    def _forget_farthest(self) -> None:
        for at in range(len(self._ranked) - 1, -1, -1):
            candidate = self._ranked[at]
            if candidate.state in (State.NEW, State.FAILED):
                del self._ranked[at]
                return


def _distance(candidate: Candidate) -> int:
    return candidate.distance
