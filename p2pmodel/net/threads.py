"""Threads for what is done thousands of times a second, and the way back to the event loop.

`concurrent.futures` takes a lock, a condition and a future for each piece of work: at line speed that was a third of
all CPU time (measured). Here a piece of work is one entry in a queue of the interpreter's own, and what is done
meanwhile in any number of threads wakes the loop once.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

Work = Callable[[], None]


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
    """Calls from any thread, made on the loop in the order in which they were posted; many of them for one wake-up."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._home = threading.get_ident()
        self._waiting: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._woken = False

    def post(self, call: Callable[..., object], *args: Any) -> None:
        self._waiting.append((call, args))
        if self._woken:
            return
        self._woken = True
        if threading.get_ident() == self._home:
            self._loop.call_soon(self._deliver)
            return
        try:
            self._loop.call_soon_threadsafe(self._deliver)
        except RuntimeError:
            self._woken = False  # the loop has ended, and nobody waits for what it would have heard

    def _deliver(self) -> None:
        # Before the first look: what is posted from now on wakes the loop again, maybe once too often.
        self._woken = False
        for _ in range(len(self._waiting)):
            call, args = self._waiting.popleft()
            try:
                call(*args)
            except Exception as error:  # noqa: BLE001  (as the loop does with a callback)
                self._loop.call_exception_handler({"message": f"{call!r} failed", "exception": error})


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
