"""Rates of connections between two looks at their counters: a plain object, so nothing runs while nobody looks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar

_FRESH_S = 10.0
"""A look that is older says more about the past than about now."""
_APART_S = 0.4
"""Looks that are closer together are taken as one: a few chunks more or less would be all their difference."""


class Counted(Protocol):
    """Something that moves bytes both ways."""

    @property
    def bytes_sent(self) -> int: ...

    @property
    def bytes_received(self) -> int: ...


class _HasChannel(Protocol):
    @property
    def channel(self) -> Counted: ...


K = TypeVar("K", bound=_HasChannel)


class Meter(Generic[K]):
    """`look` now and then; `rates` is then what moved between the last two looks."""

    def __init__(self) -> None:
        self._looked_at: float | None = None
        self._counted: dict[K, tuple[int, int]] = {}
        self._rates: dict[K, tuple[float, float]] = {}

    def stale(self, now: float) -> bool:
        """Whether a look now could not be compared with the last one."""
        return self._looked_at is None or now - self._looked_at > _FRESH_S

    def look(self, links: Iterable[K], now: float) -> None:
        elapsed = now - self._looked_at if self._looked_at is not None and not self.stale(now) else 0.0
        if 0 < elapsed < _APART_S:
            return
        counted = {link: (link.channel.bytes_sent, link.channel.bytes_received) for link in links}
        self._rates = {}
        for link, (sent, received) in counted.items():
            # A connection that was not there at the last look has had all of that time to move what it moved.
            sent_then, received_then = self._counted.get(link, (0, 0))
            if elapsed:
                self._rates[link] = ((sent - sent_then) / elapsed, (received - received_then) / elapsed)
        self._looked_at, self._counted = now, counted

    def rates(self, link: K) -> tuple[float, float]:
        """Bytes per second sent and received; zeros where that is not known yet."""
        return self._rates.get(link, (0.0, 0.0))
