"""How much one source may ask: a token bucket for each, and a bounded memory of sources."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

from p2pmodel.limits import DATAGRAM_SOURCES_MAX, DATAGRAMS_PER_SOURCE_PER_S
from p2pmodel.net import Address


class Allowances:
    """For each key a bucket of `at_once` units that fills by `rate` a second; the longest unused are forgotten."""

    def __init__(self, rate: float, at_once: float, keys_max: int) -> None:
        self._rate = rate
        self._at_once = at_once
        self._keys_max = keys_max
        self._levels: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def charge(self, key: Hashable, cost: float, now: float) -> bool:
        """Take `cost` from what `key` has left; False, and nothing taken, where that is too little."""
        level, at = self._levels.pop(key, (self._at_once, now))
        level = min(self._at_once, level + max(0.0, now - at) * self._rate)
        allowed = level >= cost
        self._levels[key] = (level - cost if allowed else level, now)
        if len(self._levels) > self._keys_max:
            self._levels.popitem(last=False)
        return allowed

    def __len__(self) -> int:
        return len(self._levels)


class SourceRates(Allowances):
    """Allows each source `rate` units a second and a second's worth at once.

    A source is an IP; on loopback it is IP and port, because a whole network may run on one machine.
    """

    def __init__(self, rate: float = DATAGRAMS_PER_SOURCE_PER_S, sources_max: int = DATAGRAM_SOURCES_MAX) -> None:
        super().__init__(rate, rate, sources_max)

    def allow(self, source: Address, now: float) -> bool:
        return self.charge_source(source, 1.0, now)

    def charge_source(self, source: Address, cost: float, now: float) -> bool:
        return self.charge(source if source.is_loopback else source.host, cost, now)
