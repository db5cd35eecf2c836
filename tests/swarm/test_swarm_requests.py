"""What one peer may answer: only what is open, only in the right length, only once."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pmodel.errors import CorruptChunkError, NoSpaceError, P2PModelError, PeerGoneError, ProtocolError
from p2pmodel.limits import CHUNK_BYTES, OBJECT_BYTES_MAX
from p2pmodel.model import Digest
from p2pmodel.swarm.pace import Pace
from p2pmodel.swarm.requests import ChunkRequest, ObjectRequest, OpenRequests, StatementsRequest


class Sink:
    def consume(self, data: memoryview) -> None: ...


@pytest.fixture
def opened() -> OpenRequests:
    return OpenRequests()


def chunk(length: int = 100) -> tuple[ChunkRequest, list]:
    outcomes: list[P2PModelError | None] = []
    return ChunkRequest(length, Sink(), outcomes.append), outcomes


def future() -> asyncio.Future:
    return asyncio.get_running_loop().create_future()


def test_an_answer_goes_to_the_sink_of_its_request_and_settles_it_once(opened) -> None:
    request, outcomes = chunk()
    request_id = opened.add(request)
    assert opened.sink(request_id, 100) is request.sink
    opened.finished(request_id, None)
    assert outcomes == [None] and len(opened) == 0


@pytest.mark.parametrize("length", [1, 99, 101, OBJECT_BYTES_MAX])
def test_a_chunk_of_another_length_than_asked_for_is_refused(opened, length: int) -> None:
    request_id = opened.add(chunk()[0])
    with pytest.raises(ProtocolError):
        opened.sink(request_id, length)


def test_an_answer_that_was_not_asked_for_is_refused(opened) -> None:
    opened.add(chunk()[0])
    for request_id in (0, 2, 1 << 31):
        with pytest.raises(ProtocolError):
            opened.sink(request_id, 100)


def test_a_second_answer_is_refused_while_the_first_is_verified_and_after(opened) -> None:
    request_id = opened.add(chunk()[0])
    opened.sink(request_id, 100)
    with pytest.raises(ProtocolError):
        opened.sink(request_id, 100)
    opened.finished(request_id, None)
    with pytest.raises(ProtocolError):
        opened.sink(request_id, 100)


def test_the_answer_to_a_cancelled_request_is_thrown_away_and_counted(opened) -> None:
    request, outcomes = chunk()
    request_id = opened.add(request)
    assert opened.cancel(request_id)
    assert not opened.cancel(request_id)
    sink = opened.sink(request_id, 100)
    assert sink is not request.sink
    sink.consume(memoryview(bytes(100)))
    opened.finished(request_id, None)
    assert outcomes == [] and opened.wasted_bytes == 100
    with pytest.raises(ProtocolError):
        opened.sink(request_id, 100)


def test_a_cancelled_chunk_may_not_come_longer_than_it_is(opened) -> None:
    request_id = opened.add(chunk()[0])
    opened.cancel(request_id)
    with pytest.raises(ProtocolError):
        opened.sink(request_id, 101)


def test_a_request_that_is_cancelled_while_its_answer_is_verified_settles_nothing(opened) -> None:
    request, outcomes = chunk()
    request_id = opened.add(request)
    opened.sink(request_id, 100)
    opened.cancel(request_id)
    assert opened.wasted_bytes == 0, "it may never come to its end"
    opened.finished(request_id, None)
    assert outcomes == [] and opened.wasted_bytes == 100


def test_a_corrupt_chunk_settles_its_request_and_ends_the_connection(opened) -> None:
    request, outcomes = chunk()
    request_id = opened.add(request)
    opened.sink(request_id, 100)
    with pytest.raises(CorruptChunkError):
        opened.finished(request_id, CorruptChunkError("bad"))
    assert [type(outcome) for outcome in outcomes] == [CorruptChunkError]


def test_a_fault_of_our_own_settles_the_request_and_keeps_the_connection(opened) -> None:
    request, outcomes = chunk()
    request_id = opened.add(request)
    opened.sink(request_id, 100)
    opened.finished(request_id, NoSpaceError("full"))
    assert [type(outcome) for outcome in outcomes] == [NoSpaceError]


def test_a_rejection_settles_a_request_and_one_of_nothing_does_nothing(opened) -> None:
    request, outcomes = chunk()
    request_id = opened.add(request)
    opened.rejected(request_id, "not here")
    opened.rejected(request_id, "again")
    opened.rejected(77, "what?")
    assert [type(outcome) for outcome in outcomes] == [PeerGoneError]


def test_the_end_of_the_connection_settles_everything_once(opened) -> None:
    requests = [chunk() for _ in range(5)]
    for request, _ in requests:
        opened.add(request)
    opened.fail_all(PeerGoneError("gone"))
    opened.fail_all(PeerGoneError("gone"))
    assert all(len(outcomes) == 1 for _, outcomes in requests)


async def test_an_object_longer_than_its_limit_is_refused(opened) -> None:
    request_id = opened.add(ObjectRequest(Digest.of(b"x"), 10, future()))
    with pytest.raises(ProtocolError):
        opened.sink(request_id, 11)


async def test_an_object_is_checked_by_its_hash(opened) -> None:
    good = ObjectRequest(Digest.of(b"object"), 10, future())
    good_id = opened.add(good)
    opened.sink(good_id, 6).consume(memoryview(b"object"))
    opened.finished(good_id, None)
    assert await good.answer == b"object"
    bad = ObjectRequest(Digest.of(b"object"), 10, future())
    with pytest.raises(CorruptChunkError):
        bad.consume(memoryview(b"0bject"))


async def test_statements_that_were_not_asked_for_are_refused(opened) -> None:
    with pytest.raises(ProtocolError):
        opened.statements(1, [])
    request_id = opened.add(chunk()[0])
    with pytest.raises(ProtocolError):
        opened.statements(request_id, [])


async def test_statements_come_once(opened) -> None:
    request = StatementsRequest(future())
    request_id = opened.add(request)
    opened.statements(request_id, [b"one"])
    assert await request.answer == [b"one"]
    with pytest.raises(ProtocolError):
        opened.statements(request_id, [b"two"])


async def test_bulk_is_no_answer_to_a_request_for_statements(opened) -> None:
    request_id = opened.add(StatementsRequest(future()))
    with pytest.raises(ProtocolError):
        opened.sink(request_id, 1)


def test_ids_of_cancelled_requests_are_forgotten_in_the_end(opened) -> None:
    for _ in range(10_000):
        opened.cancel(opened.add(chunk()[0]))
    assert len(opened._cancelled) <= 4096


# --- pace ---------------------------------------------------------------------------------------------------------


def take(pace: Pace, size_bytes: int, now: float) -> float:
    """What a sender does: wait until something may leave, then account for it. Returns the wait in seconds."""
    wait_s = pace.wait_s(now)
    pace.spend(size_bytes)
    return wait_s


@given(
    rate=st.integers(1_000, 100_000_000),
    sizes=st.lists(st.integers(1, 4 << 20), min_size=1, max_size=50),
)
def test_the_rate_holds_over_any_sequence_of_chunks(rate: int, sizes: list[int]) -> None:
    """In simulated time: what went before is paid for, and of the last one a second's worth or a chunk."""
    pace, now = Pace(rate), 0.0
    for size in sizes:
        now += take(pace, size, now)
    allowed = rate * (now + 0.1) + max(sizes[-1] - min(CHUNK_BYTES, rate), 0)
    assert sum(sizes) <= allowed * 1.0001 + 1


def test_a_minute_at_a_megabyte_a_second_is_right_to_the_chunk() -> None:
    """Whole chunks that leave at once, as on a fast line behind the limit."""
    pace, now, sent = Pace(1_000_000), 0.0, 0
    while (now := now + take(pace, CHUNK_BYTES, now)) <= 10:
        sent += CHUNK_BYTES
    assert 0.9 < sent / 10_000_000 <= 1.0


def test_the_rate_is_reached_within_five_percent() -> None:
    pace, now, sent = Pace(1_000_000), 0.0, 0
    while now < 100:
        now += take(pace, 65_536, now)
        sent += 65_536
    assert 0.95 < sent / now / 1_000_000 < 1.05


def test_several_who_take_from_one_pace_share_its_rate() -> None:
    pace = Pace(1_000_000)
    clocks, sent = dict.fromkeys("abcdefgh", 0.0), 0
    while min(clocks.values()) < 50:
        who = min(clocks, key=clocks.get)
        clocks[who] += take(pace, 65_536, clocks[who])
        sent += 65_536
    assert 0.95 < sent / max(clocks.values()) / 1_000_000 < 1.05


def test_idleness_saves_up_no_more_than_a_short_burst() -> None:
    pace = Pace(1000)
    assert take(pace, 1, 0.0) == pytest.approx(1.0)
    take(pace, 1, 1000.0)
    assert take(pace, 1000, 1000.0) == 0.0
    assert take(pace, 1, 1000.0) == pytest.approx(0.9, abs=0.01)


def test_what_is_given_back_may_be_taken_again() -> None:
    pace = Pace(1000)
    take(pace, 100_000, 0.0)
    pace.spend(-100_000)
    assert take(pace, 100, 1.0) == 0.0


@given(rate=st.integers(1, 10**9), size=st.integers(1, 1 << 22), now=st.floats(0.0, 1e9))
def test_who_has_waited_as_long_as_told_need_not_wait_again(rate: int, size: int, now: float) -> None:
    """Else a pause that is too short for the clock would be begun again and again, at the same instant."""
    pace = Pace(rate)
    pace.spend(size)
    for _ in range(3):
        wait_s = pace.wait_s(now)
        assert wait_s == 0.0 or now + wait_s > now
        now += wait_s
    assert pace.wait_s(now) == 0.0


def test_without_a_limit_nobody_waits() -> None:
    assert take(Pace(None), 1 << 40, 0.0) == 0.0
