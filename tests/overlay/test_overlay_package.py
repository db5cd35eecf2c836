"""The contract with `kademlia` 2.2.3 and `rpcudp` 5.0.1: every part that `overlay/package.py` keeps or overrides.

A release that renames one of them fails here, by name, and not in somebody's network.
"""

from __future__ import annotations

import importlib.metadata
import inspect

import pytest
from kademlia.network import Server
from kademlia.node import Node
from kademlia.protocol import KademliaProtocol
from kademlia.routing import KBucket
from kademlia.storage import IStorage
from rpcudp.protocol import RPCProtocol

from p2pmodel.model import SecretKey
from p2pmodel.net import Address
from p2pmodel.overlay.package import Bucket, Contact, FrameProtocol, NodeServer, NoStorage

KEPT = [
    (Node, "__init__"),
    (Node, "distance_to"),
    (KBucket, "get_nodes"),
    (KBucket, "add_node"),
    (KBucket, "remove_node"),
    (KBucket, "head"),
    (KBucket, "__getitem__"),
    (KBucket, "__len__"),
    (Server, "__init__"),
    (Server, "stop"),
    (RPCProtocol, "connection_made"),
]
OVERRIDDEN = [
    (KBucket, Bucket, "touch_last_updated"),
    (Server, NodeServer, "_create_protocol"),
    (Server, NodeServer, "listen"),
    (RPCProtocol, FrameProtocol, "__getattr__"),
    (RPCProtocol, FrameProtocol, "datagram_received"),
    (KademliaProtocol, FrameProtocol, "rpc_ping"),
    (KademliaProtocol, FrameProtocol, "rpc_stun"),
    (KademliaProtocol, FrameProtocol, "rpc_store"),
    (KademliaProtocol, FrameProtocol, "rpc_find_node"),
    (KademliaProtocol, FrameProtocol, "rpc_find_value"),
]


def test_the_package_is_the_release_that_was_studied() -> None:
    assert importlib.metadata.version("kademlia") == "2.2.3"
    assert importlib.metadata.version("rpcudp").startswith("5.0.")


@pytest.mark.parametrize(("owner", "name"), KEPT)
def test_a_part_that_is_kept_exists(owner: type, name: str) -> None:
    assert callable(getattr(owner, name))


@pytest.mark.parametrize(("owner", "ours", "name"), OVERRIDDEN)
def test_a_part_that_is_replaced_exists_and_is_replaced(owner: type, ours: type, name: str) -> None:
    assert name in vars(owner)
    assert name in vars(ours)


def test_no_remote_procedure_of_the_package_is_left() -> None:
    exposed = [name for name in dir(KademliaProtocol) if name.startswith("rpc_")]
    assert exposed
    assert all(getattr(FrameProtocol, name) is None for name in exposed)


def test_signatures_that_we_pass_arguments_to() -> None:
    assert list(inspect.signature(Server.__init__).parameters) == ["self", "ksize", "alpha", "node_id", "storage"]
    assert list(inspect.signature(KademliaProtocol.__init__).parameters) == ["self", "source_node", "storage", "ksize"]
    assert list(inspect.signature(KBucket.__init__).parameters)[:4] == ["self", "rangeLower", "rangeUpper", "ksize"]
    assert list(inspect.signature(Node.__init__).parameters) == ["self", "node_id", "ip", "port"]
    assert IStorage.__abstractmethods__ == {"__setitem__", "__getitem__", "get", "iter_older_than", "__iter__"}


def test_the_server_keeps_our_storage_and_its_stop_closes_the_transport_and_the_protocol_has_its_table() -> None:
    protocols: list[FrameProtocol] = []

    def make(node: Node, storage: IStorage) -> FrameProtocol:
        protocols.append(FrameProtocol(node, storage, 20))
        return protocols[-1]

    class Transport:
        closed = False

        def close(self) -> None:
            self.closed = True

    server = NodeServer(bytes(20), make)
    protocol = server._create_protocol()
    assert isinstance(server.storage, NoStorage)
    assert protocol._outstanding == {}
    assert protocol.transport is None
    with pytest.raises(AttributeError):
        _ = protocol.a_typo
    server.transport = transport = Transport()  # type: ignore[assignment]
    server.stop()
    assert transport.closed


def test_buckets_keep_the_eldest_first_and_promote_the_newest_replacement() -> None:
    peer = SecretKey.from_seed(bytes(32)).public
    bucket = Bucket(0, (1 << 160) - 1, 0.0)
    contacts = [Contact(bytes(19) + bytes([n]), peer, Address("10.0.0.1", n + 1), 0.0) for n in range(30)]
    assert [bucket.add_node(contact) for contact in contacts] == [True] * 20 + [False] * 10
    assert bucket.full
    assert [contact.port for contact in bucket.waiting()] == list(range(23, 31))
    bucket.add_node(contacts[0])
    assert bucket.head() is contacts[1]
    bucket.remove_node(contacts[1])
    assert bucket.contacts()[-1] is contacts[29]
    lower, upper = bucket.halves()
    assert (lower.range, upper.range) == ((0, (1 << 159) - 1), (1 << 159, (1 << 160) - 1))
    assert len(upper) == 0
