"""A peer that stays: directory lock, peer, control API, `daemon.json`, and an end within ten seconds of a signal.

`open_peer` is the same composition without the control API, for a command that brings its own peer.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager

from p2pmodel.limits import STOP_TIMEOUT_S
from p2pmodel.peer.config import PeerConfig
from p2pmodel.peer.control import ControlServer, Front
from p2pmodel.peer.peer import Peer
from p2pmodel.peer.runtime import RuntimeRecord, remove_runtime, write_runtime
from p2pmodel.peer.service import LocalService
from p2pmodel.peer.yielding import yield_to_others
from p2pmodel.store import Lock

_EXIT_MARGIN_S = 1.0
MakeFront = Callable[[Peer], Front]
"""A room that serves HTTP of its own, given the peer. Whoever starts the daemon says which: this room knows none."""
log = logging.getLogger(__name__)


@asynccontextmanager
async def open_peer(config: PeerConfig, lock: Lock | None = None) -> AsyncIterator[tuple[Peer, LocalService]]:
    """Run a peer on its data directory, which it locks, or of which the caller gives it the lock.

    Raises `RefusedError` where another process has it, `NetworkError` where the port cannot be had.
    """
    if config.background:
        yield_to_others()
    async with Peer(config, lock=lock) as peer:
        service = LocalService(peer)
        try:
            yield peer, service
        finally:
            await service.close()


async def run_daemon(
    config: PeerConfig,
    *,
    on_ready: Callable[[RuntimeRecord], None],
    stop: asyncio.Event | None = None,
    lock: Lock | None = None,
    fronts: Sequence[MakeFront] = (),
) -> None:
    """Serve until SIGTERM, SIGINT or `stop`; then withdraw, close and clean up, all within `STOP_TIMEOUT_S`."""
    stop = stop or asyncio.Event()
    serving = asyncio.ensure_future(_serve(config, on_ready, lock, fronts))
    stopping = asyncio.ensure_future(stop.wait())
    with _signals(stop, config):
        try:
            await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            serving.cancel()  # wherever it is: a stop during the start must not wait for the start to succeed
            await asyncio.wait({serving})
    if not serving.cancelled():
        serving.result()


async def _serve(
    config: PeerConfig, on_ready: Callable[[RuntimeRecord], None], lock: Lock | None, fronts: Sequence[MakeFront]
) -> None:
    async with open_daemon(config, lock, fronts) as record:
        on_ready(record)
        await asyncio.Event().wait()  # until it is cancelled, here and at no later point, so that the end is orderly


@asynccontextmanager
async def open_daemon(
    config: PeerConfig, lock: Lock | None = None, fronts: Sequence[MakeFront] = ()
) -> AsyncIterator[RuntimeRecord]:
    """A daemon for as long as the context lasts; raises as `open_peer` does, and as `ControlServer.start`."""
    async with AsyncExitStack() as stack:
        peer, service = await stack.enter_async_context(open_peer(config, lock))
        made = [make(peer) for make in fronts]
        for front in made:
            stack.push_async_callback(front.close)

        async def not_ready() -> str:
            # The first peer of a network has nobody to wait for.
            if config.entry_peers and not (await service.status()).neighbours:
                return "no bootstrap peer has answered yet"
            return ""

        control = ControlServer(
            service,
            config.data_dir,
            http=config.http,
            http_explicit=config.http_explicit,
            not_ready=not_ready,
            limits=service,
            keeping=service,
            caring=service,
            open_reader=service.open_reader,
            fronts=made,
        )
        await control.start()
        stack.push_async_callback(control.stop)
        record = RuntimeRecord(
            pid=os.getpid(),
            peer_id=peer.peer_id.text,
            listen=str(peer.listen),
            http=control.http,
            socket=str(control.socket),
        )
        await write_runtime(config.data_dir, record)
        stack.callback(remove_runtime, config.data_dir)
        yield record


@contextmanager
def _signals(stop: asyncio.Event, config: PeerConfig) -> Iterator[None]:
    """SIGTERM and SIGINT set `stop`, once; a second one ends the process where it stands. Main thread only."""
    loop, numbers = asyncio.get_running_loop(), (signal.SIGTERM, signal.SIGINT)

    def received(number: int) -> None:
        if stop.is_set():
            os._exit(128 + number)
        _exit_at_last(config)
        stop.set()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    for number in numbers:
        loop.add_signal_handler(number, received, number)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def _exit_at_last(config: PeerConfig) -> None:
    """A thread that ends the process where a stop hangs: a disk or a peer must not keep a service from stopping."""

    def expire() -> None:
        remove_runtime(config.data_dir)
        sys.stderr.write(f"p2pmodel: error: did not stop within {STOP_TIMEOUT_S:.0f} s; ended without cleaning up\n")
        sys.stderr.flush()
        os._exit(1)

    timer = threading.Timer(STOP_TIMEOUT_S - _EXIT_MARGIN_S, expire)
    timer.daemon = True
    timer.start()
