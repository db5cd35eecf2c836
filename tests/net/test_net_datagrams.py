"""Datagrams over real UDP sockets: what arrives, and what must not disturb."""

from __future__ import annotations

import asyncio
import errno
import socket

import pytest
from wire_pairs import PATIENCE_S, comes_true, identity

from p2pmodel.errors import DecodeError, NetworkError
from p2pmodel.limits import DATAGRAM_BYTES_MAX
from p2pmodel.net import Address, udp


class Box:
    """Keeps what comes in."""

    def __init__(self) -> None:
        self.received: asyncio.Queue = asyncio.Queue()

    def __call__(self, data: bytes, source: Address) -> None:
        self.received.put_nowait((data, source))

    async def next(self) -> tuple[bytes, Address]:
        async with asyncio.timeout(PATIENCE_S):
            return await self.received.get()


@pytest.fixture
async def post(town):
    opened = []

    async def open_one(host: str = "127.0.0.1", port: int = 0, box=None):
        box = box or Box()
        datagrams = await town.network(identity(1)).open_datagrams(host, port, box)
        opened.append(datagrams)
        return datagrams, box

    yield open_one
    for datagrams in opened:
        datagrams.close()


async def test_a_datagram_arrives_with_the_address_it_came_from(post) -> None:
    (near, _), (far, box) = await post(), await post()
    near.send(b"x" * DATAGRAM_BYTES_MAX, far.address)
    assert await box.next() == (b"x" * DATAGRAM_BYTES_MAX, near.address)


async def test_an_oversize_datagram_is_cut_above_what_any_decoder_takes(post) -> None:
    (near, _), (far, box) = await post(), await post()
    near.send(bytes(9000), far.address)
    near.send(b"next", far.address)
    data, _ = await box.next()
    assert DATAGRAM_BYTES_MAX < len(data) <= 2048
    assert (await box.next())[0] == b"next"


async def test_a_datagram_too_long_for_udp_is_lost_silently(post) -> None:
    (near, _), (far, box) = await post(), await post()
    near.send(bytes(70_000), far.address)
    near.send(b"next", far.address)
    assert (await box.next())[0] == b"next"


async def test_ports_where_nobody_listens_do_not_stop_a_socket(post) -> None:
    (near, box), (far, _) = await post(), await post()
    closed, _ = await post()
    closed.close()
    for _ in range(20):
        near.send(b"nobody", closed.address)
    far.send(b"still here", near.address)
    assert (await box.next())[0] == b"still here"
    far.close()


@pytest.mark.parametrize("host", ["0.0.0.0", "224.0.0.1", "255.255.255.255", "::", "ff02::1"])
async def test_nothing_is_sent_to_an_address_that_is_nobodys(post, monkeypatch, host: str) -> None:
    near, _ = await post()

    class Forbidden(socket.socket):
        def sendto(self, *args) -> int:
            raise AssertionError("sent")

    sock = near._sock
    near._sock = Forbidden(fileno=sock.fileno())
    near.send(b"x", Address(host, 9))
    near._sock.detach()
    near._sock = sock


async def test_a_socket_of_one_family_loses_what_is_for_the_other(post) -> None:
    near, _ = await post()
    near.send(b"x", Address("::1", 9))


async def test_a_socket_that_listens_on_both_families_answers_in_both(post) -> None:
    both, box = await post("::")
    four, four_box = await post("127.0.0.1")
    four.send(b"hello", Address("127.0.0.1", both.address.port))
    data, source = await box.next()
    assert (data, source) == (b"hello", four.address)
    both.send(b"answer", source)
    assert (await four_box.next())[0] == b"answer"


async def test_a_handler_that_fails_does_not_stop_the_socket(town, post) -> None:
    box = Box()

    def handler(data: bytes, source: Address) -> None:
        if data == b"boom":
            raise ZeroDivisionError
        box(data, source)

    (near, _), (far, _) = await post(), await post(box=handler)
    near.send(b"boom", far.address)
    near.send(b"next", far.address)
    assert (await box.next())[0] == b"next"
    assert isinstance(town.unexpected.pop()["exception"], ZeroDivisionError)


async def test_a_closed_socket_sends_nothing_and_may_be_closed_again(post) -> None:
    near, _ = await post()
    near.close()
    near.send(b"x", near.address)
    near.close()


async def test_a_handler_may_close_its_socket(post) -> None:
    (near, _), closing = await post(), []

    def handler(data: bytes, source: Address) -> None:
        closing.append(data)
        far.close()

    far, _ = await post(box=handler)
    near.send(b"one", far.address)
    near.send(b"two", far.address)
    await comes_true(lambda: bool(closing))
    assert closing == [b"one"]


async def test_a_port_in_use_is_a_network_error(post) -> None:
    near, _ = await post()
    with pytest.raises(NetworkError, match="in use"):
        await post(port=near.address.port)


async def test_one_socket_speaks_both_families_and_says_plainly_who_sent(post) -> None:
    (both, box), (four, four_box), (six, six_box) = await post("::"), await post("127.0.0.1"), await post("::1")
    assert both.address.host == "::"
    four.send(b"4", Address("127.0.0.1", both.address.port))
    assert await box.next() == (b"4", four.address)
    six.send(b"6", Address("::1", both.address.port))
    assert await box.next() == (b"6", six.address)
    both.send(b"to 4", four.address)
    both.send(b"to 6", six.address)
    assert await four_box.next() == (b"to 4", Address("127.0.0.1", both.address.port))
    assert await six_box.next() == (b"to 6", Address("::1", both.address.port))


@pytest.mark.parametrize("number", [errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL])
async def test_where_there_is_no_ipv6_everywhere_is_ipv4(post, monkeypatch, number: int) -> None:
    def without_ipv6(family: int, *rest: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(number, "no IPv6 here")
        return make(family, *rest)

    make = socket.socket
    monkeypatch.setattr(udp.socket, "socket", without_ipv6)
    (datagrams, box), (near, _) = await post("::"), await post()
    assert datagrams.address.host == "0.0.0.0"
    near.send(b"4", Address("127.0.0.1", datagrams.address.port))
    assert await box.next() == (b"4", near.address)
    with pytest.raises(NetworkError, match="not an address of this machine"):
        await post("::1")


@pytest.mark.parametrize(
    ("bound", "other", "reached"),
    [
        ("::", "192.0.2.1", True),
        ("::", "2001:db8::1", True),
        ("::1", "127.0.0.1", False),
        ("::1", "2001:db8::1", True),
        ("0.0.0.0", "192.0.2.1", True),
        ("0.0.0.0", "2001:db8::1", False),
    ],
)
def test_an_address_knows_which_others_a_socket_bound_to_it_reaches(bound: str, other: str, reached: bool) -> None:
    assert Address(bound, 1).reaches(Address(other, 1)) is reached


@pytest.mark.parametrize(
    ("host", "scope"),
    [
        *(("127.0.0.1", 2), ("::1", 2), ("::ffff:127.0.0.1", 2)),
        *(("10.0.0.0", 1), ("10.255.255.255", 1), ("192.168.3.4", 1), ("169.254.0.9", 1), ("172.31.255.255", 1)),
        *(("fe80::1", 1), ("fdff::1", 1), ("2001:db8::1", 1), ("255.255.255.255", 1), ("0.0.0.0", 1), ("::", 1)),
        *(("9.255.255.255", 0), ("11.0.0.0", 0), ("172.32.0.0", 0), ("192.169.0.0", 0), ("239.255.255.255", 0)),
        *(("2001:200::1", 0), ("2a00::1", 0), ("fec0::1", 0), ("100.64.0.1", 0)),
    ],
)
def test_an_address_knows_how_far_it_reaches(host: str, scope: int) -> None:
    address = Address(host, 9)
    assert address.scope == scope
    assert Address.unpack(address.pack()) == address
    assert Address.unpack(address.pack()).scope == scope


@pytest.mark.parametrize("packed", [b"", bytes(5), bytes(7), bytes(17), bytes(19), bytes(4) + b"\0\0", bytes(18)])
def test_a_compact_address_of_another_length_or_without_a_port_does_not_decode(packed: bytes) -> None:
    with pytest.raises(DecodeError):
        Address.unpack(packed)
