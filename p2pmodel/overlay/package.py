"""The one module that knows the packages `kademlia` and `rpcudp`: what of them we keep, and how the rest is cut off.

Kept: `Node`, `KBucket`, the life cycle of `Server`, `IStorage`, and the datagram frame of `rpcudp`
(kind 1, message id 20, MessagePack). Whatever in them answers, stores, republishes or reads a clock by itself is
replaced or made inert here, because it is unfit for an open network; `tests/overlay/test_package.py` names each part
that we rely on. To leave the package is to rewrite this file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NoReturn

from kademlia.network import Server
from kademlia.node import Node
from kademlia.protocol import KademliaProtocol
from kademlia.routing import KBucket
from kademlia.storage import IStorage

from p2pmodel.limits import BUCKET_SIZE, DATAGRAM_BYTES_MAX, LOOKUP_PARALLELISM, OVERLAY_KEY_BYTES
from p2pmodel.model import PublicKey
from p2pmodel.net import Address, Datagrams, Network

ID_BITS = 8 * OVERLAY_KEY_BYTES
REQUEST, REPLY = 0, 1
FRAME_BYTES = 21
"""Kind and message id, before the MessagePack body."""
MESSAGE_ID_BYTES = 20
REPLACEMENTS_MAX = 8
"""Proven nodes that wait for a place in a full bucket."""


class Contact(Node):  # type: ignore[misc]
    """A node that has proved its key at `address`. `failures` counts unanswered requests in a row.

    `since` is when it was first heard of, `seen_at` when it last answered, in monotonic seconds.
    """

    id: bytes
    long_id: int

    def __init__(self, node_id: bytes, peer: PublicKey, address: Address, seen_at: float) -> None:
        super().__init__(node_id, address.host, address.port)
        self.peer = peer
        self.address = address
        self.packed = node_id + address.pack()
        self.since = self.seen_at = seen_at
        self.failures = 0

    def move(self, address: Address) -> None:
        self.ip, self.port, self.address = address.host, address.port, address
        self.packed = self.id + address.pack()


class Bucket(KBucket):  # type: ignore[misc]
    """The contacts of one aligned part of the key space, the one heard from longest ago first."""

    range: tuple[int, int]

    def __init__(self, low: int, high: int, refreshed_at: float) -> None:
        super().__init__(low, high, BUCKET_SIZE)
        self.max_replacement_nodes = REPLACEMENTS_MAX
        self.refreshed_at = refreshed_at
        self.search_at = -math.inf
        """From when on it is worth while to search for more of its nodes."""
        self.vain_searches = 0
        """In a row."""
        self.probing = False

    def touch_last_updated(self) -> None:
        """The package reads a clock of its own here; `refreshed_at` takes its place."""

    def contacts(self) -> list[Contact]:
        return self.get_nodes()  # type: ignore[no-any-return]

    def each(self) -> Iterable[Contact]:
        """The contacts without a copy: for who changes nothing meanwhile."""
        return self.nodes.values()  # type: ignore[no-any-return]

    def contact(self, node_id: bytes) -> Contact | None:
        return self[node_id]  # type: ignore[no-any-return]

    def waiting(self) -> list[Contact]:
        """The replacements, the newest last."""
        return list(self.replacement_nodes.values())

    def drop_eldest_waiting(self) -> Contact | None:
        """Make room for one more replacement; returns whom it cost the place."""
        if len(self.replacement_nodes) < self.max_replacement_nodes:
            return None
        return self.replacement_nodes.popitem(last=False)[1]  # type: ignore[no-any-return]

    @property
    def full(self) -> bool:
        return len(self) >= BUCKET_SIZE

    def halves(self) -> tuple[Bucket, Bucket]:
        """The package's `split` makes buckets of its own class; this one keeps ours and its times."""
        low, high = self.range
        middle = (low + high) // 2
        lower, upper = Bucket(low, middle, self.refreshed_at), Bucket(middle + 1, high, self.refreshed_at)
        for contact in [*self.contacts(), *self.waiting()]:
            (lower if contact.long_id <= middle else upper).add_node(contact)
        return lower, upper


class NoStorage(IStorage):  # type: ignore[misc]
    """Holds nothing, so that the package finds nothing to republish or to hand to newcomers."""

    def __setitem__(self, key: object, value: object) -> None:
        """Nothing is kept."""

    def __getitem__(self, key: object) -> NoReturn:
        raise KeyError(key)

    def get(self, key: object, default: Any = None) -> Any:
        return default

    def iter_older_than(self, seconds_old: float) -> Iterator[tuple[bytes, bytes]]:
        return iter(())

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        return iter(())


class FrameProtocol(KademliaProtocol):  # type: ignore[misc]
    """The frame of `rpcudp`, read synchronously: no task, no log line and no exception for a bad datagram."""

    _outstanding: dict[bytes, Any]
    transport: Datagrams | None
    rpc_ping = rpc_stun = rpc_store = rpc_find_node = rpc_find_value = None

    def __getattr__(self, name: str) -> NoReturn:
        # The package turns every unknown attribute into a remote call.
        raise AttributeError(name)

    def datagram_received(self, data: bytes, addr: Address) -> None:
        if not FRAME_BYTES < len(data) <= DATAGRAM_BYTES_MAX:
            return
        if data[0] == REQUEST:
            self.request_received(data[1:FRAME_BYTES], data[FRAME_BYTES:], addr)
        elif data[0] == REPLY:
            self.reply_received(data[1:FRAME_BYTES], data[FRAME_BYTES:], addr)

    def request_received(self, message_id: bytes, body: bytes, source: Address) -> None:
        raise NotImplementedError

    def reply_received(self, message_id: bytes, body: bytes, source: Address) -> None:
        raise NotImplementedError


def frame(kind: int, message_id: bytes, body: bytes) -> bytes:
    return bytes((kind,)) + message_id + body


class NodeServer(Server):  # type: ignore[misc]
    """The package's life cycle over our seam: `listen` binds there, `stop` closes the socket and the upkeep."""

    protocol: FrameProtocol | None
    transport: Datagrams | None

    def __init__(self, node_id: bytes, make_protocol: Callable[[Node, IStorage], FrameProtocol]) -> None:
        super().__init__(ksize=BUCKET_SIZE, alpha=LOOKUP_PARALLELISM, node_id=node_id, storage=NoStorage())
        self._make_protocol = make_protocol

    def _create_protocol(self) -> FrameProtocol:
        return self._make_protocol(self.node, self.storage)

    async def listen(self, network: Network, host: str, port: int) -> Address:
        """Bind `host` and `port` (0: a free one). Raises `NetworkError`."""
        protocol = self._create_protocol()
        datagrams = await network.open_datagrams(host, port, protocol.datagram_received)
        self.protocol, self.transport = protocol, datagrams
        protocol.connection_made(datagrams)
        return datagrams.address
