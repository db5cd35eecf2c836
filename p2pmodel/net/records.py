"""The record layer that follows the handshake: how messages and bulk travel, sealed or in the clear.

A record is a header of four bytes, kind (1) and length of the plaintext (3, big-endian), then the body. Sealed, the
body is AES-128-GCM ciphertext and its 16-byte tag; the header is the associated data, and the nonce is a counter
that both sides keep and never send, so a record that is replayed, reordered, dropped or altered fails to open and the
connection ends. Each direction has its own keys, from the exporter of the TLS 1.3 handshake (RFC 8446 section 7.5).
After `RECORDS_PER_KEY` records both sides derive the next key from the last secret and forget the old (as RFC 8446
section 7.2 does). `docs/protocol.md` argues the safety.
"""

from __future__ import annotations

import struct
from enum import IntEnum

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from p2pmodel.errors import ProtocolError
from p2pmodel.limits import CONTROL_BYTES_MAX, OBJECT_BYTES_MAX, RECORD_BYTES, RECORDS_PER_KEY

HEADER_BYTES = 4
TAG_BYTES = 16
SECRET_BYTES = 32
BULK_BEGIN = struct.Struct(">II")


class Kind(IntEnum):
    MESSAGE = 1
    """A control message, whole."""
    BULK_BEGIN = 2
    """Request id and length in bytes, 32 bits each: the bytes of an answer follow in `BULK_DATA` records."""
    BULK_DATA = 3
    """The next bytes of the answer that began last, at most `RECORD_BYTES`. Messages may stand between, another answer
    may not."""


_KINDS = {int(kind): kind for kind in Kind}
_BODY_BYTES_MAX: dict[Kind, int] = {
    Kind.MESSAGE: CONTROL_BYTES_MAX,
    Kind.BULK_BEGIN: BULK_BEGIN.size,
    Kind.BULK_DATA: RECORD_BYTES,
}


def encode_header(kind: Kind, length: int) -> bytes:
    return (kind << 24 | length).to_bytes(HEADER_BYTES, "big")


def decode_header(header: bytes) -> tuple[Kind, int]:
    """Kind and plaintext length. Raises `ProtocolError` for an unknown kind or a length outside its limits."""
    word = int.from_bytes(header, "big")
    length = word & 0xFFFFFF
    kind = _KINDS.get(word >> 24)
    if kind is None:
        raise ProtocolError(f"a record of unknown kind {word >> 24}")
    if not 0 < length <= _BODY_BYTES_MAX[kind]:
        raise ProtocolError(f"a record of kind {kind.name} with {length} bytes")
    if kind is Kind.BULK_BEGIN and length != BULK_BEGIN.size:
        raise ProtocolError("a bulk announcement of the wrong length")
    return kind, length


def decode_bulk_begin(body: bytes | memoryview) -> tuple[int, int]:
    """Request id and length. Raises `ProtocolError` for a length outside its limits."""
    request_id, length = BULK_BEGIN.unpack(body)
    if not 0 < length <= OBJECT_BYTES_MAX:
        raise ProtocolError(f"an answer of {length} bytes")
    return request_id, length


class DirectionKeys:
    """Key, nonce counter and rekeying of one direction. A counter value is never used twice with one key."""

    __slots__ = ("_aead", "_count", "_iv", "_records_per_key", "_secret")

    def __init__(self, secret: bytes, *, records_per_key: int = RECORDS_PER_KEY) -> None:
        self._records_per_key = records_per_key
        self._install(secret)

    def _install(self, secret: bytes) -> None:
        self._secret = secret
        self._aead = AESGCM(_expand(secret, b"p2pmodel key", 16))
        self._iv = int.from_bytes(_expand(secret, b"p2pmodel iv", 12), "big")
        self._count = 0

    def _nonce(self) -> bytes:
        if self._count == self._records_per_key:
            self._install(_expand(self._secret, b"p2pmodel next", SECRET_BYTES))
        nonce = (self._iv ^ self._count).to_bytes(12, "big")
        self._count += 1
        return nonce

    def seal_into(self, header: bytes, plain: bytes | memoryview, out: memoryview) -> int:
        """Write ciphertext and tag of one record to `out`; returns their length.

        `out` may begin where `plain` does: the cipher is a stream, each byte is read before it is written over.
        """
        size = len(plain) + TAG_BYTES
        self._aead.encrypt_into(self._nonce(), plain, header, out[:size])
        return size

    def open_into(self, header: bytes, body: memoryview, out: memoryview) -> None:
        """Open one record into `out`, which is exactly as long as the plaintext. Raises `ProtocolError`.

        `out` may be where `body` is; what stands there after an error is nothing that anybody sealed.
        """
        try:
            self._aead.decrypt_into(self._nonce(), body, header, out)
        except InvalidTag as error:
            raise ProtocolError("a record that does not open: altered, replayed or out of order") from error


def _expand(secret: bytes, label: bytes, length: int) -> bytes:
    return HKDFExpand(SHA256(), length, label).derive(secret)
