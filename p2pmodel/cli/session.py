"""From a command to a peer: the event loop of one command, and the daemon or embedded peer that serves it."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from p2pmodel.cli.options import Invocation
from p2pmodel.errors import DaemonNotRunningError, InterruptedFetchError
from p2pmodel.peer.runtime import read_runtime
from p2pmodel.peer.settings import Settings, load_settings

if TYPE_CHECKING:
    from p2pmodel.peer.client import DaemonClient
    from p2pmodel.peer.sharing import CommandService

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's work to its end. SIGINT and SIGTERM cancel it, once and cleanly.

    Raises `InterruptedFetchError` (exit code 130) where the work had nothing better to say about being interrupted.
    """
    logging.basicConfig(format="p2pmodel: %(levelname)s: %(message)s", level=logging.WARNING)
    logging.addLevelName(logging.WARNING, "warning")
    logging.addLevelName(logging.ERROR, "error")
    entry = _cancelled_by_sigterm(work)
    # What imports made stays; what a transfer makes dies young, and is looked at less often (4 % of its CPU time).
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(entry)
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise InterruptedFetchError("interrupted") from None
    finally:
        entry.close()  # a signal may have come before their first step
        work.close()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where there is one: measured, it takes a tenth off the CPU time of a transfer (sender 6-14 %)."""
    try:
        import uvloop
    except ImportError:  # Windows has none
        return None
    return uvloop.new_event_loop


async def _cancelled_by_sigterm(work: Coroutine[Any, Any, T]) -> T:
    task = asyncio.current_task()
    if task is not None and threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await work


async def settings_of(invocation: Invocation, flags: dict[str, object] | None = None) -> Settings:
    return await load_settings({**(flags or {}), "data_dir": invocation.data_dir})


async def find_running(settings: Settings) -> DaemonClient | None:
    if await read_runtime(settings.data_dir) is None:
        return None  # and no HTTP client is loaded
    from p2pmodel.peer.client import find_daemon

    return await find_daemon(settings.data_dir)


@asynccontextmanager
async def open_service(
    invocation: Invocation, *, offline: bool, flags: dict[str, object] | None = None
) -> AsyncIterator[CommandService]:
    """The peer that owns this data directory, or else one of our own for as long as the command runs, with `flags`.

    `offline`: what the command does needs no other peer, so an embedded one enters no network.
    """
    settings = await settings_of(invocation, flags)
    from p2pmodel.cli.output import talk
    from p2pmodel.peer.sharing import SharedService

    async with SharedService(settings.peer_config(), offline=offline, tell=talk) as service:
        yield service


@asynccontextmanager
async def open_daemon(invocation: Invocation) -> AsyncIterator[DaemonClient]:
    """The running daemon. Raises `DaemonNotRunningError` where there is none."""
    settings = await settings_of(invocation)
    daemon = await find_running(settings)
    if daemon is None:
        raise DaemonNotRunningError(
            f"no daemon runs on {settings.data_dir}; start one with `p2pmodel daemon` or name its --data-dir"
        )
    try:
        yield daemon
    finally:
        await daemon.close()


def there_is(path: Path) -> bool:
    """Whether something is there, even a dangling link or a file out of reach: what is wrong with it, others say."""
    try:
        os.lstat(path.expanduser())
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def absolute_text(path: Path) -> str:
    """A path as a daemon needs it: it has another working directory. Symbolic links stay as they are."""
    return os.path.abspath(path.expanduser())  # noqa: PTH100  (Path.absolute keeps "..")
