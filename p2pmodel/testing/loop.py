"""An event loop whose time is virtual: when nothing is ready it jumps to the next timer, so waiting costs nothing.

The order of everything is a function of the program: timers of one instant run in the order in which they were set,
work for other threads runs at once and in place, and tasks can be listed in the order of their creation. Each task
belongs to the *process* (a simulated one) in whose context it was created, so that a crash can take them all.
"""

from __future__ import annotations

import asyncio
import heapq
import ipaddress
import socket
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, ContextVar, copy_context
from itertools import count
from typing import Any, TypeVar

T = TypeVar("T")

_LISTED_MAX = 20
"""Tasks that the message of a deadlock names."""


class Deadlock(RuntimeError):
    """Every task waits for another, and no timer is set: nothing would ever happen again."""


class Process:
    """A simulated process: what was started in its context, and can die with it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.tasks: dict[asyncio.Future[Any], None] = {}
        self.context = Context()
        self.context.run(_current.set, self)

    def kill(self) -> None:
        """End every task. Their clean-up runs, and must find network and disk dead: see `Internet.crash`."""
        self.alive = False
        for task in list(self.tasks):
            task.cancel()


_current: ContextVar[Process | None] = ContextVar("p2pmodel simulated process", default=None)


def current_process() -> Process | None:
    """The simulated process in whose context this runs."""
    return _current.get()


class _Timer(asyncio.TimerHandle):
    """The library's, made in a third of the time: a simulation makes one for each datagram."""

    __slots__ = ()

    def __init__(
        self, when: float, callback: Callable[..., object], args: Any, loop: VirtualLoop, context: Context | None
    ) -> None:
        self._context = copy_context() if context is None else context
        self._loop = loop
        self._callback = callback
        self._args = args
        self._cancelled = False
        self._repr = None
        self._source_traceback = None
        self._when = when
        self._scheduled = False


_running: list[VirtualLoop] = []


def running_loop() -> VirtualLoop:
    """The virtual loop that runs. The library's own function asks the system for the process's number at each call,
    up to Python 3.11, and a simulation wants to know the time a dozen times for each datagram."""
    return _running[-1]


class VirtualLoop(asyncio.BaseEventLoop):
    """Runs as fast as the machine can. `time()` begins at `start_s`."""

    def __init__(self, start_s: float = 0.0) -> None:
        super().__init__()
        self.now = start_s
        """Virtual seconds: what `time()` says, for those who ask often."""
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._order = count()
        self._tasks: dict[asyncio.Future[Any], None] = {}
        self.faults: list[dict[str, Any]] = []
        """What a real loop would only have logged."""
        self.set_exception_handler(lambda _, context: self.faults.append(context))
        self.set_task_factory(self._make_task)

    def time(self) -> float:
        return self.now

    def run_forever(self) -> None:
        _running.append(self)
        try:
            super().run_forever()
        finally:
            _running.pop()

    # --- timers --------------------------------------------------------------------------------------------------

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        when = self.now + delay
        timer = _Timer(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, next(self._order), timer))
        return timer

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        timer = _Timer(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, next(self._order), timer))
        return timer

    def _run_once(self) -> None:
        ready: Any = self._ready  # type: ignore[attr-defined]
        timers = self._timers
        if not ready and not self._stopping:  # type: ignore[attr-defined]
            while timers and timers[0][2].cancelled():
                heapq.heappop(timers)
            if not timers:
                raise Deadlock(f"nothing will ever happen again; these tasks wait: {self._waiting()}")
            self.now = max(self.now, timers[0][0])
        now = self.now
        while timers and timers[0][0] <= now:
            ready.append(heapq.heappop(timers)[2])
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle._cancelled:
                handle._run()

    def _waiting(self) -> str:
        names = [
            getattr(task.get_coro(), "__qualname__", "?") for task in self._tasks if isinstance(task, asyncio.Task)
        ]
        return ", ".join(names[:_LISTED_MAX]) or "none"

    # --- tasks ---------------------------------------------------------------------------------------------------

    def _make_task(
        self, _: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T] | Generator[Any, None, T], **options: Any
    ) -> asyncio.Future[T]:
        task: asyncio.Task[T] = asyncio.Task(work, loop=self, **options)
        context: Context | None = options.get("context")
        process = _current.get() if context is None else context.get(_current, None)
        tasks = self._tasks if process is None else process.tasks
        tasks[task] = None

        def ended(done: asyncio.Future[T]) -> None:
            del tasks[done]
            if process is not None and not process.alive and not done.cancelled():
                done.exception()  # nobody is left to whom the failures of a dead process matter

        task.add_done_callback(ended)
        return task

    # --- what a real loop does with the machine ------------------------------------------------------------------

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """At once and in place: a thread's timing would not repeat."""
        done: asyncio.Future[T] = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:  # noqa: BLE001  (handed to whoever awaits it)
            done.set_exception(error)
        return done

    async def getaddrinfo(self, host: Any, port: Any, **_: Any) -> list[Any]:
        """Only address literals and `localhost`: a simulation has no name servers."""
        text = "127.0.0.1" if host == "localhost" else str(host)
        try:
            address = ipaddress.ip_address(text)
        except ValueError as error:
            raise socket.gaierror(socket.EAI_NONAME, "there are no names in a simulation") from error
        family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
        return [(family, socket.SOCK_STREAM, 0, "", (text, port))]

    def _process_events(self, event_list: Any) -> None:
        """There is no selector."""

    def _write_to_self(self) -> None:
        """Nobody wakes this loop from another thread."""

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """It is skipped when its time comes."""


def run(work: Coroutine[Any, Any, T], *, loop: VirtualLoop | None = None) -> T:
    """Run `work` in virtual time to its end, then cancel what is left.

    Raises what `work` raises; `ExceptionGroup` where it ended well but something failed in the background.
    """
    loop = loop or VirtualLoop()
    try:
        try:
            result = loop.run_until_complete(work)
        finally:
            # Also after a failure: what is left would else be taken apart by the garbage collector, loudly.
            loop.run_until_complete(cancel_rest(loop))
    finally:
        loop.close()
    check_faults(loop)
    return result


def check_faults(loop: VirtualLoop) -> None:
    """Raise what failed in the background, if anything did."""
    if loop.faults:
        errors = [_as_error(context) for context in loop.faults]
        loop.faults = []
        raise ExceptionGroup("failures in the background of a simulation", errors)


async def cancel_rest(loop: VirtualLoop) -> None:
    """Cancel every task but the caller's, and wait until they have ended."""
    own = asyncio.current_task()
    while rest := [task for task in sorted(asyncio.all_tasks(loop), key=_creation) if task is not own]:
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)


def _creation(task: asyncio.Task[Any]) -> tuple[int, str]:
    """Tasks without a name of their own are numbered as they are made."""
    name = task.get_name()
    return (int(name[5:]) if name.startswith("Task-") and name[5:].isdigit() else 0), name


def _as_error(context: dict[str, Any]) -> Exception:
    error = context.get("exception")
    message = str(context.get("message", "a failure"))
    if isinstance(error, Exception):
        error.add_note(message)
        return error
    return RuntimeError(message)
