"""Upload slots for tasks: the thin shell around `choker.Choker` and our own upload limit.

Whoever has an answer to send waits here for its turn, and says when it has left.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from typing import Protocol

from p2pmodel.errors import P2PModelError, PeerGoneError
from p2pmodel.limits import REQUEST_DEADLINE_MAX_S
from p2pmodel.net import Clock
from p2pmodel.swarm.choker import Choker, Turn
from p2pmodel.swarm.pace import Pace

_SIGN_OF_LIFE_S = REQUEST_DEADLINE_MAX_S / 4
"""A peer that waits for its turn hears so often that it waits for somebody who is alive."""


class Served(Hashable, Protocol):
    """A link that is given upload slots."""

    @property
    def owing(self) -> bool:
        """Whether it takes while we fetch, and gives nothing back."""

    def ping(self) -> None: ...

    def close(self, reason: P2PModelError) -> None: ...


class Turns:
    """Everybody's answers: `take`, send, `done`."""

    def __init__(self, choker: Choker[Served], pace: Pace, clock: Clock) -> None:
        self._choker = choker
        self._pace = pace
        self._clock = clock
        self._granted: dict[Turn[Served], asyncio.Future[None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._signs: asyncio.TimerHandle | None = None
        self.bytes_sent = 0

    async def take(self, peer: Served, length: int) -> Turn[Served]:
        """Until it is this peer's turn to be sent `length` bytes. `done` must follow."""
        turn = self._choker.ask(peer, length, owing=peer.owing)
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._granted[turn] = granted
        self._pump()
        try:
            if not granted.done():
                if self._signs is None:
                    self._signs = asyncio.get_running_loop().call_later(_SIGN_OF_LIFE_S, self._give_signs)
                await granted
        except asyncio.CancelledError:
            self.done(turn)
            raise
        return turn

    def done(self, turn: Turn[Served], sent_bytes: int = 0) -> None:
        """So much has left, and nothing more will."""
        self._granted.pop(turn, None)
        self.bytes_sent += sent_bytes
        if turn.begun_at is not None and sent_bytes != turn.length:
            self._pace.spend(sent_bytes - turn.length)
            turn.length = sent_bytes
        self._choker.done(turn, self._clock.monotonic(), sent=sent_bytes > 0)
        self._pump()

    @property
    def limit_bytes_per_s(self) -> float | None:
        return self._pace.rate_bytes_per_s

    @property
    def slots(self) -> int:
        return self._choker.slots

    def sends_to(self, peer: Served) -> bool:
        """Whether it is this peer's turn, or an answer to it on its way."""
        return self._choker.sends_to(peer)

    def limit(self, rate_bytes_per_s: float | None) -> None:
        """What may leave from now on; None is no limit."""
        self._pace.change(rate_bytes_per_s)
        self._pump()

    def left(self, peer: Served) -> None:
        """The connection has ended."""
        self._choker.left(peer)

    def _give_signs(self) -> None:
        """To all who wait: one timer for them together, for most wait for much less than until it rings."""
        self._signs = None
        if self._granted:
            for peer in {turn.peer: None for turn in self._granted}:
                peer.ping()
            self._signs = asyncio.get_running_loop().call_later(_SIGN_OF_LIFE_S, self._give_signs)

    def _pump(self) -> None:
        while self._choker.waiting:
            now = self._clock.monotonic()
            wait_s: float | None = self._pace.wait_s(now)
            turn = self._choker.give(now) if not wait_s else None
            if turn is None:
                if not wait_s and (idler := self._choker.overstayed(now)) is not None:
                    idler.close(PeerGoneError("it does not take what it has asked for, and others wait"))
                wait_s = wait_s or self._choker.give_on_s(now)
                if wait_s is not None:
                    self._pump_within(wait_s)
                return
            self._pace.spend(turn.length)
            granted = self._granted.pop(turn)
            if not granted.done():  # whoever waited may have been cancelled in this very moment
                granted.set_result(None)

    def _pump_within(self, wait_s: float) -> None:
        """A timer that rings earlier is left alone: each answer would else cost one."""
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            if self._timer.when() <= loop.time() + wait_s:
                return
            self._timer.cancel()
        self._timer = loop.call_later(wait_s, self._pump_again)

    def _pump_again(self) -> None:
        self._timer = None
        self._pump()
