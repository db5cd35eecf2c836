"""The pool of bulk buffers: never more than its bytes, and nobody who waits is forgotten."""

from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st

from p2pmodel.net.buffers import BufferPool


def test_a_buffer_that_comes_back_is_lent_again() -> None:
    pool = BufferPool((10, 40), 40)
    first = pool.lease(7)
    pool.release(first)
    assert pool.lease(10) is first


def test_no_more_is_lent_than_there_is() -> None:
    pool = BufferPool((10, 40), 40)
    assert [pool.lease(10) is not None for _ in range(5)] == [True] * 4 + [False]


def test_who_waited_longest_gets_what_comes_back_and_the_others_keep_their_order() -> None:
    pool, got = BufferPool((10,), 10), []
    held = pool.lease(10)

    def take(name: str) -> None:
        buffer = pool.lease(10)
        if buffer is None:
            pool.when_free(lambda: take(name))
        else:
            got.append((name, buffer))

    for name in ("first", "second", "third"):
        pool.when_free(lambda name=name: take(name))
    pool.release(held)
    assert [name for name, _ in got] == ["first"]
    pool.release(got[0][1])
    pool.release(got[1][1])
    assert [name for name, _ in got] == ["first", "second", "third"]


def test_where_everything_is_free_nobody_waits_for_a_release_that_will_not_come() -> None:
    pool, called = BufferPool((10,), 10), []
    pool.when_free(lambda: called.append("at once"))
    assert called == ["at once"]


def test_threads_share_a_pool() -> None:
    pool, most = BufferPool((10,), 30), []

    def borrow() -> None:
        for _ in range(2_000):
            if (buffer := pool.lease(10)) is not None:
                most.append(pool.lent_bytes)
                pool.release(buffer)

    threads = [threading.Thread(target=borrow) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) <= 30 and pool.lent_bytes == 0


def test_who_has_lost_interest_does_not_use_up_the_call() -> None:
    pool, called = BufferPool((10,), 10), []
    held = pool.lease(10)
    pool.when_free(lambda: None)
    pool.when_free(lambda: called.append("second"))
    pool.release(held)
    assert called == ["second"]


def test_who_needs_more_than_came_back_waits_on() -> None:
    pool, got = BufferPool((10, 20), 20), []
    small = [pool.lease(10), pool.lease(10)]

    def try_again() -> None:
        buffer = pool.lease(20)
        if buffer is None:
            pool.when_free(try_again)
        else:
            got.append(buffer)

    pool.when_free(try_again)
    pool.release(small[0])
    assert got == []
    pool.release(small[1])
    assert len(got) == 1


@given(st.lists(st.one_of(st.integers(1, 100), st.just(None)), max_size=60))
def test_lent_and_kept_together_stay_within_the_bytes(moves: list[int | None]) -> None:
    pool, lent = BufferPool((10, 40), 100), []
    for length in moves:
        if length is None:
            if lent:
                pool.release(lent.pop(0))
        elif (buffer := pool.lease(length)) is not None:
            assert len(buffer) >= length
            lent.append(buffer)
        kept = sum(len(buffer) for free in pool._free.values() for buffer in free)
        assert pool.lent_bytes == sum(map(len, lent))
        assert pool.lent_bytes + kept <= 100
        assert len({id(buffer) for buffer in lent}) == len(lent)


def test_a_blank_buffer_counts_from_when_it_is_counted_until_it_is_released() -> None:
    pool = BufferPool((10,), 40)
    blanks = [pool.blank(7) for _ in range(3)]
    assert len(blanks[0]) == 10 and pool.lent_bytes == 0
    assert [pool.count(blank, 0.5) for blank in blanks] == [True, True, False], "no more than their part of all"
    assert pool.lent_bytes == 20
    pool.release(blanks[0])
    assert pool.lent_bytes == 10 and pool.count(blanks[2], 0.5)


def test_what_is_leased_leaves_those_that_are_counted_their_part_while_there_is_room() -> None:
    pool = BufferPool((10,), 40)
    held = [pool.lease(10) for _ in range(3)]
    assert pool.count(pool.blank(10), 0.5)
    assert not pool.count(waits := pool.blank(10), 0.5), "all is lent"
    pool.release(held.pop())
    assert pool.count(waits, 0.5)
