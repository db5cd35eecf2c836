"""The provider records that this node keeps for others: many providers per key, each with an end, all under caps.

A plain object. Times are monotonic seconds. The key map holds one batch directly and a list only where a key has
several providers, because most keys have one and there may be a million.

What bounds it: records in all, records from one source address, records from one address group (/24, /48), providers
of one key, and providers of one key from one group. A cap on what one source or group may have alone would let whoever
comes first fill a key or the whole store, so places are shared: where a key is full, a provider from a group with fewer
of its places takes the place of one from the group with the most; where all is full, so does a record from a group
that has fewer records. Loopback and private networks are one source to each of their addresses and no group.

Measured on CPython 3.11: a record of a full batch of fifty takes about 140 bytes (the key, its entry in the map, its
part of the batch), one of a batch of its own about 1,120, so a million records of honest sweeps take 140 MB and
`PROVIDER_BATCHES_MAX` keeps those of a spammer of single keys below 150 MB too.
"""

from __future__ import annotations

import heapq
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from itertools import count, islice

from p2pmodel.limits import (
    PROVIDER_BATCHES_MAX,
    PROVIDER_KEYS_MAX,
    PROVIDER_KEYS_PER_GROUP_MAX,
    PROVIDER_KEYS_PER_SOURCE_MAX,
    PROVIDERS_PER_GROUP_MAX,
    PROVIDERS_PER_KEY_MAX,
)
from p2pmodel.model import PublicKey
from p2pmodel.overlay.records import Batch

_WITHDRAWN_MAX = 4_096
"""Providers whose last withdrawal is remembered, so that an older announcement cannot undo it."""
_ENDS_SLACK = 1_024
_GROUPS_LOOKED_AT = 16
"""What a full store costs whoever adds to it is the same however many groups there are."""


class ProviderStore:
    """Who has which key. Every batch in it was signed by its provider and came from the provider's own address."""

    def __init__(
        self,
        *,
        keys_max: int = PROVIDER_KEYS_MAX,
        keys_per_source_max: int = PROVIDER_KEYS_PER_SOURCE_MAX,
        keys_per_group_max: int = PROVIDER_KEYS_PER_GROUP_MAX,
        batches_max: int = PROVIDER_BATCHES_MAX,
        providers_per_key_max: int = PROVIDERS_PER_KEY_MAX,
        providers_per_group_max: int = PROVIDERS_PER_GROUP_MAX,
    ) -> None:
        self._keys_max = keys_max
        self._keys_per_source_max = keys_per_source_max
        self._keys_per_group_max = keys_per_group_max
        self._batches_max = batches_max
        self._providers_per_key_max = providers_per_key_max
        self._providers_per_group_max = providers_per_group_max
        self._by_key: dict[bytes, Batch | list[Batch]] = {}
        self._by_peer: dict[PublicKey, dict[Batch, None]] = {}
        self._by_source: Counter[str] = Counter()
        self._by_group: OrderedDict[bytes, dict[Batch, None]] = OrderedDict()
        """The batches of each address group, the eldest first."""
        self._group_records: Counter[bytes] = Counter()
        self._largest = b""
        """A group with many records, maybe the one with the most."""
        self._ends: list[tuple[float, int, Batch]] = []
        self._order = count()
        self._withdrawn: OrderedDict[PublicKey, int] = OrderedDict()
        self.records = 0
        """Pairs of key and provider held."""
        self.batches = 0

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

    def __contains__(self, key: bytes) -> bool:
        return key in self._by_key

    def __len__(self) -> int:
        return self.records

    def _put(self, key: bytes, batch: Batch) -> bool:
        batches = self._of(key)
        older = next((other for other in batches if other.peer == batch.peer), None)
        if older is not None and (older is batch or older.sequence > batch.sequence):
            return True  # announcements overtake each other on their way
        if older is not None:
            self._drop(key, older)
        if self._source_full(batch):
            return False
        if older is None and not self._has_room(key, batches, batch):
            return False
        if not self._make_room(batch):
            return False
        rest = self._by_key.get(key)
        if rest is None:
            self._by_key[key] = batch
        elif isinstance(rest, list):
            rest.append(batch)
        else:
            self._by_key[key] = [rest, batch]
        if not batch.live:
            self._enter(batch)
        batch.live += 1
        self.records += 1
        self._by_source[batch.source.host] += 1
        if batch.group is not None:
            self._group_records[batch.group] += 1
            if self._group_records[batch.group] > self._group_records[self._largest]:
                self._largest = batch.group
        return True

    def _of(self, key: bytes) -> list[Batch]:
        found = self._by_key.get(key)
        return found if isinstance(found, list) else [] if found is None else [found]

    def _source_full(self, batch: Batch) -> bool:
        if batch.group is not None and self._group_records[batch.group] >= self._keys_per_group_max:
            return True
        return not batch.source.is_loopback and self._by_source[batch.source.host] >= self._keys_per_source_max

    def _has_room(self, key: bytes, batches: list[Batch], batch: Batch) -> bool:
        """Whether `key` takes one more provider, perhaps in the place of one whose group has more of them."""
        groups = Counter(other.group for other in batches if other.group is not None)
        own = 0 if batch.group is None else groups[batch.group]
        if own >= self._providers_per_group_max:
            return False
        if len(batches) < self._providers_per_key_max:
            return True
        if not groups:
            return False
        crowd, places = max(groups.items(), key=lambda entry: (entry[1], entry[0]))
        if places <= own + 1:
            return False
        self._drop(key, next(other for other in batches if other.group == crowd))
        return True

    def _make_room(self, batch: Batch) -> bool:
        """Whether the store takes one more record, perhaps in the place of those of a group that has more of them."""
        if self.records < self._keys_max and (batch.live or self.batches < self._batches_max):
            return True
        crowd = self._crowd()
        own = 0 if batch.group is None else self._group_records[batch.group]
        if crowd is None or crowd == batch.group or self._group_records[crowd] <= own + 1:
            return False
        eldest = next(iter(self._by_group[crowd]))
        for key in eldest.keys:
            self._drop(key, eldest)
        return True

    def _crowd(self) -> bytes | None:
        """A group with very many records: the largest of some, in turn, and of the one found before."""
        for group in list(islice(self._by_group, _GROUPS_LOOKED_AT)):
            self._by_group.move_to_end(group)
            if self._group_records[group] > self._group_records[self._largest]:
                self._largest = group
        return self._largest if self._largest in self._by_group else None

    def _enter(self, batch: Batch) -> None:
        self.batches += 1
        self._by_peer.setdefault(batch.peer, {})[batch] = None
        if batch.group is not None:
            self._by_group.setdefault(batch.group, {})[batch] = None
        heapq.heappush(self._ends, (batch.expires_at, next(self._order), batch))

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
        self._by_source[batch.source.host] -= 1
        if not self._by_source[batch.source.host]:
            del self._by_source[batch.source.host]
        if batch.group is not None:
            self._group_records[batch.group] -= 1
            if not self._group_records[batch.group]:
                del self._group_records[batch.group]
        if not batch.live:
            self._forget(batch)
        return True

    def _forget(self, batch: Batch) -> None:
        self.batches -= 1
        of_peer = self._by_peer[batch.peer]
        del of_peer[batch]
        if not of_peer:
            del self._by_peer[batch.peer]
        if batch.group is not None:
            of_group = self._by_group[batch.group]
            del of_group[batch]
            if not of_group:
                del self._by_group[batch.group]
        if len(self._ends) > 2 * self.batches + _ENDS_SLACK:
            self._ends = [entry for entry in self._ends if entry[2].live]
            heapq.heapify(self._ends)
