"""Places in the key space: node ids bound to keys, index keys, and the proof that a node owns its id at an address."""

from __future__ import annotations

import hashlib
from functools import lru_cache

from p2pmodel.limits import OVERLAY_KEY_BYTES
from p2pmodel.model import Digest, PublicKey, SecretKey, Sha256
from p2pmodel.net import Address

NO_ID = bytes(OVERLAY_KEY_BYTES)
"""What a client says instead of its id: it is served and never entered in a table (BEP 43)."""
NONCE_BYTES = 16
PROOF_BYTES = 32 + 64
"""Public key and signature."""
PUBLIC, LOCAL, LOOPBACK, NOWHERE = 2, 1, 0, -1
"""How far an address reaches."""


def node_id(peer: PublicKey) -> bytes:
    """The 20 bytes of a peer's place in the overlay. Nobody chooses an id without trying keys (S/Kademlia, 2007)."""
    return hashlib.sha256(b"p2pmodel node 1\0" + peer.raw).digest()[:OVERLAY_KEY_BYTES]


def overlay_key(digest: Digest | Sha256) -> bytes:
    """The 20 bytes under which the providers of some content are found; content is checked by its whole hash."""
    return digest.raw[:OVERLAY_KEY_BYTES]


def challenge_for(nonce: bytes, dialled: Address) -> bytes:
    """What the node at `dialled` is to sign. The address is part of it, so an answer cannot be passed on."""
    return nonce + dialled.pack()


def challenged_address(challenge: bytes) -> bytes:
    return challenge[NONCE_BYTES:]


def prove(key: SecretKey, network_id: bytes, challenge: bytes) -> bytes:
    return key.public.raw + key.sign(_proof_message(network_id, challenge))


def check_proof(proof: bytes, network_id: bytes, challenge: bytes) -> PublicKey | None:
    """The key whose owner answered `challenge`, or None where the proof does not hold."""
    if len(proof) != PROOF_BYTES:
        return None
    peer = PublicKey(proof[:32])
    return peer if peer.verify(proof[32:], _proof_message(network_id, challenge)) else None


def _proof_message(network_id: bytes, challenge: bytes) -> bytes:
    return b"p2pmodel hello 1\0" + network_id + challenge


@lru_cache(maxsize=16_384)
def address_of(packed: bytes) -> Address:
    """`Address.unpack`, remembered: the same few thousand addresses come in every reply. Raises `DecodeError`."""
    return Address.unpack(packed)


@lru_cache(maxsize=16_384)
def reach(host: str) -> int:
    """`PUBLIC`, `LOCAL`, `LOOPBACK`, or `NOWHERE` for what must not be sent to at all."""
    address = Address(host, 1)
    if not address.is_routable:
        return NOWHERE
    ip = address.ip
    if ip.is_loopback:
        return LOOPBACK
    return LOCAL if ip.is_private or ip.is_link_local else PUBLIC


@lru_cache(maxsize=16_384)
def address_group(host: str) -> bytes | None:
    """The /24 or /48 that one owner is taken to hold; None where whole networks share one (loopback, private)."""
    if reach(host) != PUBLIC:
        return None
    return Address(host, 1).group


def may_contact(address: Address, told_by: Address) -> bool:
    """Whether an address from another node's answer is one to send to.

    Never one that reaches less far than its teller: a node out on the internet cannot make us talk to our own machine
    or local network.
    """
    return reach(address.host) >= max(LOOPBACK, reach(told_by.host))
