"""The overlay of one peer: joins, finds providers, announces, keeps its table fresh. Composition and upkeep only."""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from p2pmodel.errors import DecodeError, NetworkError
from p2pmodel.limits import (
    BUCKET_SIZE,
    OVERLAY_KEY_BYTES,
    PROVIDER_ADDRESSES_MAX,
    PROVIDERS_PER_LOOKUP_MAX,
)
from p2pmodel.model import PublicKey, SecretKey
from p2pmodel.net import Address, Network
from p2pmodel.overlay.announcer import Announcer
from p2pmodel.overlay.crawl import Candidate
from p2pmodel.overlay.lookup import Lookup, nearest_nodes
from p2pmodel.overlay.node_id import may_contact, node_id
from p2pmodel.overlay.package import ID_BITS, NodeServer
from p2pmodel.overlay.profile import INTERNET, Profile
from p2pmodel.overlay.protocol import OverlayProtocol, Traffic
from p2pmodel.overlay.records import check_evidence
from p2pmodel.overlay.routing import RoutingTable
from p2pmodel.overlay.wire import HelloReply, HelloRequest, WireEvidence

log = logging.getLogger(__name__)

_REJOIN_S = 1.0
_REJOIN_MAX_S = 60.0
_REMEMBERED_MAX = 64
_FAR_CONTACTS = 8
"""Nodes to know in a far part of the key space: that all are dead when a fifth is has odds of 1 to 400,000."""
_RESTART_S = 5.0


@dataclass(frozen=True, slots=True)
class Provider:
    """A peer that says it has a key. `expires_at` is Unix time in seconds."""

    peer: PublicKey
    address: Address
    expires_at: float


@dataclass(frozen=True, slots=True)
class OverlayStats:
    neighbours: int
    keys_provided: int
    keys_pending: int
    """Provided, and not yet (or no longer) announced."""
    records_held: int
    """Pairs of key and provider that this node keeps for others."""
    network_size: float
    """Estimated number of nodes, this one included."""
    datagrams_in: int
    datagrams_out: int
    bytes_in: int
    bytes_out: int
    announce_lag_s: float
    """Age of the eldest announcement that stands."""


class Overlay:
    """One node. `rng` decides message ids, nonces and the token secret: outside simulations pass `SystemRandom`."""

    def __init__(
        self,
        *,
        key: SecretKey,
        network: Network,
        network_id: bytes,
        rng: random.Random,
        profile: Profile = INTERNET,
        client_only: bool = False,
    ) -> None:
        self._key = key
        self._network = network
        self._network_id = network_id
        self._rng = rng
        self._profile = profile
        self._client_only = client_only
        self._entries: dict[Address, None] = {}
        self._remembered: list[Address] = []
        """Neighbours of better days: whom to ask, beside the entry nodes, when nobody is left."""
        self._tasks: list[asyncio.Task[None]] = []
        self._rejoin_s = _REJOIN_S
        self._rejoin_at = 0.0
        self._sparse = asyncio.Event()
        """We have just joined and know hardly anybody far from us."""
        self._server = NodeServer(node_id(key.public), self._make_protocol)
        self._running: tuple[OverlayProtocol, Announcer] | None = None

    # --- life -----------------------------------------------------------------------------------------------------

    async def start(self, host: str, port: int) -> Address:
        """Bind UDP `host` and `port` (0: a free one). Raises `NetworkError`."""
        if self._running is not None:
            raise NetworkError("the overlay is already running")
        address = await self._server.listen(self._network, host, port)
        protocol = self._server.protocol
        assert isinstance(protocol, OverlayProtocol)
        self._running = protocol, Announcer(protocol, self._profile)
        self._tasks = [
            asyncio.create_task(self._supervise(self._announcer.run), name="overlay announcer"),
            asyncio.create_task(self._supervise(self._upkeep), name="overlay upkeep"),
        ]
        return address

    async def bootstrap(self, addresses: Sequence[Address], *, keep: bool = True) -> int:
        """Join through `addresses`; returns how many answered.

        With `keep` they are asked again whenever the table is empty, and now and then while it is small.
        """
        if keep:
            self._entries.update(dict.fromkeys(addresses))
        self._rejoin_at = max(self._rejoin_at, self._protocol.clock.monotonic() + 2 * _REJOIN_S)
        assert self._protocol.transport is not None
        own = self._protocol.transport.address
        asked = [address for address in dict.fromkeys(addresses) if own.reaches(address)]
        answers = await asyncio.gather(*map(self._hello, asked))
        if any(answers):
            await self._find_self()
            self._sparse.set()
        return sum(answers)

    async def stop(self) -> None:
        """Withdraw what we provide, then close. Safe to call twice."""
        if self._running is None:
            return
        protocol, announcer = self._running
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        await announcer.withdraw(None)
        self._running = None
        protocol.calls.close()
        self._server.stop()

    # --- providing and finding ------------------------------------------------------------------------------------

    async def provide(self, keys: Sequence[bytes]) -> int:
        """Announce `keys` now and keep them announced; returns how many another node holds when this returns."""
        return await self._announcer.provide(_checked(keys))

    def provide_later(self, keys: Iterable[bytes]) -> None:
        """Announce `keys` in the background, in bulk, and keep them announced."""
        self._announcer.provide_later(_checked(keys))

    async def withdraw(self, keys: Iterable[bytes] | None = None) -> None:
        """Stop providing `keys` (None: all) and tell their holders, within `WITHDRAW_TIMEOUT_S`."""
        await self._announcer.withdraw(None if keys is None else _checked(keys))

    async def providers(self, key: bytes) -> AsyncIterator[Provider]:
        """Providers of `key` as they are found, this node excepted; ends with the lookup.

        A provider for which holders know several addresses comes once with each, at most `PROVIDER_ADDRESSES_MAX`.
        """
        (key,) = _checked([key])
        protocol = self._protocol
        found: asyncio.Queue[Provider | None] = asyncio.Queue()
        addresses: dict[PublicKey, set[Address]] = {}

        def report(holder: Candidate, evidence: list[WireEvidence]) -> None:
            for entry in evidence:
                provider = self._check(entry, key, holder.id, holder.address)
                if provider is not None and _is_new(addresses, provider):
                    found.put_nowait(provider)

        own_id = protocol.own_id
        assert protocol.transport is not None
        now = protocol.clock.monotonic()
        for batch in protocol.providers.find(key, 0, now)[1]:
            provider = self._check(batch.evidence(key, now), key, own_id, batch.source)
            if provider is not None and _is_new(addresses, provider):
                found.put_nowait(provider)
        lookup = Lookup(protocol, key, group_nodes_max=self._profile.group_nodes_max, on_providers=report)
        task = asyncio.create_task(lookup.run(), name="provider lookup")
        task.add_done_callback(lambda _: found.put_nowait(None))
        try:
            while (next_found := await found.get()) is not None:
                yield next_found
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def neighbours(self) -> list[tuple[PublicKey, Address]]:
        return [(contact.peer, contact.address) for contact in self._protocol.table]

    def stats(self) -> OverlayStats:
        protocol, announcer = self._protocol, self._announcer
        traffic: Traffic = protocol.traffic
        return OverlayStats(
            neighbours=len(protocol.table),
            keys_provided=len(announcer.kept),
            keys_pending=announcer.kept.pending,
            records_held=len(protocol.providers),
            network_size=protocol.table.size_estimate(),
            datagrams_in=traffic.datagrams_in,
            datagrams_out=traffic.datagrams_out,
            bytes_in=traffic.bytes_in,
            bytes_out=traffic.bytes_out,
            announce_lag_s=announcer.kept.lag_s(protocol.clock.monotonic()),
        )

    # --- parts ----------------------------------------------------------------------------------------------------

    @property
    def _protocol(self) -> OverlayProtocol:
        if self._running is None:
            raise NetworkError("the overlay is not running")
        return self._running[0]

    @property
    def _announcer(self) -> Announcer:
        if self._running is None:
            raise NetworkError("the overlay is not running")
        return self._running[1]

    def _make_protocol(self, node: object, storage: object) -> OverlayProtocol:
        def joined() -> None:
            if self._running is not None:
                self._announcer.neighbour_joined()

        table = RoutingTable(
            node_id(self._key.public),
            self._network.clock.monotonic(),
            group_nodes_max=self._profile.group_nodes_max,
            stale_s=self._profile.refresh_s,
            changed=joined,
        )
        return OverlayProtocol(
            node,
            storage,
            key=self._key,
            network_id=self._network_id,
            clock=self._network.clock,
            rng=self._rng,
            table=table,
            client_only=self._client_only,
            own_evidence=lambda key: self._announcer.own_evidence(key),
        )

    def _check(self, evidence: WireEvidence, key: bytes, holder_id: bytes, holder: Address) -> Provider | None:
        if evidence.peer == self._key.public.raw:
            return None
        try:
            address = check_evidence(evidence, key, self._network_id, holder_id, holder)
        except DecodeError:
            return None
        if not may_contact(address, holder):
            return None
        return Provider(PublicKey(evidence.peer), address, self._network.clock.wall() + evidence.remaining_s)

    # --- upkeep ---------------------------------------------------------------------------------------------------

    async def _hello(self, address: Address) -> bool:
        protocol = self._protocol
        challenge = protocol.new_challenge(address)
        reply = await protocol.calls.ask(address, HelloRequest(self._network_id, protocol.sender_id, challenge))
        return isinstance(reply, HelloReply) and protocol.learn(reply.proof, challenge, address) is not None

    async def _find_self(self) -> None:
        protocol = self._protocol
        await nearest_nodes(protocol, protocol.own_id, group_nodes_max=self._profile.group_nodes_max)

    async def _upkeep(self) -> None:
        protocol = self._protocol
        while True:
            await self._wait(self._profile.tick_s if len(protocol.table) else min(_REJOIN_S, self._profile.tick_s))
            now = protocol.clock.monotonic()
            protocol.providers.expire(now)
            if len(protocol.table):
                self._remembered = [contact.address for contact in islice(protocol.table, _REMEMBERED_MAX)]
            if now >= self._rejoin_at and len(protocol.table) < BUCKET_SIZE:
                await self._rejoin()
            due = protocol.table.to_refresh(now, self._profile.refresh_s)
            if due and len(protocol.table):
                await self._explore(*self._rng.choice(due).range)

    async def _wait(self, seconds: float) -> None:
        """Until the next tick, or until we have joined and should look around."""
        try:
            async with asyncio.timeout(seconds):
                await self._sparse.wait()
        except TimeoutError:
            return
        self._sparse.clear()
        if not self._client_only:
            await self._look_around()

    async def _look_around(self) -> None:
        """Get to know some nodes in each far part of the key space (section 2.3 of the paper, on joining).

        The search for ourselves has shown our surroundings alone; without this every lookup for a far key would pass
        through the entry node. The i-th part is what shares i bits with our id and differs in the next.
        """
        table = self._protocol.table
        parts = max(0.0, math.log2(table.size_estimate() / BUCKET_SIZE))
        if not parts:
            return  # so small a network is known whole
        own = int.from_bytes(self._protocol.own_id, "big")
        ranges = []
        for shared in range(math.ceil(parts) + 1):
            size = 1 << (ID_BITS - 1 - shared)
            low = (own ^ size) & ~(size - 1)
            if sum(low <= contact.long_id < low + size for contact in table) < _FAR_CONTACTS:
                ranges.append((low, low + size - 1))
        await asyncio.gather(*(self._explore(low, high) for low, high in ranges))

    async def _explore(self, low: int, high: int) -> None:
        """Meet a few nodes around a random place."""
        target = self._rng.randint(low, high).to_bytes(OVERLAY_KEY_BYTES, "big")
        await nearest_nodes(self._protocol, target, group_nodes_max=self._profile.group_nodes_max, k=_FAR_CONTACTS)

    async def _rejoin(self) -> None:
        """Ask the entry nodes again: soon and ever less often while we are alone, now and then while we are few."""
        alone = not len(self._protocol.table)
        await self.bootstrap([*self._entries, *(self._remembered if alone else ())], keep=False)
        self._rejoin_s = min(2 * self._rejoin_s, _REJOIN_MAX_S) if alone else _REJOIN_S
        still_alone = not len(self._protocol.table)
        pause_s = self._rejoin_s if still_alone else self._profile.refresh_s
        self._rejoin_at = self._protocol.clock.monotonic() + pause_s

    async def _supervise(self, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await work()
            except Exception:  # a fault of ours must not end the upkeep of a node that runs for months
                log.exception("overlay upkeep failed and starts again")
                await asyncio.sleep(_RESTART_S)


def _checked(keys: Iterable[bytes]) -> list[bytes]:
    checked = list(keys)
    assert all(type(key) is bytes and len(key) == OVERLAY_KEY_BYTES for key in checked), "overlay keys have 20 bytes"
    return checked


def _is_new(addresses: dict[PublicKey, set[Address]], provider: Provider) -> bool:
    known = addresses.setdefault(provider.peer, set())
    if provider.address in known or len(known) >= PROVIDER_ADDRESSES_MAX:
        return False
    if sum(map(len, addresses.values())) >= PROVIDERS_PER_LOOKUP_MAX:
        return False
    known.add(provider.address)
    return True
