"""The handshake as a plain object: who may come in, and what the two sides then share.

Two `Handshake` objects are joined in memory; foreign TLS clients are played by the standard library's `ssl`.
"""

from __future__ import annotations

import datetime
import ssl

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given, settings
from hypothesis import strategies as st
from OpenSSL import SSL
from wire_pairs import NETWORK, handshake, identity, shake

from p2pmodel.errors import DecodeError, HandshakeError
from p2pmodel.limits import AGENT_CHARS_MAX, HANDSHAKE_BYTES_MAX
from p2pmodel.net import Hello, network_id
from p2pmodel.net.handshake import ALPN, Handshake, tls_context
from p2pmodel.net.identity import decode_hello, encode_hello, self_signed
from p2pmodel.net.records import HEADER_BYTES, TAG_BYTES, decode_header


def both(client_options=None, server_options=None, expected=None) -> tuple[Handshake, Handshake]:
    client = handshake(identity(1, **(client_options or {})), outgoing=True, expected=expected)
    return client, handshake(identity(2, **(server_options or {})), outgoing=False)


@pytest.mark.parametrize("piece_bytes", [1, 7, 1 << 20])
def test_both_sides_learn_the_other_key_and_share_secrets(piece_bytes: int) -> None:
    client, server = both({"port": 7, "agent": "a"}, {"port": 9, "agent": "b"})
    shake(client, server, piece_bytes=piece_bytes)
    assert client.session.peer == identity(2).key.public
    assert server.session.peer == identity(1).key.public
    assert (client.session.hello.port, client.session.hello.agent) == (9, "b")
    assert (server.session.hello.port, server.session.hello.agent) == (7, "a")
    assert client.session.sending._secret == server.session.receiving._secret
    assert client.session.receiving._secret == server.session.sending._secret
    assert client.session.sending._secret != client.session.receiving._secret


def test_what_is_to_be_sent_first_leaves_with_the_hello_and_waits_for_none() -> None:
    client = handshake(identity(1), outgoing=True, first=[b"one", b"two"])
    server = handshake(identity(2), outgoing=False)
    server.receive(client.to_send())
    client.receive(server.to_send())
    assert client.session is None
    server.receive(client.to_send())
    assert server.session is not None
    opened, rest = [], server.session.surplus
    while rest:
        length = decode_header(rest[:HEADER_BYTES])[1]
        plain, end = bytearray(length), HEADER_BYTES + length + TAG_BYTES
        server.session.receiving.open_into(rest[:HEADER_BYTES], memoryview(rest)[HEADER_BYTES:end], memoryview(plain))
        opened.append(bytes(plain))
        rest = rest[end:]
    assert opened == [b"one", b"two"]
    client.receive(server.to_send())
    assert client.session.unsent == ()


@pytest.mark.parametrize("theirs", [True, False])
def test_nothing_leaves_before_the_other_hello_where_it_might_have_to_be_in_the_clear(theirs: bool) -> None:
    client = handshake(identity(1, encryption=False), outgoing=True, first=[b"one"])
    server = handshake(identity(2, encryption=theirs), outgoing=False)
    shake(client, server)
    assert client.session.unsent == [b"one"]
    assert server.session.surplus == b""


def test_nothing_is_said_to_whoever_has_another_key_than_expected() -> None:
    client = handshake(identity(1), outgoing=True, expected=identity(3).key.public, first=[b"secret"])
    server = handshake(identity(2), outgoing=False)
    server.receive(client.to_send())
    with pytest.raises(HandshakeError, match="expected peer"):
        client.receive(server.to_send())
    assert client._records == b""


def test_two_handshakes_of_the_same_peers_share_different_secrets() -> None:
    secrets = set()
    for _ in range(2):
        client, server = both()
        shake(client, server)
        secrets.add(client.session.sending._secret)
    assert len(secrets) == 2


def test_whoever_answers_with_another_key_than_expected_is_refused() -> None:
    client, server = both(expected=identity(3).key.public)
    with pytest.raises(HandshakeError, match="expected peer"):
        shake(client, server)
    assert client.session is None


def test_a_peer_of_another_network_is_refused() -> None:
    client, server = both(server_options={"network": network_id("elsewhere")})
    with pytest.raises(HandshakeError, match="another network"):
        shake(client, server)


def test_a_connection_to_ourselves_is_refused() -> None:
    client = handshake(identity(1), outgoing=True)
    with pytest.raises(HandshakeError, match="ourselves"):
        shake(client, handshake(identity(1), outgoing=False))


@pytest.mark.parametrize(("ours", "theirs"), [(True, False), (False, True), (True, True), (False, False)])
def test_the_wire_is_in_the_clear_only_where_both_sides_say_so(ours: bool, theirs: bool) -> None:
    client, server = both({"encryption": ours}, {"encryption": theirs})
    shake(client, server)
    for session in (client.session, server.session):
        assert (session.sending is not None) == (session.receiving is not None) == (ours or theirs)


def test_bytes_behind_the_hello_are_kept_for_the_channel() -> None:
    client, server = both()
    while server.session is None:
        server.receive(client.to_send())
        if server.session is None:
            client.receive(server.to_send())
    client.receive(server.to_send() + b"records that came along")
    assert client.session.surplus == b"records that came along"


@pytest.mark.parametrize(
    "noise",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x13BitTorrent protocol",
        bytes(100),
        b"\x16\x02" + bytes(20),
        b"\x16\x03\x01\xff\xff\x00",
    ],
)
def test_what_is_not_tls_is_refused(noise: bytes) -> None:
    with pytest.raises(HandshakeError, match="does not speak TLS"):
        both()[1].receive(noise)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(kind=st.sampled_from([20, 21, 22, 23]), body=st.binary(max_size=200))
def test_noise_in_tls_records_raises_only_handshake_errors(kind: int, body: bytes) -> None:
    _, server = both()
    try:
        server.receive(bytes([kind, 3, 3]) + len(body).to_bytes(2, "big") + body)
    except HandshakeError:
        pass
    assert server.session is None


@pytest.mark.slow
@settings(max_examples=60)
@given(data=st.data())
def test_a_flipped_bit_in_the_handshake_never_yields_a_session(data: st.DataObject) -> None:
    client, server = both()
    flight = bytearray(client.to_send())
    position = data.draw(st.integers(0, 8 * len(flight) - 1))
    flight[position // 8] ^= 1 << position % 8
    try:
        server.receive(bytes(flight))
        shake(client, server)
    except HandshakeError:
        pass
    # TLS lets the version of its outermost record differ, so an unharmed session is possible, half a one is not.
    if server.session is not None:
        assert client.session.sending._secret == server.session.receiving._secret


def test_a_handshake_that_does_not_end_is_refused() -> None:
    _, server = both()
    endless = b"\x16\x03\x01\x40\x00" + bytes(0x4000)
    with pytest.raises(HandshakeError):
        for start in range(0, 3 * HANDSHAKE_BYTES_MAX, 1000):
            server.receive((endless * 4)[start : start + 1000])


def test_a_long_message_in_short_records_is_refused_by_our_own_limit() -> None:
    """TLS would gather a hundred kilobytes of a hello before it looks at them."""
    _, server = both()
    message = b"\x01" + (100_000).to_bytes(3, "big") + bytes(100_000)
    with pytest.raises(HandshakeError, match="too long"):
        for start in range(0, len(message), 1000):
            server.receive(b"\x16\x03\x01" + (1000).to_bytes(2, "big") + message[start : start + 1000])


def test_a_record_that_declares_much_and_sends_little_holds_little() -> None:
    _, server = both()
    server.receive(b"\x16\x03\x01\x40\x00" + bytes(10))
    assert len(server._buffer) == 15
    assert server.session is None


# --- foreign TLS --------------------------------------------------------------------------------------------------


def foreign(server: Handshake, context: ssl.SSLContext) -> None:
    """A client of the standard library against our server."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing)
    for _ in range(10):
        try:
            client.do_handshake()
        except ssl.SSLWantReadError:
            pass
        server.receive(outgoing.read())
        incoming.write(server.to_send())


def unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([ALPN.decode()])
    return context


def test_a_client_with_tls_1_2_is_refused() -> None:
    context = unverified()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((HandshakeError, ssl.SSLError), match=r"version|protocol"):
        foreign(both()[1], context)


def test_a_client_without_a_certificate_is_refused() -> None:
    server = both()[1]
    with pytest.raises(HandshakeError, match="certificate"):
        foreign(server, unverified())
    assert server.session is None


def test_a_client_with_an_rsa_key_is_refused(tmp_path) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC))
        .not_valid_after(datetime.datetime(2120, 1, 1, tzinfo=datetime.UTC))
        .sign(key, hashes.SHA256())
    )
    pem = tmp_path / "rsa.pem"
    pem.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = unverified()
    context.load_cert_chain(pem)
    with pytest.raises(HandshakeError, match="Ed25519"):
        foreign(both()[1], context)


def of_our_key(number: int, tmp_path) -> ssl.SSLContext:
    """A client that has a proper key and is otherwise foreign."""
    key = identity(number).key
    pem = tmp_path / "peer.pem"
    pem.write_bytes(self_signed(key).public_bytes(serialization.Encoding.PEM) + key.to_pem())
    context = unverified()
    context.load_cert_chain(pem)
    return context


@pytest.mark.parametrize("protocols", [[], ["h2"], ["p2pmodel/0", "http/1.1"]])
def test_a_client_that_does_not_ask_for_our_protocol_is_refused(tmp_path, protocols: list[str]) -> None:
    context = of_our_key(3, tmp_path)
    context.set_alpn_protocols(protocols)
    with pytest.raises(HandshakeError, match="does not speak this protocol"):
        foreign(both()[1], context)


# --- hello --------------------------------------------------------------------------------------------------------


def says(encoded: bytes) -> None:
    """A client that passes TLS and then says this instead of a hello."""

    class Client(Handshake):
        def _our_hello(self) -> Hello:
            raise NotImplementedError

        def _advance(self) -> None:
            try:
                if self._peer is None:
                    self._tls.do_handshake()
                    self._peer = self._authenticate()
                    self._tls.send(encoded)
            except SSL.WantReadError:
                pass

    who = identity(1)
    client, server = Client(who, tls_context(who), outgoing=True), handshake(identity(2), outgoing=False)
    shake(client, server)


GOOD = [1, NETWORK, True, 4000, "agent"]


@pytest.mark.parametrize(
    "hello",
    [
        [],
        [1],
        {"version": 1},
        [1, NETWORK[:-1], True, 4000, ""],
        [1, NETWORK, True, 65536, ""],
        [1, NETWORK, True, -1, ""],
        [-1, NETWORK, True, 1, ""],
        [1 << 16, NETWORK, True, 1, ""],
        [1, NETWORK, 1, 1, ""],
        [1, NETWORK, True, 1, "x" * (AGENT_CHARS_MAX + 1)],
        [1, NETWORK, True, 1, "line\nbreak"],
        [1, NETWORK, True, 1, "\x1b[31m"],
        [0, NETWORK, True, 1, "too old"],
    ],
)
def test_a_hello_outside_its_limits_is_refused(hello) -> None:
    with pytest.raises(HandshakeError):
        says(msgspec.msgpack.encode(hello))


def test_a_hello_with_more_fields_is_understood() -> None:
    says(msgspec.msgpack.encode([*GOOD, b"", "of a later version", 17]))


@settings(max_examples=300)
@given(st.binary(max_size=100))
def test_noise_for_a_hello_raises_only_decode_errors(noise: bytes) -> None:
    try:
        decode_hello(noise)
    except DecodeError:
        pass


@pytest.mark.parametrize("depth", [10, 1000, 100_000])
def test_a_deeply_nested_hello_is_a_decode_error(depth: int) -> None:
    with pytest.raises(DecodeError):
        decode_hello(b"\x95\x01\xc4\x10" + NETWORK + b"\xc3\x01" + b"\x91" * depth + b"\xc0")


def test_a_hello_is_the_same_after_a_round_trip() -> None:
    hello = Hello(1, NETWORK, False, 4000, "agent")
    assert decode_hello(encode_hello(hello)) == hello
