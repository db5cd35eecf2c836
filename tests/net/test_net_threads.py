"""The threads that bulk moves in: how many, in which order, and how the loop hears of what they did."""

from __future__ import annotations

import asyncio
import threading

import pytest
from wire_pairs import PATIENCE_S, comes_true

from p2pmodel.net.threads import Mailbox, Threads


def test_work_is_taken_at_once_or_not_at_all() -> None:
    threads, goes_on = Threads(2, "test"), threading.Event()
    assert threads.try_run(goes_on.wait) and threads.try_run(goes_on.wait)
    assert not threads.try_run(goes_on.wait)
    assert threads.load == 2
    goes_on.set()
    threads.close()
    assert threads.load == 0
    with pytest.raises(RuntimeError):
        threads.run(goes_on.wait)


def test_work_that_waits_is_done_in_order_and_before_the_end() -> None:
    threads, done = Threads(1, "test"), []
    for number in range(50):
        threads.run(lambda number=number: done.append(number))
    threads.close()
    assert done == list(range(50))


def test_work_that_fails_is_shown_and_its_thread_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    shown, done = [], []
    monkeypatch.setattr(threading, "excepthook", lambda failed: shown.append(failed.exc_type))
    threads = Threads(1, "test")
    threads.run(lambda: 1 // 0)
    threads.run(lambda: done.append("the next"))
    threads.close()
    assert shown == [ZeroDivisionError] and done == ["the next"]


async def test_calls_from_many_threads_arrive_on_the_loop_each_in_its_order() -> None:
    mail, heard = Mailbox(asyncio.get_running_loop()), []
    home = threading.get_ident()

    def post(who: int) -> None:
        for number in range(500):
            mail.post(lambda number=number: heard.append((who, number, threading.get_ident() == home)))

    posting = [threading.Thread(target=post, args=(who,)) for who in range(4)]
    for thread in posting:
        thread.start()
    await comes_true(lambda: len(heard) == 2_000)
    for thread in posting:
        thread.join(PATIENCE_S)
    assert all(at_home for *_, at_home in heard)
    for who in range(4):
        assert [number for each, number, _ in heard if each == who] == list(range(500))
