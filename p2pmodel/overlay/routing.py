"""The routing table: whom this node knows, in buckets that are finer near its own id (Kademlia, section 2.4).

A plain object; times are monotonic seconds. What always holds: every contact has proved its key at its address, none
is the node itself, each id stands in one bucket, no address group has more contacts and replacements than allowed in a
bucket and in the whole, and `nearest` is exact. A full bucket asks for a proof of life of one contact at a time, and
never because somebody asked us something: the package's own rule ends in nodes that ping each other for ever.

Buckets off the own branch are split once (section 4.2), and only for nodes that we found ourselves, not for strangers
who ask us something. Among 1,000 nodes a table then has places for 220: so many that an attacker with 28 address groups
has a small part of it, and so full before he comes that he displaces nobody.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator
from heapq import nsmallest

from p2pmodel.limits import BUCKET_SIZE, RPC_FAILURES_MAX
from p2pmodel.net import Address
from p2pmodel.overlay.node_id import address_group
from p2pmodel.overlay.package import ID_BITS, Bucket, Contact

_MOVE_AFTER_S = 60.0
"""A proven contact that was heard from more recently than this is not moved to another address."""
_GROUPS_MANY = 2 * BUCKET_SIZE
"""A table that knows so many address groups gives each a single place. One that knows few must do with them, for they
may be all that there are: the machines of one laboratory, and some friends."""


class RoutingTable:
    """Contacts by distance. `changed` is called whenever one joins, `lost` with each that leaves for silence."""

    def __init__(
        self,
        own_id: bytes,
        now: float,
        *,
        group_nodes_max: int,
        stale_s: float,
        changed: Callable[[], None],
        group_table_nodes_max: int = 0,
        lost: Callable[[Contact], None] = lambda _: None,
    ) -> None:
        self._own_id = own_id
        self._own = int.from_bytes(own_id, "big")
        self._group_nodes_max = group_nodes_max
        self._group_table_nodes_max = group_table_nodes_max
        self._groups: dict[bytes, int] = {}
        """Contacts and replacements of each address group."""
        self._heard_since = -math.inf
        """No contact has been silent since before this, and none owes an answer; there may be a later such time."""
        self._stale_s = stale_s
        self._changed = changed
        self._lost = lost
        self.buckets = [Bucket(0, (1 << ID_BITS) - 1, now)]
        self._lows = [0]
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Contact]:
        for bucket in self.buckets:
            yield from bucket.contacts()

    def get(self, node_id: bytes) -> Contact | None:
        return self.bucket_of(int.from_bytes(node_id, "big")).contact(node_id)

    def bucket_of(self, place: int) -> Bucket:
        return self.buckets[bisect_right(self._lows, place) - 1]

    def nearest(self, target: int, limit: int, *, reliable: bool = False) -> list[Contact]:
        """The `limit` contacts nearest to `target`, exactly; `reliable` leaves out those that failed to answer last.

        Buckets are aligned subtrees, so all of one is nearer than all of another and any place in it tells which: no
        bucket is looked at that does not contribute.
        """
        order = sorted(self.buckets, key=lambda bucket: bucket.range[0] ^ target)
        found: list[Contact] = []
        for bucket in order:
            contacts = bucket.contacts()
            if reliable:
                contacts = [contact for contact in contacts if not contact.failures]
            contacts.sort(key=lambda contact: contact.long_id ^ target)
            found += contacts
            if len(found) >= limit:
                break
        return found[:limit]

    def silent_since(self, before: float, limit: int) -> list[Contact]:
        """The `limit` contacts to make sure of first: those that left a request unanswered, then the longest silent."""
        if before <= self._heard_since:
            return []
        due: list[Contact] = []
        heard_since = math.inf
        for bucket in self.buckets:
            for contact in bucket.each():
                if contact.failures:
                    due.append(contact)
                    heard_since = -math.inf
                elif contact.seen_at < before:
                    due.append(contact)
                heard_since = min(heard_since, contact.seen_at)
        self._heard_since = heard_since if self._count else -math.inf
        return nsmallest(limit, due, key=lambda contact: (not contact.failures, contact.seen_at, contact.id))

    def wants(self, node_id: bytes, address: Address) -> bool:
        """Whether to ask a stranger of this id and address for its key.

        Not for a replacement while all that it could replace answer: those come with our own lookups, which check
        keys anyway.
        """
        if node_id == self._own_id:
            return False
        bucket = self.bucket_of(int.from_bytes(node_id, "big"))
        known = bucket.contact(node_id)
        if known is not None:
            return known.address != address and known.failures > 0
        if bucket.full and self._parted(bucket) and not any(c.failures for c in bucket.each()):
            return False
        return not self._crowded(bucket, address)

    def has_place(self, node_id: bytes, address: Address) -> bool:
        """Whether a node that we have heard of and do not know would get a place, if it proved its key."""
        bucket = self.bucket_of(int.from_bytes(node_id, "big"))
        if bucket.contact(node_id) is not None or (bucket.full and not self._splittable(bucket)):
            return False
        return not self._crowded(bucket, address)

    def sparse(self, now: float) -> list[Bucket]:
        """Far buckets that have places left and whose time to be searched has come, the emptiest first."""
        found = [
            bucket
            for bucket in self.buckets
            if self._parted(bucket) and bucket.search_at <= now and (not bucket.full or self._splittable(bucket))
        ]
        return sorted(found, key=lambda bucket: (len(bucket), bucket.range))

    def add(self, contact: Contact, now: float) -> Contact | None:
        """Enter a contact that has just proved its key. Returns a contact whose life should be checked, if any.

        Whoever gets one back owes a call of `seen`, `failed` or `drop` for it.
        """
        if contact.id == self._own_id:
            return None
        bucket = self.bucket_of(contact.long_id)
        known = bucket.contact(contact.id)
        if known is not None:
            self._update(bucket, known, contact.address, now)
            return None
        waited = next((each for each in bucket.waiting() if each.id == contact.id), None)
        if waited is not None:
            contact.since = waited.since
            self._uncount(waited)
            bucket.remove_node(waited)
        if self._crowded(bucket, contact.address):
            return None
        while bucket.full and self._splittable(bucket):
            self._split(bucket)
            bucket = self.bucket_of(contact.long_id)
        if bucket.full and (gone := bucket.drop_eldest_waiting()) is not None:
            self._uncount(gone)
        self._recount(contact)
        if bucket.add_node(contact):
            self._count += 1
            self._heard_since = min(self._heard_since, contact.seen_at)
            self._changed()
            return None
        return self._doubtful(bucket, now)

    def seen(self, contact: Contact, now: float) -> None:
        """`contact` has answered a request of ours."""
        bucket = self.bucket_of(contact.long_id)
        bucket.probing = False
        if bucket.contact(contact.id) is contact:
            contact.failures, contact.seen_at = 0, now
            bucket.add_node(contact)  # moves it to the end

    def failed(self, contact: Contact) -> None:
        """`contact` has left a request unanswered; the third time in a row it makes room."""
        contact.failures += 1
        self._heard_since = -math.inf
        self.bucket_of(contact.long_id).probing = False
        if contact.failures >= RPC_FAILURES_MAX:
            self.drop(contact)

    def drop(self, contact: Contact) -> None:
        """Remove `contact`; the newest proven replacement takes its place."""
        bucket = self.bucket_of(contact.long_id)
        bucket.probing = False
        if bucket.contact(contact.id) is contact:
            self._remove(bucket, contact)
            self._lost(contact)

    def size_estimate(self, own_nearest: int = 20) -> float:
        """How many nodes the network has, this one included, from how near the nearest are."""
        if self._count < own_nearest:
            return self._count + 1.0
        farthest = self.nearest(self._own, own_nearest)[-1].long_id ^ self._own
        return own_nearest * float(1 << ID_BITS) / max(1, farthest)

    def to_refresh(self, now: float, after_s: float) -> list[Bucket]:
        return [bucket for bucket in self.buckets if now - bucket.refreshed_at >= after_s]

    def looked_up(self, target: int, radius: int, now: float) -> None:
        """A lookup of our own has shown every node within `radius` of `target`."""
        self.bucket_of(target).refreshed_at = now
        for bucket in self.buckets:
            low, high = bucket.range
            if (low ^ target) | (high - low) <= radius:
                bucket.refreshed_at = now

    def _update(self, bucket: Bucket, known: Contact, address: Address, now: float) -> None:
        if known.address != address:
            if not known.failures and now - known.seen_at < _MOVE_AFTER_S:
                return  # old but live wins
            if self._group(known.address) != self._group(address) and self._crowded(bucket, address):
                return
            self._uncount(known)
            known.move(address)
            self._recount(known)
        known.failures, known.seen_at = 0, now
        bucket.add_node(known)

    def _doubtful(self, bucket: Bucket, now: float) -> Contact | None:
        if bucket.probing:
            return None
        eldest: Contact = bucket.head()
        failing = next((contact for contact in bucket.contacts() if contact.failures), None)
        doubtful = failing or (eldest if now - eldest.seen_at >= self._stale_s else None)
        bucket.probing = doubtful is not None
        return doubtful

    def _group(self, address: Address) -> bytes | None:
        return address_group(address.host) if self._group_nodes_max or self._group_table_nodes_max else None

    def _remove(self, bucket: Bucket, contact: Contact) -> None:
        before = len(bucket)
        bucket.remove_node(contact)
        self._count += len(bucket) - before
        self._heard_since = -math.inf  # a replacement may have its place now
        self._uncount(contact)

    def _recount(self, contact: Contact) -> None:
        """Count `contact` in the group where it is now."""
        group = self._group(contact.address)
        if group is not None:
            many = self._has_many_groups()
            self._groups[group] = self._groups.get(group, 0) + 1
            if self._has_many_groups() and not many:
                self._thin_out()

    def _has_many_groups(self) -> bool:
        return bool(self._group_table_nodes_max) and len(self._groups) >= _GROUPS_MANY

    def _thin_out(self) -> None:
        """Leave each address group one contact, the one known longest: others that come may be as good."""
        contacts = [contact for bucket in self.buckets for contact in bucket.each()]
        contacts.sort(key=lambda contact: (contact.since, contact.id))
        kept: dict[bytes | None, None] = {None: None}
        for contact in [*contacts, *(each for bucket in self.buckets for each in bucket.waiting())]:
            group = self._group(contact.address)
            if group is not None and group in kept:
                self._remove(self.bucket_of(contact.long_id), contact)
            kept[group] = None

    def _uncount(self, contact: Contact) -> None:
        group = self._group(contact.address)
        if group is not None:
            left = self._groups[group] - 1
            if left:
                self._groups[group] = left
            else:
                del self._groups[group]

    def _crowded(self, bucket: Bucket, address: Address) -> bool:
        group = self._group(address)
        if group is None or group not in self._groups:
            return False
        if self._has_many_groups():
            return True
        if self._group_table_nodes_max and self._groups[group] >= self._group_table_nodes_max:
            return True
        inside = [*bucket.contacts(), *bucket.waiting()]
        alike = sum(address_group(contact.address.host) == group for contact in inside)
        return bool(self._group_nodes_max) and alike >= self._group_nodes_max

    def _splittable(self, bucket: Bucket) -> bool:
        """On the own branch without end, off it once: the bucket's prefix differs from ours in its last bit alone."""
        low, high = bucket.range
        return low < high and (low ^ self._own) >> (high - low).bit_length() <= 1

    def _parted(self, bucket: Bucket) -> bool:
        """Whether `bucket` is off the own branch."""
        low, high = bucket.range
        return not low <= self._own <= high

    def _split(self, bucket: Bucket) -> None:
        at = bisect_right(self._lows, bucket.range[0]) - 1
        self.buckets[at : at + 1] = halves = bucket.halves()
        self._lows[at : at + 1] = [half.range[0] for half in halves]
        # Replacements of the old bucket may have found places in its halves.
        self._heard_since = -math.inf
        self._count += sum(map(len, halves)) - len(bucket)
