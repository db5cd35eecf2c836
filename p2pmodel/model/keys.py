"""Ed25519 keys (RFC 8032): peers and publishers alike are public keys, written as 52 characters of base32."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from p2pmodel.errors import DecodeError

_TEXT = re.compile(r"[a-z2-7]{52}", re.ASCII)
SIGNATURE_BYTES = 64


@dataclass(frozen=True, slots=True, order=True)
class PublicKey:
    """32 bytes of an Ed25519 public key. The text form is lower-case base32 (RFC 4648) without padding."""

    raw: bytes

    def __post_init__(self) -> None:
        if type(self.raw) is not bytes or len(self.raw) != 32:
            raise DecodeError("an Ed25519 public key is exactly 32 bytes")

    def __hash__(self) -> int:
        return hash(self.raw)  # what bytes remember; the generated one makes a tuple each time

    @classmethod
    def from_text(cls, text: str) -> PublicKey:
        """Parse 52 base32 characters or 64 hex digits. Raises `DecodeError`; only the canonical spelling passes."""
        if re.fullmatch(r"[0-9a-f]{64}", text, re.ASCII):
            return cls(bytes.fromhex(text))
        if not _TEXT.fullmatch(text):
            raise DecodeError("a public key is written as 52 base32 characters or 64 hex digits")
        key = cls(base64.b32decode(text.upper() + "===="))
        if key.text != text:
            raise DecodeError("a public key's last character has bits that must be zero")
        return key

    @property
    def text(self) -> str:
        return base64.b32encode(self.raw).decode("ascii").rstrip("=").lower()

    def verify(self, signature: bytes, message: bytes) -> bool:
        """Whether `signature` (64 bytes) is this key's over `message`. Never raises for bad input."""
        return len(signature) == SIGNATURE_BYTES and _ed25519_verify(self.raw, signature, message)

    def __str__(self) -> str:
        return self.text


class SecretKey:
    """An Ed25519 private key. It has no readable representation, so it cannot leak into a log."""

    __slots__ = ("_key", "public")

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = PublicKey(key.public_key().public_bytes_raw())

    @classmethod
    def generate(cls) -> SecretKey:
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_seed(cls, seed: bytes) -> SecretKey:
        """The key whose RFC 8032 seed is these 32 bytes: for tests and simulations that must repeat."""
        return cls(Ed25519PrivateKey.from_private_bytes(seed))

    @classmethod
    def from_pem(cls, pem: bytes) -> SecretKey:
        """Read unencrypted PKCS #8 PEM (RFC 8410), as `openssl genpkey -algorithm ed25519` writes it.

        Raises `DecodeError` where it is something else.
        """
        try:
            key = serialization.load_pem_private_key(pem, password=None)
        except (ValueError, TypeError) as error:
            raise DecodeError("not an unencrypted private key in PEM form") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise DecodeError("only Ed25519 keys are accepted")
        return cls(key)

    def to_pem(self) -> bytes:
        return self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    @property
    def private_key(self) -> Ed25519PrivateKey:
        """The library's object, for building the certificate of a TLS handshake."""
        return self._key

    def sign(self, message: bytes) -> bytes:
        return _ed25519_sign(self, message)

    def __repr__(self) -> str:
        return f"SecretKey(public={self.public.text})"


# Looked up in the module at each call, so that simulations of thousands of peers can put cheaper ones in their place.


def _ed25519_sign(key: SecretKey, message: bytes) -> bytes:
    return key.private_key.sign(message)


def _ed25519_verify(public: bytes, signature: bytes, message: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True
