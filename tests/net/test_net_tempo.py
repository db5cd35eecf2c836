"""Who is worth a thread, and who gives up a buffer: the plain objects."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from p2pmodel.limits import BULK_CROWDED_BYTES_PER_S, BULK_CROWDED_S
from p2pmodel.net.tempo import _LOOK_S, FAST_BYTES, Holders, Tempo


def test_an_answer_that_drips_is_not_fast_after_a_first_look() -> None:
    tempo = Tempo()
    tempo.begin(10.0, 500, known=True)
    assert tempo.look(10.0 + _LOOK_S / 2, 501)
    assert not tempo.look(10.0 + _LOOK_S, 502)
    assert not tempo.look(10.0 + 3 * _LOOK_S, 502 + FAST_BYTES - 1)


def test_what_comes_in_large_pieces_is_fast_and_becomes_so_again_without_a_wait() -> None:
    tempo = Tempo()
    tempo.begin(10.0, 0, known=True)
    tempo.pause()
    assert not tempo.look(10.001, FAST_BYTES - 1)
    assert tempo.look(10.002, FAST_BYTES)
    assert tempo.look(10.002 + _LOOK_S, 2 * FAST_BYTES)


def test_a_peer_that_had_nothing_to_say_for_long_begins_its_next_answer_as_a_fast_one() -> None:
    tempo = Tempo()
    tempo.begin(10.0, 0, known=True)
    tempo.pause()
    tempo.begin(99.0, 700, known=True)
    assert tempo.fast
    assert tempo.look(99.0 + _LOOK_S / 2, 701)


def test_a_stranger_gets_no_thread_before_much_of_its_first_answer_is_here() -> None:
    tempo = Tempo()
    tempo.begin(10.0, 500, known=False)
    assert not tempo.fast
    assert not tempo.look(10.001, 500 + FAST_BYTES - 1)
    assert tempo.look(10.002, 500 + FAST_BYTES)


@given(st.lists(st.floats(0.001, 0.02), min_size=20, max_size=60))
def test_a_byte_at_a_time_keeps_no_thread_however_the_bytes_are_spaced(gaps: list[float]) -> None:
    tempo, now, kept_s = Tempo(), 5.0, 0.0
    tempo.begin(now, 0, known=True)
    for received, gap in enumerate(gaps):
        fast = tempo.fast
        now += gap
        tempo.look(now, received)
        kept_s += gap if fast else 0.0
    assert kept_s <= _LOOK_S + max(gaps)


def test_the_slowest_of_those_who_have_held_a_buffer_for_a_while_gives_way() -> None:
    holders: Holders[str] = Holders()
    for name in ("new", "slow", "slower", "fast"):
        holders.take(name, 0.0, 1000)
    now = 2 * BULK_CROWDED_S
    holders.take("new", now, 0)
    quick = 1000 + int(now * BULK_CROWDED_BYTES_PER_S) + 1
    received = {"new": 0, "slow": 1500, "slower": 1400, "fast": quick}
    assert holders.slowest(now, received) == "slower"
    holders.let_go("slower")
    holders.let_go("slower")
    assert holders.slowest(now, received) == "slow"
    holders.let_go("slow")
    assert holders.slowest(now, received) is None, "one is fast and one has only begun"
    assert holders.slowest(3 * now, received) == "new"
