"""The simulated network itself: virtual time, datagrams, channels, crashes, partitions, address translation."""

from __future__ import annotations

import asyncio
import time

import pytest

from p2pmodel.errors import HandshakeError, PeerGoneError
from p2pmodel.limits import CONNECT_TIMEOUT_S
from p2pmodel.model import SecretKey
from p2pmodel.net import Address, Identity, network_id
from p2pmodel.testing.conditions import Conditions, Nat
from p2pmodel.testing.internet import Internet
from p2pmodel.testing.loop import Deadlock, VirtualLoop, run
from p2pmodel.testing.network import SimNetwork

EVEN = Conditions(latency_ms=(50, 50), jitter=0)


class Ear:
    """One end of a channel that keeps what it hears, with the time."""

    def __init__(self, internet: Internet) -> None:
        self.internet = internet
        self.heard: list[tuple[float, object]] = []
        self.reason = None

    def _note(self, what: object) -> None:
        self.heard.append((round(self.internet.now, 6), what))

    def message_received(self, message: bytes) -> None:
        self._note(message)

    def bulk_begins(self, request_id: int, length: int):
        ear = self

        class Sink:
            def consume(self, data: memoryview) -> None:
                ear._note((request_id, bytes(data)))

        return Sink()

    def bulk_finished(self, request_id, error) -> None:
        assert error is None

    def closed(self, reason) -> None:
        self.reason = reason
        self._note("closed")


class Bytes:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.released = 0

    @property
    def length(self) -> int:
        return len(self.data)

    def open(self) -> bool:
        return True

    def read_into(self, buffer, offset) -> None:
        buffer[:] = self.data[offset : offset + len(buffer)]

    def room(self):
        return None

    def file_range(self):
        return None

    def release(self) -> None:
        self.released += 1


def identity(number: int, name: str = "here") -> Identity:
    return Identity(SecretKey.from_seed(bytes([number]) * 32), network_id(name))


async def two_ends(internet: Internet, **lines):
    """Two hosts and a channel between them: the dialling end first, each with its ear."""
    a, b = internet.host(**lines), internet.host(**lines)
    accepted: asyncio.Queue = asyncio.Queue()
    far = SimNetwork(internet, b, identity(2))
    await far.listen("0.0.0.0", 700, accepted.put_nowait)
    near = await SimNetwork(internet, a, identity(1)).connect(Address(b.ip4, 700), None)
    other = await accepted.get()
    ears = Ear(internet), Ear(internet)
    near.start(ears[0])
    other.start(ears[1])
    return near, other, *ears


def test_hours_of_waiting_pass_at_once():
    async def wait() -> float:
        await asyncio.sleep(36_000)
        return asyncio.get_running_loop().time()

    began = time.perf_counter()
    assert run(wait()) == 36_000
    assert time.perf_counter() - began < 5


def test_timers_of_one_instant_run_in_the_order_in_which_they_were_set():
    async def story() -> list[int]:
        loop, seen = asyncio.get_running_loop(), []
        for number in range(0, 100, 2):
            loop.call_at(1.0, seen.append, number)
            loop.call_later(1.0, seen.append, number + 1)
        await asyncio.sleep(2)
        return seen

    assert run(story()) == list(range(100))


def test_a_network_in_which_everybody_waits_for_ever_says_who():
    async def waits_for_ever() -> None:
        await asyncio.get_running_loop().create_future()

    loop = VirtualLoop()
    with pytest.raises(Deadlock, match="waits_for_ever"):
        loop.run_until_complete(waits_for_ever())
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


def test_what_fails_in_the_background_fails_the_run():
    async def story() -> None:
        asyncio.get_running_loop().call_soon(lambda: 1 / 0)
        await asyncio.sleep(1)

    with pytest.raises(ExceptionGroup) as caught:
        run(story())
    assert isinstance(caught.value.exceptions[0], ZeroDivisionError)


async def heard_datagrams(internet: Internet, count: int, **hosts) -> list[tuple[float, bytes]]:
    a, b = internet.host(), internet.host(**hosts)
    heard: list[tuple[float, bytes]] = []
    await SimNetwork(internet, b).open_datagrams("0.0.0.0", 9, lambda data, source: heard.append((internet.now, data)))
    socket = await SimNetwork(internet, a).open_datagrams("0.0.0.0", 8, lambda data, source: None)
    for number in range(count):
        socket.send(number.to_bytes(4, "big"), Address(b.ip4, 9))
    await asyncio.sleep(10)
    return heard


def test_a_datagram_takes_the_latency_of_its_path():
    async def story() -> None:
        assert await heard_datagrams(Internet(1, EVEN), 1) == [(0.05, bytes(4))]

    run(story())


def test_the_latency_of_a_pair_is_the_same_both_ways_and_within_the_range():
    internet = Internet(3, Conditions(latency_ms=(5, 80)))
    hosts = [internet.host() for _ in range(60)]
    seen = {internet.latency_s(a, b) for a in hosts for b in hosts if a is not b}
    assert all(internet.latency_s(a, b) == internet.latency_s(b, a) for a in hosts for b in hosts)
    assert 0.005 <= min(seen) < 0.007
    assert 0.078 < max(seen) <= 0.080
    assert len(seen) == 60 * 59 // 2


@pytest.mark.parametrize(("what", "low", "high"), [("loss", 1300, 1500), ("duplicate", 2500, 2700)])
def test_datagrams_are_lost_and_doubled_as_often_as_asked_for(what, low, high):
    async def story() -> None:
        internet = Internet(1, Conditions(**{what: 0.3}))
        assert low < len(await heard_datagrams(internet, 2000)) < high

    run(story())


def test_reordered_datagrams_come_late_and_none_is_lost():
    async def story() -> None:
        heard = await heard_datagrams(Internet(1, Conditions(latency_ms=(50, 50), jitter=0, reorder=0.5)), 500)
        assert len(heard) == 500
        assert [data for _, data in heard] != sorted(data for _, data in heard)

    run(story())


@pytest.mark.parametrize(
    ("nat", "after_sending", "by_a_stranger"),
    [(Nat.OPEN, True, True), (Nat.FULL_CONE, True, True), (Nat.RESTRICTED, True, False), (Nat.SYMMETRIC, True, False)],
)
def test_who_gets_through_a_translator(nat, after_sending, by_a_stranger):
    async def story() -> None:
        internet = Internet(1, EVEN)
        inside, asked, stranger = internet.host(nat=nat), internet.host(), internet.host()
        heard: list[bytes] = []
        seen_from: list[Address] = []
        own = await SimNetwork(internet, inside).open_datagrams("0.0.0.0", 5, lambda data, _: heard.append(data))
        there = await SimNetwork(internet, asked).open_datagrams(
            "0.0.0.0", 5, lambda _, source: seen_from.append(source)
        )
        other = await SimNetwork(internet, stranger).open_datagrams("0.0.0.0", 5, lambda data, _: None)
        there.send(b"before", Address(inside.ip4, 5))
        await asyncio.sleep(1)
        assert heard == ([b"before"] if nat is Nat.OPEN else [])
        heard.clear()
        own.send(b"hello", Address(asked.ip4, 5))
        await asyncio.sleep(1)
        assert (seen_from[0] == Address(inside.ip4, 5)) == (nat is not Nat.SYMMETRIC)
        there.send(b"answer", seen_from[0])
        other.send(b"stranger", seen_from[0])
        await asyncio.sleep(1)
        assert (b"answer" in heard) == after_sending
        assert (b"stranger" in heard) == by_a_stranger

    run(story())


def test_nobody_connects_to_a_host_behind_a_translator():
    async def story() -> None:
        internet = Internet(1, EVEN)
        inside, outside = internet.host(nat=Nat.FULL_CONE), internet.host()
        await SimNetwork(internet, inside, identity(1)).listen("0.0.0.0", 5, lambda channel: None)
        with pytest.raises(PeerGoneError, match="no answer"):
            await SimNetwork(internet, outside, identity(2)).connect(Address(inside.ip4, 5), None)
        assert internet.now == CONNECT_TIMEOUT_S

    run(story())


def test_messages_come_in_order_whatever_is_lost_on_the_way():
    async def story() -> None:
        internet = Internet(1, Conditions(loss=0.2))
        near, _, _, ear = await two_ends(internet)
        for number in range(1, 200):
            near.send(bytes([number]))
        await asyncio.sleep(60)
        assert [what for _, what in ear.heard] == [bytes([number]) for number in range(1, 200)]

    run(story())


def test_an_answer_takes_as_long_as_the_slower_line_and_the_latency():
    async def story() -> None:
        internet = Internet(1, EVEN)
        near, _, _, ear = await two_ends(internet, upload_bytes_per_s=1000, download_bytes_per_s=500)
        began = internet.now
        source = Bytes(bytes(1000))
        await near.send_run([(7, source)])
        assert internet.now - began == pytest.approx(1.0)
        assert source.released == 1
        near.send(b"after")
        await asyncio.sleep(10)
        assert ear.heard[0] == (pytest.approx(began + 2.0, abs=0.051), (7, bytes(1000)))
        assert ear.heard[1][1] == b"after", "what was sent after an answer is heard after it"

    run(story())


def test_two_answers_share_the_line_of_their_sender():
    async def story() -> None:
        internet = Internet(1, EVEN)
        a, hosts = internet.host(upload_bytes_per_s=1000), [internet.host(), internet.host()]
        sender = SimNetwork(internet, a, identity(9))
        channels = []
        for number, host in enumerate(hosts):
            accepted: asyncio.Queue = asyncio.Queue()
            await SimNetwork(internet, host, identity(number)).listen("0.0.0.0", 5, accepted.put_nowait)
            channels.append(await sender.connect(Address(host.ip4, 5), None))
            (await accepted.get()).start(Ear(internet))
        began = internet.now
        await asyncio.gather(*(channel.send_run([(1, Bytes(bytes(1000)))]) for channel in channels))
        assert internet.now - began == pytest.approx(2.0)

    run(story())


def test_a_process_that_dies_is_seen_to_hang_up_and_a_host_without_power_is_not():
    async def story() -> None:
        for silent in (False, True):
            internet = Internet(1, EVEN)
            near, other, ear, _ = await two_ends(internet)
            internet.crash(other.host, silent=silent)
            near.send(b"anybody there?")
            await asyncio.sleep(1)
            assert (ear.reason is None) == silent
            internet.revive(other.host)
            await asyncio.sleep(1)
            assert isinstance(ear.reason, PeerGoneError), "the new kernel knows nothing of the connection"

    run(story())


def test_the_tasks_and_timers_of_a_dead_process_reach_nobody():
    async def story() -> None:
        internet = Internet(1, EVEN)
        a, b = internet.host(), internet.host()
        heard: list[bytes] = []
        await SimNetwork(internet, b).open_datagrams("0.0.0.0", 5, lambda data, _: heard.append(data))
        network = SimNetwork(internet, a)
        socket = await network.open_datagrams("0.0.0.0", 5, lambda data, _: None)

        async def chatter() -> None:
            try:
                while True:
                    socket.send(b"still here", Address(b.ip4, 5))
                    await asyncio.sleep(1)
            finally:
                socket.send(b"farewell", Address(b.ip4, 5))
                raise ValueError("of a dead process")

        network.process.context.run(asyncio.get_running_loop().create_task, chatter())
        await asyncio.sleep(2.5)
        assert len(heard) == 3
        internet.crash(a)
        await asyncio.sleep(10)
        assert heard == [b"still here"] * 3

    run(story())


def test_a_partition_holds_messages_up_and_loses_datagrams_until_it_heals():
    async def story() -> None:
        internet = Internet(1, EVEN)
        near, other, _, ear = await two_ends(internet)
        internet.partition([near.host])
        near.send(b"message")
        with pytest.raises(PeerGoneError):
            await SimNetwork(internet, near.host, identity(3)).connect(Address(other.host.ip4, 700), None)
        assert ear.heard == []
        internet.heal()
        await asyncio.sleep(1)
        assert [what for _, what in ear.heard] == [b"message"]

    run(story())


def test_a_handshake_finds_out_who_is_there():
    async def story() -> None:
        internet = Internet(1, EVEN)
        a, b = internet.host(), internet.host()
        await SimNetwork(internet, b, identity(2)).listen("0.0.0.0", 5, lambda channel: None)
        there = Address(b.ip4, 5)
        cases = [
            (identity(1), identity(3).key.public, "expected peer"),
            (identity(1, "elsewhere"), None, "another network"),
            (identity(2), None, "ourselves"),
        ]
        for own, expected, message in cases:
            with pytest.raises(HandshakeError, match=message):
                await SimNetwork(internet, a, own).connect(there, expected)
        with pytest.raises(PeerGoneError, match="refused"):
            await SimNetwork(internet, a, identity(1)).connect(Address(b.ip4, 6), None)

    run(story())
