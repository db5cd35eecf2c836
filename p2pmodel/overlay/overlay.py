"""The overlay of one peer: joins, finds providers, announces, keeps its table fresh. Composition and upkeep only."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

from p2pmodel.errors import DecodeError, NetworkError
from p2pmodel.limits import (
    OVERLAY_KEY_BYTES,
    PROVIDER_ADDRESSES_MAX,
    PROVIDERS_PER_LOOKUP_MAX,
)
from p2pmodel.model import PublicKey, SecretKey
from p2pmodel.net import Address, Network, cancelled
from p2pmodel.overlay.announcer import Announcer
from p2pmodel.overlay.dial_back import Aside
from p2pmodel.overlay.lookup import Lookup
from p2pmodel.overlay.neighbours import Neighbour, decode_neighbours, encode_neighbours
from p2pmodel.overlay.node_id import address_of, may_contact, node_id
from p2pmodel.overlay.package import Contact, NodeServer
from p2pmodel.overlay.profile import INTERNET, Profile
from p2pmodel.overlay.protocol import OverlayProtocol, Traffic
from p2pmodel.overlay.reachability import Reach
from p2pmodel.overlay.records import check_evidence
from p2pmodel.overlay.routing import RoutingTable
from p2pmodel.overlay.self_check import SelfCheck
from p2pmodel.overlay.upkeep import Upkeep
from p2pmodel.overlay.wire import WireEvidence

log = logging.getLogger(__name__)

_RESTART_S = 5.0


@dataclass(frozen=True, slots=True)
class Provider:
    """A peer that says it has a key. `expires_at` is Unix time in seconds."""

    peer: PublicKey
    address: Address
    expires_at: float


@dataclass(frozen=True, slots=True)
class LookupTrace:
    """One lookup, as `Overlay.trace` saw it: what it found and what that took. Times in seconds."""

    key: bytes
    providers: tuple[Provider, ...]
    """In the order in which they were found."""
    closest: tuple[bytes, ...]
    """Ids of the nodes nearest to the key that answered, nearest first."""
    hops: int
    """Nodes from our table to the one that first named a provider, or, where none did, to the nearest: 1 is a
    neighbour of ours, 0 ourselves or nobody."""
    queries: int
    """Nodes asked."""
    datagrams: int
    """Requests sent and replies received."""
    first_s: float | None
    """Until the first provider; None where there is none."""
    elapsed_s: float


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
    announce_behind_s: float
    """How late the part of the key space is whose turn to be announced again was due the longest ago."""
    client_only: bool
    """It uses the overlay without being a part of it, now."""
    reachability: Reach | None
    """What this node has found out; None where it was told what to be."""


class Overlay:
    """One node. `rng` decides message ids, nonces and the token secret: outside simulations pass `SystemRandom`.

    `client_only`: use the overlay without being a part of it; None finds out whether others can reach this node, and
    makes it a client while they cannot. `reachable` False says that they cannot: a node that was told so, or has found
    it out, announces nothing, for whoever found its record would dial it in vain.
    """

    def __init__(
        self,
        *,
        key: SecretKey,
        network: Network,
        network_id: bytes,
        rng: random.Random,
        profile: Profile = INTERNET,
        client_only: bool | None = False,
        reachable: bool = True,
    ) -> None:
        self._key = key
        self._network = network
        self._network_id = network_id
        self._rng = rng
        self._profile = profile
        self._client_only, self._reachable = client_only, reachable
        self._tasks: list[asyncio.Task[None]] = []
        self._self_check: SelfCheck | None = None
        self._aside = Aside(network, lambda: self._listening_host)
        self._server = NodeServer(node_id(key.public), self._make_protocol)
        self._running: tuple[OverlayProtocol, Announcer, Upkeep] | None = None
        self._remembered: list[Neighbour] = []

    # --- life -----------------------------------------------------------------------------------------------------

    async def start(self, host: str, port: int) -> Address:
        """Bind UDP `host` and `port` (0: a free one). Raises `NetworkError`."""
        if self._running is not None:
            raise NetworkError("the overlay is already running")
        address = await self._server.listen(self._network, host, port)
        protocol = self._server.protocol
        assert isinstance(protocol, OverlayProtocol)
        announcer = Announcer(protocol, self._profile, lambda: self.hidden)
        self._running = protocol, announcer, Upkeep(protocol, self._profile)
        self._upkeep.remember(self._remembered)
        self._self_check = SelfCheck(protocol, self._profile) if self._client_only is None else None
        self._tasks = [
            asyncio.create_task(self._supervise(self._announcer.run), name="overlay announcer"),
            asyncio.create_task(self._supervise(self._upkeep.run), name="overlay upkeep"),
        ]
        if self._self_check is not None:
            self._tasks.append(asyncio.create_task(self._supervise(self._self_check.run), name="overlay self-check"))
        return address

    async def bootstrap(self, addresses: Sequence[Address], *, keep: bool = True) -> int:
        """Join through `addresses`; returns how many answered.

        With `keep` they are asked again whenever the table is empty, and now and then while it is small.
        """
        return await self._upkeep.bootstrap(addresses, keep=keep)

    def remember(self, content: bytes) -> int:
        """Neighbours of an earlier run, from `saved_neighbours`; how many. Raises `DecodeError`.

        Before or after `start`. All are greeted in the background, at once and again while nobody else is left, so
        that the node comes back among those whom it knew, also when every entry node is gone.
        """
        self._remembered = decode_neighbours(content)
        if self._running is not None:
            self._upkeep.remember(self._remembered)
        return len(self._remembered)

    def saved_neighbours(self) -> bytes:
        """What to keep over a restart, for `remember`: the whole table and whom we have lost sight of, as JSON."""
        return encode_neighbours(self._upkeep.neighbours())

    async def stop(self, *, withdraw: bool = True) -> None:
        """Withdraw what we provide, then close. Safe to call twice. Who is back at once need not withdraw."""
        if self._running is None:
            return
        protocol, announcer, _ = self._running
        await cancelled(self._tasks)
        self._tasks = []
        if withdraw:
            await announcer.withdraw(None)
        self._running = None
        protocol.calls.close()
        await self._aside.close()
        self._server.stop()

    # --- providing and finding ------------------------------------------------------------------------------------

    async def provide(self, keys: Sequence[bytes]) -> int:
        """Announce `keys` now and keep them announced; returns how many another node holds when this returns."""
        return await self._announcer.provide(_checked(keys))

    def provide_later(self, keys: Iterable[bytes], *, roots: bool = False) -> None:
        """Announce `keys` in the background and keep them announced: `roots` first and well, others in bulk."""
        self._announcer.provide_later(_checked(keys), roots=roots)

    def announce_state(self) -> bytes:
        """How far announcing has come; small, for `restore_announcing` after a restart. After `stop` there is none."""
        return self._announcer.state()

    def restore_announcing(self, content: bytes) -> None:
        """Go on where an earlier run stopped, between `start` and the first key. Raises `DecodeError`.

        Keys announced shortly before the restart then wait for their turn instead of going out at once.
        """
        self._announcer.restore(content)

    async def withdraw(self, keys: Iterable[bytes] | None = None) -> None:
        """Stop providing `keys` (None: all) and tell their holders, within `WITHDRAW_TIMEOUT_S`."""
        await self._announcer.withdraw(None if keys is None else _checked(keys))

    async def providers(self, key: bytes, *, paths: int | None = None) -> AsyncGenerator[Provider, None]:
        """Providers of `key` as they are found, this node excepted; ends with the lookup.

        A provider for which holders know several addresses comes once with each, at most `PROVIDER_ADDRESSES_MAX`.
        `paths` is the number of disjoint ways along which the lookup goes, where not that of the profile.
        """
        found: asyncio.Queue[Provider | None] = asyncio.Queue()
        search = _Search(self, _checked([key])[0], paths, lambda provider, _: found.put_nowait(provider))
        task = asyncio.create_task(search.lookup.run(), name="provider lookup")
        task.add_done_callback(lambda _: found.put_nowait(None))
        try:
            while (next_found := await found.get()) is not None:
                yield next_found
        finally:
            await cancelled([task])

    async def trace(self, key: bytes, *, paths: int | None = None) -> LookupTrace:
        """Look the providers of `key` up to the end, and tell how it went."""
        clock = self._network.clock
        started = clock.monotonic()
        providers: list[Provider] = []
        first: list[tuple[float, int]] = []

        def report(provider: Provider, depth: int) -> None:
            first.append((clock.monotonic() - started, depth))
            providers.append(provider)

        search = _Search(self, _checked([key])[0], paths, report)
        closest = await search.lookup.run()
        return LookupTrace(
            key=key,
            providers=tuple(providers),
            closest=tuple(node.id for node in closest),
            hops=first[0][1] if first else search.lookup.crawl.hops,
            queries=search.lookup.crawl.queries,
            datagrams=search.lookup.datagrams,
            first_s=first[0][0] if first else None,
            elapsed_s=clock.monotonic() - started,
        )

    def neighbours(self) -> list[tuple[PublicKey, Address]]:
        return [(contact.peer, contact.address) for contact in self._protocol.table]

    def stats(self) -> OverlayStats:
        protocol, announcer = self._protocol, self._announcer
        traffic: Traffic = protocol.traffic
        return OverlayStats(
            neighbours=len(protocol.table),
            keys_provided=announcer.keys_provided,
            keys_pending=announcer.keys_pending,
            records_held=len(protocol.providers),
            network_size=protocol.table.size_estimate(),
            datagrams_in=traffic.datagrams_in,
            datagrams_out=traffic.datagrams_out,
            bytes_in=traffic.bytes_in,
            bytes_out=traffic.bytes_out,
            announce_lag_s=announcer.lag_s(protocol.clock.monotonic()),
            announce_behind_s=announcer.behind_s(protocol.clock.monotonic()),
            client_only=protocol.client_only,
            reachability=None if self._self_check is None else self._self_check.reachability.state,
        )

    @property
    def hidden(self) -> bool:
        """Whether others cannot reach this node, as it was told or has found out."""
        if self._self_check is not None and self._self_check.reachability.state is Reach.UNREACHABLE:
            return True
        return not self._reachable

    # --- parts ----------------------------------------------------------------------------------------------------

    @property
    def _protocol(self) -> OverlayProtocol:
        if self._running is None:
            raise NetworkError("the overlay is not running")
        return self._running[0]

    @property
    def _listening_host(self) -> str:
        assert self._protocol.transport is not None
        return self._protocol.transport.address.host

    @property
    def _upkeep(self) -> Upkeep:
        if self._running is None:
            raise NetworkError("the overlay is not running")
        return self._running[2]

    @property
    def _announcer(self) -> Announcer:
        if self._running is None:
            raise NetworkError("the overlay is not running")
        return self._running[1]

    def _make_protocol(self, node: object, storage: object) -> OverlayProtocol:
        def joined() -> None:
            if self._running is not None:
                self._announcer.neighbour_joined()

        def lost(contact: Contact) -> None:
            if self._running is not None:
                self._upkeep.lost(contact)

        table = RoutingTable(
            node_id(self._key.public),
            self._network.clock.monotonic(),
            group_nodes_max=self._profile.group_nodes_max,
            group_table_nodes_max=self._profile.group_table_nodes_max,
            stale_s=self._profile.refresh_s,
            changed=joined,
            lost=lost,
        )
        return OverlayProtocol(
            node,
            storage,
            key=self._key,
            network_id=self._network_id,
            clock=self._network.clock,
            rng=self._rng,
            table=table,
            client_only=bool(self._client_only),
            own_evidence=lambda key: self._announcer.own_evidence(key),
            send_aside=self._aside.send,
            open_aside=self._aside.open,
        )

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


class _Search:
    """One lookup of providers: evidence is checked once for each provider and address that it would bring."""

    def __init__(
        self, overlay: Overlay, key: bytes, paths: int | None, report: Callable[[Provider, int], None]
    ) -> None:
        self._overlay = overlay
        self._protocol = protocol = overlay._protocol
        self._key = key
        self._report = report
        self._addresses: dict[bytes, dict[Address, None]] = {}
        self._count = 0
        self.lookup = Lookup(
            protocol,
            key,
            group_nodes_max=overlay._profile.group_nodes_max,
            paths=paths or overlay._profile.paths,
            on_providers=lambda holder, evidence: self._told(holder.id, holder.address, holder.depth, evidence),
        )
        now = protocol.clock.monotonic()
        for batch in protocol.providers.find(key, 0, now)[1]:
            self._told(protocol.own_id, batch.source, 0, [batch.evidence(key, now)])

    def _told(self, holder_id: bytes, holder: Address, depth: int, evidence: list[WireEvidence]) -> None:
        for entry in evidence:
            provider = self._provider(entry, holder_id, holder)
            if provider is not None:
                self._report(provider, depth)

    def _provider(self, evidence: WireEvidence, holder_id: bytes, holder: Address) -> Provider | None:
        """The provider, where it is new and the evidence holds. A signature is the last thing that is looked at."""
        protocol = self._protocol
        if evidence.peer == protocol.key.public.raw or self._count >= PROVIDERS_PER_LOOKUP_MAX:
            return None
        known = self._addresses.get(evidence.peer, {})
        try:
            stated = address_of(evidence.address if len(evidence.address) > 2 else holder.ip.packed + evidence.address)
            if stated in known or len(known) >= PROVIDER_ADDRESSES_MAX or not may_contact(stated, holder):
                return None
            address = check_evidence(evidence, self._key, protocol.network_id, holder_id, holder)
        except DecodeError:
            return None
        assert address == stated
        self._addresses.setdefault(evidence.peer, {})[address] = None
        self._count += 1
        return Provider(PublicKey(evidence.peer), address, protocol.clock.wall() + evidence.remaining_s)
