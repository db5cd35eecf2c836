"""Cheap signatures for networks of thousands of simulated peers."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from contextlib import contextmanager

from p2pmodel.model import SecretKey, keys


@contextmanager
def quick_keys() -> Iterator[None]:
    """While inside, `SecretKey.sign` and `PublicKey.verify` use BLAKE2b keyed with the public key: 1 us, not 100.

    Whoever knows a public key can then sign for it, so this is for simulations whose attackers are ours and keep to
    their own keys. A signature is still bound to its key and its message.
    """
    kept = keys._ed25519_sign, keys._ed25519_verify
    keys._ed25519_sign, keys._ed25519_verify = _sign, _verify
    try:
        yield
    finally:
        keys._ed25519_sign, keys._ed25519_verify = kept


def _sign(key: SecretKey, message: bytes) -> bytes:
    return hashlib.blake2b(message, key=key.public.raw, digest_size=keys.SIGNATURE_BYTES).digest()


def _verify(public: bytes, signature: bytes, message: bytes) -> bool:
    return hmac.compare_digest(
        hashlib.blake2b(message, key=public, digest_size=keys.SIGNATURE_BYTES).digest(), signature
    )
