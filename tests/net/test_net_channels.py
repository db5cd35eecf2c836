"""Channels over real loopback sockets: bytes arrive whole, and when things break nothing is left behind.

Every test opens its connections through `town`, which in the end demands that no buffer is lent, no task pends, and
nothing unexpected reached the loop.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading

import pytest
from wire_pairs import PATIENCE_S, Handler, Keeps, Source, comes_true, identity

from p2pmodel.errors import CorruptChunkError, NoSpaceError, P2PModelError, PeerGoneError, ProtocolError
from p2pmodel.limits import CHUNK_BYTES, CONTROL_BYTES_MAX, RECORD_BYTES, RECORD_BYTES_SLOW, SEND_QUEUE_BYTES_MAX
from p2pmodel.net import buffers, receiver, sender
from p2pmodel.net.outbox import Outbox, make_record
from p2pmodel.net.records import Kind

BOTH_WAYS = pytest.mark.parametrize("encryption", [True, False], ids=["sealed", "clear"])
MIB = 1 << 20


def data_of(number: int, length: int) -> bytes:
    return random.Random(number).randbytes(length)


async def gone(awaitable) -> PeerGoneError:
    with pytest.raises(PeerGoneError) as caught:
        async with asyncio.timeout(PATIENCE_S):
            await awaitable
    return caught.value


@BOTH_WAYS
async def test_messages_arrive_whole_and_in_order(town, encryption) -> None:
    pair = await town.pair(encryption=encryption)
    texts = [data_of(number, 1 + number * 37 % 3000) for number in range(200)] + [bytes(CONTROL_BYTES_MAX)]
    for text in texts:
        pair.near.send(text)
    await pair.far_handler.until(lambda: len(pair.far_handler.messages) == len(texts))
    assert pair.far_handler.messages == texts


@BOTH_WAYS
@pytest.mark.parametrize("in_memory", [True, False], ids=["in-memory", "read"])
@pytest.mark.parametrize("piece", [RECORD_BYTES_SLOW, RECORD_BYTES])
@pytest.mark.parametrize("beyond", [1, -1, 0, 3 * MIB + 5])
async def test_an_answer_of_any_length_arrives_whole(town, encryption, piece, beyond, in_memory) -> None:
    pair = await town.pair(encryption=encryption)
    source = Source(data_of(1, piece + beyond), in_memory=in_memory)
    await pair.near.send_run([(7, source)])
    await pair.far_handler.until(lambda: pair.far_handler.of("finished"))
    assert pair.far_handler.sinks[7].data == source.data
    assert source.released == 1


async def test_records_are_as_long_as_a_chunk_where_answers_leave_quickly_and_shorter_where_not(
    town, monkeypatch
) -> None:
    sizes: list[int] = []
    add = Outbox.add_data
    monkeypatch.setattr(Outbox, "add_data", lambda box, room, at, size: sizes.append(size) or add(box, room, at, size))
    pair = await town.pair(encryption=True)

    async def sent(request_id: int) -> int:
        await pair.near.send_run([(request_id, Source(bytes(CHUNK_BYTES), in_memory=True))])
        return sizes[-1]

    assert await sent(0) == RECORD_BYTES_SLOW, "nothing is known yet"
    assert [await sent(number) for number in range(1, 20)][-1] == RECORD_BYTES
    monkeypatch.setattr(sender, "_WHOLE_S", 0.0)
    assert await sent(20) == RECORD_BYTES_SLOW
    await pair.far_handler.until(lambda: len(pair.far_handler.of("finished")) == 21)


async def test_an_answer_from_a_file_goes_by_sendfile_and_arrives_whole(town, tmp_path) -> None:
    pair = await town.pair(encryption=False)
    data = data_of(1, 3 * MIB + 17)
    (tmp_path / "file").write_bytes(data)
    with (tmp_path / "file").open("rb") as file:
        source = Source(data, reading=lambda _: pytest.fail("the file was read"), fd=file.fileno())
        await pair.near.send_run([(7, source)])
    await pair.far_handler.until(lambda: pair.far_handler.of("finished"))
    assert pair.far_handler.sinks[7].data == data


async def test_a_file_that_shrinks_while_it_is_sent_ends_the_channel(town, tmp_path) -> None:
    pair = await town.pair(encryption=False)
    (tmp_path / "file").write_bytes(bytes(MIB))
    with (tmp_path / "file").open("rb") as file, pytest.raises(P2PModelError, match="shrank"):
        await pair.near.send_run([(7, Source(bytes(2 * MIB), fd=file.fileno()))])
    await pair.far_handler.until_closed()
    assert pair.far_handler.of("finished") == []


@BOTH_WAYS
async def test_fifty_answers_each_way_at_once_with_messages_between(town, encryption) -> None:
    pair = await town.pair(encryption=encryption)
    rng = random.Random(5)
    answers = {number: rng.randbytes(rng.randrange(1, 300_000)) for number in range(50)}

    async def serve(channel) -> None:
        for number, data in answers.items():
            await channel.send_run([(number, Source(data))])
            channel.send(b"after %d" % number)

    await asyncio.gather(serve(pair.near), serve(pair.far))
    for handler in (pair.near_handler, pair.far_handler):
        await handler.until(lambda handler=handler: len(handler.of("finished")) == len(handler.messages) == 50)
        assert {number: sink.data for number, sink in handler.sinks.items()} == answers


@BOTH_WAYS
async def test_messages_overtake_an_answer_that_is_on_its_way(town, encryption) -> None:
    pair = await town.pair(encryption=encryption)
    begun, goes_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def reading(offset: int) -> None:
        # In the middle of a piece: records before and after have their nonces already, or get them next.
        if offset >= 2 * MIB + 2 * RECORD_BYTES_SLOW:
            loop.call_soon_threadsafe(begun.set)
            assert goes_on.wait(PATIENCE_S)

    source = Source(data_of(1, 3 * MIB), reading)
    sending = loop.create_task(pair.near.send_run([(7, source)]))
    await begun.wait()
    pair.near.send(b"deferred while a piece is being read")
    goes_on.set()
    await sending
    await pair.far_handler.until(lambda: pair.far_handler.of("finished"))
    assert pair.far_handler.messages == [b"deferred while a piece is being read"]
    assert pair.far_handler.sinks[7].data == source.data


@BOTH_WAYS
async def test_a_message_arrives_before_the_end_of_an_answer_that_a_slow_disk_holds_up(town, encryption) -> None:
    goes_on = threading.Event()
    pair = await town.pair(encryption=encryption)
    loop = asyncio.get_running_loop()
    handler = pair.far_handler
    source = Source(data_of(1, 2 * MIB), lambda offset: goes_on.wait(PATIENCE_S) if offset >= MIB else None)
    sending = loop.create_task(pair.near.send_run([(7, source)]))
    await handler.until(lambda: handler.of("begins"))
    pair.far.send(b"the other direction is free")
    await pair.near_handler.until(lambda: pair.near_handler.messages)
    goes_on.set()
    await sending
    await handler.until(lambda: handler.of("finished"))


# --- back-pressure ------------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_a_peer_that_reads_no_answers_makes_us_hold_one_piece_of_one(town) -> None:
    near, far = await town.channels(*(identity(number) for number in (1, 2)))
    reads = []
    near.start(Handler())
    source = Source(bytes(60 * MIB)[: 16 * MIB], reads.append)
    answers = [Source(source.data, reads.append) for _ in range(3)]

    async def serve() -> None:
        for number, answer in enumerate(answers):
            await near.send_run([(number, answer)])

    sending = asyncio.get_running_loop().create_task(serve())
    await _quiet(lambda: len(reads))
    assert len(reads) * RECORD_BYTES_SLOW < 30 * MIB, "the kernel's buffers and one piece, not everything"
    assert town.lent_bytes < 2 * MIB
    handler = Handler()
    far.start(handler)
    await sending
    await handler.until(lambda: len(handler.of("finished")) == 3)
    assert all(sink.data == source.data for sink in handler.sinks.values())


async def test_a_peer_that_reads_no_messages_is_cut_off(town) -> None:
    near, _ = await town.channels(identity(1), identity(2))
    handler = Handler()
    near.start(handler)
    for _ in range(40):
        near.send(bytes(CONTROL_BYTES_MAX))
        assert near._shared.queued_bytes <= SEND_QUEUE_BYTES_MAX + CONTROL_BYTES_MAX
    assert isinstance(await handler.until_closed(), ProtocolError)


async def test_many_peers_that_read_no_messages_do_not_add_up(town, monkeypatch) -> None:
    monkeypatch.setattr(sender, "SEND_QUEUES_BYTES_MAX", 2 * MIB)
    network, handlers = town.network(identity(1)), []
    for number in range(8):
        accepted = asyncio.get_running_loop().create_future()
        address = await town.listen(town.network(identity(10 + number)), accepted.set_result)
        near, handler = await network.connect(address, None), Handler()
        near.start(handler)
        town._channels.append(near)
        handlers.append(handler)
        await accepted
        # The kernels' buffers take some megabytes of each.
        for _ in range(150):
            near.send(bytes(60_000))
            assert network.shared.queued_bytes < 2 * MIB + 8 * CONTROL_BYTES_MAX
    await comes_true(lambda: any(handler.of("closed") for handler in handlers))
    for channel in town._channels:
        channel.close(PeerGoneError("enough"))
    await comes_true(lambda: network.shared.queued_bytes == 0)


async def test_when_all_buffers_are_lent_reading_pauses_and_goes_on_later(town, monkeypatch) -> None:
    monkeypatch.setattr(receiver, "_CPUS", 99)  # verifying is never the receiving thread's own work
    goes_on = threading.Event()
    handler = Handler(sink=lambda request_id: Keeps(lambda: goes_on.wait(PATIENCE_S)))
    pair = await town.pair(far_handler=handler)
    town._networks[0].shared.receive_buffers._bytes_max = 2 * MIB
    answers = [Source(data_of(number, MIB)) for number in range(5)]

    async def serve() -> None:
        for number, source in enumerate(answers):
            await pair.near.send_run([(number, source)])
        pair.near.send(b"end")

    sending = asyncio.get_running_loop().create_task(serve())
    await handler.until(lambda: len(handler.of("begins")) == 3)
    await comes_true(lambda: pair.far._lanes[0].receiver.waits_for_a_buffer)
    assert handler.of("finished") == []
    goes_on.set()
    await sending
    await handler.until(lambda: len(handler.of("finished")) == 5 and handler.messages)
    assert [handler.sinks[number].data for number in range(5)] == [source.data for source in answers]


async def test_a_channel_that_closes_while_it_waits_for_a_buffer_leaves_the_turn_to_others(town) -> None:
    goes_on = threading.Event()
    loop = asyncio.get_running_loop()
    far_network = town.network(identity(9))
    far_network.shared.receive_buffers._bytes_max = MIB
    accepted: asyncio.Queue = asyncio.Queue()
    address = await town.listen(far_network, accepted.put_nowait)
    ends = []
    for number in range(3):
        near = await town.network(identity(number + 1)).connect(address, None)
        near.start(Handler())
        far, handler = await accepted.get(), Handler(sink=lambda _: Keeps(lambda: goes_on.wait(PATIENCE_S)))
        far.start(handler)
        ends.append((near, far, handler))
        town._channels.append(near)
    sending = [loop.create_task(near.send_run([(1, Source(bytes([5]) * MIB))])) for near, _, _ in ends]
    for _, _, handler in ends:
        await handler.until(lambda handler=handler: handler.of("begins"))
    await comes_true(lambda: sum(end[1]._lanes[0].receiver.waits_for_a_buffer for end in ends) == 2)
    waiting = [end for end in ends if end[1]._lanes[0].receiver.waits_for_a_buffer]
    waiting[0][1].close(PeerGoneError("enough"))
    goes_on.set()
    await waiting[1][2].until(lambda: waiting[1][2].of("finished"))
    await asyncio.gather(*sending, return_exceptions=True)


# --- breaking off -------------------------------------------------------------------------------------------------


@BOTH_WAYS
@pytest.mark.parametrize("after_bytes", [0, 3, 12, 400_000, 1_500_000])
async def test_a_reset_at_any_point_ends_both_sides_and_gives_the_buffers_back(town, encryption, after_bytes) -> None:
    pair = await town.pair(encryption=encryption)
    goes_on = threading.Event()
    source = Source(bytes(4 * MIB), lambda offset: goes_on.wait(PATIENCE_S) if offset >= 3 * MIB else None)
    sending = asyncio.get_running_loop().create_task(pair.near.send_run([(1, source)]))
    await comes_true(lambda: pair.far.bytes_received >= after_bytes)
    _reset(pair.far._lanes[0].socket.sock)
    pair.far.close(PeerGoneError("reset"))
    await pair.near_handler.until_closed()
    goes_on.set()
    await gone(sending)
    await pair.far_handler.until_closed()
    assert source.released == 1
    assert town.lent_bytes == 0


@BOTH_WAYS
async def test_sending_that_is_cancelled_ends_the_channel_because_half_an_answer_cannot_be_taken_back(
    town, encryption
) -> None:
    pair = await town.pair(encryption=encryption)
    goes_on, reading = threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def read(offset: int) -> None:
        loop.call_soon_threadsafe(reading.set)
        goes_on.wait(PATIENCE_S)

    source = Source(bytes(2 * MIB), read)
    sending = loop.create_task(pair.near.send_run([(1, source)]))
    await reading.wait()
    sending.cancel()
    await asyncio.sleep(0)
    sending.cancel()
    await asyncio.sleep(0)
    assert not sending.done() and source.released == 0, "the thread still reads into the buffer"
    goes_on.set()
    await asyncio.wait([sending])
    assert sending.cancelled() and source.released == 1
    await pair.near_handler.until_closed()
    await pair.far_handler.until_closed()
    await gone(pair.near.send_run([(2, Source(b"late"))]))


@BOTH_WAYS
@pytest.mark.parametrize("error", [NoSpaceError("ours"), ValueError("a bug"), OSError(5, "EIO")])
async def test_a_source_that_fails_in_the_middle_ends_the_channel(town, encryption, error) -> None:
    pair = await town.pair(encryption=encryption)

    def reading(offset: int) -> None:
        if offset >= MIB:
            raise error

    source = Source(bytes(2 * MIB), reading)
    with pytest.raises(type(error)):
        await pair.near.send_run([(1, source)])
    assert source.released == 1
    await pair.near_handler.until_closed()
    await pair.far_handler.until_closed()
    assert pair.far_handler.of("finished") == []


async def test_a_corrupt_chunk_ends_the_channel(town) -> None:
    def refuse() -> None:
        raise CorruptChunkError("not what was asked for")

    handler = Handler(sink=lambda _: Keeps(refuse))
    pair = await town.pair(far_handler=handler)
    await pair.near.send_run([(1, Source(b"bad"))])
    assert isinstance(await handler.until_closed(), CorruptChunkError)
    assert [type(event[2]) for event in handler.events if event[0] == "finished"] == [CorruptChunkError]


async def test_a_full_disk_is_told_and_does_not_end_the_channel(town) -> None:
    def refuse() -> None:
        raise NoSpaceError("full")

    handler = Handler(sink=lambda _: Keeps(refuse))
    pair = await town.pair(far_handler=handler)
    await pair.near.send_run([(1, Source(b"data"))])
    pair.near.send(b"still here")
    await handler.until(lambda: handler.messages and handler.of("finished"))
    assert [type(event[2]) for event in handler.events if event[0] == "finished"] == [NoSpaceError]


async def test_a_bug_in_a_sink_is_told_to_whoever_asked(town) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    handler = Handler(sink=lambda _: Keeps(fail))
    pair = await town.pair(far_handler=handler)
    await pair.near.send_run([(1, Source(b"data"))])
    await handler.until(lambda: handler.of("finished"))
    [error] = [event[2] for event in handler.events if event[0] == "finished"]
    assert isinstance(error, P2PModelError) and isinstance(error.__cause__, ZeroDivisionError)


async def test_a_bug_in_a_handler_ends_its_channel_and_is_reported(town) -> None:
    def fail(message: bytes) -> None:
        raise ZeroDivisionError

    handler = Handler(on_message=fail)
    pair = await town.pair(far_handler=handler)
    pair.near.send(b"boom")
    await handler.until_closed()
    await pair.near_handler.until_closed()
    assert isinstance(town.unexpected.pop()["exception"], ZeroDivisionError)


async def test_nothing_is_delivered_after_the_handler_has_closed_the_channel(town) -> None:
    handler = Handler()
    pair = await town.pair(far_handler=handler)
    handler._on_message = lambda message: pair.far.close(PeerGoneError("enough"))
    for _ in range(50):
        pair.near.send(b"many in one read")
    await handler.until_closed()
    assert len(handler.messages) == 1


async def test_what_has_fully_arrived_is_told_before_the_end(town) -> None:
    goes_on = threading.Event()
    handler = Handler(sink=lambda _: Keeps(lambda: goes_on.wait(PATIENCE_S)))
    pair = await town.pair(far_handler=handler)
    await pair.near.send_run([(1, Source(b"whole"))])
    pair.near.close(PeerGoneError("done"))
    await comes_true(lambda: pair.far._closed is not None)
    goes_on.set()
    await handler.until_closed()
    assert [event[0] for event in handler.events] == ["begins", "finished", "closed"]


async def test_a_handler_that_refuses_an_answer_ends_the_channel_and_no_buffer_is_lent(town) -> None:
    def refuse(request_id: int) -> Keeps:
        raise ProtocolError("not asked for")

    handler = Handler(sink=refuse)
    pair = await town.pair(far_handler=handler)
    sending = asyncio.get_running_loop().create_task(pair.near.send_run([(1, Source(bytes(8 * MIB)))]))
    assert isinstance(await handler.until_closed(), ProtocolError)
    await gone(sending)
    assert town.lent_bytes == 0


async def test_a_closed_channel_ignores_messages_and_refuses_answers(town) -> None:
    pair = await town.pair()
    pair.near.close(PeerGoneError("done"))
    pair.near.close(PeerGoneError("twice"))
    pair.near.send(b"nobody hears")
    source = Source(b"data")
    await gone(pair.near.send_run([(1, source)]))
    assert source.released == 1
    assert (await pair.near_handler.until_closed()).args == ("done",)


@BOTH_WAYS
async def test_an_answer_that_drips_is_cut_off_and_gives_its_buffer_back(town, encryption, monkeypatch) -> None:
    monkeypatch.setattr(buffers, "BULK_GRACE_S", 0.05)
    monkeypatch.setattr(buffers, "BULK_BYTES_PER_S_MIN", 1 << 30)
    goes_on = threading.Event()
    pair = await town.pair(encryption=encryption)
    source = Source(bytes(2 * MIB), lambda offset: goes_on.wait(PATIENCE_S) if offset >= MIB else None)
    sending = asyncio.get_running_loop().create_task(pair.near.send_run([(1, source)]))
    reason = await pair.far_handler.until_closed()
    assert "slowly" in str(reason) or "closed" in str(reason)
    goes_on.set()
    await gone(sending)
    assert town.lent_bytes == 0


@BOTH_WAYS
async def test_a_peer_that_takes_an_answer_in_drips_is_cut_off(town, encryption, monkeypatch) -> None:
    monkeypatch.setattr(buffers, "BULK_GRACE_S", 0.05)
    monkeypatch.setattr(buffers, "BULK_BYTES_PER_S_MIN", 1 << 40)
    near, _ = await town.channels(identity(1, encryption=encryption), identity(2, encryption=encryption))
    handler = Handler()
    near.start(handler)
    error = await gone(near.send_run([(1, Source(bytes(16 * MIB)))]))
    assert "closed" in str(error) or "broke" in str(error)  # whether the end was read before or after the next write
    assert "slowly" in str(await handler.until_closed())
    assert town.lent_bytes == 0


async def test_an_answer_that_drips_without_a_pause_is_cut_off_by_the_thread_that_reads_it(town, monkeypatch) -> None:
    """Never silent for long enough to go back to the loop, whose timer would see it."""
    monkeypatch.setattr(receiver, "patience_s", lambda length: 0.05)
    pair = await town.pair()
    pause = threading.Event()
    source = Source(bytes(16 * MIB), lambda offset: pause.wait(0.005))
    sending = asyncio.get_running_loop().create_task(pair.near.send_run([(1, source)]))
    assert "slowly" in str(await pair.far_handler.until_closed())
    await gone(sending)


async def test_a_message_waits_for_the_end_of_a_record_that_has_left_in_part(town, tmp_path) -> None:
    """In the clear a record leaves straight from its file, as much at a time as the socket takes."""
    near, far = await town.channels(*(identity(number, encryption=False) for number in (1, 2)))
    near.start(Handler())
    data = data_of(3, 16 * MIB)
    (tmp_path / "file").write_bytes(data)
    with (tmp_path / "file").open("rb") as file:
        sending = asyncio.get_running_loop().create_task(near.send_run([(7, Source(data, fd=file.fileno()))]))
        await comes_true(lambda: near._lanes[0].sender._parked)  # nobody reads: the socket is full
        near.send(b"in the middle")
        handler = Handler()
        far.start(handler)
        await sending
    await handler.until(lambda: handler.of("finished") and handler.messages)
    assert handler.sinks[7].data == data and handler.messages == [b"in the middle"]


# --- a hostile far end ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "encryption"),
    [
        (lambda record: record[:-1] + bytes([record[-1] ^ 1]), True),
        (lambda record: record + record, True),
        (lambda record: bytes([9]) + record[1:], True),
        (lambda record: bytes([9]) + record[1:], False),
        (lambda record: b"\x03\x00\x00\x01\x00", False),
    ],
    ids=["altered", "replayed", "unknown kind", "unknown kind in the clear", "unannounced bulk"],
)
async def test_a_record_that_is_not_right_ends_the_channel_and_nothing_else(town, damage, encryption) -> None:
    pair = await town.pair(encryption=encryption)
    record = bytes(make_record(pair.near._lanes[0].sender._outbox.keys, Kind.MESSAGE, b"payload"))
    pair.near._lanes[0].socket.sock.send(damage(record))
    assert isinstance(await pair.far_handler.until_closed(), ProtocolError)
    assert pair.far_handler.messages in ([], [b"payload"])
    assert len(pair.far_handler.messages) == (damage(record) == record + record)


async def test_our_own_records_sent_back_to_us_end_the_channel(town) -> None:
    pair = await town.pair()
    record = make_record(pair.near._lanes[0].sender._outbox.keys, Kind.MESSAGE, b"payload")
    pair.far._lanes[0].socket.sock.send(record)
    assert isinstance(await pair.near_handler.until_closed(), ProtocolError)
    assert pair.near_handler.messages == []


def _reset(sock: socket.socket) -> None:
    """Closing now sends RST, not FIN."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def _quiet(measure) -> None:
    """Until a number that only grows has stood still for fifty turns of the loop and of the threads."""
    seen = []

    def still() -> bool:
        seen.append(measure())
        return len(seen) > 50 and seen[-1] and len(set(seen[-50:])) == 1

    await comes_true(still)
