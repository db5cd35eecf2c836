"""Members of a town that come and go, by a fixed rate or as the sessions of IPFS peers do."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Coroutine, Sequence
from typing import Any

from p2pmodel.testing.overlays import Member, OverlayTown

_SHAPE = 0.5185
_SCALE_S = 1.935 * 3600
"""A Weibull distribution of session lengths through two points measured among IPFS peers: 87.6 % end within 8 hours
and 2.5 % last longer than 24 (Trautwein et al., "Design and Evaluation of IPFS", SIGCOMM 2022)."""


def session_s(rng: random.Random) -> float:
    """How long a peer that has just come will stay: median 57 minutes, mean 3.6 hours."""
    return rng.weibullvariate(_SCALE_S, _SHAPE)


def remaining_s(rng: random.Random) -> float:
    """How long a peer that is met at a random moment will still stay: long sessions are met more often.

    Length-biased Weibull: x**k of it is gamma distributed with shape 1 + 1/k; the moment is even over the session.
    """
    length_s = _SCALE_S * math.pow(rng.gammavariate(1 + 1 / _SHAPE, 1.0), 1 / _SHAPE)
    return length_s * rng.random()


class Churn:
    """Replaces members by strangers, silently, until it is stopped; `spared` stay.

    Everybody's death is drawn from the town's dice, so the same seed gives the same order of deaths.
    """

    def __init__(self, town: OverlayTown, *, spared: Sequence[Member] = ()) -> None:
        self.deaths = 0
        self._town = town
        self._spared = dict.fromkeys(spared)
        self._tasks: dict[asyncio.Task[object], None] = {}

    def at_rate(self, per_minute: float) -> None:
        """A `per_minute` part of all leaves in each minute, at even times, whoever it is."""
        self._spawn(self._evenly(per_minute))

    def like_ipfs(self) -> None:
        """Each stays for a session; those who are there now are in the middle of one."""
        for member in self._town.alive:
            if member not in self._spared:
                self._spawn(self._live(member, remaining_s(self._town.rng)))

    async def stop(self) -> None:
        tasks, self._tasks = list(self._tasks), {}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _evenly(self, per_minute: float) -> None:
        town = self._town
        begin, due = town.now, 0.0
        while True:
            due += 60.0 / (per_minute * len(town.alive))
            await asyncio.sleep(max(0.0, begin + due - town.now))
            member = self._doomed()
            if member is not None:
                self._spawn(self._replace(member))

    def _doomed(self) -> Member | None:
        town = self._town
        for _ in range(100):
            member = town.alive[town.rng.randrange(len(town.alive))]
            if member not in self._spared:
                return member
        return None

    async def _live(self, member: Member, rest_s: float) -> None:
        await asyncio.sleep(rest_s)
        if member.alive:
            newcomer = await self._replace(member)
            if newcomer is not None:
                self._spawn(self._live(newcomer, session_s(self._town.rng)))

    async def _replace(self, member: Member) -> Member | None:
        self.deaths += 1
        return await self._town.replace(member)

    def _spawn(self, work: Coroutine[Any, Any, object]) -> None:
        task = asyncio.create_task(work)
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done, None))
