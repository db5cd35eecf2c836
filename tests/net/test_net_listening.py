"""Who knocks at the listener: cut handshakes, silence, floods, noise. Honest peers get in all the same.

Hostile ends are plain sockets; the limits that a test would have to wait for are made small.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import socket
import ssl
import time

import pytest
from wire_pairs import PATIENCE_S, Handler, comes_true, handshake, identity

from p2pmodel.errors import HandshakeError, NetworkError, PeerGoneError
from p2pmodel.net import Address, network_id, real


async def raw(address: Address) -> socket.socket:
    sock = socket.socket()
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, (address.host, address.port))
    return sock


async def until_hung_up(sock: socket.socket) -> bytes:
    """What came until the end; a reset is an end too."""
    received = b""
    async with asyncio.timeout(PATIENCE_S):
        try:
            while data := await asyncio.get_running_loop().sock_recv(sock, 4096):
                received += data
        except ConnectionError:
            pass
    sock.close()
    return received


async def welcomed(town, address: Address, number: int = 8) -> None:
    """An honest peer gets in."""
    async with asyncio.timeout(PATIENCE_S):
        channel = await town.network(identity(number)).connect(address, identity(1).key.public)
    town._channels.append(channel)


def half_open(town) -> int:
    return sum(listener.half_open for listener in town._listeners)


async def no_half_open(town) -> None:
    await comes_true(lambda: not half_open(town) and not any(listener._welcomes for listener in town._listeners))


async def test_listening_fills_in_our_port(town) -> None:
    network = town.network(identity(1))
    address = await town.listen(network)
    assert network.identity.port == address.port > 0


async def test_a_port_in_use_is_a_network_error_that_names_it(town) -> None:
    address = await town.listen(town.network(identity(1)))
    with pytest.raises(NetworkError, match=f"port {address.port}"):
        await town.network(identity(2)).listen("127.0.0.1", address.port, lambda channel: None)


@pytest.mark.parametrize("host", ["no.such.host", "192.0.2.1", "x" * 70, "a..b", "\udcff", "256.1.1.1"])
async def test_a_host_that_cannot_be_listened_on_is_a_network_error(town, host: str) -> None:
    with pytest.raises(NetworkError):
        await town.network(identity(1)).listen(host, 0, lambda channel: None)


async def test_an_address_where_nobody_listens_is_a_peer_that_is_gone(town) -> None:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    address = Address(*sock.getsockname())
    with pytest.raises(PeerGoneError):
        await town.network(identity(1)).connect(address, None)
    sock.close()


@pytest.mark.parametrize("host", ["0.0.0.0", "224.0.0.1", "255.255.255.255", "::", "ff02::1", "::ffff:0.0.0.0"])
async def test_an_address_that_is_nobodys_is_not_dialled(town, host: str) -> None:
    with pytest.raises(PeerGoneError, match="no address"):
        await town.network(identity(1)).connect(Address(host, 80), None)


async def test_without_descriptors_connecting_fails_as_a_peer_that_is_gone(town, monkeypatch) -> None:
    network = town.network(identity(1))

    def exhausted(*_: object) -> socket.socket:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(real.socket, "socket", exhausted)
    with pytest.raises(PeerGoneError):
        await network.connect(Address("127.0.0.1", 9), None)


async def test_without_descriptors_the_listener_rests_and_then_accepts_again(town, monkeypatch) -> None:
    monkeypatch.setattr(real, "_ACCEPT_PAUSE_S", 0.01)
    address = await town.listen(town.network(identity(1)))
    [listener] = town._listeners

    class Exhausted:
        """A listening socket in a process that for a while has no descriptor left."""

        tries = 0

        def __init__(self, sock: socket.socket) -> None:
            self._sock = sock

        def accept(self):
            Exhausted.tries += 1
            if Exhausted.tries <= 3:
                raise OSError(errno.EMFILE, "Too many open files")
            return self._sock.accept()

        def __getattr__(self, name: str):
            return getattr(self._sock, name)

    listener._sock = Exhausted(listener._sock)
    await welcomed(town, address)
    assert Exhausted.tries <= 6


@pytest.mark.slow
async def test_a_handshake_that_is_cut_anywhere_leaves_nothing(town) -> None:
    """The client's whole part of the conversation, cut after more and more of it."""
    address = await town.listen(town.network(identity(1)))
    loop = asyncio.get_running_loop()

    async def cut_after(length: int) -> None:
        client, sock = handshake(identity(2), outgoing=True), await raw(address)
        sent = 0
        while sent < length:
            out = client.to_send()[: length - sent]
            await loop.sock_sendall(sock, out)
            sent += len(out)
            if sent < length:
                client.receive(await loop.sock_recv(sock, 4096))
        sock.close()

    client, server = handshake(identity(2), outgoing=True), handshake(identity(1), outgoing=False)
    first = client.to_send()
    server.receive(first)
    client.receive(server.to_send())
    total = len(first) + len(client.to_send())
    assert total > 500
    for length in range(0, total, 13):
        await cut_after(length)
    await no_half_open(town)
    await welcomed(town, address)


@pytest.mark.parametrize(
    "noise", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", bytes(5000), b"\x16\x03\x01\xff\xff" + bytes(99)]
)
async def test_who_does_not_speak_tls_is_hung_up_on_at_once(town, noise: bytes) -> None:
    address = await town.listen(town.network(identity(1)))
    sock = await raw(address)
    await asyncio.get_running_loop().sock_sendall(sock, noise)
    await until_hung_up(sock)
    await no_half_open(town)


async def test_a_handshake_without_end_is_cut_by_its_length(town) -> None:
    address = await town.listen(town.network(identity(1)))
    sock = await raw(address)
    record = b"\x16\x03\x01\x40\x00" + bytes(0x4000)
    try:
        for _ in range(1000):
            await asyncio.get_running_loop().sock_sendall(sock, record)
    except ConnectionError:
        pass
    else:
        pytest.fail("sixteen megabytes of handshake were taken")
    sock.close()


async def test_a_client_of_tls_1_2_is_refused_on_the_wire(town) -> None:
    address = await town.listen(town.network(identity(1)))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.open_connection(address.host, address.port, ssl=context)


async def test_who_says_nothing_is_cut_off_after_the_handshake_timeout(town, monkeypatch) -> None:
    monkeypatch.setattr(real, "HANDSHAKE_TIMEOUT_S", 0.05)
    address = await town.listen(town.network(identity(1)))
    silent = await raw(address)
    began = time.monotonic()
    assert await until_hung_up(silent) == b""
    assert time.monotonic() - began < 2
    await no_half_open(town)


async def test_who_drips_a_handshake_is_cut_off_after_the_handshake_timeout(town, monkeypatch) -> None:
    monkeypatch.setattr(real, "HANDSHAKE_TIMEOUT_S", 0.1)
    address = await town.listen(town.network(identity(1)))
    hello = handshake(identity(2), outgoing=True).to_send()
    sock = await raw(address)
    with pytest.raises(ConnectionError):
        for position in range(len(hello)):
            await asyncio.get_running_loop().sock_sendall(sock, hello[position : position + 1])
            await asyncio.sleep(0.005)
    sock.close()


async def test_a_server_that_says_nothing_is_a_handshake_error(town, monkeypatch) -> None:
    monkeypatch.setattr(real, "HANDSHAKE_TIMEOUT_S", 0.05)
    server = socket.create_server(("127.0.0.1", 0))
    with pytest.raises(HandshakeError, match="in time"):
        await town.network(identity(1)).connect(Address(*server.getsockname()), None)
    server.close()


async def test_a_server_that_hangs_up_is_a_handshake_error(town) -> None:
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    address = Address(*server.sockets[0].getsockname())
    with pytest.raises(HandshakeError):
        await town.network(identity(1)).connect(address, None)
    server.close()
    await server.wait_closed()


async def test_a_peer_of_another_network_gets_no_channel_on_either_side(town) -> None:
    accepted = []
    address = await town.listen(town.network(identity(1)), accepted.append)
    with pytest.raises(HandshakeError):
        await town.network(identity(2, network=network_id("elsewhere"))).connect(address, None)
    await no_half_open(town)
    assert accepted == []


async def test_connecting_that_is_cancelled_leaves_no_socket(town) -> None:
    server = socket.create_server(("127.0.0.1", 0))
    task = asyncio.get_running_loop().create_task(
        town.network(identity(1)).connect(Address(*server.getsockname()), None)
    )
    for _ in range(5):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    server.close()
    gc.collect()


@pytest.mark.slow
async def test_a_flood_of_half_open_connections_keeps_no_honest_peer_out(town, monkeypatch) -> None:
    monkeypatch.setattr(real, "HALF_OPEN_MAX", 40)
    address = await town.listen(town.network(identity(1)))
    crowd = [await raw(address) for _ in range(200)]
    took = []
    for number in range(10, 20):
        crowd += [await raw(address) for _ in range(20)]
        began = time.monotonic()
        await welcomed(town, address, number)
        took.append(time.monotonic() - began)
        assert half_open(town) <= 40
    assert max(took) < 1.0, f"an honest handshake took {max(took):.2f} s"
    for sock in crowd:
        sock.close()
    await no_half_open(town)


async def test_the_oldest_half_open_connection_makes_room_for_the_newest(town, monkeypatch) -> None:
    monkeypatch.setattr(real, "HALF_OPEN_MAX", 3)
    address = await town.listen(town.network(identity(1)))
    crowd = []
    for _ in range(4):
        crowd.append(await raw(address))
        await comes_true(lambda: half_open(town) >= min(len(crowd), 3))
    assert await until_hung_up(crowd[0]) == b""
    assert half_open(town) == 3
    for sock in crowd:
        sock.close()
    await no_half_open(town)


async def test_closing_the_listener_drops_those_who_have_just_been_accepted(town) -> None:
    """The task of a connection may be cancelled before its first step; its socket must be closed all the same."""
    address = await town.listen(town.network(identity(1)))
    [listener] = town._listeners
    asyncio.get_running_loop().remove_reader(listener._sock)
    callers = [await raw(address) for _ in range(5)]
    welcome, accepted = listener._welcome, []

    def welcomes(sock: socket.socket, source: Address):
        accepted.append(sock)
        return welcome(sock, source)

    listener._welcome = welcomes
    listener._on_readable()
    tasks = list(listener._welcomes)
    listener.close()
    await asyncio.wait(tasks)
    await comes_true(lambda: not listener._welcomes)
    assert [sock.fileno() for sock in accepted] == [-1] * 5
    for caller in callers:
        assert await until_hung_up(caller) == b""


async def test_closing_the_listener_keeps_channels_that_are_open(town) -> None:
    near, far = await town.channels(identity(1), identity(2))
    handler = Handler()
    far.start(handler)
    town._listeners[0].close()
    near.start(Handler())
    near.send(b"still here")
    await handler.until(lambda: handler.messages)


def test_the_listener_accepts_fewer_at_a_time_than_may_be_half_open() -> None:
    assert real._ACCEPTS_PER_WAKE * 2 <= real.HALF_OPEN_MAX
