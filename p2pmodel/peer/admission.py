"""Which model a cache takes up next, and how much it may fetch for whom: a plain object driven with `now`.

Whoever asks costs the cache bandwidth and disk, and asking is free, so three things bound it. A model is taken up by
how many ask for it, counted once for each asker and forgotten by halves (TinyLFU, Einziger, Friedman and Manes, TOS
2017): where the cache is full, only if more ask for it than for what would have to go. Each asker has an allowance of
bytes that refills by the hour, and all askers together one for the whole cache. An *asker* is an address group of the
internet, a host of a private network, or a peer of this machine: keys cost nothing, addresses do.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Collection, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from p2pmodel.limits import (
    CACHE_ASKERS_MAX,
    CACHE_ASKERS_PER_MODEL_MAX,
    CACHE_MODELS_WATCHED_MAX,
    CACHE_TURNOVER_PER_ASKER,
    CACHE_TURNOVER_PER_H,
)

M = TypeVar("M", bound=Hashable)
"""How a model is named."""
A = TypeVar("A", bound=Hashable)
"""How an asker is named."""

HALF_LIFE_S = 3600.0
"""After this long an asker counts half."""
_RETRY_S = 60.0
"""A model of which nothing could be had, or for which there was no room, is not tried again before."""


@dataclass(slots=True)
class Allowance:
    """Bytes that may be spent: refills to `most` within an hour, and may be overdrawn by what was under way."""

    most: float
    left: float
    at: float

    def refill(self, now: float) -> float:
        self.left = min(self.most, self.left + self.most * (now - self.at) / 3600.0)
        self.at = now
        return self.left


@dataclass(slots=True)
class Demand(Generic[A]):
    """Who asked for a model, and when."""

    askers: OrderedDict[A, float] = field(default_factory=OrderedDict)
    not_before: float = 0.0

    def count(self, now: float) -> float:
        return sum(math.exp2((at - now) / HALF_LIFE_S) for at in self.askers.values())


class Admission(Generic[M, A]):
    """`asked` as askers come, `next` for the model to take up, `spend` for what came."""

    def __init__(self, quota_bytes: int, now: float) -> None:
        self._asker_most = quota_bytes * CACHE_TURNOVER_PER_ASKER
        most = quota_bytes * CACHE_TURNOVER_PER_H
        self._all = Allowance(most, most, now)
        self._demand: OrderedDict[M, Demand[A]] = OrderedDict()
        self._allowances: OrderedDict[A, Allowance] = OrderedDict()

    def asked(self, model: M, asker: A, now: float) -> None:
        demand = self._demand.setdefault(model, Demand())
        self._demand.move_to_end(model)
        if math.isinf(demand.not_before):
            demand.not_before = 0.0  # something of it may have gone since all was here
        demand.askers[asker] = now
        demand.askers.move_to_end(asker)
        if len(demand.askers) > CACHE_ASKERS_PER_MODEL_MAX:
            demand.askers.popitem(last=False)
        while len(self._demand) > CACHE_MODELS_WATCHED_MAX:
            self._demand.popitem(last=False)

    def popularity(self, model: M, now: float) -> float:
        """How many ask for a model, of late."""
        demand = self._demand.get(model)
        return demand.count(now) if demand is not None else 0.0

    def next(self, followed: Collection[M], running: Collection[M], now: float) -> M | None:
        """Of those that are followed now, are not running and may be tried: the one that most ask for, the latest."""
        may = [
            model
            for model, demand in self._demand.items()
            if model in followed
            and model not in running
            and now >= demand.not_before
            and self.allowance(model, now) > 0
        ]
        return max(reversed(may), key=lambda model: self.popularity(model, now)) if may else None

    def admits(self, model: M, stored: Collection[M], now: float) -> bool:
        """Whether a model is worth more than one of those that are stored: for a cache that is full."""
        others = [self.popularity(other, now) for other in stored if other != model]
        return bool(others) and self.popularity(model, now) > min(others)

    def put_off(self, model: M, now: float) -> None:
        """It could not be had, or there is no room: not again for a while."""
        if (demand := self._demand.get(model)) is not None:
            demand.not_before = now + _RETRY_S

    def done(self, model: M) -> None:
        """All of it is here; it is looked at again when somebody asks anew."""
        if (demand := self._demand.get(model)) is not None:
            demand.not_before = float("inf")

    # --- bytes

    def allowance(self, model: M, now: float) -> int:
        """How much may be fetched of a model now, for all who ask for it."""
        demand = self._demand.get(model)
        if demand is None:
            return 0
        theirs = sum(max(0.0, self._of(asker, now).refill(now)) for asker in demand.askers)
        return max(0, int(min(theirs, self._all.refill(now))))

    def spend(self, model: M, count_bytes: int, now: float) -> None:
        """So much came of a model: charged to those who asked for it in equal parts, beyond what they have as well."""
        self._all.refill(now)
        self._all.left -= count_bytes
        demand = self._demand.get(model)
        if demand is None:
            return
        for asker in demand.askers:
            one = self._of(asker, now)
            one.refill(now)
            one.left -= count_bytes / len(demand.askers)

    def _of(self, asker: A, now: float) -> Allowance:
        found = self._allowances.get(asker)
        if found is None:
            found = self._allowances[asker] = Allowance(self._asker_most, self._asker_most, now)
            while len(self._allowances) > CACHE_ASKERS_MAX:
                self._allowances.popitem(last=False)
        return found
