"""What must hold of a peer at any moment, looked at from outside: each function yields a sentence for what does not.

They read what the peer keeps in memory and what lies on its simulated disk, and change nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from itertools import pairwise
from pathlib import Path

from blake3 import blake3

from p2pmodel.limits import (
    BUCKET_SIZE,
    CHUNK_BYTES_MAX,
    CONNECTIONS_MAX,
    MODELS_PER_PEER_MAX,
    OUTSTANDING_RPC_MAX,
    PROVIDER_KEYS_MAX,
    PROVIDERS_PER_KEY_MAX,
    REQUESTS_PER_PEER_MAX,
    SEND_QUEUE_BYTES_MAX,
)
from p2pmodel.model import Layout, ModelId, PublicKey
from p2pmodel.overlay.node_id import node_id
from p2pmodel.overlay.routing import RoutingTable
from p2pmodel.peer.peer import Peer
from p2pmodel.store import Store
from p2pmodel.testing.channel import SimChannel
from p2pmodel.testing.disk import SimDisk

TASKS_MAX = 8 * CONNECTIONS_MAX
"""Of one process: a connection has one task and few more while it is busy. Past this they are being left behind."""
_KEYS_LOOKED_AT_MAX = 10_000
_buffer = memoryview(bytearray(CHUNK_BYTES_MAX))


def table_faults(own: PublicKey, table: RoutingTable, addresses: Mapping[PublicKey, Collection[str]]) -> Iterator[str]:
    """`addresses` are the hosts where the owner of each key has been: nobody proves a key anywhere else."""
    count = 0
    ranges = [bucket.range for bucket in table.buckets]
    if ranges[0][0] != 0 or any(low != high + 1 for (_, high), (low, _) in pairwise(ranges)):
        yield "the buckets of the routing table leave a gap or overlap"
    for bucket in table.buckets:
        low, high = bucket.range
        contacts = bucket.contacts()
        count += len(contacts)
        if len(contacts) > BUCKET_SIZE:
            yield f"a bucket has {len(contacts)} contacts"
        for contact in (*contacts, *bucket.waiting()):
            if contact.peer == own:
                yield "the routing table has the node itself"
            if contact.id != node_id(contact.peer):
                yield f"the routing table has {contact.peer} under an id that is not derived from its key"
            if not low <= contact.long_id <= high or contact.long_id != int.from_bytes(contact.id, "big"):
                yield f"the routing table has {contact.peer} in a bucket where it does not belong"
            if contact.address.host not in addresses.get(contact.peer, ()):
                yield f"the routing table has {contact.peer} at {contact.address}, where it has never been"
    if count != len(table):
        yield f"the routing table counts {len(table)} contacts and has {count}"


def memory_faults(peer: Peer, tasks: int, channels: Collection[SimChannel]) -> Iterator[str]:
    """The caps of `limits.py`, for what other peers can make this one keep."""
    protocol = peer.overlay._protocol
    counted = {
        "requests of the overlay under way": (len(protocol.calls), OUTSTANDING_RPC_MAX),
        "provider records": (len(protocol.providers), PROVIDER_KEYS_MAX),
        "connections": (len(peer.swarm.links), CONNECTIONS_MAX),
        "tasks": (tasks, TASKS_MAX),
    }
    for link in peer.swarm.links.values():
        name = link.peer.text[:12]
        counted[f"requests open with {name}"] = len(link._requests), REQUESTS_PER_PEER_MAX
        counted[f"requests waiting of {name}"] = link._queue.pending, REQUESTS_PER_PEER_MAX
        counted[f"models followed by {name}"] = len(link.interests), MODELS_PER_PEER_MAX
    for channel in channels:
        counted[f"bytes queued to {channel.peer.text[:12]}"] = channel._queued_bytes, SEND_QUEUE_BYTES_MAX
    for what, (count, most) in counted.items():
        if count > most:
            yield f"{count} {what}, where {most} are the most"
    kept = protocol.providers._by_key
    if len(kept) <= _KEYS_LOOKED_AT_MAX:
        longest = max((len(found) for found in kept.values() if isinstance(found, list)), default=0)
        if longest > PROVIDERS_PER_KEY_MAX:
            yield f"{longest} providers of one key, where {PROVIDERS_PER_KEY_MAX} are the most"


def chunk_on_disk(store: Store, disk: SimDisk, model_id: ModelId, index: int) -> bool:
    """Whether the bytes of chunk `index` lie on the disk at any of the places where the peer keeps this model."""
    layout = store.layout(model_id)
    if layout is None or index >= len(layout):
        return False
    place = layout[index]
    buffer = _buffer[: place.length]
    for copy in store._catalogue.copies(model_id):
        kept = copy.file(place.file_index)
        if kept is not None and _read(disk, kept.location, buffer, place.offset) and place.digest.is_of(buffer):
            return True
    return False


def _read(disk: SimDisk, path: Path, buffer: memoryview, offset: int) -> bool:
    """Past the peer and its faults: what is on the disk as every process would see it."""
    try:
        contents = disk.names.find(path).contents
    except OSError:
        return False
    return contents.read_into(buffer, offset) == len(buffer)


def bad_files(disk: SimDisk, place: Path, layout: Layout, indices: Collection[int]) -> Iterator[str]:
    """The files of a finished fetch that are not on the disk as the manifest has them."""
    for index in indices:
        entry = layout.files[index]
        path = place / entry.path.text
        try:
            contents = disk.names.find(path).contents
        except OSError:
            yield f"{path} is reported as fetched and not there"
            continue
        hashed = blake3()
        for start in range(0, contents.size, len(_buffer)):
            hashed.update(_buffer[: contents.read_into(_buffer, start)])
        if contents.size != entry.size or hashed.digest() != entry.blake3.raw:
            yield f"{path} is reported as fetched and verified, and its bytes are others"
