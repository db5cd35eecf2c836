"""Who we are on the wire: a key, the network we belong to, and a certificate that carries the key into TLS."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
from blake3 import blake3
from cryptography import x509
from cryptography.x509.oid import NameOID

from p2pmodel.errors import DecodeError
from p2pmodel.limits import AGENT_CHARS_MAX, LANE_TOKEN_BYTES, PROTOCOL_VERSION
from p2pmodel.model import SecretKey
from p2pmodel.net.seam import Hello

NETWORK_ID_BYTES = 16


def network_id(name: str) -> bytes:
    """The 16 bytes that keep networks apart, in datagrams and in the handshake: a hash of the network's name."""
    return blake3(b"p2pmodel network 1\0" + name.encode()).digest(NETWORK_ID_BYTES)


class _WireHello(msgspec.Struct, array_like=True):
    version: int
    network_id: bytes
    encryption: bool
    port: int
    agent: str
    lane: bytes = b""


_decoder = msgspec.msgpack.Decoder(_WireHello)


def encode_hello(hello: Hello) -> bytes:
    return msgspec.msgpack.encode(
        _WireHello(hello.version, hello.network_id, hello.encryption, hello.port, hello.agent, hello.lane)
    )


def decode_hello(encoded: bytes) -> Hello:
    """Raises `DecodeError`. Fields that a later version appends are ignored."""
    try:
        wire = _decoder.decode(encoded)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DecodeError(f"not a hello: {error}") from error
    if len(wire.network_id) != NETWORK_ID_BYTES or not 0 <= wire.port <= 65535 or not 0 <= wire.version < 1 << 16:
        raise DecodeError("a hello with fields outside their limits")
    if len(wire.agent) > AGENT_CHARS_MAX or not wire.agent.isprintable():
        raise DecodeError("a hello whose agent is not a short printable text")
    if len(wire.lane) not in (0, LANE_TOKEN_BYTES):
        raise DecodeError("a hello with a token of another length")
    return Hello(wire.version, wire.network_id, wire.encryption, wire.port, wire.agent, wire.lane)


@dataclass(slots=True)
class Identity:
    """Our key and what we say in every handshake. `port` is set once we listen."""

    key: SecretKey
    network_id: bytes
    encryption: bool = True
    """Whether bulk and messages must be encrypted. They are in the clear only where both sides say False."""
    port: int = 0
    """Where we listen."""
    agent: str = ""
    hidden: Callable[[], bool] = field(default=lambda: False, repr=False, compare=False)
    """Whether others cannot reach us, as far as we know: then we say no port, so that nobody is told to dial us."""
    _certificate: x509.Certificate | None = field(default=None, init=False, repr=False, compare=False)

    def hello(self, lane: bytes = b"") -> Hello:
        """What we say now."""
        port = 0 if self.hidden() else self.port
        return Hello(PROTOCOL_VERSION, self.network_id, self.encryption, port, self.agent, lane)

    @property
    def certificate(self) -> x509.Certificate:
        """Built when TLS first asks for it; a simulated network never does."""
        if self._certificate is None:
            self._certificate = self_signed(self.key)
        return self._certificate


def self_signed(key: SecretKey) -> x509.Certificate:
    """A certificate that says nothing but the key: TLS proves that its owner is at the other end, and we compare keys.

    Its dates span all of time (RFC 5280 section 4.1.2.5), so a wrong clock keeps nobody out.
    """
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "p2pmodel")])
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.private_key.public_key())
        .serial_number(1)
        .not_valid_before(datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC))
        .not_valid_after(datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC))
        .sign(key.private_key, None)
    )
