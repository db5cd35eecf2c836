"""Goal: what is here is known to others soon where they are few or it is rare, and cheaply where they are many.

Method: the plain object driven by hand.
"""

from __future__ import annotations

from random import Random

from p2pmodel.swarm.telling import TELL_MANY_S, TELL_S, Telling

FEW = list(range(5))
MANY = list(range(40))


def test_a_few_hear_of_everything_at_once_and_in_one_message() -> None:
    telling: Telling[int] = Telling(Random(1))
    telling.add(0b01, rare=0)
    telling.add(0b10, rare=0)
    assert telling.wait_s(len(FEW), 0.0) == TELL_S
    assert telling.due(FEW, 0.02) == [(peer, 0b11) for peer in FEW]
    assert not telling.waiting
    telling.add(0b100, rare=0)
    assert telling.wait_s(len(FEW), 0.03) == TELL_S
    assert telling.due(FEW, 0.05) == [(peer, 0b100) for peer in FEW]


def test_many_hear_a_few_times_a_second_of_what_has_gathered() -> None:
    telling: Telling[int] = Telling(Random(1))
    messages, heard, now = 0, 0, 0.0
    for index in range(400):
        telling.add(1 << index, rare=0)
        now += 0.01
        if telling.wait_s(len(MANY), now) <= TELL_S:
            told = dict(telling.due(MANY, now + TELL_S))
            messages += len(told)
            heard |= told.get(7, 0)
    assert messages <= len(MANY) * (now / TELL_MANY_S + 2)
    assert heard.bit_count() > 350
    assert telling.waiting
    assert telling.due(MANY, now + 1)[7][1] | heard == (1 << 400) - 1
    assert not telling.waiting


def test_what_hardly_anybody_has_is_told_to_some_of_many_at_once_and_to_the_others_later() -> None:
    telling: Telling[int] = Telling(Random(1))
    telling.add(1, rare=0)
    telling.due(MANY, 0.0)
    telling.add(0b110, rare=0b010)
    assert telling.rare
    assert telling.wait_s(len(MANY), 0.01) == TELL_S
    some = telling.due(MANY, 0.03)
    assert 4 < len(some) < len(MANY) / 2
    assert {bits for _, bits in some} == {0b010}
    assert telling.waiting
    assert not telling.rare
    assert telling.due(MANY, 0.05) == []
    assert telling.wait_s(len(MANY), 0.05) > TELL_S
    assert telling.due(MANY, 2 * TELL_MANY_S) == [(peer, 0b110) for peer in MANY]


def test_the_more_follow_the_more_is_gathered_so_that_messages_do_not_grow_with_them() -> None:
    sent = {}
    for count in (20, 100, 400):
        telling: Telling[int] = Telling(Random(1))
        followers, messages, now = list(range(count)), 0, 0.0
        for index in range(1000):
            telling.add(1 << index, rare=0)
            now += 0.01
            if telling.wait_s(count, now) <= TELL_S:
                messages += len(telling.due(followers, now + TELL_S))
        sent[count] = messages / now
    assert sent[100] < 2 * sent[20]
    assert sent[400] < 1.5 * sent[100]
