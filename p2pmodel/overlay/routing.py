"""The routing table: whom this node knows, in buckets that are finer near its own id (Kademlia, section 2.4).

A plain object; times are monotonic seconds. What always holds: every contact has proved its key at its address, none
is the node itself, each id stands in one bucket, no address group has more contacts and replacements than allowed in a
bucket and in the whole, and `nearest` is exact. A full bucket asks for a proof of life of one contact at a time, and
never because somebody asked us something: the package's own rule ends in nodes that ping each other for ever.

Buckets off the own branch are not split further, though section 4.2 allows it: with 1,000 nodes the tables then held
260 contacts instead of 120, each a proof; without it lookups take 2 hops in the median and 3 at the 99th percentile.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator

from p2pmodel.limits import RPC_FAILURES_MAX
from p2pmodel.net import Address
from p2pmodel.overlay.node_id import address_group
from p2pmodel.overlay.package import ID_BITS, Bucket, Contact

_MOVE_AFTER_S = 60.0
"""A proven contact that was heard from more recently than this is not moved to another address."""


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
        due = [contact for contact in self if contact.failures or contact.seen_at < before]
        due.sort(key=lambda contact: (not contact.failures, contact.seen_at, contact.id))
        return due[:limit]

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
        if bucket.full and not self._splittable(bucket) and not any(c.failures for c in bucket.contacts()):
            return False
        return not self._crowded(bucket, address)

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
        group = self._group(contact.address)
        if group is not None:
            self._groups[group] = self._groups.get(group, 0) + 1
        if bucket.add_node(contact):
            self._count += 1
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
        self.bucket_of(contact.long_id).probing = False
        if contact.failures >= RPC_FAILURES_MAX:
            self.drop(contact)

    def drop(self, contact: Contact) -> None:
        """Remove `contact`; the newest proven replacement takes its place."""
        bucket = self.bucket_of(contact.long_id)
        bucket.probing = False
        if bucket.contact(contact.id) is contact:
            before = len(bucket)
            bucket.remove_node(contact)
            self._count += len(bucket) - before
            self._uncount(contact)
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
            group = self._group(address)
            if group is not None:
                self._groups[group] = self._groups.get(group, 0) + 1
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
        if self._group_table_nodes_max and self._groups[group] >= self._group_table_nodes_max:
            return True
        inside = [*bucket.contacts(), *bucket.waiting()]
        alike = sum(address_group(contact.address.host) == group for contact in inside)
        return bool(self._group_nodes_max) and alike >= self._group_nodes_max

    def _splittable(self, bucket: Bucket) -> bool:
        low, high = bucket.range
        return low < high and low <= self._own <= high

    def _split(self, bucket: Bucket) -> None:
        at = bisect_right(self._lows, bucket.range[0]) - 1
        self.buckets[at : at + 1] = halves = bucket.halves()
        self._lows[at : at + 1] = [half.range[0] for half in halves]
        # Replacements of the old bucket may have found places in its halves.
        self._count += sum(map(len, halves)) - len(bucket)
