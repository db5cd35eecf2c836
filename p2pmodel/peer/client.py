"""A running daemon as a `PeerService`: the same calls, errors and reports as a peer in this process.

Giving up a call (cancelling it, or ending this process) closes its connection, and that stops the work in the daemon.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import aiohttp
import msgspec

from p2pmodel.errors import NetworkError, P2PModelError, ServiceGoneError
from p2pmodel.peer.envelope import ErrorBody, ErrorInfo, ModelList, PeerList, rebuild_error
from p2pmodel.peer.inventory import CollectReport, DiskUsage, ModelDetail, ModelSummary, PinReport, RemoveReport
from p2pmodel.peer.open_model import READ_PATH
from p2pmodel.peer.reports import DoctorReport, FetchReport, Progress, PublishReport, SeedReport, VerifyReport
from p2pmodel.peer.requests import (
    CollectRequest,
    DoctorRequest,
    FetchRequest,
    KeepRequest,
    LimitsChange,
    OnProgress,
    PublishRequest,
    ReadRequest,
    RemoveRequest,
    SeedRequest,
    ShowRequest,
    VerifyRequest,
)
from p2pmodel.peer.runtime import RuntimeRecord, read_runtime
from p2pmodel.peer.status import Limits, Neighbour, PeerStatus

if TYPE_CHECKING:
    from p2pmodel.peer.remote_reader import RemoteReader

T = TypeVar("T")
_KNOCK_TIMEOUT_S = 3.0
_JSON = {"Content-Type": "application/json"}
_URL = "http://localhost"  # the Unix socket decides who answers; HTTP only wants some name


class _Event(msgspec.Struct, frozen=True):
    event: str
    progress: Progress | None = None
    result: msgspec.Raw = msgspec.Raw()
    error: ErrorInfo | None = None


async def find_daemon(data_dir: Path) -> DaemonClient | None:
    """The daemon that owns this data directory, or None where no daemon answers.

    Raises `NetworkError` where one is there (its socket accepts) and does not answer in time.
    """
    record = await read_runtime(data_dir)
    if record is None:
        return None
    client = DaemonClient(record)
    try:
        async with asyncio.timeout(_KNOCK_TIMEOUT_S):
            alive = await client.knock()
    except TimeoutError:
        await client.close()
        raise NetworkError(
            f"the daemon (process {record.pid}) does not answer on {record.socket}; stop it and start it again"
        ) from None
    if not alive:
        await client.close()
        return None
    return client


class DaemonClient:
    """Fills `PeerService`, `LimitsService`, `KeepingService` and `CaringService`.

    Each method also raises `ServiceGoneError` where the daemon goes away in the middle.
    """

    def __init__(self, record: RuntimeRecord) -> None:
        self.record = record
        self._session = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(path=record.socket),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_KNOCK_TIMEOUT_S),
        )

    async def knock(self) -> bool:
        """Whether the daemon answers. A refused or missing socket is a plain no."""
        try:
            async with self._session.get(f"{_URL}/healthz") as response:
                return response.status == 200
        except (aiohttp.ClientError, OSError):
            return False

    async def status(self) -> PeerStatus:
        return await self._read("/api/v1/status", PeerStatus)

    async def neighbours(self) -> list[Neighbour]:
        return (await self._read("/api/v1/peers", PeerList)).peers

    async def models(self) -> list[ModelSummary]:
        return (await self._read("/api/v1/models", ModelList)).models

    async def limits(self) -> Limits:
        return await self._read("/api/v1/limits", Limits)

    async def set_limits(self, change: LimitsChange) -> Limits:
        body = msgspec.json.encode(change)
        async with (
            self._daemon_errors(),
            self._session.put(f"{_URL}/api/v1/limits", data=body, headers=_JSON) as response,
        ):
            return _decode(await _checked(response), Limits)

    async def show(self, request: ShowRequest) -> ModelDetail:
        return await self._operate("/api/v1/show", request, ModelDetail, None)

    async def publish(self, request: PublishRequest, on_progress: OnProgress | None = None) -> PublishReport:
        return await self._operate("/api/v1/publish", request, PublishReport, on_progress)

    async def seed(self, request: SeedRequest, on_progress: OnProgress | None = None) -> SeedReport:
        return await self._operate("/api/v1/seed", request, SeedReport, on_progress)

    async def doctor(self, request: DoctorRequest, on_progress: OnProgress | None = None) -> DoctorReport:
        return await self._operate("/api/v1/doctor", request, DoctorReport, on_progress)

    async def fetch(self, request: FetchRequest, on_progress: OnProgress | None = None) -> FetchReport:
        return await self._operate("/api/v1/fetch", request, FetchReport, on_progress)

    async def open_reader(self, request: ReadRequest) -> RemoteReader:
        """Raises as `Peer.open_reader` does."""
        from p2pmodel.peer.remote_reader import RemoteReader

        async with self._daemon_errors():
            try:
                socket = await self._session.ws_connect(_URL + READ_PATH, max_msg_size=0, heartbeat=None)
            except aiohttp.WSServerHandshakeError as error:
                raise P2PModelError("the daemon cannot open models for reading; is it of another version?") from error
        reader = RemoteReader(socket, f"the daemon (process {self.record.pid})")
        try:
            await reader.open(request)
        except BaseException:
            reader.close()
            raise
        return reader

    async def verify(self, request: VerifyRequest, on_progress: OnProgress | None = None) -> VerifyReport:
        return await self._operate("/api/v1/verify", request, VerifyReport, on_progress)

    async def pin(self, request: KeepRequest) -> PinReport:
        return await self._operate("/api/v1/pin", request, PinReport, None)

    async def unpin(self, request: KeepRequest) -> PinReport:
        return await self._operate("/api/v1/unpin", request, PinReport, None)

    async def remove(self, request: RemoveRequest) -> RemoveReport:
        return await self._operate("/api/v1/rm", request, RemoveReport, None)

    async def collect(self, request: CollectRequest) -> CollectReport:
        return await self._operate("/api/v1/gc", request, CollectReport, None)

    async def usage(self) -> DiskUsage:
        return await self._read("/api/v1/usage", DiskUsage)

    async def close(self) -> None:
        await self._session.close()

    async def _read(self, path: str, kind: type[T]) -> T:
        async with self._daemon_errors(), self._session.get(_URL + path) as response:
            return _decode(await _checked(response), kind)

    async def _operate(self, path: str, request: msgspec.Struct, kind: type[T], on_progress: OnProgress | None) -> T:
        body = msgspec.json.encode(request)
        async with (
            self._daemon_errors(),
            self._session.post(_URL + path, data=body, headers=_JSON) as response,
        ):
            if response.status != 200:
                await _checked(response)
            async for line in _lines(response.content):
                event = _decode(line, _Event)
                if event.progress is not None and on_progress is not None:
                    on_progress(event.progress)
                elif event.error is not None:
                    raise rebuild_error(event.error)
                elif event.event == "done":
                    return _decode(bytes(event.result), kind)
        raise self._gone()

    @asynccontextmanager
    async def _daemon_errors(self) -> AsyncIterator[None]:
        try:
            yield
        except (aiohttp.ClientError, OSError) as error:
            raise self._gone() from error

    def _gone(self) -> ServiceGoneError:
        return ServiceGoneError(f"the daemon (process {self.record.pid}) went away before this was done")


async def _checked(response: aiohttp.ClientResponse) -> bytes:
    body = await response.read()
    if response.status == 200:
        return body
    raise rebuild_error(_decode(body, ErrorBody).error)


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Whole lines of any length: aiohttp's own line reader gives up past 128 KiB, and a large manifest is longer."""
    pending: list[bytes] = []
    async for block in content.iter_any():
        head, newline, rest = block.partition(b"\n")
        pending.append(head)
        while newline:
            yield b"".join(pending)
            head, newline, rest = rest.partition(b"\n")
            pending = [head]


def _decode(data: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.MsgspecError as error:
        raise P2PModelError(
            f"the daemon's answer is not understood ({error}); is it of another version than this command?"
        ) from error
