"""Many peers that want one model of condensed content: the daemon's own code on as many simulated hosts.

A crowd is entered through its first member. Members start, join and fetch in their own simulated processes, so that one
can be taken away by `Internet.crash`. What each has, and when it had it all, is there to be read while time goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeVar

from p2pmodel.errors import P2PModelError
from p2pmodel.model import Layout, PublicKey, Statement, sign_statement
from p2pmodel.peer.config import NetworkConfig, PeerConfig
from p2pmodel.peer.peer import Peer
from p2pmodel.peer.reports import FetchReport
from p2pmodel.testing.condensed import CondensedStore, as_store
from p2pmodel.testing.disk import SimDisk
from p2pmodel.testing.host import Host
from p2pmodel.testing.internet import Internet
from p2pmodel.testing.loop import Process
from p2pmodel.testing.network import SimNetwork
from p2pmodel.testing.peers import DATA_DIR, PORT, SeededKeys

T = TypeVar("T")


@dataclass(eq=False)
class Member:
    """One peer of a crowd. Times are virtual seconds since the simulation began."""

    number: int
    host: Host
    process: Process
    peer: Peer
    store: CondensedStore
    began_at: float | None = None
    done_at: float | None = None
    report: FetchReport | None = None
    failure: P2PModelError | None = None
    links_max: int = 0
    chunks: list[tuple[float, int]] = field(default_factory=list)
    """Sampled: when, and how many chunks were here."""

    def held_bits(self, layout: Layout) -> int:
        have = self.store.have_map(layout.model_id)
        return have.bits if have is not None else 0

    @property
    def key(self) -> PublicKey:
        return self.peer.peer_id

    @property
    def took_s(self) -> float | None:
        """From the start of its fetch to its end."""
        return None if self.done_at is None or self.began_at is None else self.done_at - self.began_at

    def bytes_uploaded(self, now: float) -> float:
        """Of answers, what has left its line; the rest of what the line was given still waits."""
        line = self.host.upload
        return line.bytes_carried - max(0.0, line.free_at - now) * (line.bytes_per_s or 0.0)

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run in this member's process."""
        return self.process.context.run(asyncio.get_running_loop().create_task, work)


class Crowd:
    """Made on a running `VirtualLoop`. `members[0]` is the entry node of all others."""

    def __init__(self, internet: Internet, *, name: str = "crowd") -> None:
        self.internet = internet
        self.members: list[Member] = []
        self._network = NetworkConfig(name=name, profile="cluster")

    @property
    def entry(self) -> tuple[str, ...]:
        return (f"{self.members[0].host.ip4}:{PORT}",) if self.members else ()

    async def add(
        self,
        host: Host,
        *,
        store: CondensedStore | None = None,
        **config: Any,
    ) -> Member:
        """Start a peer on `host`; `config` goes to its `PeerConfig`. It joins in the background."""
        number, process = len(self.members), self.internet.process(host)
        kept = store or CondensedStore()
        peer = Peer(
            PeerConfig(
                data_dir=DATA_DIR,
                listen=f"0.0.0.0:{PORT}",
                http=None,
                bootstrap=self.entry,
                network=self._network,
                lan=False,
                saved_state="ignore",
                **config,
            ),
            network=lambda identity: SimNetwork(self.internet, host, identity, process),
            files=SimDisk().process(),
            rng=Random(f"{self.internet.seed} peer {number}"),
            keyring=SeededKeys(f"{self.internet.seed} {number}"),
            open_store=lambda _: as_store(kept),
        )
        member = Member(number, host, process, peer, kept)
        self.members.append(member)
        await member.spawn(peer.__aenter__())
        return member

    async def joined(self) -> None:
        """Until every member is in the network."""
        for member in self.members:
            await member.peer.joined.wait()

    async def publish(self, member: Member, layout: Layout) -> None:
        """`member` has all of a model: it is signed and announced as after `Peer.publish`."""
        member.store.hold(layout)
        key = await member.peer.keyring.publisher_key()
        said = Statement(layout.model_id, int(member.peer.network.clock.wall()))
        member.store.add_statement(sign_statement(said, key))
        await member.spawn(member.peer.announcer.update(layout.model_id, now=True))

    def fetch(self, member: Member, layout: Layout, *, after_s: float = 0.0) -> asyncio.Task[None]:
        """Begin a fetch; its outcome is kept in the member."""
        return member.spawn(self._fetch(member, layout, after_s))

    async def _fetch(self, member: Member, layout: Layout, after_s: float) -> None:
        await asyncio.sleep(after_s)
        member.began_at = self.internet.now
        try:
            member.report = await member.peer.fetch(layout.model_id.hex)
            member.done_at = self.internet.now
        except P2PModelError as error:
            member.failure = error
            self.internet.log.add(self.internet.now, "failed", member.number, type(error).__name__)

    async def watch(self, layout: Layout, every_s: float, look: Callable[[float], None] = lambda now: None) -> None:
        """Sample every member's chunks and connections until cancelled; `look` is told the time of each sample."""
        while True:
            now = self.internet.now
            for member in self.members:
                member.links_max = max(member.links_max, len(member.peer.swarm.links))
                if member.done_at is None or not member.chunks or member.chunks[-1][1] < len(layout):
                    member.chunks.append((now, member.held_bits(layout).bit_count()))
            look(now)
            await asyncio.sleep(every_s)

    def message_bytes(self, members: Sequence[Member] | None = None) -> int:
        """What the swarm has sent besides answers: have-maps, requests and the like."""
        total = 0
        for member in self.members if members is None else members:
            total += member.peer.swarm.bytes_sent - member.host.upload.bytes_carried
        return total
