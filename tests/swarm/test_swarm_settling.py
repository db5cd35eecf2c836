"""What a download makes of answers that come in an unlucky order: links that only keep what was asked of them."""

from __future__ import annotations

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
    """A peer that holds everything and answers when the test says so."""

    def __init__(self, number: int) -> None:
        self.peer = secret(number).public
        address = Address("127.0.0.1", 1000 + number)
        self.channel = SimpleNamespace(address=address, encrypted=True, bytes_received=0, expect=lambda size: 1)
        self.listens_at, self.wasted_bytes, self.may_ask, self.answer_begun = address, 0, True, False
        self.asked = {}
        self.cancelled = []

    def follow(self, model_id, download) -> None: ...

    @property
    def questions(self) -> Link:
        return self

    def chunk(self, model_id, index, digest, request) -> int:
        self.asked[index] = request
        return index

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


async def test_a_chunk_that_one_answer_has_written_and_another_settles_is_told_of() -> None:
    model, told = Model(), []
    count = len(model.layout)
    first, second = Link(1), Link(2)
    download = Download(
        model.layout,
        HaveMap.full(count),
        HaveMap(count, model.all_bits & ~1),
        Intake(),
        clock=Clock(),
        rng=Random(1),
        pace=Pace(None),
        on_have=told.append,
    )
    for link in (first, second):
        download.add_link(link)
        download.link_has(link, HaveMap.full(count), model.all_bits)
    if 0 not in second.asked:
        download._request(second, 0)  # as in the end game
    data = memoryview(model.chunks[0])
    first.asked[0].sink.consume(data)
    second.asked[0].sink.consume(data)
    second.asked[0].settle(None)
    assert first.cancelled == [0]  # whose settling, if it comes, is nobody's any more
    assert told == [1]
    assert download.complete


def asking(model: Model, asked: int, *, have: int = 0) -> tuple[Download, Link, list[int]]:
    """A download that asks for what it is told alone, of one peer; and what it says is here."""
    count, told = len(model.layout), list[int]()
    download = Download(
        model.layout,
        HaveMap.full(count),
        HaveMap(count, have),
        Intake(),
        clock=Clock(),
        rng=Random(1),
        pace=Pace(None),
        on_have=told.append,
        asked=asked,
    )
    link = Link(1)
    download.add_link(link)
    download.link_has(link, HaveMap.full(count), model.all_bits)
    return download, link, told


async def test_a_chunk_that_came_when_nobody_wanted_it_and_is_wanted_again_is_asked_for_again() -> None:
    model = Model()
    download, link, told = asking(model, 1)
    request = link.asked.pop(0)
    download._schedule.expire(1e6)
    download.want(0, dropped=1)
    request.sink.consume(memoryview(model.chunks[0]))
    download.want(1)
    request.settle(None)
    assert told == []
    download._fill_all()
    link.asked[0].sink.consume(memoryview(model.chunks[0]))
    link.asked[0].settle(None)
    assert told == [1]


async def test_a_chunk_that_is_lost_again_while_the_download_runs_is_asked_for_again() -> None:
    model = Model()
    download, link, told = asking(model, 1, have=2)
    link.asked[0].sink.consume(memoryview(model.chunks[0]))
    link.asked.pop(0).settle(None)
    assert told == [1]
    download.want(3)  # whoever reads them has found that they are not what they were
    download._fill_all()
    assert set(link.asked) == {0, 1}


async def test_a_repeated_chunk_of_which_one_place_was_found_on_this_disk_is_asked_for_at_the_others() -> None:
    model = Model(different=20)  # 0 and 20 are the same
    download, link, _ = asking(model, 0)
    download.came_otherwise(1)
    download.want(1 << 20)
    download._fill_all()
    assert set(link.asked) == {20}
