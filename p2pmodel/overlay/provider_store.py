"""The provider records that this node keeps for others: many providers per key, each with an end, all under caps.

A plain object. Times are monotonic seconds. The key map holds one batch directly and a list only where a key has
several providers, because most keys have one and there may be a million.
"""

from __future__ import annotations

import heapq
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from itertools import count

from p2pmodel.limits import (
    PROVIDER_KEYS_MAX,
    PROVIDER_KEYS_PER_SOURCE_MAX,
    PROVIDERS_PER_GROUP_MAX,
    PROVIDERS_PER_KEY_MAX,
)
from p2pmodel.model import PublicKey
from p2pmodel.overlay.node_id import address_group
from p2pmodel.overlay.records import Batch

_WITHDRAWN_MAX = 4_096
"""Providers whose last withdrawal is remembered, so that an older announcement cannot undo it."""


class ProviderStore:
    """Who has which key. Every batch in it was signed by its provider and came from the provider's own address."""

    def __init__(
        self,
        *,
        keys_max: int = PROVIDER_KEYS_MAX,
        keys_per_source_max: int = PROVIDER_KEYS_PER_SOURCE_MAX,
        providers_per_key_max: int = PROVIDERS_PER_KEY_MAX,
        providers_per_group_max: int = PROVIDERS_PER_GROUP_MAX,
    ) -> None:
        self._keys_max = keys_max
        self._keys_per_source_max = keys_per_source_max
        self._providers_per_key_max = providers_per_key_max
        self._providers_per_group_max = providers_per_group_max
        self._by_key: dict[bytes, Batch | list[Batch]] = {}
        self._by_peer: dict[PublicKey, set[Batch]] = {}
        self._by_source: Counter[str] = Counter()
        self._ends: list[tuple[float, int, Batch]] = []
        self._order = count()
        self._withdrawn: OrderedDict[PublicKey, int] = OrderedDict()
        self.records = 0
        """Pairs of key and provider held."""

    def sequence_of(self, peer: PublicKey) -> int:
        """The highest sequence number known of `peer`, or 0."""
        batches = self._by_peer.get(peer, ())
        return max(self._withdrawn.get(peer, 0), max((batch.sequence for batch in batches), default=0))

    def is_stale(self, peer: PublicKey, sequence: int) -> bool:
        """Whether `peer` has withdrawn something since it said `sequence`."""
        return sequence <= self._withdrawn.get(peer, -1)

    def add(self, batch: Batch, now: float) -> int:
        """Keep `batch`; returns for how many of its keys it now stands. A newer batch replaces an older, key by key."""
        self.expire(now)
        if self.is_stale(batch.peer, batch.sequence):
            return 0
        stored = 0
        for key in batch.keys:
            stored += self._put(key, batch)
        if batch.live:
            self._by_peer.setdefault(batch.peer, set()).add(batch)
            heapq.heappush(self._ends, (batch.expires_at, next(self._order), batch))
        return stored

    def withdraw(self, peer: PublicKey, keys: Iterable[bytes], sequence: int) -> int:
        """Drop what `peer` announced before `sequence` for `keys`, or for every key where there are none."""
        self._withdrawn[peer] = max(sequence, self._withdrawn.pop(peer, 0))
        if len(self._withdrawn) > _WITHDRAWN_MAX:
            self._withdrawn.popitem(last=False)
        wanted = list(keys)
        dropped = 0
        for batch in [batch for batch in self._by_peer.get(peer, ()) if batch.sequence < sequence]:
            for key in wanted or batch.keys:
                dropped += self._drop(key, batch)
        return dropped

    def find(self, key: bytes, start: int, now: float) -> tuple[int, Iterator[Batch]]:
        """How many providers `key` has, and they in turn, beginning with number `start` modulo their count."""
        self.expire(now)
        found = self._by_key.get(key)
        if found is None:
            return 0, iter(())
        batches = found if isinstance(found, list) else [found]
        first = start % len(batches)
        return len(batches), iter(batches[first:] + batches[:first])

    def expire(self, now: float) -> None:
        """Forget what has ended."""
        while self._ends and self._ends[0][0] <= now:
            batch = heapq.heappop(self._ends)[2]
            if batch.live:
                for key in batch.keys:
                    self._drop(key, batch)

    def __len__(self) -> int:
        return self.records

    def _put(self, key: bytes, batch: Batch) -> bool:
        found = self._by_key.get(key)
        batches = found if isinstance(found, list) else [] if found is None else [found]
        older = next((b for b in batches if b.peer == batch.peer), None)
        if older is batch or (older is not None and older.sequence > batch.sequence):
            return older is batch
        if older is not None:
            self._drop(key, older)
        elif not self._has_room(batches, batch):
            return False
        if self._source_full(batch):
            return False
        rest = self._by_key.get(key)
        if rest is None:
            self._by_key[key] = batch
        elif isinstance(rest, list):
            rest.append(batch)
        else:
            self._by_key[key] = [rest, batch]
        batch.live += 1
        self.records += 1
        self._by_source[batch.source.host] += 1
        return True

    def _source_full(self, batch: Batch) -> bool:
        if self.records >= self._keys_max:
            return True
        return not batch.source.is_loopback and self._by_source[batch.source.host] >= self._keys_per_source_max

    def _has_room(self, batches: list[Batch], batch: Batch) -> bool:
        group = address_group(batch.source.host)
        if group is not None:
            alike = sum(address_group(other.source.host) == group for other in batches)
            if alike >= self._providers_per_group_max:
                return False
        return len(batches) < self._providers_per_key_max

    def _drop(self, key: bytes, batch: Batch) -> bool:
        found = self._by_key.get(key)
        if isinstance(found, list):
            if batch not in found:
                return False
            found.remove(batch)
            if len(found) == 1:
                self._by_key[key] = found[0]
        elif found is batch:
            del self._by_key[key]
        else:
            return False
        batch.live -= 1
        self.records -= 1
        host = batch.source.host
        self._by_source[host] -= 1
        if not self._by_source[host]:
            del self._by_source[host]
        if not batch.live:
            self._forget(batch)
        return True

    def _forget(self, batch: Batch) -> None:
        batches = self._by_peer.get(batch.peer)
        if batches is not None:
            batches.discard(batch)
            if not batches:
                del self._by_peer[batch.peer]
        # Its entry among the ends stays until its time comes; without keys it weighs little.
        if not batch.live:
            batch.levels = None
