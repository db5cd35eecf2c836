"""The threads that bulk moves in: how many, in which order, and how the loop hears of what they did."""

from __future__ import annotations

import asyncio
import select
import socket
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
    mail.close()


async def test_what_can_wait_wakes_the_loop_once_for_many_and_keeps_its_order() -> None:
    mail, heard = Mailbox(asyncio.get_running_loop()), []
    wakes, rung = [], mail._rung
    asyncio.get_running_loop().remove_reader(mail._bell)
    asyncio.get_running_loop().add_reader(mail._bell, lambda: (wakes.append(1), rung()))

    def post() -> None:
        for number in range(100):
            mail.post_soon(heard.append, number)
        mail.post(heard.append, "the last")

    thread = threading.Thread(target=post)
    thread.start()
    thread.join(PATIENCE_S)
    await comes_true(lambda: "the last" in heard)
    assert heard == [*range(100), "the last"]
    assert len(wakes) <= 3
    mail.close()


async def test_whoever_waits_for_a_socket_does_not_keep_back_what_was_posted() -> None:
    mail, heard = Mailbox(asyncio.get_running_loop()), []
    near, far = socket.socketpair()
    poll = select.poll()
    poll.register(near, select.POLLIN)

    def work() -> None:
        mail.post_soon(heard.append, "posted")
        heard.append(mail.delivered_while(poll, 60_000))

    thread = threading.Thread(target=work)
    thread.start()
    await comes_true(lambda: heard == ["posted"])
    far.send(b"x")
    await comes_true(lambda: heard == ["posted", True])
    thread.join(PATIENCE_S)
    near.close()
    far.close()
    mail.close()


async def test_what_is_posted_after_the_end_is_lost_in_silence() -> None:
    mail, heard = Mailbox(asyncio.get_running_loop()), []
    mail.post(heard.append, "before")
    mail.close()
    mail.close()
    assert heard == ["before"]
    thread = threading.Thread(target=mail.post, args=(heard.append, "after"))
    thread.start()
    thread.join(PATIENCE_S)
    assert heard == ["before"]
