"""A peer that one command brings along, and that other commands on its data directory use for as long as it is there.

A data directory has one owner. Where that is a command and not a daemon, it opens the same control socket as a daemon,
so that twenty fetches started at once are one peer and one fetch. When the owner's own work is done it goes; whoever
is not done is told so, and the first of them becomes the next owner (`SharedService`): nothing is lost but time.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol, cast

from p2pmodel.errors import DirectoryInUseError, NetworkError, ServiceGoneError
from p2pmodel.peer.client import DaemonClient, find_daemon
from p2pmodel.peer.config import PeerConfig
from p2pmodel.peer.open_model import ReadingService
from p2pmodel.peer.requests import CaringService, KeepingService, PeerService
from p2pmodel.peer.runtime import RuntimeRecord, read_runtime, remove_runtime, write_runtime

if TYPE_CHECKING:
    from p2pmodel.peer.service import LocalService

_POLL_S = 0.05
_SILENCE_MAX_S = 15.0
"""How long somebody may have the data directory without answering: a start takes a second, a stop ten at most."""
_LINGER_S = 1.0
"""For those who wait for the very fetch that the owner has just finished: their answers take milliseconds."""


@asynccontextmanager
async def share_peer(config: PeerConfig, *, offline: bool) -> AsyncIterator[LocalService]:
    """A peer for one command, open to others. Raises `DirectoryInUseError` where somebody else is the owner."""
    # Where a daemon runs there is no need for one, and to load it takes longer than most that a daemon is asked for.
    from p2pmodel.peer.control import ControlServer
    from p2pmodel.peer.daemon import open_peer

    async with open_peer(config) as (peer, service):
        control = ControlServer(
            service,
            config.data_dir,
            http=None,
            limits=service,
            keeping=service,
            caring=service,
            open_reader=service.open_reader,
        )
        await control.start()
        try:
            record = RuntimeRecord(
                pid=os.getpid(),
                peer_id=peer.peer_id.text,
                listen=str(peer.listen),
                http=None,
                socket=str(control.socket),
                command="offline" if offline else "online",
            )
            await write_runtime(config.data_dir, record)
            try:
                yield service
            finally:
                remove_runtime(config.data_dir)
            await control.drain(_LINGER_S)
        finally:
            await control.stop()


class CommandService(PeerService, KeepingService, CaringService, ReadingService, Protocol):
    """All that a command may ask for."""


class SharedService:
    """Whoever owns a data directory, as a `PeerService`: a daemon, another command's peer, or else a peer of our own.

    Every call of a `CommandService` may be made; it is begun again where a command that served it has ended meanwhile.
    Where a daemon has, it raises `ServiceGoneError`: somebody stopped it, and may be about to start it again.
    """

    def __init__(self, config: PeerConfig, *, offline: bool, tell: Callable[[str], None]) -> None:
        """`offline`: what is called needs no other peer. `tell` says to the person why he waits."""
        self._config, self._offline, self._tell = config, offline, tell
        self._stack = AsyncExitStack()
        self._service: PeerService | None = None

    def as_service(self) -> CommandService:
        return cast(CommandService, self)

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        if name.startswith("_"):
            raise AttributeError(name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            while True:
                service = await self.attach()
                try:
                    return await getattr(service, name)(*args, **kwargs)
                except ServiceGoneError:
                    if not isinstance(service, DaemonClient) or not service.record.command:
                        raise
                    await self._detach()

        return call

    async def attach(self) -> PeerService:
        """The owner, which may be this process from now on. Raises as `open_peer` does."""
        clock, told = asyncio.get_running_loop().time, False
        silent_since = clock()
        while self._service is None:
            daemon = await self._knock(patient=clock() - silent_since < _SILENCE_MAX_S)
            if daemon is not None and (self._offline or daemon.record.command != "offline"):
                self._stack.push_async_callback(daemon.close)
                self._service = daemon
                break
            if daemon is not None:
                silent_since = clock()
                if not told:
                    told = True
                    self._tell(f"Waiting for another command (process {daemon.record.pid}) on {self._config.data_dir}.")
                await daemon.close()
            try:
                config = self._config.for_one_command(offline=self._offline)
                self._service = await self._stack.enter_async_context(share_peer(config, offline=self._offline))
            except DirectoryInUseError:
                if clock() - silent_since > _SILENCE_MAX_S:
                    raise
                await asyncio.sleep(_POLL_S)
        return self._service

    async def _knock(self, *, patient: bool) -> DaemonClient | None:
        try:
            return await find_daemon(self._config.data_dir)
        except NetworkError:
            record = await read_runtime(self._config.data_dir)
            if not patient or (record is not None and not record.command):
                raise
            return None  # a command that is starting or ending on a busy machine

    async def _detach(self) -> None:
        self._service = None
        await self._stack.aclose()

    async def __aenter__(self) -> CommandService:
        return self.as_service()

    async def __aexit__(self, kind: Any, error: Any, trace: Any) -> bool | None:
        return await self._stack.__aexit__(kind, error, trace)
