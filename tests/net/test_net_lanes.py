"""More than one connection to one peer: when, by whom, and what a stranger can do with it.

Loopback is too short a path for lanes; these tests say that it is long.
"""

from __future__ import annotations

import asyncio
import random
import socket

import pytest
from wire_pairs import PATIENCE_S, Handler, Source, comes_true, identity

from p2pmodel.errors import HandshakeError, PeerGoneError
from p2pmodel.limits import LANES_NEAR, LANES_PER_CHANNEL_MAX, MIB
from p2pmodel.net import tcp, tcp_info
from p2pmodel.net.lanes import LanePlan, share_a_window
from p2pmodel.net.tcp_info import TcpInfo, shorten

BOTH_WAYS = pytest.mark.parametrize("encryption", [True, False], ids=["sealed", "clear"])


# --- the decision -------------------------------------------------------------------------------------------------


def test_a_short_path_has_one_lane_however_fast() -> None:
    plan = LanePlan(0.0, 0)
    assert plan.lanes(1.0, 10_000 * MIB, 0.001) == 1


def test_a_long_path_gets_a_lane_for_each_mebibyte_under_way() -> None:
    plan = LanePlan(0.0, 0)
    assert plan.lanes(1.0, 5 * MIB, 0.08) == 1
    assert plan.lanes(2.0, (5 + 30) * MIB, 0.08) == 3
    assert plan.lanes(3.0, (5 + 30 + 1000) * MIB, 0.08) == LANES_PER_CHANNEL_MAX


def test_several_lanes_have_the_windows_of_the_kernel_unless_the_path_is_very_long() -> None:
    assert share_a_window(2, 0.08) and share_a_window(LANES_PER_CHANNEL_MAX, 0.02)
    assert not share_a_window(1, 0.08), "alone it needs all that it may have"
    assert not share_a_window(2, 0.0002), "there is no queue on a path without length"
    assert not share_a_window(LANES_PER_CHANNEL_MAX, 0.2)


def test_a_send_buffer_is_shortened_to_what_the_kernel_gives_by_itself_and_never_lengthened(monkeypatch) -> None:
    monkeypatch.setattr(tcp_info, "_by_itself_bytes", lambda: 64 * 1024)
    with socket.socket() as long, socket.socket() as short:
        long.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 128 * 1024)
        short.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 * 1024)
        before = short.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        for each in (long, short):
            shorten(each)
        assert before <= 64 * 1024 and short.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == before
        assert long.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) <= 64 * 1024


def test_only_what_moved_since_the_last_look_counts() -> None:
    plan = LanePlan(0.0, 0)
    plan.lanes(1.0, 1000 * MIB, 0.08)
    assert plan.lanes(2.0, 1000 * MIB, 0.08) == 1
    assert not plan.due(2.1) and plan.due(2.3)


def test_a_long_path_over_which_much_is_to_come_gets_all_lanes_before_anything_has() -> None:
    plan = LanePlan(0.0, 5 * MIB)
    plan.expect(33 * MIB)
    assert plan.lanes(0.1, 5 * MIB, 0.02) == LANES_PER_CHANNEL_MAX
    # The rest is not worth it.
    assert plan.lanes(10.0, 7 * MIB, 0.02) == 1


def test_a_short_path_over_which_much_is_to_come_has_a_lane_for_each_of_two_threads() -> None:
    plan = LanePlan(0.0, 5 * MIB)
    plan.expect(33 * MIB)
    assert plan.lanes(0.1, 5 * MIB, 0.001) == LANES_NEAR == 2
    assert plan.lanes(0.2, 7 * MIB, 0.001) == 1


# --- over sockets -------------------------------------------------------------------------------------------------


@pytest.fixture
def long_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp, "TcpInfo", type("Long", (), {"of": lambda sock: TcpInfo(rtt_s=10.0)}))
    monkeypatch.setattr(LanePlan, "due", lambda plan, now: True)


async def test_the_kernel_tells_the_round_trip(town) -> None:
    pair = await town.pair()
    pair.near.send(b"there")
    await pair.far_handler.until(lambda: pair.far_handler.messages)
    info = TcpInfo.of(pair.near._lanes[0].socket.sock)
    assert 0.0 < info.min_rtt_s <= info.rtt_s < PATIENCE_S
    assert info.acked_bytes > 0 and info.received_bytes > 0


@BOTH_WAYS
@pytest.mark.usefixtures("long_path")
async def test_who_opened_the_channel_adds_lanes_and_answers_arrive_whole_over_all_of_them(town, encryption) -> None:
    pair = await town.pair(encryption=encryption)
    dice = random.Random(1)
    answers = {number: dice.randbytes(MIB + number) for number in range(40)}

    async def serve(channel) -> None:
        waiting = list(answers.items())
        running: set[asyncio.Task] = set()
        while waiting or running:
            while waiting and len(running) < channel.runs_ahead:
                number, data = waiting.pop()
                running.add(asyncio.get_running_loop().create_task(channel.send_run([(number, Source(data))])))
            _, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            channel.send(b"a message between")

    await asyncio.gather(serve(pair.far), serve(pair.near))
    await comes_true(lambda: pair.near.lanes == pair.far.lanes == LANES_PER_CHANNEL_MAX)
    await asyncio.gather(serve(pair.far), serve(pair.near))
    for handler in (pair.near_handler, pair.far_handler):
        await handler.until(lambda handler=handler: len(handler.of("finished")) == 80)
        assert {number: sink.data for number, sink in handler.sinks.items()} == answers
    assert all(lane.receiver.bytes_received > MIB for lane in pair.near._lanes)
    pair.near.close(PeerGoneError("done"))
    await pair.far_handler.until_closed()
    await pair.near_handler.until_closed()


@pytest.mark.usefixtures("long_path")
async def test_who_expects_much_has_all_lanes_at_once_and_no_more_however_often_it_says_so(town) -> None:
    pair, ahead = await town.pair(), []
    pair.far.on_wider = lambda: ahead.append(pair.far.runs_ahead)
    for _ in range(3):
        assert pair.near.expect(100 * MIB) == LANES_PER_CHANNEL_MAX
    near_network = town._networks[1]
    assert len(near_network._widening._tasks) == LANES_PER_CHANNEL_MAX - 1
    await comes_true(lambda: pair.near.lanes == pair.far.lanes == LANES_PER_CHANNEL_MAX)
    assert ahead == sorted(set(ahead)) and len(ahead) == LANES_PER_CHANNEL_MAX - 1
    await comes_true(lambda: not near_network._widening._tasks)
    pair.far.expect(100 * MIB)
    assert not near_network._widening._tasks


@pytest.mark.usefixtures("long_path")
async def test_a_lane_that_breaks_ends_the_channel(town) -> None:
    pair = await town.pair()
    await pair.far.send_run([(1, Source(bytes(MIB)))])
    await comes_true(lambda: pair.near.lanes == pair.far.lanes > 1)
    pair.far._lanes[1].socket.sock.shutdown(2)
    await pair.near_handler.until_closed()
    await pair.far_handler.until_closed()


async def test_nobody_else_adds_a_lane_to_a_channel(town) -> None:
    """Neither with a token that means nothing, nor with one of somebody else's channel."""
    accepted: asyncio.Queue = asyncio.Queue()
    network = town.network(identity(1))
    address = await town.listen(network, accepted.put_nowait)
    friend = await town.network(identity(2)).connect(address, None)
    town._channels.append(friend)
    channel = await accepted.get()
    channel.start(Handler())
    [token] = network._widening._by_token
    stranger = town.network(identity(3))
    for lane in (bytes(16), token):
        sock, _ = await stranger._dial(address, None, lane)
        sock.setblocking(False)
        with pytest.raises(ConnectionError):
            async with asyncio.timeout(PATIENCE_S):
                while await asyncio.get_running_loop().sock_recv(sock, 4096):
                    pass
                raise ConnectionResetError
        sock.close()
    assert channel.lanes == 1 and accepted.empty()


async def test_a_peer_has_no_more_lanes_than_allowed_and_none_after_the_end(town) -> None:
    accepted: asyncio.Queue = asyncio.Queue()
    network, caller = town.network(identity(1)), town.network(identity(2))
    address = await town.listen(network, accepted.put_nowait)
    near = await caller.connect(address, None)
    town._channels.append(near)
    channel = await accepted.get()
    channel.start(Handler())
    [token] = network._widening._by_token
    socks = [(await caller._dial(address, None, token))[0] for _ in range(LANES_PER_CHANNEL_MAX + 2)]
    await comes_true(lambda: channel.lanes == LANES_PER_CHANNEL_MAX)
    channel.close(PeerGoneError("enough"))
    assert not network._widening._by_token
    for sock in socks:
        sock.close()


async def test_a_channel_whose_peer_takes_no_lanes_goes_on_with_one(town, monkeypatch) -> None:
    pair = await town.pair()

    async def refuse(*_: object) -> None:
        raise HandshakeError("no")

    near_network = town._networks[1]
    monkeypatch.setattr(near_network._widening, "_dial", refuse)
    pair.near.on_narrow(3)
    await comes_true(lambda: not near_network._widening._tasks)
    await pair.near.send_run([(1, Source(bytes(MIB)))])
    await pair.far_handler.until(lambda: pair.far_handler.of("finished"))
    assert pair.near.lanes == 1
