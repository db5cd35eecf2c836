"""Finding the peers for one model: those named by the caller, and those that the overlay tells of, again and again.

A finder keeps looking while it is open, because providers come and go, and hands every connection to whoever listens.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import aclosing, asynccontextmanager
from types import TracebackType
from typing import Any

from p2pmodel.errors import NoPeersError, NotFoundError, P2PModelError, PeerFault
from p2pmodel.limits import DIALS_WAITING_MAX, SUGGESTED_DIALS_MAX
from p2pmodel.model import PublicKey
from p2pmodel.net import Address, Clock, cancelled
from p2pmodel.overlay import Overlay
from p2pmodel.swarm import Greeting, Link, Swarm

log = logging.getLogger(__name__)

_LOOKUP_PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Between look-ups of the same key: a model that was just published appears in the first; later, new holders."""
_DIALS_MAX = 16
_REDIAL_S = 5.0


class _Turns:
    """So many dials at a time; of those that wait, to the nearest first, and in the order in which they came."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._came = 0

    @asynccontextmanager
    async def of(self, scope: int) -> AsyncIterator[None]:
        if self._free:
            self._free -= 1
        else:
            turn = asyncio.get_running_loop().create_future()
            self._came += 1
            heapq.heappush(self._waiting, (-scope, self._came, turn))
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._next()
                raise
        try:
            yield
        finally:
            self._next()

    def _next(self) -> None:
        while self._waiting:
            turn = heapq.heappop(self._waiting)[2]
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1


class Finder:
    """Looks for peers that provide `key`; use as `async with`. `links` are the connections found so far."""

    def __init__(
        self,
        key: bytes,
        *,
        overlay: Overlay,
        swarm: Swarm,
        clock: Clock,
        direct: Sequence[Address] = (),
        on_link: Callable[[Link], None] = lambda link: None,
        greeting: Callable[[], Greeting | None] = lambda: None,
    ) -> None:
        """`greeting`: what to ask of a peer that is dialled now."""
        self.on_link = on_link
        self.enough: Callable[[], bool] = lambda: False
        """Whether those that nobody named by hand need not be dialled: a fetch has connections enough."""
        self.rounds = 0
        """Look-ups of the overlay that have ended."""
        self.providers_seen = 0
        self.failures: dict[str, str] = {}
        """Why an address could not be reached, for the person."""
        self._key = key
        self._overlay = overlay
        self._swarm = swarm
        self._clock = clock
        self._greeting = greeting
        self._direct = list(direct)
        self._links: dict[PublicKey, Link] = {}
        self._dialed_at: dict[Address, float] = {}
        self._suggestions = 0
        self._spare: dict[Address, PublicKey] = {}
        """Not dialled because there were connections enough, those last that were named last."""
        self._turns = _Turns(_DIALS_MAX)
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._dials: dict[asyncio.Task[None], None] = {}
        self._changed = asyncio.Event()

    async def __aenter__(self) -> Finder:
        if self._direct:
            self.spawn(self._dial_direct())
        self.spawn(self._look())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await cancelled(self._tasks)

    @property
    def links(self) -> list[Link]:
        """Open connections to peers that were named or that provide the key, the first found first."""
        return [link for peer, link in self._links.items() if self._swarm.links.get(peer) is link]

    @property
    def dialing(self) -> bool:
        """Whether a connection that was begun may yet come about."""
        return bool(self._dials)

    def ask_also(self, addresses: Sequence[Address]) -> None:
        """More peers that somebody named by hand."""
        known = bool(self._direct)
        self._direct += [address for address in addresses if address not in self._direct]
        if self._direct and not known:
            self.spawn(self._dial_direct())
            return
        for address in addresses:
            self._dial_soon(address, None)

    def suggest(self, peers: Sequence[tuple[PublicKey, Address]]) -> None:
        """Peers that another peer named."""
        for peer, address in peers:
            if self._suggestions < SUGGESTED_DIALS_MAX:
                self._suggestions += self._dial_soon(address, peer)

    def fill_up(self) -> None:
        """Dial those who were not needed before: in a crowd many connections end at once, where peers have enough."""
        for _ in range(_DIALS_MAX):
            if not self._spare or self.enough():
                return
            address, peer = self._spare.popitem()
            self.suggest([(peer, address)])

    def nobody(self, what: str, entry_peers: Sequence[str]) -> P2PModelError:
        """The error for `what`, with what a person can do about it. `entry_peers` should have led into the network."""
        if self._overlay.neighbours() or self.links:
            return NotFoundError(f"{what}; {self._asked}")
        tried = [f"{address}: {reason}" for address, reason in self.failures.items()]
        tried += [f"bootstrap peer {address} does not answer" for address in entry_peers]
        hint = (
            "; ".join(tried[:3])
            or "name a peer of the network with --bootstrap HOST:PORT, or the publisher with --peer HOST:PORT"
        )
        return NoPeersError(f"{what}, and no other peer could be reached ({hint})")

    @property
    def _asked(self) -> str:
        count = len(self._overlay.neighbours())
        asked = f"{count} overlay peer{'s' if count != 1 else ''} asked"
        if self.failures:
            address, reason = next(iter(self.failures.items()))
            return f"{asked}, and {address} could not be reached: {reason}"
        return asked

    async def changed(self, timeout_s: float, *tasks: asyncio.Task[Any]) -> None:
        """Wait until a connection, a failure or the end of a look-up or of a task brings news, or the time is over."""
        self._changed.clear()
        news = asyncio.get_running_loop().create_task(self._changed.wait())
        try:
            await asyncio.wait({news, *tasks}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            news.cancel()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run until done, or until the finder closes."""
        task = asyncio.get_running_loop().create_task(work)
        # Cancelled before its first step, a task never touches what it was to run.
        task.add_done_callback(lambda _: work.close())
        self._tasks[task] = None
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        self._changed.set()

    async def _dial_direct(self) -> None:
        while True:
            for address in self._direct:
                self._dial_soon(address, None)
            await asyncio.sleep(_REDIAL_S)
            if not self._direct:
                return

    async def _look(self) -> None:
        while True:
            if not (self.rounds and self.enough()):  # else nobody would be dialled who is found
                await self._look_once()
            await asyncio.sleep(_LOOKUP_PAUSES_S[min(self.rounds - 1, len(_LOOKUP_PAUSES_S) - 1)])

    async def _look_once(self) -> None:
        scope_max = self.scope()
        async with aclosing(self._overlay.providers(self._key)) as providers:
            async for provider in providers:
                self.providers_seen += 1
                if provider.address.scope <= scope_max:
                    self._dial_soon(provider.address, provider.peer)
        self.rounds += 1
        self._changed.set()

    def scope(self) -> int:
        """How near an address may be that the overlay tells of: as near as the nearest peer that we talk to anyway."""
        known = [address for _, address in self._overlay.neighbours()]
        return max((address.scope for address in [*known, *self._direct]), default=0)

    def _dial_soon(self, address: Address, peer: PublicKey | None) -> bool:
        """Whether it is dialled now."""
        now = self._clock.monotonic()
        known = self._links.get(peer) if peer is not None else None
        if known is not None and self._swarm.links.get(known.peer) is known:
            return False
        if peer is None and any(link.channel.address == address for link in self.links):
            return False
        if now - self._dialed_at.get(address, -_REDIAL_S) < _REDIAL_S:
            return False
        if peer is not None and self.enough():
            self._spare_for_later(address, peer)
            return False
        if len(self._tasks) >= DIALS_WAITING_MAX:
            return False
        self._dialed_at = {at: when for at, when in self._dialed_at.items() if now - when < _REDIAL_S}
        self._dialed_at[address] = now
        dial = self.spawn(self._dial(address, peer))
        self._dials[dial] = None
        dial.add_done_callback(self._dials.pop)
        return True

    def _spare_for_later(self, address: Address, peer: PublicKey) -> None:
        self._spare.pop(address, None)
        self._spare[address] = peer
        while len(self._spare) > DIALS_WAITING_MAX:
            del self._spare[next(iter(self._spare))]

    async def _dial(self, address: Address, peer: PublicKey | None) -> None:
        async with self._turns.of(address.scope):
            if peer is not None and self.enough():
                self._dialed_at.pop(address, None)
                self._spare_for_later(address, peer)
                return
            try:
                link = await self._swarm.connect(address, peer, self._greeting)
            except PeerFault as fault:
                self.failures[str(address)] = str(fault)
                log.info("no connection to %s: %s", address, fault)
                return
        self.failures.pop(str(address), None)
        self._links[link.peer] = link
        self.on_link(link)
