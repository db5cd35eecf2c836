"""A lookup on the wire: the plain `Crawl` joined to calls, callbacks only, one future at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from heapq import nsmallest

from p2pmodel.errors import DecodeError
from p2pmodel.limits import (
    BUCKET_SIZE,
    LOOKUP_DEADLINE_S,
    LOOKUP_PARALLELISM,
    LOOKUP_PATHS_MAX,
    LOOKUP_PATIENCE_S,
    OVERLAY_KEY_BYTES,
    PROVIDER_PAGES_MAX,
)
from p2pmodel.net import Address
from p2pmodel.overlay.calls import Call
from p2pmodel.overlay.crawl import Candidate, Crawl
from p2pmodel.overlay.density import radius_for
from p2pmodel.overlay.node_id import NO_ID, may_contact
from p2pmodel.overlay.package import Contact
from p2pmodel.overlay.protocol import OverlayProtocol
from p2pmodel.overlay.wire import (
    FindNodeRequest,
    GetProvidersRequest,
    NodesReply,
    ProvidersReply,
    Reply,
    Request,
    WireEvidence,
    find_node,
    get_providers,
    unpack_nodes,
)

_WIDENED_MAX = 36
"""Questions for hidden nodes in one lookup: twice round, and once more with those who answered late."""
_WIDENED_ASKED = 2

OnProviders = Callable[[Candidate, list[WireEvidence]], None]


class Lookup:
    """Finds the nodes nearest to a key and, with `on_providers`, asks each for the key's providers on the way."""

    def __init__(
        self,
        protocol: OverlayProtocol,
        target: bytes,
        *,
        group_nodes_max: int,
        k: int = BUCKET_SIZE,
        seeds: Iterable[tuple[bytes, Address]] = (),
        recalled: Iterable[Candidate] = (),
        anonymous: bool = False,
        on_providers: OnProviders | None = None,
        paths: int = 1,
        seeds_only: bool = False,
        deadline_s: float = LOOKUP_DEADLINE_S,
    ) -> None:
        """`recalled` have answered lately and are not asked again. An `anonymous` lookup does not say who we are:
        nobody then asks for our key, which for one that passes thousands of strangers doubles the traffic. With
        `seeds_only` it begins with the seeds and not with our table: what we know would hide what they know."""
        self._protocol = protocol
        self._target = target
        self._on_providers = on_providers
        self._deadline_s = deadline_s
        assert 1 <= paths <= LOOKUP_PATHS_MAX
        self.crawl = Crawl(
            target,
            protocol.own_id,
            k=k,
            group_nodes_max=group_nodes_max,
            paths=paths,
            radius=_crowding_radius(protocol, k),
        )
        self._seeds_max = max(BUCKET_SIZE, paths * LOOKUP_PARALLELISM)
        self._seeds = seeds
        self._seeds_only = seeds_only
        self._recalled = recalled
        self._sender = NO_ID if anonymous else protocol.sender_id
        self._calls: dict[Call, None] = {}
        self.datagrams = 0
        """Requests sent and replies received; repetitions are not counted."""
        self._pages_left = PROVIDER_PAGES_MAX
        self._pages_open = 0
        """Further questions under way to nodes that have answered."""
        self._widened: dict[tuple[int, bytes], None] = {}
        """Places around which we have asked for hidden nodes, and whom."""
        self._k = k
        self._start = protocol.rng.randrange(1 << 16)
        assert protocol.transport is not None
        self._own = protocol.transport.address
        self._ipv6 = self._own.ip.version == 6
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self) -> list[Candidate]:
        """The nearest nodes that answered and proved their keys, nearest first. Ends within the deadline."""
        table, protocol = self._protocol.table, self._protocol
        if not self._seeds_only:
            self._offer_contacts()
        for known in self._recalled:
            self.crawl.recall(known)
        for node, address in self._seeds:
            self.crawl.offer(node, address)
        loop = asyncio.get_running_loop()
        timers = [loop.call_later(self._deadline_s, self._finish)]
        if self._on_providers is not None:  # somebody waits; a search for nodes has to be exact
            timers.append(loop.call_later(LOOKUP_PATIENCE_S, self._hurry))
        try:
            self._pump()
            await self._done
        finally:
            for timer in timers:
                timer.cancel()
            for call in self._calls:
                protocol.calls.cancel(call)
            self._calls.clear()
        nearest = self.crawl.closest()
        radius = nearest[-1].distance if nearest else 0
        now = protocol.clock.monotonic()
        table.looked_up(self.crawl.target, radius, now)
        protocol.network_size.saw(len(nearest), radius, now)
        return nearest

    def _offer_contacts(self) -> None:
        table, place = self._protocol.table, self.crawl.target
        for contact in table.nearest(place, self._seeds_max, reliable=True) or table.nearest(place, self._seeds_max):
            self.crawl.offer(contact.id, contact.address)

    def _pump(self) -> None:
        while not self._done.done() and (candidate := self.crawl.next()) is not None:
            self._ask(candidate)
        if self._k == BUCKET_SIZE and self.crawl.patient:
            self._widen()
        if not self._pages_open and self.crawl.finished:
            self._finish()

    def _hurry(self) -> None:
        """Those that are late have had their time; only who was just asked is still waited for."""
        self.crawl.patient = False
        self._pump()

    def _finish(self) -> None:
        if not self._done.done():
            self._done.set_result(None)

    def _ask(self, candidate: Candidate) -> None:
        protocol = self._protocol
        contact = protocol.table.get(candidate.id)
        if contact is not None and contact.address != candidate.address:
            contact = None
        known = contact is not None or protocol.has_proved(candidate.id, candidate.address)
        challenge = b"" if known else protocol.new_challenge(candidate.address)
        call: Call

        def replied(reply: Reply) -> None:
            self._calls.pop(call, None)
            self.datagrams += 1
            if self._answered(candidate, contact, challenge, reply):
                self.crawl.answered(candidate, reply.token)
            else:
                self.crawl.failed(candidate)
            self._pump()

        def stalled() -> None:
            self.crawl.stalled(candidate)
            self._pump()

        def failed() -> None:
            self._calls.pop(call, None)
            self.crawl.failed(candidate)
            if contact is not None:
                protocol.table.failed(contact)
            self._pump()

        call = protocol.calls.start(
            candidate.address,
            self._request(challenge, self._start),
            on_reply=replied,
            on_failed=failed,
            on_stalled=stalled,
        )
        self.datagrams += 1
        self._calls[call] = None

    def _request(self, challenge: bytes, start: int) -> FindNodeRequest | GetProvidersRequest:
        protocol = self._protocol
        if self._on_providers is not None:
            return get_providers(protocol.network_id, self._sender, challenge, self._target, start)
        return find_node(protocol.network_id, self._sender, challenge, self._target, ipv6=self._ipv6)

    def _answered(self, candidate: Candidate, contact: Contact | None, challenge: bytes, reply: Reply) -> bool:
        """Whether the answer is good: the node is who it was said to be and what it names can be read."""
        assert isinstance(reply, NodesReply | ProvidersReply)
        protocol = self._protocol
        try:
            nodes = unpack_nodes(reply.nodes4, reply.nodes6)
        except DecodeError:
            return False
        if contact is not None:
            protocol.table.seen(contact, protocol.clock.monotonic())
        elif challenge and protocol.learn(reply.proof, challenge, candidate.address, candidate.id) is None:
            return False
        self._offer(candidate, nodes)
        if isinstance(reply, ProvidersReply) and reply.providers:
            self._report(candidate, reply, self._start, 0)
        return True

    # --- further questions to nodes that have answered ------------------------------------------------------------

    def _report(self, candidate: Candidate, reply: ProvidersReply, start: int, before: int) -> None:
        assert self._on_providers is not None
        self._on_providers(candidate, reply.providers)
        # The node's own record (its address is only a port) comes with every page and is not counted in `start`.
        paged = sum(len(evidence.address) > 2 for evidence in reply.providers)
        total = reply.total - (len(reply.providers) - paged)
        if paged and before + paged < total and self._pages_left:
            self._pages_left -= 1
            self._ask_page(candidate, (start % total) + paged, before + paged)

    def _ask_page(self, candidate: Candidate, start: int, before: int) -> None:
        def replied(reply: Reply) -> None:
            assert isinstance(reply, ProvidersReply)
            if reply.providers and not self._done.done():
                self._report(candidate, reply, start, before)

        self._ask_again(candidate, self._request(b"", start), replied)

    def _widen(self) -> None:
        """Ask for nodes that the silent may hide, while we wait for the silent: around each place those who stand
        nearest to it, for everybody knows his own surroundings best."""
        places = self.crawl.hidden()
        answered = self.crawl.closest() if places else []
        for place in places:
            for candidate in nsmallest(_WIDENED_ASKED, answered, key=lambda each: each.long_id ^ place):
                if (place, candidate.id) not in self._widened and len(self._widened) < _WIDENED_MAX:
                    self._widened[place, candidate.id] = None
                    self._ask_again(candidate, self._find(place), partial(self._named, candidate))

    def _find(self, place: int) -> FindNodeRequest:
        target = place.to_bytes(OVERLAY_KEY_BYTES, "big")
        return find_node(self._protocol.network_id, self._sender, b"", target, ipv6=self._ipv6)

    def _named(self, candidate: Candidate, reply: Reply) -> None:
        assert isinstance(reply, NodesReply)
        with suppress(DecodeError):
            self._offer(candidate, unpack_nodes(reply.nodes4, reply.nodes6))

    def _offer(self, teller: Candidate, named: list[tuple[bytes, Address]]) -> None:
        for node, address in self.crawl.unheard(named, teller):
            if may_contact(address, teller.address) and self._own.reaches(address):
                self.crawl.offer(node, address, teller)

    def _ask_again(self, candidate: Candidate, request: Request, on_reply: Callable[[Reply], None]) -> None:
        call: Call

        def over() -> None:
            self._calls.pop(call, None)
            self._pages_open -= 1
            self._pump()

        def replied(reply: Reply) -> None:
            self.datagrams += 1
            on_reply(reply)
            over()

        self._pages_open += 1
        self.datagrams += 1
        call = self._protocol.calls.start(candidate.address, request, on_reply=replied, on_failed=over)
        self._calls[call] = None


async def nearest_nodes(
    protocol: OverlayProtocol,
    target: bytes,
    *,
    group_nodes_max: int,
    k: int = BUCKET_SIZE,
    seeds: Iterable[tuple[bytes, Address]] = (),
    recalled: Iterable[Candidate] = (),
    anonymous: bool = False,
    paths: int = 1,
    seeds_only: bool = False,
) -> list[Candidate]:
    """The `k` nodes nearest to `target`, proven, nearest first; fewer where the network has fewer.

    More where more than `k` stand within the distance in which half as many are to be expected.
    """
    lookup = Lookup(
        protocol,
        target,
        group_nodes_max=group_nodes_max,
        k=k,
        seeds=seeds,
        recalled=recalled,
        anonymous=anonymous,
        paths=paths,
        seeds_only=seeds_only,
    )
    return await lookup.run()


def _crowding_radius(protocol: OverlayProtocol, k: int) -> int:
    """How far from its target half of `k` nodes are to be expected, from how thick nodes stand around us.

    Whoever makes ids near a key to hide it has to crowd out everybody there; the lookup then goes on until it has
    asked all within this distance, the honest among them (SR-DHT-Store, arXiv 2505.01139, too looks at regions and not
    at counts). It binds where twenty stand in the space of ten, which among honest nodes is rare.
    """
    if k < BUCKET_SIZE or len(protocol.table) <= BUCKET_SIZE:
        return 0
    size = protocol.network_size.estimate(protocol.table.size_estimate(), protocol.clock.monotonic())
    return radius_for(size, k // 2)
