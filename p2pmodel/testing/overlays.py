"""Networks of thousands of overlay nodes and nothing else: no disk, no swarm, the overlay's own code on each host.

A town grows by real joins in waves, or its tables are filled directly from what only the simulation knows. Members
die in silence, come back, are asked and watched. Whatever looks *into* a node, past its public interface, is in
`inside.py`.
"""

from __future__ import annotations

import asyncio
import gc
import random
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from p2pmodel.errors import UsageError
from p2pmodel.limits import OVERLAY_KEY_BYTES
from p2pmodel.model import SecretKey
from p2pmodel.net import Address, network_id
from p2pmodel.overlay import INTERNET, Overlay, Profile, Provider, node_id
from p2pmodel.overlay.overlay import LookupTrace
from p2pmodel.testing import inside
from p2pmodel.testing.attackers import Forgetful, HostileNetwork
from p2pmodel.testing.host import Host
from p2pmodel.testing.internet import Internet
from p2pmodel.testing.network import SimNetwork

T = TypeVar("T")

PORT = 8764
_ID_BITS = 8 * OVERLAY_KEY_BYTES
_ENTRIES = 4
_WAVE_PART = 8
"""A wave of newcomers is an eighth of those who are there already."""
_WAVE_MIN = 8
_SETTLE_S = 15.0
"""After a wave: newcomers look around, and tell each other."""
_TRIES = 1_000
"""Throws of the dice for one member that fits."""
_QUARANTINE_S = 900.0
"""An address is given to another peer only when its last owner has been dead for this long."""


class Member:
    """One node of a town. `place` is its id as a number."""

    __slots__ = ("alive", "born_at", "host", "id", "joined", "key", "network", "overlay", "place", "temper")

    def __init__(self, key: SecretKey, host: Host, born_at: float, temper: Forgetful | None = None) -> None:
        self.key = key
        self.host = host
        self.id = node_id(key.public)
        self.place = int.from_bytes(self.id, "big")
        self.born_at = born_at
        self.alive = False
        self.joined = False
        """Its first search for itself is over."""
        self.temper = temper
        """What is hostile about it."""

    network: SimNetwork
    overlay: Overlay

    @property
    def address(self) -> Address:
        return Address(self.host.ip4, PORT)


class MemberDied(RuntimeError):
    """What was going on in a member ended with it."""


class OverlayTown:
    """All nodes of one simulated network. Use inside `loop.run`."""

    def __init__(
        self,
        internet: Internet,
        *,
        profile: Profile = INTERNET,
        name: str = "simulation",
        client_only: bool | None = False,
    ) -> None:
        self.internet = internet
        self.profile = profile
        self.client_only = client_only
        """Of all members: None lets each find out whether others reach it."""
        self.network_id = network_id(name)
        self.rng = random.Random(internet.rng.getrandbits(64))
        self.entries: list[Member] = []
        self.holders_of: dict[bytes, dict[Member, None]] = {}
        """Who provides each key, as told to `provide`."""
        self.temper_of_newcomer: Callable[[], Forgetful | None] = lambda: None
        """Decides which of those that `grow` and `appear` start are hostile. Entry nodes are honest."""
        self._alive: list[Member] = []
        self._at: dict[Member, int] = {}
        self._buried: deque[tuple[float, Host]] = deque()

    # --- who is there --------------------------------------------------------------------------------------------

    @property
    def alive(self) -> Sequence[Member]:
        return self._alive

    @property
    def now(self) -> float:
        return self.internet.now

    def pick(self, count: int | None = None, *, but: Sequence[Member] = ()) -> list[Member]:
        """`count` different living members that have joined (None: one), at random, honest and none of `but`."""
        without = dict.fromkeys(but)
        chosen: dict[Member, None] = {}
        for _ in range(_TRIES * (count or 1)):
            member = self._alive[self.rng.randrange(len(self._alive))]
            if member.joined and member.temper is None and member not in without:
                chosen[member] = None
                if len(chosen) == (count or 1):
                    return list(chosen)
        raise UsageError(f"there are no {count or 1} peers to choose from among {len(self._alive)}")

    def atlas(self) -> Atlas:
        """Who is alive now and where: the truth, which no node knows."""
        return Atlas(self._alive)

    # --- life and death ------------------------------------------------------------------------------------------

    async def start(
        self, *, key: SecretKey | None = None, host: Host | None = None, temper: Forgetful | None = None
    ) -> Member:
        """A node that knows nobody yet; hostile where it has a `temper`."""
        key = key or SecretKey.from_seed(self.rng.randbytes(32))
        member = Member(key, host or self._host(), self.now, temper)
        await self.boot(member)
        return member

    async def boot(self, member: Member) -> None:
        """A new process of `member`, after its start or its death: same key, same address, an empty table."""
        assert not member.alive
        if member.temper is None:
            member.network = SimNetwork(self.internet, member.host)
        else:
            member.network = HostileNetwork(self.internet, member.host, member.key, self.network_id, member.temper)
        member.overlay = Overlay(
            key=member.key,
            network=member.network,
            network_id=self.network_id,
            rng=random.Random(self.rng.getrandbits(64)),
            profile=self.profile,
            client_only=self.client_only,
        )
        await self.inside(member, member.overlay.start("0.0.0.0", PORT))
        member.alive, member.joined = True, False
        self._at[member] = len(self._alive)
        self._alive.append(member)

    async def join(self, member: Member, through: Sequence[Address]) -> None:
        await self.inside(member, member.overlay.bootstrap(through))
        member.joined = True

    def kill(self, member: Member, *, for_good: bool = True) -> None:
        """Its power is gone: nobody is told. `for_good`: its address goes to somebody else one day."""
        assert member.alive
        member.alive = member.joined = False
        last = self._alive.pop()
        at = self._at.pop(member)
        if last is not member:
            self._alive[at] = last
            self._at[last] = at
        self.internet.crash(member.host, silent=True)
        if for_good:
            self._buried.append((self.now, member.host))

    async def inside(self, member: Member, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` as part of the member's process. Raises `MemberDied` where that ends before."""
        process = member.network.process
        task: asyncio.Task[T] = process.context.run(asyncio.get_running_loop().create_task, work)
        try:
            return await task
        except asyncio.CancelledError:
            if process.alive:
                raise
            raise MemberDied from None

    def _host(self) -> Host:
        if self._buried and self._buried[0][0] + _QUARANTINE_S < self.now:
            host = self._buried.popleft()[1]
            self.internet.revive(host)
            return host
        return self.internet.host()

    # --- growing -------------------------------------------------------------------------------------------------

    async def grow(self, count: int, progress: Callable[[str], None] = lambda _: None) -> None:
        """Until `count` members are there, joined in waves through a few entry nodes, as on the first day."""
        if not self.entries:
            self.entries = [await self.start() for _ in range(min(_ENTRIES, count))]
            for member in self.entries:
                await self.join(member, [entry.address for entry in self.entries if entry is not member])
        while len(self._alive) < count:
            wave = min(count - len(self._alive), max(_WAVE_MIN, len(self._alive) // _WAVE_PART))
            newcomers = [await self.start(temper=self.temper_of_newcomer()) for _ in range(wave)]
            through = [self.entry_addresses() for _ in newcomers]
            await asyncio.gather(*map(self.join, newcomers, through))
            await asyncio.sleep(_SETTLE_S)
            progress(f"joining: {len(self._alive):,} of {count:,}")

    def entry_addresses(self) -> list[Address]:
        """Two of the entry nodes, at random: what a newcomer's configuration leads it to."""
        known = self.entries if len(self.entries) <= 2 else self.rng.sample(self.entries, 2)
        return [entry.address for entry in known]

    async def appear(self, count: int, progress: Callable[[str], None] = lambda _: None) -> None:
        """Until `count` members are there, their tables filled from what only the simulation knows.

        Each knows all nodes near it and twenty at random in each part of the key space that is farther: what the
        Kademlia paper promises at least. Nobody has sent a datagram for it.
        """
        while len(self._alive) < count:
            temper = None if len(self._alive) < _ENTRIES else self.temper_of_newcomer()
            member = await self.start(temper=temper)
            member.joined = True
        self.entries = self._alive[: min(_ENTRIES, count)]
        for member in self._alive:
            inside.remember_entries(member.overlay, self.entry_addresses())
        atlas = self.atlas()
        for number, member in enumerate(atlas.members):
            inside.fill_table(member.overlay, _acquaintances(member, atlas, self.rng), self.now)
            if number % 250 == 0:
                progress(f"filling tables: {number:,} of {count:,}")

    async def replace(self, member: Member) -> Member | None:
        """`member` dies in silence and a stranger joins, through two nodes that happen to be alive.

        So a network lives on whose entry nodes have died: addresses also come from saved tables and from friends.
        None where the stranger dies before it has joined.
        """
        self.kill(member)
        newcomer = await self.start()
        try:
            await self.join(newcomer, [other.address for other in self.pick(2)])
        except MemberDied:
            return None
        return newcomer

    # --- content -------------------------------------------------------------------------------------------------

    def new_keys(self, count: int) -> list[bytes]:
        return [self.rng.randbytes(OVERLAY_KEY_BYTES) for _ in range(count)]

    async def provide(self, member: Member, keys: Sequence[bytes]) -> int:
        """Announce now; returns how many keys another node holds."""
        for key in keys:
            self.holders_of.setdefault(key, {})[member] = None
        return await self.inside(member, member.overlay.provide(keys))

    async def find(self, member: Member, key: bytes, *, paths: int | None = None) -> LookupTrace | None:
        """Look `key` up to the end; None where `member` died meanwhile."""
        try:
            return await self.inside(member, member.overlay.trace(key, paths=paths))
        except MemberDied:
            return None

    def found(self, trace: LookupTrace) -> bool:
        """Whether a lookup brought somebody who really has the key and is alive."""
        return any(self.provides(provider, trace.key) for provider in trace.providers)

    def provides(self, provider: Provider, key: bytes) -> bool:
        """Whether a living member of ours really has what `provider` claims."""
        return any(
            member.alive and member.key.public == provider.peer and member.address == provider.address
            for member in self.holders_of.get(key, ())
        )


class Atlas:
    """Members in the order of their places."""

    def __init__(self, members: Iterable[Member]) -> None:
        self.members = sorted(members, key=lambda member: member.place)
        self._places = [member.place for member in self.members]

    def between(self, low: int, size: int) -> Sequence[Member]:
        """Those in an aligned part of the key space."""
        return self.members[bisect_left(self._places, low) : bisect_left(self._places, low + size)]

    def nearest(self, key: bytes, count: int) -> list[Member]:
        """The `count` members nearest to `key`, nearest first: all of them stand in the smallest part with so many."""
        place = int.from_bytes(key, "big")
        low, high = 0, len(self.members)
        for bits in range(_ID_BITS - 1, -1, -1):
            begin = place >> bits << bits
            low_in, high_in = (
                bisect_left(self._places, begin, low, high),
                bisect_left(self._places, begin + (1 << bits), low, high),
            )
            if high_in - low_in < count:
                break
            low, high = low_in, high_in
        part = self.members[low:high]
        part.sort(key=lambda member: member.place ^ place)
        return part[:count]


def _acquaintances(member: Member, atlas: Atlas, rng: random.Random, each: int = 20) -> Iterator[Member]:
    """All who are near `member` and `each` of every farther part. The i-th part shares i bits with its id."""
    for shared in range(_ID_BITS):
        size = 1 << (_ID_BITS - 1 - shared)
        far = atlas.between((member.place ^ size) & ~(size - 1), size)
        yield from far if len(far) <= each else rng.sample(far, each)
        if len(atlas.between(member.place & ~(size - 1), size)) == 1:
            return


@contextmanager
def calm_collector() -> Iterator[None]:
    """While inside, the garbage collector looks at the millions of objects of a town seldom; `gc.freeze` is undone."""
    before = gc.get_threshold()
    gc.set_threshold(100_000, 50, 100)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def settle_memory() -> None:
    """After the build: what is there now is there to stay, and the collector need not look at it again."""
    gc.collect()
    gc.freeze()
