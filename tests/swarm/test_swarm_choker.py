"""Goal: whoever waits is served as much as others, whoever takes and does not read holds nobody up.

Method: the plain object driven by hand, with a line that answers share.
"""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from p2pmodel.limits import CHUNK_BYTES, UPLOAD_SLOTS_MAX, UPLOAD_SLOTS_MIN, UPLOADS_MAX
from p2pmodel.swarm.choker import Choker, Turn


class Line:
    """An uploader whose line takes one answer after the other; `crawls` are peers that take `crawl_s` for each."""

    def __init__(self, bytes_per_s: float, slots: int | None = None, seed: int = 1, crawl_s: float = 100.0) -> None:
        self.choker: Choker[str] = Choker(Random(seed), slots)
        self.bytes_per_s = bytes_per_s
        self.crawl_s = crawl_s
        self.crawlers = self.owing = ""
        self.now = self.free_at = 0.0
        self.leaving: list[tuple[float, Turn[str]]] = []
        self.served: Counter[str] = Counter()
        self.most_at_once = 0

    def ask(self, peer: str, count: int = 1) -> None:
        for _ in range(count):
            self.choker.ask(peer, CHUNK_BYTES, owing=peer in self.owing)

    def run(self, until: float, always: str = "") -> None:
        """Peers in `always` ask again as soon as they have got something."""
        while self.now < until:
            while (turn := self.choker.give(self.now)) is not None:
                self.free_at = max(self.free_at, self.now) + turn.length / self.bytes_per_s
                self.leaving.append((self.now + self.crawl_s if turn.peer in self.crawlers else self.free_at, turn))
                self.leaving.sort(key=lambda entry: entry[0])
            self.most_at_once = max(self.most_at_once, len(self.leaving))
            next_s = self.choker.give_on_s(self.now)
            at = min(until, self.now + next_s if next_s is not None else until)
            if self.leaving and self.leaving[0][0] <= at:
                self.now, turn = self.leaving.pop(0)
                self.choker.done(turn, self.now, sent=True)
                self.served[turn.peer] += 1
                if turn.peer in always:
                    self.ask(turn.peer)
            else:
                self.now = at


def test_those_who_always_wait_are_served_alike() -> None:
    line = Line(10e6)
    for peer in "abcdefgh":
        line.ask(peer)
    line.run(60.0, always="abcdefgh")
    assert max(line.served.values()) < 1.2 * min(line.served.values())


def test_asking_for_more_at_once_gains_nothing() -> None:
    line = Line(10e6)
    line.ask("greedy", 100)
    for peer in "abc":
        line.ask(peer)
    line.run(20.0, always="abc")
    assert line.served["greedy"] < 1.6 * line.served["a"]


def test_whoever_asks_seldom_is_served_before_those_who_always_ask() -> None:
    line = Line(10e6, slots=1)
    for peer in "abcdefgh":
        line.ask(peer)
    line.run(30.0, always="abcdefgh")
    line.ask("seldom")
    line.run(30.6, always="abcdefgh")
    before = line.served["seldom"]
    line.run(35.0, always="abcdefgh")
    line.ask("seldom")
    line.run(35.35, always="abcdefgh")
    assert line.served["seldom"] == before + 1


def test_coming_back_under_new_names_gains_little() -> None:
    line = Line(10e6)
    for peer in "abcd":
        line.ask(peer)
    line.run(10.0, always="abcd")
    taken = 0
    for number in range(200):
        name = f"name {number}"
        line.ask(name)
        while not line.served[name] and line.now < 60.0:
            line.run(line.now + 0.05, always="abcd")
        taken += line.served[name]
        line.choker.left(name)
    assert taken < 1.3 * line.served["a"]


def test_a_slot_that_is_taken_and_not_read_is_given_on() -> None:
    line = Line(10e6)
    line.crawlers = "xyz0123456789"
    for peer in line.crawlers:
        line.ask(peer)
    for peer in "abcd":
        line.ask(peer)
    line.run(60.0, always="abcd")
    honest = sum(line.served[peer] for peer in "abcd")
    assert honest > 0.85 * 60.0 * 10e6 / CHUNK_BYTES


def test_no_more_answers_leave_at_once_than_there_are_slots_where_all_move() -> None:
    line = Line(10e6)
    for number in range(40):
        line.ask(str(number))
    line.run(30.0, always="")
    assert line.most_at_once == UPLOAD_SLOTS_MIN
    fast = Line(1e9)
    for number in range(1200):
        fast.ask(str(number % 40))
    fast.run(4.0)
    assert fast.choker.slots == UPLOAD_SLOTS_MAX
    fixed = Line(1e9, slots=3)
    fixed.ask("a", 1000)
    fixed.run(1.0)
    assert fixed.most_at_once == 3


def test_where_only_those_who_do_not_read_are_left_the_one_that_had_longest_is_to_be_cut() -> None:
    line = Line(10e6)
    names = [f"{number:03}" for number in range(UPLOADS_MAX + 10)]
    for name in names:
        line.ask(name)
    line.crawlers = " ".join(names)
    line.run(90.0)
    assert line.most_at_once == UPLOADS_MAX
    assert line.choker.overstayed(line.now) is not None
    line.run(99.0)
    quick = Line(10e6)
    quick.ask("a", 200)
    quick.run(5.0)
    assert quick.choker.overstayed(quick.now) is None


def test_whoever_takes_and_gives_nothing_is_served_when_nobody_else_waits() -> None:
    line = Line(10e6, slots=1)
    line.owing = "xy"
    for peer in "xyab":
        line.ask(peer)
    line.run(20.0, always="xyab")
    assert line.served["x"] + line.served["y"] < 0.1 * (line.served["a"] + line.served["b"])
    alone = Line(10e6)
    alone.owing = "x"
    alone.ask("x")
    alone.run(20.0, always="x")
    assert alone.served["x"] > 150


@pytest.mark.parametrize("seed", range(5))
def test_turns_may_end_in_any_order_and_at_any_time(seed: int) -> None:
    dice = Random(seed)
    choker: Choker[int] = Choker(Random(seed))
    waiting, sending = [], []
    now = 0.0
    for _ in range(2000):
        now += dice.random() * 0.2
        match dice.randrange(4):
            case 0:
                waiting.append(choker.ask(dice.randrange(20), CHUNK_BYTES))
            case 1 if waiting and dice.random() < 0.3:
                choker.done(waiting.pop(dice.randrange(len(waiting))), now, sent=False)
            case 2 if sending:
                choker.done(sending.pop(dice.randrange(len(sending))), now, sent=dice.random() < 0.9)
            case 3 if dice.random() < 0.1:
                choker.left(dice.randrange(20))
        while (turn := choker.give(now)) is not None:
            waiting.remove(turn)
            sending.append(turn)
        assert choker.waiting == len(waiting)
        assert len(sending) <= UPLOADS_MAX
        assert not waiting or len(sending) >= UPLOAD_SLOTS_MIN
