"""What a download makes of answers that come in an unlucky order: links that only keep what was asked of them."""

from __future__ import annotations

import asyncio
from random import Random
from types import SimpleNamespace

from swarm_town import Model, secret

from p2pmodel.model import HaveMap
from p2pmodel.net import Address
from p2pmodel.swarm.download import Download
from p2pmodel.swarm.pace import Pace


class Clock:
    def monotonic(self) -> float:
        return 0.0


class Link:
    """A peer that holds everything, or these chunks, and answers when the test says so."""

    def __init__(self, number: int, model: Model, held: int | None = None) -> None:
        self.peer = secret(number).public
        address = Address("127.0.0.1", 1000 + number)
        self.channel = SimpleNamespace(address=address, encrypted=True, bytes_received=0, expect=lambda size: 1)
        self.listens_at, self.wasted_bytes, self.may_ask, self.answer_begun = address, 0, True, False
        self.held = {model.id: HaveMap(len(model), model.all_bits if held is None else held)}
        self.asked = {}
        self.cancelled = []

    def follow(self, model_id, download) -> None: ...

    @property
    def questions(self) -> Link:
        return self

    def chunk(self, model_id, index, digest, request) -> int:
        self.asked[index] = request
        return index

    def ask(self) -> None: ...

    def cancel(self, request_id) -> None:
        self.cancelled.append(request_id)


class Intake:
    """Writes each chunk once, and says of a second copy that nothing was new."""

    def __init__(self) -> None:
        self.bits = 0

    def write(self, index, data) -> int:
        new = 1 << index & ~self.bits
        self.bits |= new
        return new


def download_of(model: Model, told: list[int], *links: Link, have: int = 0, **options) -> Download:
    count = len(model.layout)
    download = Download(
        model.layout,
        HaveMap.full(count),
        HaveMap(count, have),
        Intake(),
        clock=Clock(),
        rng=Random(1),
        pace=Pace(None),
        on_have=told.append,
        **options,
    )
    for link in links:
        download.add_link(link)
        download.link_has(link, link.held[model.id], link.held[model.id].bits)
    return download


def answer(link: Link, model: Model, index: int) -> None:
    request = link.asked.pop(index)
    request.sink.consume(memoryview(model.chunks[index]))
    request.settle(None)


async def test_a_chunk_that_one_answer_has_written_and_another_settles_is_told_of() -> None:
    model, told = Model(), []
    first, second = Link(1, model), Link(2, model)
    download = download_of(model, told, first, second, have=model.all_bits & ~1)
    if 0 not in second.asked:
        download._request(second, 0)  # as in the end game
    data = memoryview(model.chunks[0])
    first.asked[0].sink.consume(data)
    second.asked[0].sink.consume(data)
    second.asked[0].settle(None)
    assert first.cancelled == [0]  # whose settling, if it comes, is nobody's any more
    assert told == [1]
    assert download.complete


async def test_where_a_chunk_comes_from_this_disk_its_twin_that_does_not_is_asked_for_itself() -> None:
    model, told = Model(count=6, different=3), []
    peer = Link(1, model)
    download = download_of(model, told, peer, asked=1 << 4)
    assert list(peer.asked) == [1]  # in place of its twin, chunk 4
    download.came_otherwise(1 << 1)
    await asyncio.sleep(0)
    assert 4 in peer.asked
    answer(peer, model, 4)
    assert told == [1 << 4]
    assert download.complete


async def test_a_twin_is_wanted_after_its_first_came_from_this_disk_and_is_asked_of_who_holds_another_place() -> None:
    model, told = Model(count=9, different=3), []
    peer = Link(1, model, 1 << 7)
    download = download_of(model, told, peer, asked=0)
    download.came_otherwise(1 << 1)
    download.want(1 << 4)
    await asyncio.sleep(0)
    assert list(peer.asked) == [4]


async def test_a_chunk_that_came_and_was_lost_again_can_be_wanted_anew() -> None:
    model, told = Model(count=3), []
    peer = Link(1, model)
    download = download_of(model, told, peer, have=1 << 0, asked=1 << 2)
    answer(peer, model, 2)
    assert download.complete
    download._intake.bits = 0
    download.want(1 << 2 | 1 << 0)
    await asyncio.sleep(0)
    assert set(peer.asked) == {0, 2}
    answer(peer, model, 2)
    await asyncio.sleep(0)
    assert told == [1 << 2, 1 << 2]


async def test_what_nobody_wanted_when_it_came_is_not_taken_for_here_when_it_is_wanted_again() -> None:
    model, told = Model(count=3), []
    peer = Link(1, model)
    download = download_of(model, told, peer, asked=1 << 2)
    late = peer.asked.pop(2)
    download._schedule.expire(1000.0)  # it is free again, with the late answer still to come
    download.want(0, dropped=1 << 2)
    late.sink.consume(memoryview(model.chunks[2]))
    download.want(1 << 2)
    late.settle(None)
    assert told == []
    assert not download.complete
    await asyncio.sleep(0)
    answer(peer, model, 2)
    assert told == [1 << 2]


async def test_what_has_come_in_this_moment_and_is_wanted_by_who_has_not_heard_of_it_does_not_come_twice() -> None:
    model, told = Model(count=3), []
    peer = Link(1, model)
    download = download_of(model, told, peer, asked=1 << 2 | 1 << 1)
    request = peer.asked.pop(2)
    request.sink.consume(memoryview(model.chunks[2]))
    request.settle(None)
    download.want(1 << 2)  # before the loop has told of it
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert told == [1 << 2]
    assert set(peer.asked) == {1}
