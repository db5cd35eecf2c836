"""Goal: a seed's first copy is one whole copy, each part of it with another peer, and nobody waits for what is hidden.

Method: the plain object driven by hand: peers take what they are shown, or do not.
"""

from __future__ import annotations

from random import Random

import pytest

from p2pmodel.model.have_map import iter_bits
from p2pmodel.swarm.superseed import SuperSeed

COUNT = 200
ALL = (1 << COUNT) - 1


class Town:
    """A seed and peers that are told; `shown` is what each knows of."""

    def __init__(self, peers: str, seed: int = 1) -> None:
        self.now = 0.0
        self.seed: SuperSeed[str] = SuperSeed(ALL, Random(seed), 0.0)
        self.sent: list[tuple[str, int]] = []
        self.shown = dict.fromkeys(peers, 0)
        for peer in peers:
            self.seed.peer_joined(peer)
        self.hear(self.seed.news(0.0))

    def hear(self, told: dict[str, int]) -> None:
        for peer, bits in told.items():
            assert not self.shown[peer] & bits, "told twice"
            self.shown[peer] |= bits
            assert self.shown[peer] == self.seed.visible(peer)

    def take(self, peer: str) -> bool:
        """Let one chunk leave to this peer, if it may know of one that it has not got."""
        got = [index for to, index in self.sent if to == peer]
        free = [index for index in iter_bits(self.shown[peer]) if index not in got]
        if free:
            self.sent.append((peer, free[0]))
            self.seed.sent(peer, free[0], self.now)
            if self.seed.hungry:
                self.hear(self.seed.news(self.now))
        return bool(free)

    def tick(self, idle: str = "") -> None:
        self.now += 0.25
        self.hear(self.seed.tick(self.now, [peer for peer in idle if peer in self.shown]))


def test_one_copy_leaves_and_every_part_of_it_once() -> None:
    town = Town("abcd")
    while town.seed.unsent:
        assert sum(town.take(peer) for peer in "abcd"), "somebody can always be served"
    assert sorted(index for _, index in town.sent) == list(range(COUNT))
    assert all(30 < sum(to == peer for to, _ in town.sent) < 70 for peer in "abcd")
    assert town.seed.over(town.now)


def test_a_peer_that_takes_faster_is_given_more() -> None:
    town = Town("abc")
    while town.seed.unsent:
        moved = [town.take("a"), town.take("a"), town.take("a"), town.take("b"), town.take("c")]
        assert any(moved)
    assert len(town.sent) == COUNT
    assert sum(to == "a" for to, _ in town.sent) > COUNT / 2


def test_little_is_shown_at_a_time_so_that_what_nobody_has_taken_stays_free_for_others() -> None:
    town = Town("abc")
    assert sum(bits.bit_count() for bits in town.shown.values()) == 8
    crowd = Town("".join(chr(0x4E00 + number) for number in range(100)))
    assert sum(bits.bit_count() for bits in crowd.shown.values()) == 8


def test_who_empties_what_is_shown_is_shown_twice_as_much_next() -> None:
    town = Town("a")
    for _ in range(4):
        for index in list(iter_bits(town.shown["a"])):
            if (("a", index)) not in town.sent:
                town.sent.append(("a", index))
                town.seed.sent("a", index, town.now)
        town.hear(town.seed.news(town.now))
    assert town.shown["a"].bit_count() - len(town.sent) > 64


def test_what_one_peer_never_takes_goes_to_another_once_nothing_else_is_left() -> None:
    town = Town("abc")
    while any([town.take("a"), town.take("b")]):
        pass
    assert town.seed.unsent
    for _ in range(6):
        town.tick()
    while any([town.take("a"), town.take("b")]):
        pass
    assert not town.seed.unsent
    assert len(town.sent) == COUNT
    assert town.seed.over(town.now)


def test_a_peer_that_wants_nothing_of_what_it_is_shown_is_shown_everything() -> None:
    town = Town("abc")
    town.tick("c")
    assert town.shown["c"] != ALL
    for _ in range(3):
        town.tick("c")
    assert town.shown["c"] == ALL
    assert town.shown["a"] != ALL
    while any([town.take("a"), town.take("b")]):
        pass
    assert not town.seed.unsent, "what it was shown is free for the others again"


def test_a_peer_that_is_served_slowly_is_not_taken_for_one_that_wants_something_else() -> None:
    town = Town("abc")
    for _ in range(8):
        town.tick()
    assert ALL not in town.shown.values()


def test_a_peer_that_has_seen_everything_need_not_unlearn_it() -> None:
    seed: SuperSeed[str] = SuperSeed(ALL, Random(1), 0.0)
    seed.peer_joined("early", everything=True)
    seed.peer_joined("late")
    assert set(seed.news(0.0)) == {"late"}
    assert seed.visible("early") == ALL


def test_what_was_sent_to_a_peer_that_is_gone_leaves_once_more() -> None:
    town = Town("abc")
    for _ in range(5):
        town.take("a")
    lost = {index for to, index in town.sent if to == "a"}
    town.seed.peer_left("a", town.now, gone=True)
    del town.shown["a"]
    while any([town.take("b"), town.take("c")]):
        pass
    assert not town.seed.unsent
    assert lost <= {index for to, index in town.sent if to != "a"}


def test_what_was_sent_to_a_peer_that_is_complete_or_went_long_after_does_not() -> None:
    town = Town("abcd")
    town.take("a")
    town.take("b")
    first = town.sent[1][1]
    town.seed.peer_left("a", town.now, gone=False)
    town.now += 11
    town.seed.peer_left("b", town.now, gone=True)
    del town.shown["a"], town.shown["b"]
    while any([town.take("c"), town.take("d")]):
        pass
    assert len(town.sent) == COUNT
    assert [to for to, index in town.sent if index == first] == ["b"]


def test_what_was_asked_for_before_it_was_hidden_is_given_where_it_is_meant_for_nobody_else() -> None:
    town = Town("abc")
    free = next(index for index in range(COUNT) if not any(bits >> index & 1 for bits in town.shown.values()))
    meant_for_b = next(iter_bits(town.shown["b"]))
    assert town.seed.serves("a", free, town.now)
    assert not town.seed.serves("c", free, town.now), "it is on its way to another now"
    assert not town.seed.serves("a", meant_for_b, town.now)
    assert town.seed.serves("b", meant_for_b, town.now)
    assert town.seed.serves("somebody who does not follow", meant_for_b, town.now)


def test_a_crowd_is_left_to_itself_for_a_moment_after_the_first_copy() -> None:
    town = Town("abcdefghij")
    while town.seed.unsent:
        town.now += 0.05
        for peer in town.shown:
            town.take(peer)
    assert not town.seed.over(town.now)
    took_s = town.now
    assert not town.seed.over(took_s * 1.2)
    assert town.seed.over(took_s * 1.26)


def passing_on(town: Town, thieves: str) -> None:
    """Every honest peer soon has what another one was sent, and says so; what a thief was sent stays with it."""
    known = [index for to, index in town.sent if to not in thieves]
    for peer in town.shown:
        if peer not in thieves:
            town.seed.heard(peer, sum(1 << index for index in known), town.now)


def test_what_a_thief_keeps_is_sent_to_another_and_the_thief_is_shown_nothing_more() -> None:
    town = Town("abcdefghit")
    while not town.seed.over(town.now) and town.now < 60:
        for peer in town.shown:
            town.take(peer)
        passing_on(town, thieves="t")
        town.tick()
    stolen = {index for to, index in town.sent if to == "t"}
    assert 0 < len(stolen) < COUNT / 10
    assert stolen <= {index for to, index in town.sent if to != "t"}
    assert len(town.sent) <= COUNT + 3 * len(stolen), "a second peer may have been shown it before the first took it"
    assert town.now < 60


def test_a_peer_is_not_taken_for_a_thief_because_it_says_itself_what_it_has() -> None:
    town = Town("abc")
    town.take("a")
    ((_, index),) = town.sent
    town.seed.heard("a", 1 << index, 0.1)
    assert town.seed._alone, "nobody else is known to have it"
    town.seed.heard("b", 1 << index, 0.2)
    assert not town.seed._alone
    for _ in range(40):
        town.tick()
    assert not town.seed._peers["a"].keeps


def test_who_was_slow_to_pass_on_is_shown_more_once_somebody_has_it() -> None:
    town = Town("abc")
    while len(town.sent) < 12:
        town.take("a")
    for _ in range(16):
        town.tick()
    assert town.seed._peers["a"].keeps
    before = town.shown["a"]
    town.take("b")
    town.tick()
    assert town.shown["a"] == before
    town.take("a")
    town.seed.heard("c", ALL, town.now)
    assert not town.seed._peers["a"].keeps


def test_where_nobody_ever_says_anything_all_of_it_leaves_and_that_not_for_ever() -> None:
    town = Town("abcd")
    for _ in range(400):
        for peer in town.shown:
            town.take(peer)
        town.tick()
    assert town.seed.over(town.now)
    assert len(town.sent) <= 3 * COUNT


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_in_whatever_order_all_of_it_leaves_in_the_end(seed: int) -> None:
    dice = Random(seed)
    town = Town("abcdefg", seed)
    for step in range(3000):
        peer = dice.choice(sorted(town.shown))
        match dice.randrange(20):
            case 0:
                town.tick("".join(dice.sample(sorted(town.shown), 1)))
            case 1 if len(town.shown) > 2 and step < 1000:
                town.seed.peer_left(peer, town.now, gone=dice.random() < 0.5)
                del town.shown[peer]
            case 2 if step < 1000:
                newcomer = f"new {step}"
                town.shown[newcomer] = 0
                town.seed.peer_joined(newcomer)
            case _ if peer != "a":
                town.take(peer)
        if not town.seed.unsent:
            break
    for _ in range(100):
        town.tick()
        for peer in town.shown:
            while town.take(peer):
                pass
    assert not town.seed.unsent
    assert town.seed.over(town.now + 10)
