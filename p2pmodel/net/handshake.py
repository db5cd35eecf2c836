"""The handshake as a plain object: bytes in, bytes out, no socket and no clock.

TLS 1.3 with a self-signed Ed25519 certificate on both sides; any certificate is accepted and the key in it compared
afterwards, so there is no authority to trust. Then each side sends one TLS record with its `Hello`, and the stream
changes to our own records, keyed from the TLS exporter. The server's session tickets, which OpenSSL sends after its
handshake whatever it is told, come before its hello and so never mix with our records.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from OpenSSL import SSL

from p2pmodel.errors import DecodeError, HandshakeError
from p2pmodel.limits import HANDSHAKE_BYTES_MAX, LANE_TOKEN_BYTES, PROTOCOL_VERSION_MIN
from p2pmodel.model import PublicKey
from p2pmodel.net.identity import Identity, decode_hello, encode_hello
from p2pmodel.net.outbox import make_record
from p2pmodel.net.records import SECRET_BYTES, DirectionKeys, Kind
from p2pmodel.net.seam import Hello

EXPORTER_LABEL = b"EXPORTER-p2pmodel-records-1"
LANE_LABEL = b"EXPORTER-p2pmodel-lane-1"
ALPN = b"p2pmodel/1"
_TLS_HEADER_BYTES = 5
_TLS_RECORD_BYTES_MAX = 16384 + 256


@dataclass(frozen=True, slots=True)
class Session:
    """What a finished handshake has established. `sending` and `receiving` are None on an unencrypted connection."""

    peer: PublicKey
    hello: Hello
    sending: DirectionKeys | None
    receiving: DirectionKeys | None
    surplus: bytes
    """Bytes of our own records that came in behind the handshake."""
    unsent: Sequence[bytes] = ()
    """What was to be sent first and has not left yet."""
    lane_token: bytes = b""
    """From the exporter as well, so that nobody else can add a connection to this one."""


def tls_context(identity: Identity) -> SSL.Context:
    """One context serves all connections of a peer."""
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_options(SSL.OP_NO_TICKET)
    context.use_privatekey(identity.key.private_key)
    context.use_certificate(identity.certificate)
    # Any certificate passes here; the key it carries is what `Handshake` compares.
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, lambda *_: True)
    context.set_alpn_protos([ALPN])
    context.set_alpn_select_callback(_select_alpn)
    return context


def _select_alpn(_connection: SSL.Connection, offered: list[bytes]) -> bytes:
    # Raising here would print; refusing is done when the handshake ends without a protocol.
    return ALPN if ALPN in offered else (offered[0] if offered else ALPN)


class Handshake:
    """One side of one handshake. Feed `receive`, send what `to_send` returns, until `session` is set.

    Every failure is a `HandshakeError`: other network, no common version, another key than `expected`, our own key,
    anything that TLS refuses, more than `HANDSHAKE_BYTES_MAX` bytes.
    """

    def __init__(
        self,
        identity: Identity,
        context: SSL.Context,
        *,
        outgoing: bool,
        expected: PublicKey | None = None,
        lane: bytes = b"",
        first: Sequence[bytes] = (),
    ) -> None:
        self.session: Session | None = None
        self._lane = lane
        self._first = first
        self._records = b""
        """Of what is sent first: they leave right behind our hello."""
        self._keys: tuple[DirectionKeys, DirectionKeys] | None = None
        self._identity = identity
        self._outgoing = outgoing
        self._expected = expected
        self._buffer = bytearray()
        self._received_bytes = 0
        self._peer: PublicKey | None = None
        self._tls = SSL.Connection(context, None)
        if outgoing:
            self._tls.set_connect_state()
        else:
            self._tls.set_accept_state()
        self._advance()

    def receive(self, data: bytes) -> None:
        """Take bytes from the wire. They are given to TLS record by record, so what follows the hello stays ours."""
        self._received_bytes += len(data)
        if self._received_bytes > HANDSHAKE_BYTES_MAX + _TLS_RECORD_BYTES_MAX:
            raise HandshakeError("the handshake is too long")
        self._buffer += data
        while self.session is None and len(self._buffer) >= _TLS_HEADER_BYTES:
            length = int.from_bytes(self._buffer[3:5], "big")
            if self._buffer[0] not in (20, 21, 22, 23) or self._buffer[1] != 3 or length > _TLS_RECORD_BYTES_MAX:
                raise HandshakeError("the other side does not speak TLS")
            end = _TLS_HEADER_BYTES + length
            if len(self._buffer) < end:
                return
            self._tls.bio_write(bytes(self._buffer[:end]))
            del self._buffer[:end]
            self._advance()

    def to_send(self) -> bytes:
        """Whatever has to go out now; empty where nothing has."""
        records, self._records = self._records, b""
        try:
            return self._tls.bio_read(1 << 20) + records
        except SSL.WantReadError:
            return records
        except SSL.Error as error:
            raise HandshakeError("TLS broke off") from error

    def _advance(self) -> None:
        try:
            if self._peer is None:
                self._tls.do_handshake()
                self._peer = self._authenticate()
                self._tls.send(encode_hello(self._identity.hello(self._lane)))
                self._seal_first()
            hello = self._tls.recv(1 << 14)
        except SSL.WantReadError:
            return
        except SSL.ZeroReturnError as error:
            raise HandshakeError("the other side ended the handshake") from error
        except SSL.Error as error:
            raise HandshakeError(f"TLS failed: {_reason(error)}") from error
        self._finish(hello)

    def _seal_first(self) -> None:
        """What is to be sent first need not wait for the other hello where it will be sealed whatever that says.

        The other side has proved its key by now, in a handshake that is fresh: this is no "early data" of TLS, and
        nobody can replay it.
        """
        if not (self._first and self._outgoing and self._identity.encryption):
            return
        sending, _ = self._export_keys()
        self._records = b"".join(make_record(sending, Kind.MESSAGE, message) for message in self._first)
        self._first = ()

    def _export_keys(self) -> tuple[DirectionKeys, DirectionKeys]:
        """For sending and for receiving."""
        if self._keys is None:
            secrets = self._tls.export_keying_material(EXPORTER_LABEL, 2 * SECRET_BYTES)
            client, server = DirectionKeys(secrets[:SECRET_BYTES]), DirectionKeys(secrets[SECRET_BYTES:])
            self._keys = (client, server) if self._outgoing else (server, client)
        return self._keys

    def _authenticate(self) -> PublicKey:
        if self._tls.get_alpn_proto_negotiated() != ALPN:
            raise HandshakeError("the other side does not speak this protocol")
        certificate = self._tls.get_peer_certificate(as_cryptography=True)
        try:
            key = certificate.public_key() if certificate is not None else None
        except ValueError as error:
            raise HandshakeError("a certificate whose key cannot be read") from error
        if not isinstance(key, Ed25519PublicKey):
            raise HandshakeError("a peer's key is an Ed25519 key")
        peer = PublicKey(key.public_bytes_raw())
        if peer == self._identity.key.public:
            raise HandshakeError("that is ourselves")
        if self._expected is not None and peer != self._expected:
            raise HandshakeError(f"expected peer {self._expected.text}, met {peer.text}")
        return peer

    def _finish(self, encoded: bytes) -> None:
        assert self._peer is not None
        try:
            hello = decode_hello(encoded)
        except DecodeError as error:
            raise HandshakeError(str(error)) from error
        if hello.network_id != self._identity.network_id:
            raise HandshakeError("the peer belongs to another network")
        if hello.version < PROTOCOL_VERSION_MIN:
            raise HandshakeError(f"the peer speaks version {hello.version}, which is too old")
        sending = receiving = None
        # Only where both sides say so do the records travel in the clear; what each said is authenticated by TLS.
        if hello.encryption or self._identity.encryption:
            sending, receiving = self._export_keys()
        token = self._tls.export_keying_material(LANE_LABEL, LANE_TOKEN_BYTES)
        self.session = Session(self._peer, hello, sending, receiving, bytes(self._buffer), self._first, token)
        self._buffer.clear()


def _reason(error: SSL.Error) -> str:
    details = error.args[0] if error.args and isinstance(error.args[0], list) else []
    return "; ".join(str(entry[-1]) for entry in details) or "the connection ended"
