"""Getting in and staying in: joining, meeting far nodes, checking on neighbours, coming back after an absence."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Sequence

from p2pmodel.errors import DecodeError
from p2pmodel.limits import BUCKET_SIZE, NEIGHBOURS_SAVED_MAX, OVERLAY_KEY_BYTES
from p2pmodel.net import Address
from p2pmodel.overlay.lookup import nearest_nodes
from p2pmodel.overlay.neighbours import Absent, Neighbour
from p2pmodel.overlay.node_id import NO_ID, may_contact, node_id
from p2pmodel.overlay.package import ID_BITS, Contact
from p2pmodel.overlay.profile import Profile
from p2pmodel.overlay.protocol import OverlayProtocol
from p2pmodel.overlay.wire import HelloReply, HelloRequest, NodesReply, find_node, unpack_nodes

_REJOIN_S = 1.0
_REJOIN_MAX_S = 60.0
_MERGE_S = 30.0
"""Between two searches for ourselves that neighbours who came back cause."""
_FAR_CONTACTS = 2
"""Nodes to meet in a far part of the key space on joining; our own lookups, those of others and time bring more."""
_GUIDES = 2
"""Contacts that name nodes of a far part: the second only where the first knew too few."""
_REFRESH_CONTACTS = 8
_FILL_S = 60.0
_FILL_CONTACTS = 4
"""Nodes of a far part to meet in each minute, until the table is full: a node that looks nothing up knows a hundred
within half an hour, for 20 bytes a second. A full table is what leaves attackers no places."""
_GREETINGS_AT_ONCE = 32
_GREETED_PER_TICK = 8
_ABSENT_PER_TICK = 2
_PATIENCE_TICKS_MIN = 4


class Upkeep:
    """Drives one node's membership. `run` is its background task."""

    def __init__(self, protocol: OverlayProtocol, profile: Profile) -> None:
        self._protocol = protocol
        self._profile = profile
        self._clock = protocol.clock
        self.entries: dict[Address, None] = {}
        self._remembered: list[Neighbour] = []
        """Neighbours of an earlier run, whom to greet first; and again while we are alone."""
        self._greet_remembered = False
        self.absent = Absent()
        self._rejoin_s = _REJOIN_S
        self._rejoin_at = 0.0
        self._merged_at = -_MERGE_S
        self._fill_at = self._clock.monotonic() + _FILL_S
        self._patience_s = profile.refresh_s
        self._losses = 0
        self._wake = asyncio.Event()
        self._sparse = False
        """We have just joined and know hardly anybody far from us."""

    # --- joining --------------------------------------------------------------------------------------------------

    async def bootstrap(self, addresses: Sequence[Address], *, keep: bool = True) -> int:
        """Join through `addresses`; returns how many answered."""
        if keep:
            self.entries.update(dict.fromkeys(addresses))
        self._rejoin_at = max(self._rejoin_at, self._clock.monotonic() + 2 * _REJOIN_S)
        return await self._join(addresses)

    def remember(self, neighbours: Iterable[Neighbour]) -> None:
        """Neighbours of an earlier run: all are greeted soon, and again while nobody else is left."""
        self._remembered = list(neighbours)[:NEIGHBOURS_SAVED_MAX]
        self._greet_remembered = bool(self._remembered)
        self._wake.set()

    def neighbours(self) -> list[Neighbour]:
        """Whom to come back to after a restart: the table, those known longest first, then the absent, and those of
        the last run whom we have not met again."""
        contacts = sorted(self._protocol.table, key=lambda contact: (contact.failures > 0, contact.since, contact.id))
        known = {each.peer: each for each in map(self._neighbour, contacts)}
        for each in [*self.absent.all(), *self._remembered]:
            known.setdefault(each.peer, each)
        return list(known.values())[:NEIGHBOURS_SAVED_MAX]

    def lost(self, contact: Contact) -> None:
        """The table has given `contact` up."""
        self._losses += 1
        self.absent.add(self._neighbour(contact), self._clock.monotonic())

    async def _join(self, addresses: Iterable[Address]) -> int:
        """Greet `addresses` and search for ourselves through those that answer."""
        assert self._protocol.transport is not None
        own = self._protocol.transport.address
        asked = [address for address in dict.fromkeys(addresses) if own.reaches(address)]
        met: list[tuple[bytes, Address]] = []
        for at in range(0, len(asked), _GREETINGS_AT_ONCE):
            part = asked[at : at + _GREETINGS_AT_ONCE]
            answers = await asyncio.gather(*map(self._hello, part))
            met += [(node, address) for node, address in zip(answers, part, strict=True) if node is not None]
        if met:
            await self._find_self(met)
            self._sparse = True
            self._wake.set()
        return len(met)

    async def _hello(self, address: Address, sender: bytes | None = None) -> bytes | None:
        """The id that the node at `address` proved, or None."""
        protocol = self._protocol
        challenge = protocol.new_challenge(address)
        request = HelloRequest(protocol.network_id, protocol.sender_id if sender is None else sender, challenge)
        reply = await protocol.calls.ask(address, request)
        return protocol.learn(reply.proof, challenge, address) if isinstance(reply, HelloReply) else None

    async def _find_self(self, seeds: Iterable[tuple[bytes, Address]]) -> None:
        """Meet our surroundings as the seeds know them; they learn of us. Where the seeds stand in a part of the
        network that we had lost sight of, this is what joins the two."""
        protocol = self._protocol
        await nearest_nodes(
            protocol,
            protocol.own_id,
            group_nodes_max=self._profile.group_nodes_max,
            seeds=seeds,
            seeds_only=True,
        )

    # --- background -----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        while True:
            await self._wait()
            table, now = self._protocol.table, self._clock.monotonic()
            self._protocol.providers.expire(now)
            if self._greet_remembered:
                self._greet_remembered = False
                await self._come_back()
            if self._sparse:
                self._sparse = False
                await self._look_around()
            if now >= self._rejoin_at and len(table) < BUCKET_SIZE:
                await self._rejoin()
            self._greet(now)
            await self._call_absent(now)
            if now >= self._fill_at:
                self._fill_at = now + _FILL_S
                await self._fill(now)
            due = table.to_refresh(now, self._profile.refresh_s)
            if due and len(table):
                await self._explore(*self._protocol.rng.choice(due).range)

    async def _wait(self) -> None:
        tick_s = self._profile.tick_s
        pause_s = tick_s if len(self._protocol.table) else min(_REJOIN_S, tick_s)
        timer = asyncio.get_running_loop().call_later(pause_s, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()
        self._wake.clear()

    async def _come_back(self) -> None:
        """Greet whom we knew before the restart: the entry nodes may be gone, and newcomers find full buckets."""
        known = {node_id(each.peer): each for each in self._remembered}
        await self._join([each.address for each in self._remembered])
        ahead_s = self._clock.wall() - self._clock.monotonic()
        for contact in self._protocol.table:
            each = known.get(contact.id)
            if each is not None and each.address == contact.address:
                contact.since = min(contact.since, each.since - ahead_s)

    async def _look_around(self) -> None:
        """Get to know some nodes in each far part of the key space (section 2.3 of the paper, on joining).

        The search for ourselves has shown our surroundings alone; without this every lookup for a far key would pass
        through the entry node. The i-th part is what shares i bits with our id and differs in the next.
        """
        table = self._protocol.table
        parts = math.log2(max(1.0, table.size_estimate() / BUCKET_SIZE))
        if not parts:
            return  # so small a network is known whole
        own = int.from_bytes(self._protocol.own_id, "big")
        meetings = []
        for shared in range(math.ceil(parts)):
            size = 1 << (ID_BITS - 1 - shared)
            low = (own ^ size) & ~(size - 1)
            known = sum(low <= contact.long_id < low + size for contact in table)
            if known < _FAR_CONTACTS:
                meetings.append(self._meet(low, low + size - 1, _FAR_CONTACTS - known))
        await asyncio.gather(*meetings)

    async def _fill(self, now: float) -> None:
        """Meet some more nodes of the far part of which we know the fewest, as long as there are places for them.

        Where nobody new is found the part is searched ever less often: we know it whole, or have asked liars.
        """
        sparse = self._protocol.table.sparse(now)
        if sparse:
            bucket = sparse[0]
            met = await self._meet(*bucket.range, _FILL_CONTACTS)
            bucket.vain_searches = 0 if met else bucket.vain_searches + 1
            pause_s = _FILL_S * 2.0 ** min(bucket.vain_searches, 16) if bucket.vain_searches else 0.0
            bucket.search_at = now + min(pause_s, self._profile.refresh_s)

    async def _meet(self, low: int, high: int, count: int) -> int:
        """Meet `count` nodes of a part of the key space, as a contact or two name them. They need not know us.

        Returns how many are met.
        """
        protocol, met = self._protocol, 0
        target = protocol.rng.randint(low, high)
        guides = protocol.table.nearest(target, 4, reliable=True)
        for guide in protocol.rng.sample(guides, min(_GUIDES, len(guides))):
            named = [
                address
                for node, address in await self._named_by(guide, target)
                if low <= int.from_bytes(node, "big") <= high and protocol.table.has_place(node, address)
            ]
            chosen = protocol.rng.sample(named, min(count - met, len(named)))
            answers = await asyncio.gather(*(self._hello(address, NO_ID) for address in chosen))
            met += sum(node is not None for node in answers)
            if met >= count:
                break
        return met

    async def _named_by(self, guide: Contact, target: int) -> list[tuple[bytes, Address]]:
        """Whom `guide` names as nearest to `target`, as far as we may and can contact them."""
        protocol = self._protocol
        assert protocol.transport is not None
        own = protocol.transport.address
        packed = target.to_bytes(OVERLAY_KEY_BYTES, "big")
        request = find_node(protocol.network_id, NO_ID, b"", packed, ipv6=own.ip.version == 6)
        reply = await protocol.calls.ask(guide.address, request)
        if not isinstance(reply, NodesReply):
            return []
        try:
            named = unpack_nodes(reply.nodes4, reply.nodes6)
        except DecodeError:
            return []
        return [each for each in named if may_contact(each[1], guide.address) and own.reaches(each[1])]

    async def _explore(self, low: int, high: int) -> None:
        """Meet a few nodes around a random place."""
        target = self._protocol.rng.randint(low, high).to_bytes(OVERLAY_KEY_BYTES, "big")
        await nearest_nodes(self._protocol, target, group_nodes_max=self._profile.group_nodes_max, k=_REFRESH_CONTACTS)

    async def _rejoin(self) -> None:
        """Ask the entry nodes again: soon and ever less often while we are alone, now and then while we are few."""
        alone = not len(self._protocol.table)
        lost = [each.address for each in [*self.absent.all(), *self._remembered]] if alone else []
        await self._join([*self.entries, *lost])
        self._rejoin_s = min(2 * self._rejoin_s, _REJOIN_MAX_S) if alone else _REJOIN_S
        still_alone = not len(self._protocol.table)
        pause_s = self._rejoin_s if still_alone else self._profile.refresh_s
        self._rejoin_at = self._clock.monotonic() + pause_s

    # --- neighbours -----------------------------------------------------------------------------------------------

    def _greet(self, now: float) -> None:
        """Check on some neighbours: on each that failed to answer, and on those silent for longer than our patience.

        Patience is the interval of refreshing in a quiet network. It halves with every tick in which a neighbour was
        lost and grows slowly back, so that the traffic follows the churn.
        """
        patience_s = self._patience_s / 2 if self._losses else self._patience_s * 1.05
        self._losses = 0
        self._patience_s = min(max(patience_s, _PATIENCE_TICKS_MIN * self._profile.tick_s), self._profile.refresh_s)
        for contact in self._protocol.table.silent_since(now - self._patience_s, _GREETED_PER_TICK):
            self._protocol.greet(contact)

    async def _call_absent(self, now: float) -> None:
        """Try a few of those that fell silent. One that answers may stand for a whole part of the network."""
        due = self.absent.due(now, _ABSENT_PER_TICK)
        answers = await asyncio.gather(*(self._hello(each.address) for each in due))
        met = []
        for each, node in zip(due, answers, strict=True):
            if node is not None:
                self.absent.returned(each.peer)
                met.append((node, each.address))
        if met and now - self._merged_at >= _MERGE_S:
            self._merged_at = now
            await self._find_self(met)
            self._sparse = True

    def _neighbour(self, contact: Contact) -> Neighbour:
        ahead_s = self._clock.wall() - self._clock.monotonic()
        return Neighbour(contact.peer, contact.address, int(contact.since + ahead_s), int(contact.seen_at + ahead_s))
