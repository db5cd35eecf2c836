"""The pool of bulk buffers: never more than its bytes, and nobody who waits is forgotten."""

from __future__ import annotations

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


def test_who_waits_is_called_once_in_the_order_of_coming() -> None:
    pool, called = BufferPool((10,), 10), []
    held = pool.lease(10)

    def take(name: str):
        def call() -> None:
            called.append(name)
            assert pool.lease(10) is not None

        return call

    pool.when_free(take("first"))
    pool.when_free(take("second"))
    pool.release(held)
    assert called == ["first"]


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
