"""Where the time of one download went and what each peer gave: measured, so that "why not faster" has an answer.

A plain object driven with times. At every moment one cause has the time: a phase that was entered, or, while chunks are
pulled, what the requests and connections of that moment say. Every second is counted once, so the causes add up to the
whole. While answers are due the sources are the limit, less the time in which this machine worked on what had come:
a connection takes no bytes while its last chunk is hashed and written, and of n connections each answers for an n-th.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar, get_args

Cause = Literal[
    "discovery",
    "manifest",
    "checking",
    "no_source",
    "sources",
    "download_limit",
    "own_disk",
    "end_game",
    "placing",
]
"""discovery: no peer yet. manifest: peers had to send manifest, chunk lists and signatures. checking: this disk was
searched for what is here. no_source: nothing could be asked for, since no connected peer was known to hold what was
missing. sources: asked for and not here yet. download_limit: our own limit. own_disk: hashing and writing. end_game:
all that was missing had been asked for, and peers that could have given more stood idle. placing: final names."""
CAUSES: tuple[Cause, ...] = get_args(Cause)

Waste = Literal["duplicate", "cancelled", "corrupt"]
"""duplicate: a second copy in the end game. cancelled: came after it had been called off. corrupt: other bytes."""
WASTES: tuple[Waste, ...] = get_args(Waste)

K = TypeVar("K", bound=Hashable)
"""How a peer is named."""


class SmoothRate:
    """Bytes per second over about the last `memory_s`, in which a pause or a burst is no jump; 0 before the first."""

    __slots__ = ("_bytes", "_mark", "_memory_s", "_span_s", "_total")

    def __init__(self, memory_s: float) -> None:
        self._memory_s = memory_s
        self._bytes = self._span_s = 0.0
        self._mark: float | None = None
        self._total = 0

    def update(self, total_bytes: int, now: float) -> float:
        """`total_bytes` have come since the beginning; the first call only sets it."""
        if self._mark is not None and now > self._mark:
            elapsed = now - self._mark
            keep = math.exp(-elapsed / self._memory_s)
            self._bytes = self._bytes * keep + (total_bytes - self._total)
            self._span_s = self._span_s * keep + elapsed
        self._mark, self._total = now, total_bytes
        return self._bytes / self._span_s if self._span_s else 0.0


@dataclass(slots=True)
class Source:
    """One peer's part. Seconds are those in which it had something to answer."""

    address: str
    encrypted: bool = True
    scope: int = 0
    """As `Address.scope`: 2 this machine, 1 a private network, 0 the internet."""
    bytes: int = 0
    chunks: int = 0
    refused: int = 0
    wasted_bytes: int = 0
    busy_s: float = 0.0
    ended: str = ""
    """Why nothing more was asked of it; empty where it was there to the end."""
    connected: bool = True
    open: int = 0
    """Requests that it has not answered yet."""
    busy_since: float = 0.0

    @property
    def rate_bytes_per_s(self) -> float:
        return self.bytes / self.busy_s if self.busy_s else 0.0


class Account(Generic[K]):
    """The account of one fetch from `now` on. `seconds` by cause; `sources` by peer, in order of their joining."""

    def __init__(self, now: float) -> None:
        self.began = now
        self.seconds: dict[Cause, float] = dict.fromkeys(CAUSES, 0.0)
        self.wasted: dict[Waste, int] = dict.fromkeys(WASTES, 0)
        self.sources: dict[K, Source] = {}
        self._mark = now
        self._phase: Cause | None = "discovery"
        self._missing = 0
        self._askers: dict[int, int] = {}
        """For each chunk that is asked for, of how many peers."""
        self._busy = self._idle = 0
        """Peers with open requests; peers without that have given something and are still there."""
        self._paced_until = now

    # --- time ----------------------------------------------------------------------------------------------------

    def enter(self, phase: Cause, now: float) -> None:
        """From now on `phase` has the time, until the next one or `pull`."""
        self.note(now)
        self._phase = phase

    def pull(self, missing: int, now: float) -> None:
        """From now on so many chunks are pulled, and the requests say what has the time."""
        self.note(now)
        self._phase, self._missing = None, missing

    def paced(self, until: float, now: float) -> None:
        """Our own limit lets nothing be asked for before `until`."""
        self.note(now)
        self._paced_until = until

    def note(self, now: float) -> None:
        """Give the time since the last event to whatever had it."""
        elapsed = now - self._mark
        if elapsed <= 0:
            return
        if self._phase is None and self._paced_until > self._mark:
            paced = min(self._paced_until - self._mark, elapsed)
            self.seconds["download_limit"] += paced
            elapsed -= paced
        self._mark = now
        self.seconds[self._phase or self._limit()] += elapsed

    def _limit(self) -> Cause:
        if not self._busy:
            return "no_source" if self.sources else "discovery"
        return "end_game" if self._idle and len(self._askers) >= self._missing else "sources"

    # --- peers ---------------------------------------------------------------------------------------------------

    def joined(self, peer: K, address: str, *, encrypted: bool, scope: int, now: float) -> None:
        self.note(now)
        source = self.sources.get(peer)
        if source is None:
            self.sources[peer] = Source(address, encrypted, scope)
            return
        source.ended, source.encrypted = "", encrypted
        if not source.connected:
            source.connected = True
            self._idle += self._is_idle(source)

    def left(self, peer: K, reason: str, now: float) -> None:
        """It is gone, or not asked any more. What it had been asked for may still be settled afterwards."""
        self.note(now)
        source = self.sources[peer]
        self._idle -= self._is_idle(source)
        source.connected, source.ended = False, source.ended or reason

    @staticmethod
    def _is_idle(source: Source) -> bool:
        return source.connected and not source.open and source.bytes > 0

    # --- requests ------------------------------------------------------------------------------------------------

    def asked(self, peer: K, index: int, now: float) -> None:
        self.note(now)
        source = self.sources[peer]
        if not source.open:
            self._idle -= self._is_idle(source)
            self._busy += 1
            source.busy_since = now
        source.open += 1
        self._askers[index] = self._askers.get(index, 0) + 1

    def settled(self, peer: K, index: int, worked_s: float, now: float) -> None:
        """A request has had its answer, in whichever way, or was called off; `worked_s` went into hash and disk."""
        self.note(now)
        askers = self._askers.get(index, 0)
        source = self.sources[peer]
        if not askers or not source.open:
            return
        if askers == 1:
            del self._askers[index]
        else:
            self._askers[index] = askers - 1
        own_s = min(worked_s / self._busy, self.seconds["sources"])
        self.seconds["sources"] -= own_s
        self.seconds["own_disk"] += own_s
        source.open -= 1
        if not source.open:
            source.busy_s += now - source.busy_since
            self._busy -= 1
            self._idle += self._is_idle(source)

    def gave(self, peer: K, length: int) -> None:
        """A chunk from this peer verified, and was the first: after `settled`."""
        self._missing -= 1
        source = self.sources[peer]
        first = not self._is_idle(source)
        source.bytes += length
        source.chunks += 1
        self._idle += first and self._is_idle(source)

    def refused(self, peer: K) -> None:
        self.sources[peer].refused += 1

    def waste(self, peer: K, kind: Waste, length: int) -> None:
        self.wasted[kind] += length
        self.sources[peer].wasted_bytes += length

    def close(self, now: float) -> None:
        """Chunks are not pulled any more: every request that is open ends here."""
        self.note(now)
        for source in self.sources.values():
            if source.open:
                source.busy_s += now - source.busy_since
                source.open = 0
        self._askers.clear()
        self._busy = self._idle = 0
        self._phase = "placing"
