"""Provider records: who says it has which keys, signed once for a whole batch and checkable for each key alone.

A provider signs the root of a Merkle tree over at most fifty sorted keys, together with the network, the holder that
it tells, its port, the lifetime and a sequence number. A holder keeps the batch as it came; a reader gets, for one
key, the path to the root (at most 6 hashes) and the signature. Naming the holder makes a batch worthless to anybody
else who copies it. The lifetime is relative and counted by the holder's own monotonic clock, so nobody's wall clock
matters. The IP address is what the holder saw and is not signed: a provider behind a NAT does not know it. A false
one costs a dial, because the connection then authenticates the key.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise

from p2pmodel.errors import DecodeError
from p2pmodel.limits import KEYS_PER_ANNOUNCE_MAX, OVERLAY_KEY_BYTES
from p2pmodel.model import PublicKey, SecretKey
from p2pmodel.net import Address
from p2pmodel.overlay.node_id import address_group
from p2pmodel.overlay.wire import WireEvidence

_TERMS = struct.Struct(">HIQH")
"""Port, lifetime in seconds, sequence, number of keys."""
EMPTY_ROOT = bytes(OVERLAY_KEY_BYTES)


def _parent(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"p2pmodel keys 1\0" + left + right).digest()[:OVERLAY_KEY_BYTES]


def merkle_levels(keys: Sequence[bytes]) -> list[list[bytes]]:
    """The tree from its leaves, which are the keys themselves, to its root. An odd last node moves up as it is.

    Leaves need no tag of their own: `index` and `count` fix the length of a path, so an inner node never passes for
    a key.
    """
    levels = [list(keys)]
    while len(levels[-1]) > 1:
        row = levels[-1]
        above = [_parent(row[i], row[i + 1]) for i in range(0, len(row) - 1, 2)]
        levels.append([*above, row[-1]] if len(row) % 2 else above)
    return levels


def merkle_root(keys: Sequence[bytes]) -> bytes:
    return merkle_levels(keys)[-1][0] if keys else EMPTY_ROOT


def merkle_path(levels: Sequence[Sequence[bytes]], index: int) -> bytes:
    path = []
    for row in levels[:-1]:
        if (sibling := index ^ 1) < len(row):
            path.append(row[sibling])
        index >>= 1
    return b"".join(path)


def fold_path(key: bytes, index: int, count: int, path: bytes) -> bytes:
    """The root that `path` leads to from `key`. Raises `DecodeError` where its length is not that of the place."""
    if not 0 <= index < count:
        raise DecodeError("a key outside its batch")
    node, at = key, 0
    while count > 1:
        if (index ^ 1) < count:
            sibling = path[at : at + OVERLAY_KEY_BYTES]
            if len(sibling) != OVERLAY_KEY_BYTES:
                raise DecodeError("a path that is too short")
            at += OVERLAY_KEY_BYTES
            node = _parent(sibling, node) if index & 1 else _parent(node, sibling)
        index, count = index >> 1, (count + 1) // 2
    if at != len(path):
        raise DecodeError("a path that is too long")
    return node


def split_keys(joined: bytes) -> list[bytes]:
    """The keys of an announcement. Raises `DecodeError` unless they are whole, ascending and each once."""
    if len(joined) % OVERLAY_KEY_BYTES:
        raise DecodeError("keys that are not whole")
    keys = [joined[at : at + OVERLAY_KEY_BYTES] for at in range(0, len(joined), OVERLAY_KEY_BYTES)]
    if len(keys) > KEYS_PER_ANNOUNCE_MAX:
        raise DecodeError("too many keys in one announcement")
    if any(a >= b for a, b in pairwise(keys)):
        raise DecodeError("keys that are not in ascending order")
    return keys


def signed_message(
    network_id: bytes, holder_id: bytes, port: int, ttl_s: int, sequence: int, count: int, root: bytes
) -> bytes:
    terms = _TERMS.pack(port, ttl_s, sequence, count)
    return b"p2pmodel announce 1\0" + network_id + holder_id + terms + root


def sign_batch(
    key: SecretKey,
    network_id: bytes,
    holder_id: bytes,
    *,
    port: int,
    ttl_s: int,
    sequence: int,
    keys: Sequence[bytes],
) -> bytes:
    """The signature over at most `KEYS_PER_ANNOUNCE_MAX` sorted keys, for one holder."""
    assert len(keys) <= KEYS_PER_ANNOUNCE_MAX
    return key.sign(signed_message(network_id, holder_id, port, ttl_s, sequence, len(keys), merkle_root(keys)))


@dataclass(slots=True, eq=False)
class Batch:
    """What one announcement said, as a holder keeps it. `expires_at` is monotonic; `live` counts keys still its own."""

    peer: PublicKey
    source: Address
    """IP as the holder saw it and the port that was signed: where the provider accepts connections."""
    ttl_s: int
    sequence: int
    keys: list[bytes]
    signature: bytes
    expires_at: float
    live: int = 0
    group: bytes | None = field(init=False)
    """The address group that answers for it, None where there is none."""

    def __post_init__(self) -> None:
        self.group = address_group(self.source.host)

    def evidence(self, key: bytes, now: float) -> WireEvidence:
        index = self.keys.index(key)
        return WireEvidence(
            peer=self.peer.raw,
            address=self.source.pack(),
            ttl_s=self.ttl_s,
            remaining_s=max(0, int(self.expires_at - now)),
            sequence=self.sequence,
            index=index,
            count=len(self.keys),
            path=merkle_path(_levels_of(self), index),
            signature=self.signature,
        )


@lru_cache(maxsize=1_024)
def _levels_of(batch: Batch) -> list[list[bytes]]:
    """The tree over a batch's keys. Most batches are never read, and a tree takes more memory than its keys."""
    return merkle_levels(batch.keys)


def check_evidence(evidence: WireEvidence, key: bytes, network_id: bytes, holder_id: bytes, holder: Address) -> Address:
    """Where the provider of `key` is, from what the node `holder_id` at `holder` answered.

    Raises `DecodeError` unless the provider itself signed, for this holder, a batch with this key and this port.
    """
    packed = evidence.address
    if len(packed) == 2:
        packed = holder.ip.packed + packed
    address = Address.unpack(packed)
    root = fold_path(key, evidence.index, evidence.count, evidence.path)
    message = signed_message(
        network_id, holder_id, address.port, evidence.ttl_s, evidence.sequence, evidence.count, root
    )
    if evidence.ttl_s == 0 or evidence.remaining_s > evidence.ttl_s:
        raise DecodeError("a record past its lifetime")
    if not PublicKey(evidence.peer).verify(evidence.signature, message):
        raise DecodeError("a record that its provider did not sign")
    return address
