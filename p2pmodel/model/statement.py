"""What a publisher says of a model id, signed: "this is <name>", with a message and a date.

The envelope is DSSE (Dead Simple Signing Envelope, protocol version 1): JSON with the payload, its type, and Ed25519
signatures over `PAE(type, payload)`. The payload names the model id, the hash of the canonical manifest, so the
signature covers every byte of the model. Many publishers may sign the same id.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass

import msgspec

from p2pmodel.errors import DecodeError, SignatureError
from p2pmodel.limits import MESSAGE_TEXT_CHARS_MAX, STATEMENT_BYTES_MAX
from p2pmodel.model.digest import Digest, ModelId
from p2pmodel.model.keys import PublicKey, SecretKey
from p2pmodel.model.reference import check_name_part

PAYLOAD_TYPE = "application/vnd.p2pmodel.statement.v1+json"


class _WireStatement(msgspec.Struct, forbid_unknown_fields=True):
    issued_at: int
    message: str
    model_id: str
    name: str
    revision: str


class _WireSignature(msgspec.Struct, forbid_unknown_fields=True):
    keyid: str
    sig: str


class _WireEnvelope(msgspec.Struct, forbid_unknown_fields=True):
    payload: str
    payloadType: str  # DSSE's own spelling
    signatures: list[_WireSignature]


_payload_decoder = msgspec.json.Decoder(_WireStatement)
_envelope_decoder = msgspec.json.Decoder(_WireEnvelope)
_encoder = msgspec.json.Encoder(order="sorted")


@dataclass(frozen=True, slots=True)
class Statement:
    """`name` is empty or valid for the Hugging Face Hub; `issued_at` is Unix time in seconds."""

    model_id: ModelId
    issued_at: int
    name: str = ""
    revision: str = ""
    message: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.issued_at < 1 << 40:
            raise DecodeError("a statement's date is outside its limits")
        for part in (self.name, self.revision):
            if part:
                check_name_part(part)
        if len(self.message) > MESSAGE_TEXT_CHARS_MAX or not all(c == "\n" or c.isprintable() for c in self.message):
            raise DecodeError(f"a message is printable text of at most {MESSAGE_TEXT_CHARS_MAX} characters")

    def payload(self) -> bytes:
        return _encoder.encode(
            _WireStatement(
                model_id=self.model_id.hex,
                issued_at=self.issued_at,
                name=self.name,
                revision=self.revision,
                message=self.message,
            )
        )


@dataclass(frozen=True, slots=True)
class SignedStatement:
    """A statement whose signature by `signer` has been verified; `envelope` is the DSSE JSON as it travels."""

    statement: Statement
    signer: PublicKey
    envelope: bytes


def _pae(payload: bytes) -> bytes:
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def _decode_base64(text: str) -> bytes:
    """Raises `ValueError` unless `text` is what encoding gives: the last digit may hold bits that decoding ignores."""
    decoded = base64.b64decode(text, validate=True)
    if base64.b64encode(decoded).decode() != text:
        raise ValueError("not canonical base64")
    return decoded


def sign_statement(statement: Statement, key: SecretKey) -> SignedStatement:
    payload = statement.payload()
    envelope = _WireEnvelope(
        payload=base64.b64encode(payload).decode(),
        payloadType=PAYLOAD_TYPE,
        signatures=[
            _WireSignature(keyid=key.public.text, sig=base64.b64encode(key.sign(_pae(payload))).decode()),
        ],
    )
    return SignedStatement(statement, key.public, _encoder.encode(envelope))


def open_statement(envelope: bytes) -> SignedStatement:
    """Parse and verify. Raises `DecodeError` for a malformed envelope, `SignatureError` where the signature fails."""
    if len(envelope) > STATEMENT_BYTES_MAX:
        raise DecodeError(f"a statement has at most {STATEMENT_BYTES_MAX} bytes")
    try:
        wire = _envelope_decoder.decode(envelope)
        payload = _decode_base64(wire.payload)
        if wire.payloadType != PAYLOAD_TYPE or len(wire.signatures) != 1:
            raise DecodeError("not a statement of a known type with one signature")
        signature = _decode_base64(wire.signatures[0].sig)
        body = _payload_decoder.decode(payload)
    except (msgspec.MsgspecError, binascii.Error, ValueError, RecursionError) as error:
        raise DecodeError(f"not a signed statement: {error}") from error
    signer = PublicKey.from_text(wire.signatures[0].keyid)
    statement = Statement(
        ModelId(Digest.from_hex(body.model_id)), body.issued_at, body.name, body.revision, body.message
    )
    if statement.payload() != payload or _encoder.encode(wire) != envelope:
        raise DecodeError("not the canonical encoding of this statement")
    if not signer.verify(signature, _pae(payload)):
        raise SignatureError(f"the signature by {signer.text} does not hold")
    return SignedStatement(statement, signer, envelope)
