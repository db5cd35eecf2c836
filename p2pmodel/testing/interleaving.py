"""Threads that take turns: whoever tests decides, at each call to the disk, whose step comes next.

    turns = Turns()
    with turns.instead_of_threads("p2pmodel.store"):
        store = Store.open(Path("/data"), files=turns.files(disk))
        fetch, remove = turns.spawn("fetch", work), turns.spawn("remove", other)
        turns.step(fetch)                        # up to its next call to the disk, or until it has to wait
        turns.step(remove)
        turns.finish()                           # everybody in turn, to the end

Each piece of work has a real thread, of which exactly one runs at a time. It gives up its turn before each call to the
disk and each commit, and where a lock is held by somebody else; between two such points nobody else runs. So a run is a
function of the choices alone, a wait for ever is seen (`Deadlock`), and hypothesis can shrink an interleaving.

What is not seen: races between two threads in the middle of Python code that calls no disk and takes no lock that is
held. Timeouts of locks pass at once when their thread is stepped and the lock is still held.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from p2pmodel.store.files import Files

_STEPS_MAX = 100_000


class Deadlock(AssertionError):
    """Everybody waits for somebody."""


class _Killed(BaseException):
    """The process of a virtual thread has died."""


class VirtualThread:
    """One piece of work. `error` is what it raised, `result` what it returned."""

    def __init__(self, name: str, work: Callable[[], object]) -> None:
        self.name = name
        self.result: object = None
        self.error: BaseException | None = None
        self.done = self.killed = False
        self.at = "start"
        """The call that it is about to make."""
        self.ready: Callable[[], bool] = lambda: True
        self._work = work
        self.turn = threading.Semaphore(0)
        self.real: threading.Thread

    def run(self) -> None:
        try:
            if not self.killed:
                self.result = self._work()
        except _Killed:
            pass
        except BaseException as error:  # noqa: BLE001  (whoever tests looks at it)
            self.error = error

    def __repr__(self) -> str:
        return f"<{self.name} at {self.at}>"


class Turns:
    """Who may run. `trace` has every step that was made: the name of the thread and the call it stands before."""

    def __init__(self) -> None:
        self.threads: list[VirtualThread] = []
        self.trace: list[str] = []
        self._here = threading.local()
        self._back = threading.Semaphore(0)

    @property
    def current(self) -> VirtualThread | None:
        """None for whoever tests."""
        return getattr(self._here, "thread", None)

    def spawn(self, name: str, work: Callable[[], object]) -> VirtualThread:
        """Begin a piece of work; it makes its first step when it is told to."""
        thread = VirtualThread(name, work)
        thread.real = threading.Thread(target=self._main, args=(thread,), name=f"virtual-{name}", daemon=True)
        self.threads.append(thread)
        thread.real.start()
        return thread

    def _main(self, thread: VirtualThread) -> None:
        self._here.thread = thread
        thread.turn.acquire()
        try:
            thread.run()
        finally:
            thread.done = True
            self._back.release()

    @property
    def unfinished(self) -> list[VirtualThread]:
        return [thread for thread in self.threads if not thread.done]

    @property
    def runnable(self) -> list[VirtualThread]:
        return [thread for thread in self.unfinished if thread.ready()]

    def step(self, thread: VirtualThread) -> None:
        """Let it go up to its next point."""
        self.trace.append(f"{thread.name}: {thread.at}")
        thread.turn.release()
        self._back.acquire()
        if thread.done:
            thread.real.join()

    def point(self, at: str, ready: Callable[[], bool] = lambda: True) -> None:
        """Give up the turn until `ready` and called up again. Whoever tests never waits."""
        thread = self.current
        if thread is None:
            return
        thread.at, thread.ready = at, ready
        self._back.release()
        thread.turn.acquire()
        thread.ready = lambda: True
        if thread.killed:
            raise _Killed

    def finish(self) -> None:
        """Everybody in turn until all are done. Raises `Deadlock`, also where they go round for ever."""
        for _ in range(_STEPS_MAX):
            if not self.unfinished:
                return
            if not (ready := self.runnable):
                break
            for thread in ready:
                if not thread.done and thread.ready():
                    self.step(thread)
        raise Deadlock(f"{self.unfinished}, after: {self.trace[-20:]}")

    def kill(self) -> None:
        """The process dies: nobody makes another call."""
        while threads := self.unfinished:
            for thread in threads:
                thread.killed = True
                self.step(thread)

    # --- what the program under test sees instead of `threading` and the disk

    @contextmanager
    def instead_of_threads(self, package: str) -> Iterator[None]:
        """Modules of `package` take their locks from here."""
        names = [name for name in sys.modules if name == package or name.startswith(f"{package}.")]
        modules = [sys.modules[name] for name in names if getattr(sys.modules[name], "threading", None) is threading]
        stand_in = _Threading(self)
        for module in modules:
            module.threading = stand_in  # type: ignore[attr-defined]
        try:
            yield
        finally:
            for module in modules:
                module.threading = threading  # type: ignore[attr-defined]

    def files(self, files: Files) -> Files:
        """A disk of which every call is a point."""
        return cast(Files, _Stepped(self, files))


class _Threading:
    """As much of the module as is needed; the rest is the real one's."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns

    def Lock(self) -> VirtualLock:
        return VirtualLock(self._turns)

    def RLock(self) -> VirtualLock:
        return VirtualLock(self._turns, reentrant=True)

    def Condition(self, lock: VirtualLock | None = None) -> VirtualCondition:
        return VirtualCondition(self._turns, lock or self.RLock())

    def __getattr__(self, name: str) -> Any:
        return getattr(threading, name)


class VirtualLock:
    """A lock whose waiters are seen. Whoever tests takes it only while it is free."""

    def __init__(self, turns: Turns, *, reentrant: bool = False) -> None:
        self._turns, self._reentrant = turns, reentrant
        self._owner: object = None
        self._depth = 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        me = self._turns.current or self
        while self._depth and not (self._reentrant and self._owner is me):
            if not blocking:
                return False
            if me is self:
                raise Deadlock("whoever tests would wait for ever")
            if timeout >= 0:
                self._turns.point("a lock, for a while")
                if self._depth:
                    return False
                continue
            if self._owner is me:
                raise Deadlock(f"{me} waits for itself")
            self._turns.point("a lock", lambda: not self._depth)
        self._owner = me
        self._depth += 1
        return True

    def release(self) -> None:
        if not self._depth:
            raise RuntimeError("release of a lock that is free")
        self._depth -= 1
        if not self._depth:
            self._owner = None

    def locked(self) -> bool:
        return bool(self._depth)

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class VirtualCondition:
    """`threading.Condition` of a lock."""

    def __init__(self, turns: Turns, lock: VirtualLock) -> None:
        self._turns, self._lock = turns, lock

    def __enter__(self) -> bool:
        return self._lock.__enter__()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def wait_for(self, predicate: Callable[[], bool], timeout: float | None = None) -> bool:
        lock = self._lock
        while not predicate():
            depth, owner = lock._depth, lock._owner
            lock._depth, lock._owner = 0, None
            try:
                self._turns.point("a condition", lambda: not lock._depth and predicate())
            finally:
                lock._depth, lock._owner = depth, owner
        return True

    def notify_all(self) -> None:
        pass  # `wait_for` looks at the predicate itself


class _Stepped:
    """Anything of the seam to the disk: each call of it is a point, and what it opens is wrapped as well."""

    def __init__(self, turns: Turns, inner: Any) -> None:
        self._turns, self._inner = turns, inner

    @property
    def threads(self) -> int:
        return 1

    def connect(self, path: Path) -> Any:
        self._turns.point("connect")
        return _SteppedConnection(self._turns, self._inner.connect(path))

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if not callable(found) or name == "fileno":
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            told = [str(arg) for arg in args if isinstance(arg, (str, Path))]
            self._turns.point(f"{name} {' '.join(told)} of {getattr(self._inner, 'path', '')}")
            inner = [arg._inner if isinstance(arg, _Stepped) else arg for arg in args]
            return self._wrapped(found(*inner, **kwargs))

        return call

    def _wrapped(self, found: Any) -> Any:
        return _Stepped(self._turns, found) if hasattr(found, "close") and hasattr(found, "path") else found


class _SteppedConnection:
    """A connection to SQLite: the beginning of a transaction is a point, and the moment after its commit.

    Not in between: SQLite's readers and writers wait for each other in memory, as they do not with a log on a disk.
    """

    def __init__(self, turns: Turns, inner: Any) -> None:
        self._turns, self._inner = turns, inner

    def execute(self, sql: str, values: Any = ()) -> Any:
        if sql.startswith("BEGIN"):
            self._turns.point(sql)
        found = self._inner.execute(sql, values)
        if sql == "COMMIT":
            self._turns.point(sql)
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __enter__(self) -> Self:
        raise NotImplementedError("write BEGIN and COMMIT")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass
