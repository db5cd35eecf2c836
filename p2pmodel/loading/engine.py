"""The thread behind the synchronous calls: one event loop for each data directory, and the peer that serves it.

A call may come from a script, a notebook, a thread, or from within a running event loop: it is carried out in the
background thread and waited for. The peer is the daemon of the data directory where one runs, the peer of another
program where that was first, or else one of this process, which goes a while after the last model was closed.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import threading
from collections.abc import AsyncIterator, Coroutine, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from p2pmodel.errors import ServiceGoneError, UsageError

if TYPE_CHECKING:
    from p2pmodel.peer.sharing import CommandService, SharedService

T = TypeVar("T")
log = logging.getLogger(__name__)

_IDLE_S = 10.0
"""A peer of our own stays for so long after its last use: the next model is often asked for soon."""
_END_S = 12.0
"""What the end of the process waits for a peer of our own, which stops within ten seconds."""


class Engine:
    """Made by `engine_for`. Thread-safe."""

    def __init__(self, data_dir: Path | None, bootstrap: Sequence[str]) -> None:
        self.daemon_only = False
        """Never bring a peer of our own: whoever stopped the daemon may be about to start it again."""
        self.generation = 0
        """Changes when the peer does."""
        self._flags = {"data_dir": data_dir, **({"bootstrap": tuple(bootstrap)} if bootstrap else {})}
        self._loop = asyncio.new_event_loop()
        self._shared: SharedService | None = None
        self._users = 0
        self._turn = asyncio.Lock()
        self._idle: asyncio.TimerHandle | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, name="p2pmodel-loading", daemon=True)
        self._thread.start()

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Carry out and wait. Interrupted, it is cancelled. Raises what it raises."""
        if threading.current_thread() is self._thread:
            work.close()
            raise UsageError("called from p2pmodel's own event loop, which would wait for itself")
        future = self.submit(work)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def soon(self, work: Any, *args: Any) -> None:
        """Call something on the loop, and wait for nothing."""
        self._loop.call_soon_threadsafe(work, *args)

    @asynccontextmanager
    async def service(self) -> AsyncIterator[CommandService]:
        """The peer, for as long as it is used. On the loop."""
        async with self._turn:
            if self._shared is None:
                self._shared = await self._attached()
            shared = self._shared
            self._users += 1
        try:
            yield shared.as_service()
        finally:
            self._users -= 1
            if not self._users:
                if self._idle is not None:
                    self._idle.cancel()
                self._idle = self._loop.call_later(_IDLE_S, lambda: self._loop.create_task(self._let_go()))

    async def _attached(self) -> SharedService:
        from p2pmodel.peer.client import find_daemon
        from p2pmodel.peer.settings import load_settings
        from p2pmodel.peer.sharing import SharedService

        settings = await load_settings(self._flags)
        if self.daemon_only:
            daemon = await find_daemon(settings.data_dir)
            if daemon is None:
                raise ServiceGoneError(f"the daemon of {settings.data_dir} does not run")
            await daemon.close()
        return SharedService(settings.peer_config(), offline=False, tell=log.info)

    async def has_daemon(self) -> bool:
        """Whether one serves this data directory now."""
        from p2pmodel.peer.client import find_daemon
        from p2pmodel.peer.settings import load_settings

        daemon = await find_daemon((await load_settings(self._flags)).data_dir)
        if daemon is not None:
            await daemon.close()
        return daemon is not None and not daemon.record.command

    async def renew(self, generation: int) -> None:
        """The peer of this generation has gone: the next one is looked for when it is needed."""
        async with self._turn:
            if generation == self.generation and self._shared is not None:
                shared, self._shared = self._shared, None
                self.generation += 1
                await shared.__aexit__(None, None, None)

    async def _let_go(self, *, used: bool = False) -> None:
        async with self._turn:
            if self._shared is None or (self._users and not used):
                return
            shared, self._shared = self._shared, None
            self.generation += 1
            await shared.__aexit__(None, None, None)

    def close(self) -> None:
        """At the end of the process: a peer of our own withdraws its records and closes its index."""
        if not self._thread.is_alive():
            return
        try:
            self.submit(self._let_go(used=True)).result(_END_S)
        except Exception:  # the process ends, and nobody is left to be told
            log.debug("the peer did not stop in order", exc_info=True)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_END_S)
        if not self._thread.is_alive():
            self._loop.close()


_engines: dict[tuple[Path | None, tuple[str, ...]], Engine] = {}
_making = threading.Lock()


def engine_for(data_dir: str | os.PathLike[str] | None = None, bootstrap: Sequence[str] = ()) -> Engine:
    """The engine of a data directory; the default one is that of the command line (`P2PMODEL_DATA_DIR`)."""
    where = data_dir or os.environ.get("P2PMODEL_DATA_DIR")
    key = (Path(where).expanduser().absolute() if where else None, tuple(bootstrap))
    with _making:
        if key not in _engines:
            _engines[key] = Engine(*key)
        return _engines[key]


def _close_all() -> None:
    for engine in list(_engines.values()):
        engine.close()


def _forget_all() -> None:
    """A forked child has none of its parent's threads."""
    global _making
    _engines.clear()
    _making = threading.Lock()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
