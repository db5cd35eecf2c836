"""Threads for what is done thousands of times a second, and the way back to the event loop.

`concurrent.futures` takes a lock, a condition and a future for each piece of work: at line speed that was a third of
all CPU time (measured). Here a piece of work is one entry in a queue of the interpreter's own, and what is done
meanwhile in any number of threads wakes the loop once.
"""

from __future__ import annotations

import asyncio
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

Work = Callable[[], None]

MAIL_WAITS_S = 0.002
"""What tells the loop of a finished chunk waits so long for more of its kind."""


class Threads:
    """At most `count` threads, started when first needed, that do what they are given in order.

    Work reports its own errors; one that does not is shown by `threading.excepthook`, and its thread goes on.
    """

    def __init__(self, count: int, name: str) -> None:
        self.count = count
        self._name = name
        self._queue: SimpleQueue[Work | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._load = 0
        self._closed = False

    @property
    def load(self) -> int:
        """Pieces of work that run or wait."""
        return self._load

    def run(self, work: Work) -> None:
        """As soon as a thread is free. Raises `RuntimeError` after `close`."""
        self._give(work, self.count * 1_000_000)

    def try_run(self, work: Work) -> bool:
        """At once, or not at all: whether a thread was free. Raises `RuntimeError` after `close`."""
        return self._give(work, self.count)

    def _give(self, work: Work, load_max: int) -> bool:
        with self._lock:
            if self._closed:
                raise RuntimeError("these threads have ended")
            if self._load >= load_max:
                return False
            self._load += 1
            if self._load > len(self._threads) and len(self._threads) < self.count:
                name = f"p2pmodel-{self._name}-{len(self._threads)}"
                thread = threading.Thread(target=self._serve, name=name, daemon=True)
                self._threads.append(thread)
                thread.start()
        self._queue.put(work)
        return True

    def _serve(self) -> None:
        while (work := self._queue.get()) is not None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001  (a supervisor: shown, and the next is done)
                threading.excepthook(threading.ExceptHookArgs((type(error), error, error.__traceback__, None)))
            finally:
                del work
                with self._lock:
                    self._load -= 1

    def close(self) -> None:
        """Do what was given, then end. Blocks."""
        with self._lock:
            self._closed = True
            threads = list(self._threads)
        for _ in threads:
            self._queue.put(None)
        for thread in threads:
            thread.join()


class Mailbox:
    """Calls from any thread, made on the loop in the order in which they were posted; many of them for one wake-up.

    To wake the loop costs more than most of what it is woken for: its thread may be given the CPU at once, in place of
    the one that woke it, and then wait for the interpreter's lock that this one still holds (measured at line speed:
    more than half of all the time in which that lock was held). So the lock is let go of for it, and what can wait,
    waits for company.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._home = threading.get_ident()
        self._waiting: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._woken = self._closed = False
        self._late_s = 0.0
        """When what was posted to wait has to be delivered, in monotonic seconds; 0 where nothing waits."""
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) if hasattr(os, "eventfd") else None
        if self._bell is not None:
            loop.add_reader(self._bell, self._rung)

    def post(self, call: Callable[..., object], *args: Any) -> None:
        self._waiting.append((call, args))
        self._wake()

    def post_soon(self, call: Callable[..., object], *args: Any) -> None:
        """Not at once: with what is posted next, or when it has waited `MAIL_WAITS_S`.

        Whoever posts so waits with `delivered_while` afterwards, or posts something else in the end.
        """
        self._waiting.append((call, args))
        now = time.monotonic()
        if not self._late_s:
            self._late_s = now + MAIL_WAITS_S
        elif now >= self._late_s:
            self._wake()

    def delivered_while(self, poll: select.poll, timeout_ms: int) -> bool:
        """Whether `poll` finds something within `timeout_ms`; what was posted does not wait for that."""
        if self._late_s:
            if poll.poll(1000 * MAIL_WAITS_S):
                return True
            if self._late_s:
                self._wake()
        return bool(poll.poll(timeout_ms))

    def _wake(self) -> None:
        self._late_s = 0.0
        if self._woken or self._closed:
            return
        self._woken = True
        if threading.get_ident() == self._home:
            self._loop.call_soon(self._deliver)
        elif self._bell is not None:
            os.eventfd_write(self._bell, 1)
        else:
            try:
                self._loop.call_soon_threadsafe(self._deliver)
            except RuntimeError:
                self._woken = False  # the loop has ended, and nobody waits for what it would have heard

    def _rung(self) -> None:
        assert self._bell is not None
        try:
            os.eventfd_read(self._bell)
        except BlockingIOError:
            pass
        self._deliver()

    def _deliver(self) -> None:
        # Before the first look: what is posted from now on wakes the loop again, maybe once too often.
        self._woken = False
        for _ in range(len(self._waiting)):
            call, args = self._waiting.popleft()
            try:
                call(*args)
            except Exception as error:  # noqa: BLE001  (as the loop does with a callback)
                self._loop.call_exception_handler({"message": f"{call!r} failed", "exception": error})

    def close(self) -> None:
        """On the loop, when no thread posts any more; what was posted is delivered, and nothing after it."""
        if self._closed:
            return
        self._closed = True
        if self._bell is not None:
            self._loop.remove_reader(self._bell)
            os.close(self._bell)
        self._deliver()


class SharedSocket:
    """A socket that the loop and threads use: closed when the last of them has let go. All calls on the loop."""

    def __init__(self, sock: Any) -> None:
        self.sock = sock
        self._users = 0
        self._closing = False

    def borrow(self) -> None:
        self._users += 1

    def give_back(self) -> None:
        self._users -= 1
        if self._closing and not self._users:
            self.sock.close()

    def close(self) -> None:
        """Whoever still uses it finds the connection ended."""
        if self._closing:
            return
        self._closing = True
        if not self._users:
            self.sock.close()
            return
        try:
            self.sock.shutdown(2)
        except OSError:
            pass  # the other side was faster
