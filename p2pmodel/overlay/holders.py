"""Who holds records of ours, and how long such nodes live: a few are asked now and then whether they still answer."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from p2pmodel.net import Address
from p2pmodel.overlay.node_id import NO_ID
from p2pmodel.overlay.pace import Pace
from p2pmodel.overlay.protocol import OverlayProtocol
from p2pmodel.overlay.wire import HelloReply, HelloRequest

_PROBES = 4
_HOLDERS_MAX = 16_384


@dataclass(slots=True)
class Holder:
    """`token` is for announcing there; `stored_at` and `heard_at` are monotonic times."""

    id: bytes
    address: Address
    token: bytes
    stored_at: float
    heard_at: float


class Holders:
    """The holders by id, the one that stored something longest ago first."""

    def __init__(self, protocol: OverlayProtocol, pace: Pace) -> None:
        self._protocol = protocol
        self._pace = pace
        self._holders: dict[bytes, Holder] = {}
        self._since: float | None = None
        self._probe_at = 0.0

    def __len__(self) -> int:
        return len(self._holders)

    def all(self) -> list[Holder]:
        return list(self._holders.values())

    def stored(self, holder: bytes, address: Address, token: bytes, now: float) -> None:
        self._holders.pop(holder, None)
        self._holders[holder] = Holder(holder, address, token, now, now)
        if len(self._holders) > _HOLDERS_MAX:
            del self._holders[next(iter(self._holders))]
        if self._since is None:
            self._since, self._probe_at = now, now + self._pace.probe_after_s(0.0)

    def lost(self, holder: bytes, now: float) -> None:
        """It left an announcement unanswered."""
        gone = self._holders.pop(holder, None)
        if gone is not None:
            self._pace.probed(False, now - gone.heard_at)

    def forget(self, before: float) -> None:
        """Drop those that stored nothing since `before`: what they had of ours has ended."""
        while self._holders and (eldest := next(iter(self._holders.values()))).stored_at <= before:
            del self._holders[eldest.id]

    def clear(self) -> None:
        self._holders.clear()
        self._since = None

    def due_s(self, now: float) -> float | None:
        """The time until the next probes, None where there is nobody to probe."""
        return max(0.0, self._probe_at - now) if self._holders else None

    async def probe(self, now: float) -> None:
        """Ask a few, if it is time, whether they live; those that do not are holders no longer."""
        if self._since is None or not self._holders or now < self._probe_at:
            return
        self._probe_at = now + self._pace.probe_after_s(now - self._since)
        ids = list(self._holders)
        chosen = [self._holders[node] for node in self._protocol.rng.sample(ids, min(_PROBES, len(ids)))]
        answers = await asyncio.gather(*(self._ask(holder) for holder in chosen))
        for holder, reply in zip(chosen, answers, strict=True):
            then = self._protocol.clock.monotonic()
            if reply is not None:
                self._pace.probed(True, then - holder.heard_at)
                holder.heard_at, holder.token = then, reply.token
            elif self._holders.get(holder.id) is holder:
                self.lost(holder.id, then)

    async def _ask(self, holder: Holder) -> HelloReply | None:
        # Without our id: nobody shall answer a proof of life with a question of its own.
        request = HelloRequest(self._protocol.network_id, NO_ID, b"")
        reply = await self._protocol.calls.ask(holder.address, request)
        return reply if isinstance(reply, HelloReply) else None
