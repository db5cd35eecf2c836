"""What was found out a moment ago, so that a client that asks for the same a dozen times is answered at once."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

from p2pmodel.limits import HUB_NAME_S
from p2pmodel.peer.coalescing import Coalesced

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class Remembered(Generic[K, T]):
    """Holds answers for `HUB_NAME_S`; errors not at all. `now` is the time of a clock that only goes forward."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._asking: Coalesced[K, T] = Coalesced()
        self._told: dict[K, tuple[float, T]] = {}

    async def get(self, key: K, ask: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Who asks for the same at the same time waits for the same answer."""
        return await self._asking.get(key, lambda: self._answer(key, ask))

    async def _answer(self, key: K, ask: Callable[[], Coroutine[Any, Any, T]]) -> T:
        now = self._now()
        self._told = {known: told for known, told in self._told.items() if now - told[0] < HUB_NAME_S}
        if key not in self._told:
            self._told[key] = (now, await ask())
        return self._told[key][1]

    async def close(self) -> None:
        await self._asking.close()
