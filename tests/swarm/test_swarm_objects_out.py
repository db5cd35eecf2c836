"""What leaves: objects are in memory once each, and no more of them than so many bytes; requests that wait go on."""

from __future__ import annotations

import asyncio

from p2pmodel.model import Digest
from p2pmodel.swarm import wire
from p2pmodel.swarm.upload import ObjectsOut, UploadQueue


class Reads:
    """A disk with objects of ten bytes, which counts how often it is read."""

    def __init__(self) -> None:
        self.times = 0

    async def __call__(self, digest: Digest) -> bytes | None:
        self.times += 1
        await asyncio.sleep(0)
        return None if digest == Digest.of(b"unknown") else digest.raw[:10]


A, B = Digest.of(b"a"), Digest.of(b"b")


async def test_an_object_that_many_ask_for_is_read_and_held_once() -> None:
    objects, reads = ObjectsOut(100), Reads()
    taken = await asyncio.gather(*(objects.take(A, reads) for _ in range(50)))
    assert all(data is taken[0] for data in taken)
    assert (reads.times, objects.bytes) == (1, 10)
    for _ in taken:
        objects.give_back(A)
    assert objects.bytes == 0
    assert await objects.take(A, reads) is not None
    assert reads.times == 2


async def test_when_enough_is_held_others_are_refused_and_the_same_ones_are_not() -> None:
    objects, reads = ObjectsOut(10), Reads()
    assert await objects.take(A, reads)
    assert await objects.take(B, reads) is None
    assert await objects.take(A, reads)
    objects.give_back(A)
    assert await objects.take(B, reads) is None
    objects.give_back(A)
    assert await objects.take(B, reads)


async def test_what_is_not_here_is_not_counted() -> None:
    objects, reads = ObjectsOut(10), Reads()
    assert await objects.take(Digest.of(b"unknown"), reads) is None
    assert objects.bytes == 0


class Narrow:
    runs_ahead = 1
    run_answers = 1


def test_requests_that_wait_leave_when_their_connection_has_become_wider() -> None:
    channel, running = Narrow(), []
    queue = UploadQueue(None, channel, None, running.append)
    for number in range(4):
        queue.add(wire.RequestChunk(number, A.raw, B.raw, 1))
    assert len(running) == 1
    channel.runs_ahead = 3
    queue.widened()
    queue.widened()
    assert len(running) == 3
    channel.runs_ahead = 9
    queue.widened()
    assert len(running) <= 7


def test_where_several_answers_leave_together_no_more_tasks_run_than_there_are_runs() -> None:
    channel, running = Narrow(), []
    channel.runs_ahead, channel.run_answers = 4, 4
    queue = UploadQueue(None, channel, None, running.append)
    queue.add(*(wire.RequestChunk(number, A.raw, B.raw, 1) for number in range(9)))
    assert len(running) == 3
