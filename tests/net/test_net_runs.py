"""Answers that are given together: sent in order, one outcome, and each with a time of its own."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace

import pytest
from wire_pairs import PATIENCE_S, Source, comes_true

from p2pmodel.errors import PeerGoneError
from p2pmodel.net.sender import Sender

BOTH_WAYS = pytest.mark.parametrize("encryption", [True, False], ids=["sealed", "clear"])
MIB = 1 << 20


class Nowhere(Source):
    def open(self) -> bool:
        return False


@BOTH_WAYS
async def test_answers_of_a_run_arrive_in_order_and_one_that_is_not_here_is_told_from_the_others(
    town, encryption
) -> None:
    pair = await town.pair(encryption=encryption)
    sources = [Source(b"a" * MIB), Nowhere(b"b" * MIB), Source(b"c" * 7), Source(b"d" * MIB)]
    assert await pair.near.send_run(list(enumerate(sources))) == [True, False, True, True]
    await pair.far_handler.until(lambda: len(pair.far_handler.of("finished")) == 3)
    assert pair.far_handler.of("begins") == [0, 2, 3]
    assert all(pair.far_handler.sinks[number].data == sources[number].data for number in (0, 2, 3))
    assert [source.released for source in sources] == [1, 1, 1, 1]


async def test_a_run_that_still_waits_is_taken_back_whole_and_the_channel_goes_on(town) -> None:
    pair = await town.pair()
    goes_on, loop = threading.Event(), asyncio.get_running_loop()
    first = loop.create_task(pair.near.send_run([(1, Source(b"first", lambda offset: goes_on.wait(PATIENCE_S)))]))
    waiting = [Source(b"second"), Source(b"third")]
    second = loop.create_task(pair.near.send_run([(2, waiting[0]), (3, waiting[1])]))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.wait([second])
    assert [source.released for source in waiting] == [1, 1]
    goes_on.set()
    assert await first == [True]
    assert await pair.near.send_run([(4, Source(b"last"))]) == [True]
    await pair.far_handler.until(lambda: 4 in pair.far_handler.of("begins"))
    assert pair.far_handler.of("begins") == [1, 4]


async def test_the_time_of_an_answer_begins_when_the_one_before_it_in_its_run_has_left(town) -> None:
    pair = await town.pair()
    goes_on = threading.Event()
    run = [(1, Source(b"first")), (2, Source(b"second", lambda offset: goes_on.wait(PATIENCE_S)))]
    sending = asyncio.get_running_loop().create_task(pair.near.send_run(run))
    await pair.far_handler.until(lambda: pair.far_handler.of("finished"))
    sender = pair.near._lanes[0].sender
    await comes_true(lambda: sender._due[0].sent)
    sender._due_at = 0.0
    sender._too_slow()
    assert sender._due_at > 0.0 and not pair.near_handler.of("closed")
    sender._due_at = 0.0
    sender._too_slow()
    goes_on.set()
    assert "slowly" in str(await pair.near_handler.until_closed())
    with pytest.raises(PeerGoneError):
        await sending


@pytest.mark.parametrize(("answer_s", "answers"), [(0.0, 1), (0.001, 4), (0.004, 2), (0.02, 1), (1.0, 1)])
def test_only_a_quick_peer_is_given_several_answers_at_a_time(answer_s, answers) -> None:
    assert Sender.run_answers.fget(SimpleNamespace(_answer_s=answer_s)) == answers
