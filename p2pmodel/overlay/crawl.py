"""An iterative lookup as a plain object: which node to ask next, and when the nearest nodes are known.

No IO and no clock: the owner asks `next` for candidates, sends to them, and reports what became of each. A candidate
counts only once it has proved its key (or is known from the routing table), so an id costs its inventor a key; one that
does not answer frees its place for another at once, and may still answer later. What a liar can make of it is capped:
candidates, queries, addresses per node, nodes per address group.

A crawl may follow several disjoint paths (S/Kademlia, Baumgart and Mies 2007, section 4.4): what a node names is heard
only by the path that asked it, and no node is asked by two. Liars who name each other capture the paths they stand on,
and no other. And it may be told a radius within which it has to ask everybody, however many have crowded there.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Iterator
from enum import Enum, auto

from p2pmodel.limits import (
    ADDRESSES_PER_NODE_MAX,
    BUCKET_SIZE,
    LOOKUP_CANDIDATES_MAX,
    LOOKUP_FINAL_PARALLELISM,
    LOOKUP_PARALLELISM,
    LOOKUP_PATH_PARALLELISM,
    LOOKUP_PATH_QUERIES_MIN,
    LOOKUP_QUERIES_MAX,
)
from p2pmodel.net import Address
from p2pmodel.overlay.node_id import address_group
from p2pmodel.overlay.package import ID_BITS


class State(Enum):
    NEW = auto()
    ASKED = auto()
    STALLED = auto()
    """Asked, and late: it no longer holds up the asking of others, only the end."""
    ANSWERED = auto()
    FAILED = auto()


_NEW, _ASKED, _STALLED, _ANSWERED, _FAILED = State


class Candidate:
    """A node that may be among the nearest. `token` is what its answer gave us for announcing there.

    `depth` counts the nodes from our own table to it: 1 for a contact of ours. `path` is the path that asked it.
    """

    __slots__ = ("address", "depth", "distance", "id", "long_id", "path", "state", "token")

    def __init__(self, node_id: bytes, address: Address, target: int, depth: int = 1) -> None:
        self.id = node_id
        self.address = address
        self.long_id = int.from_bytes(node_id, "big")
        self.distance = self.long_id ^ target
        self.depth = depth
        self.path = 0
        self.state = State.NEW
        self.token = b""


class _Path:
    """What one path has heard of, nearest first, and how many it is waiting for."""

    __slots__ = ("in_flight", "known", "queries", "ranked")

    def __init__(self) -> None:
        self.ranked: list[Candidate] = []
        self.known: dict[bytes, list[Candidate]] = {}
        self.in_flight = 0
        self.queries = 0


class Crawl:
    """The search for the `k` nodes nearest to `target`, and for all within `radius` of it."""

    def __init__(
        self,
        target: bytes,
        own_id: bytes,
        *,
        k: int = BUCKET_SIZE,
        group_nodes_max: int = 0,
        paths: int = 1,
        radius: int = 0,
    ) -> None:
        self.target = int.from_bytes(target, "big")
        self._own_id = own_id
        self._k = k
        self._group_nodes_max = group_nodes_max
        self._radius = radius
        self._paths = [_Path() for _ in range(paths)]
        self._shared: dict[tuple[bytes, Address], Candidate] = {}
        """Every candidate, where several paths may have heard of it."""
        self._silent = False
        """Whether anybody has been late or failed."""
        self.patient = True
        """Whether those that are late are waited for at the end, and few are asked at a time before it."""
        self._seeds = 0
        alone = paths == 1
        self._parallelism = LOOKUP_PARALLELISM if alone else LOOKUP_PATH_PARALLELISM
        self._final_parallelism = LOOKUP_FINAL_PARALLELISM if alone else LOOKUP_PARALLELISM
        self._queries_max = LOOKUP_QUERIES_MAX if alone else max(LOOKUP_PATH_QUERIES_MIN, LOOKUP_QUERIES_MAX // paths)

    @property
    def queries(self) -> int:
        return sum(path.queries for path in self._paths)

    @property
    def hops(self) -> int:
        """Depth of the nearest node that has answered; 0 where nobody did."""
        nearest = min(self._answered(), key=_distance, default=None)
        return nearest.depth if nearest is not None else 0

    def offer(self, node_id: bytes, address: Address, teller: Candidate | None = None) -> None:
        """A node that `teller` named; without one it is known from before, and the paths take turns with those."""
        if node_id == self._own_id:
            return
        if teller is not None:
            at = teller.path
        else:
            at = self._seeds % len(self._paths)
            self._seeds += 1
        path = self._paths[at]
        alike = path.known.get(node_id)
        if alike is None:
            alike = path.known[node_id] = []
        elif len(alike) >= ADDRESSES_PER_NODE_MAX or any(candidate.address == address for candidate in alike):
            return
        candidate = self._candidate(node_id, address, teller.depth + 1 if teller is not None else 1)
        alike.append(candidate)
        insort(path.ranked, candidate, key=_distance)
        if len(path.ranked) > LOOKUP_CANDIDATES_MAX:
            _forget_farthest(path)

    def unheard(self, named: Iterable[tuple[bytes, Address]], teller: Candidate) -> list[tuple[bytes, Address]]:
        """Those of `named` that `teller`'s path does not know yet: most are said twenty times over."""
        known = self._paths[teller.path].known
        return [
            node
            for node in named
            if (alike := known.get(node[0])) is None
            or (alike[0].address is not node[1] and len(alike) < ADDRESSES_PER_NODE_MAX and alike[0].address != node[1])
        ]

    def recall(self, node: Candidate) -> None:
        """A node that has answered an earlier search of ours: it counts as answered and is not asked again."""
        self.offer(node.id, node.address)
        for path in self._paths:
            for candidate in path.known.get(node.id, ()):
                if candidate.address == node.address and candidate.state is _NEW:
                    candidate.state, candidate.token = State.ANSWERED, node.token

    def next(self) -> Candidate | None:
        """The candidate to ask now, marked as asked, or None where that must wait or there is none."""
        for at, path in enumerate(self._paths):
            if path.queries < self._queries_max and path.in_flight < self._final_parallelism:
                candidate = self._next(path)
                if candidate is not None:
                    candidate.state = State.ASKED
                    candidate.path = at
                    path.in_flight += 1
                    path.queries += 1
                    return candidate
        return None

    def stalled(self, candidate: Candidate) -> None:
        if candidate.state is _ASKED:
            self._paths[candidate.path].in_flight -= 1
            candidate.state = State.STALLED
            self._silent = True

    def answered(self, candidate: Candidate, token: bytes) -> None:
        """It answered and is who it was said to be."""
        self._settle(candidate, State.ANSWERED)
        candidate.token = token

    def failed(self, candidate: Candidate) -> None:
        """It did not answer, or not as it must."""
        self._settle(candidate, State.FAILED)
        self._silent = True

    @property
    def finished(self) -> bool:
        """On every path the nearest have all answered, or nobody is left to ask.

        One that is late is replaced at once and waited for only here: it may be alive and one of the nearest.
        """
        for path in self._paths:
            more = path.queries < self._queries_max
            for candidate in self._nearest(path.ranked, late=self.patient):
                state = candidate.state
                if state is _ASKED or state is _STALLED or (more and state is _NEW):
                    return False
        return True

    def closest(self) -> list[Candidate]:
        """The nearest that have answered, on any path, nearest first, each node once."""
        ranked = self._paths[0].ranked if len(self._paths) == 1 else sorted(self._answered(), key=_distance)
        return [candidate for candidate in self._nearest(ranked, late=self.patient) if candidate.state is _ANSWERED]

    def hidden(self) -> list[int]:
        """Places around which nodes may stand of which nobody told us, because replies are full of the silent.

        A reply names the twenty nearest that its sender knows. Where ten of them are dead, the ten alive behind them
        stay unnamed. They stand in the outer shells of the ball that the k nearest fill; a shell's own nearest are
        asked for by turning one bit of the target. Nothing is returned before half of the nearest have answered.
        """
        if not self._silent:
            return []
        everybody = self._shared.values() if self._shared else self._paths[0].ranked
        ranked = sorted(everybody, key=_distance)
        nearest = list(self._nearest(ranked, late=False))
        if not nearest or any(each.state is not _ANSWERED for each in nearest[: self._k // 2]):
            return []
        # Where fewer are left than we look for, the rest stands farther out than anybody that we have heard of.
        farthest = nearest[-1].distance if len(nearest) >= self._k else 2 * ranked[-1].distance
        farthest = min(farthest, (1 << ID_BITS) - 1)
        if not any(each.state in (_STALLED, _FAILED) and each.distance <= farthest for each in ranked):
            return []
        outer = 1 << (max(farthest, 8).bit_length() - 1)
        half, quarter = outer >> 1, outer >> 2
        # The outermost shell is the thickest and looked at in four parts, the one within in two.
        turns = (outer, outer | quarter, outer | half, outer | half | quarter, half, half | quarter)
        return [self.target ^ turned for turned in turns]

    def _next(self, path: _Path) -> Candidate | None:
        nearest = None
        for candidate in self._nearest(path.ranked, late=False):
            if nearest is None:
                nearest = candidate
                # The nearest has answered and named nobody nearer: ask the rest together.
                together = nearest.state is _ANSWERED or not self.patient
                limit = self._final_parallelism if together else self._parallelism
                if path.in_flight >= limit:
                    return None
            if candidate.state is _NEW:
                return candidate
        return None

    def _candidate(self, node_id: bytes, address: Address, depth: int) -> Candidate:
        if len(self._paths) == 1:
            return Candidate(node_id, address, self.target, depth)
        known = self._shared.get((node_id, address))
        if known is None:
            known = self._shared[node_id, address] = Candidate(node_id, address, self.target, depth)
        return known

    def _answered(self) -> list[Candidate]:
        known = self._shared.values() if self._shared else self._paths[0].ranked
        return [candidate for candidate in known if candidate.state is _ANSWERED]

    def _settle(self, candidate: Candidate, state: State) -> None:
        if candidate.state is _ASKED:
            self._paths[candidate.path].in_flight -= 1
        candidate.state = state

    def _nearest(self, ranked: list[Candidate], *, late: bool = True) -> Iterator[Candidate]:
        """The k nearest and those within the radius, without the failed and unless `late` without the late.

        Each node comes once when it has answered, and no more of an address group than allowed.
        """
        answered: set[bytes] = set()
        groups: dict[bytes, int] = {}
        left = self._k
        for candidate in ranked:
            if left <= 0 and candidate.distance > self._radius:
                return
            state = candidate.state
            if state is _FAILED or (state is _STALLED and not late) or candidate.id in answered:
                continue
            if self._group_nodes_max and (group := address_group(candidate.address.host)) is not None:
                groups[group] = groups.get(group, 0) + 1
                if groups[group] > self._group_nodes_max:
                    continue
            if state is _ANSWERED:
                answered.add(candidate.id)
            left -= 1
            yield candidate


def _forget_farthest(path: _Path) -> None:
    for at in range(len(path.ranked) - 1, -1, -1):
        if path.ranked[at].state in (_NEW, _FAILED):
            del path.ranked[at]
            return


def _distance(candidate: Candidate) -> int:
    return candidate.distance
