"""How much one source may ask: a token bucket for each, and a bounded memory of sources."""

from __future__ import annotations

from collections import OrderedDict

from p2pmodel.limits import DATAGRAM_SOURCES_MAX, DATAGRAMS_PER_SOURCE_PER_S
from p2pmodel.net import Address


class SourceRates:
    """Allows each source `rate` units a second and a second's worth at once.

    A source is an IP; on loopback it is IP and port, because a whole network may run on one machine.
    """

    def __init__(self, rate: float = DATAGRAMS_PER_SOURCE_PER_S, sources_max: int = DATAGRAM_SOURCES_MAX) -> None:
        self._rate = rate
        self._sources_max = sources_max
        self._levels: OrderedDict[str | Address, tuple[float, float]] = OrderedDict()

    def allow(self, source: Address, now: float) -> bool:
        return self.charge(source, 1.0, now)

    def charge(self, source: Address, cost: float, now: float) -> bool:
        """Take `cost` from what `source` has left; False, and nothing taken, where that is too little."""
        key = source if source.is_loopback else source.host
        level, at = self._levels.pop(key, (self._rate, now))
        level = min(self._rate, level + max(0.0, now - at) * self._rate)
        allowed = level >= cost
        self._levels[key] = (level - cost if allowed else level, now)
        if len(self._levels) > self._sources_max:
            self._levels.popitem(last=False)
        return allowed

    def __len__(self) -> int:
        return len(self._levels)
