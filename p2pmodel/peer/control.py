"""The control API: what the command line and other programs ask of a running daemon, over HTTP.

Served on a Unix socket (mode 0600) and, unless it is off, on a loopback port behind `RequestGuard`. It owns no state
of the peer: every request becomes one call of a `PeerService`.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec
from aiohttp import web

from p2pmodel.errors import NetworkError, NotFoundError, P2PModelError, RefusedError, UsageError
from p2pmodel.limits import API_BODY_BYTES_MAX
from p2pmodel.net.address import Address, split_host_port
from p2pmodel.peer.control_reading import OpenReader, serve_reader
from p2pmodel.peer.control_schema import openapi_document
from p2pmodel.peer.control_stream import stream_operation
from p2pmodel.peer.envelope import ErrorBody, describe_error
from p2pmodel.peer.files import storage_errors
from p2pmodel.peer.guard import Handler, RequestGuard
from p2pmodel.peer.open_model import READ_PATH
from p2pmodel.peer.requests import (
    CaringService,
    CollectRequest,
    DoctorRequest,
    FetchRequest,
    KeepingService,
    KeepRequest,
    LimitsChange,
    LimitsService,
    PeerService,
    PublishRequest,
    RemoveRequest,
    SeedRequest,
    ShowRequest,
    VerifyRequest,
)
from p2pmodel.peer.runtime import api_token, choose_socket_path, remove_socket

R = TypeVar("R")
_HTTP_STATUS = {2: 400, 3: 404, 4: 502, 5: 504, 7: 507, 8: 403}
"""By exit code; anything else is 500."""
_ERROR_OF_STATUS: dict[int, type[P2PModelError]] = {401: RefusedError, 404: NotFoundError}


class Front(Protocol):
    """HTTP of another room, for other programs: all that lies below `prefix`, on the port and not on the socket.

    Requests change nothing there: their host and their origin are checked, and no token of ours is asked for.
    """

    @property
    def prefix(self) -> str: ...

    async def handle(self, request: web.Request) -> web.StreamResponse: ...

    async def close(self) -> None: ...


class ControlServer:
    """`http` is HOST:PORT or None for off. After `start`, `http` says where it really listens."""

    def __init__(
        self,
        service: PeerService,
        data_dir: Path,
        *,
        http: str | None,
        http_explicit: bool = False,
        not_ready: Callable[[], Awaitable[str]] | None = None,
        limits: LimitsService | None = None,
        keeping: KeepingService | None = None,
        caring: CaringService | None = None,
        open_reader: OpenReader | None = None,
        fronts: Sequence[Front] = (),
    ) -> None:
        """`not_ready` says in a sentence why the peer cannot serve yet, or an empty text.

        What `open_reader` opens is read on this machine's disk, so only the socket offers it.
        """
        self.http = http
        self.socket = choose_socket_path(data_dir)
        self._service = service
        self._data_dir = data_dir
        self._http_explicit = http_explicit
        self._not_ready = not_ready
        self._limits = limits
        self._keeping = keeping
        self._caring = caring
        self._open_reader = open_reader
        self._fronts = fronts
        self._runners: list[web.AppRunner] = []
        self._running: set[asyncio.Future[object]] = set()

    async def start(self) -> None:
        """Raises `NetworkError` where an explicit port is taken, `RefusedError` where a file cannot be written."""
        try:
            with storage_errors(f"open the control socket {self.socket}"):
                routes = [*self._routes(), *([web.get(READ_PATH, self._read)] if self._open_reader else [])]
                await self._serve(_open_unix_socket(self.socket), routes, [])
            if self.http is not None:
                listening = open_http_socket(self.http, explicit=self._http_explicit)
                bound = Address(*listening.getsockname()[:2])
                self.http = str(bound)
                guard = RequestGuard(bound, await api_token(self._data_dir))
                routes = [*self._routes(), *map(_route, self._fronts)]
                await self._serve(listening, routes, [guard.middleware(self._is_front)])
        except BaseException:
            await self.stop()
            raise

    async def drain(self, timeout_s: float) -> None:
        """Take no more connections, and wait so long for what is running."""
        for runner in self._runners:
            for site in list(runner.sites):
                await site.stop()
        if self._running:
            await asyncio.wait(self._running, timeout=timeout_s)

    async def stop(self) -> None:
        """Stop listening and cancel what is running."""
        for operation in list(self._running):
            operation.cancel()
        runners, self._runners = self._runners, []
        await asyncio.gather(*(runner.cleanup() for runner in runners))
        remove_socket(self.socket, self._data_dir)

    def _is_front(self, path: str) -> bool:
        return any(path.startswith(f"{front.prefix}/") for front in self._fronts)

    async def _serve(
        self,
        listening: socket.socket,
        routes: list[web.RouteDef],
        checks: list[Callable[..., Awaitable[web.StreamResponse]]],
    ) -> None:
        app = web.Application(middlewares=[_errors_as_json, *checks], client_max_size=API_BODY_BYTES_MAX)
        app.add_routes(routes)
        # A client that goes away cancels what it asked for; a stop does not wait for operations to end by themselves.
        runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.5)
        self._runners.append(runner)
        await runner.setup()
        await web.SockSite(runner, listening).start()

    def _routes(self) -> list[web.RouteDef]:
        return [
            web.get("/healthz", self._health),
            web.get("/readyz", self._ready),
            web.get("/openapi.json", self._openapi),
            web.get("/api/v1/status", self._status),
            web.get("/api/v1/peers", self._peers),
            web.get("/api/v1/models", self._models),
            web.get("/api/v1/usage", self._usage),
            web.get("/api/v1/limits", self._get_limits),
            web.put("/api/v1/limits", self._put_limits),
            web.post("/api/v1/show", self._show),
            web.post("/api/v1/publish", self._publish),
            web.post("/api/v1/seed", self._seed),
            web.post("/api/v1/doctor", self._doctor),
            web.post("/api/v1/fetch", self._fetch),
            web.post("/api/v1/verify", self._verify),
            web.post("/api/v1/pin", self._pin),
            web.post("/api/v1/unpin", self._unpin),
            web.post("/api/v1/rm", self._remove),
            web.post("/api/v1/gc", self._collect),
        ]

    async def _health(self, request: web.Request) -> web.Response:
        return _json({"status": "ok", "pid": os.getpid()})

    async def _ready(self, request: web.Request) -> web.Response:
        reason = await self._not_ready() if self._not_ready else ""
        if reason:
            return _json({"status": "not ready", "reason": reason}, status=503)
        return _json({"status": "ready"})

    async def _openapi(self, request: web.Request) -> web.Response:
        return _json(openapi_document())

    async def _status(self, request: web.Request) -> web.Response:
        # The peer does not know of this server, so where it listens is added here.
        return _json(msgspec.structs.replace(await self._service.status(), http=self.http))

    async def _peers(self, request: web.Request) -> web.Response:
        return _json({"peers": await self._service.neighbours()})

    async def _models(self, request: web.Request) -> web.Response:
        return _json({"models": await self._service.models()})

    async def _usage(self, request: web.Request) -> web.Response:
        return _json(await self._keeping_service().usage())

    async def _get_limits(self, request: web.Request) -> web.Response:
        return _json(await self._limits_service().limits())

    async def _put_limits(self, request: web.Request) -> web.Response:
        return _json(await self._limits_service().set_limits(await _body(request, LimitsChange)))

    def _limits_service(self) -> LimitsService:
        if self._limits is None:
            raise NotFoundError("this peer's limits cannot be changed")
        return self._limits

    async def _show(self, request: web.Request) -> web.StreamResponse:
        body = await _body(request, ShowRequest)
        return await stream_operation(request, lambda _: self._service.show(body), self._running)

    async def _publish(self, request: web.Request) -> web.StreamResponse:
        body = await _body(request, PublishRequest)
        return await stream_operation(request, lambda report: self._service.publish(body, report), self._running)

    async def _seed(self, request: web.Request) -> web.StreamResponse:
        caring, body = self._caring_service(), await _body(request, SeedRequest)
        return await stream_operation(request, lambda report: caring.seed(body, report), self._running)

    async def _doctor(self, request: web.Request) -> web.StreamResponse:
        caring, body = self._caring_service(), await _body(request, DoctorRequest)
        return await stream_operation(request, lambda report: caring.doctor(body, report), self._running)

    def _caring_service(self) -> CaringService:
        if self._caring is None:
            raise NotFoundError("this peer takes no care of files")
        return self._caring

    async def _fetch(self, request: web.Request) -> web.StreamResponse:
        body = await _body(request, FetchRequest)
        return await stream_operation(request, lambda report: self._service.fetch(body, report), self._running)

    async def _verify(self, request: web.Request) -> web.StreamResponse:
        body = await _body(request, VerifyRequest)
        return await stream_operation(request, lambda report: self._service.verify(body, report), self._running)

    async def _read(self, request: web.Request) -> web.StreamResponse:
        assert self._open_reader is not None
        return await serve_reader(request, self._open_reader, self._running)

    def _keeping_service(self) -> KeepingService:
        if self._keeping is None:
            raise NotFoundError("what this peer keeps cannot be changed")
        return self._keeping

    async def _pin(self, request: web.Request) -> web.StreamResponse:
        keeping, body = self._keeping_service(), await _body(request, KeepRequest)
        return await stream_operation(request, lambda _: keeping.pin(body), self._running)

    async def _unpin(self, request: web.Request) -> web.StreamResponse:
        keeping, body = self._keeping_service(), await _body(request, KeepRequest)
        return await stream_operation(request, lambda _: keeping.unpin(body), self._running)

    async def _remove(self, request: web.Request) -> web.StreamResponse:
        keeping, body = self._keeping_service(), await _body(request, RemoveRequest)
        return await stream_operation(request, lambda _: keeping.remove(body), self._running)

    async def _collect(self, request: web.Request) -> web.StreamResponse:
        keeping, body = self._keeping_service(), await _body(request, CollectRequest)
        return await stream_operation(request, lambda _: keeping.collect(body), self._running)


def _route(front: Front) -> web.RouteDef:
    return web.route("*", f"{front.prefix}/{{tail:.*}}", front.handle)


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except P2PModelError as error:
        return _json(ErrorBody(error=describe_error(error)), status=_HTTP_STATUS.get(error.exit_code, 500))
    except web.HTTPException as error:
        kind = _ERROR_OF_STATUS.get(error.status, UsageError)
        info = describe_error(kind(f"{request.method} {request.path}: {error.reason}"))
        return _json(ErrorBody(error=info), status=error.status)


async def _body(request: web.Request, kind: type[R]) -> R:
    """Raises `UsageError` naming the field at fault; aiohttp refuses a longer body than the limit with 413."""
    try:
        return msgspec.json.decode(await request.read(), type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"not a request: {error}") from error


def _json(value: object, *, status: int = 200) -> web.Response:
    headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    return web.Response(
        body=msgspec.json.encode(value), status=status, content_type="application/json", headers=headers
    )


def _open_unix_socket(path: Path) -> socket.socket:
    """Mode 0600 from its first moment. The caller owns the directory's lock, so an old file there is a leftover."""
    path.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(listening.fileno(), 0o600)  # Linux gives the file the mode that the socket has when it is bound
        listening.bind(str(path))
        path.chmod(0o600)
        listening.listen(64)
        listening.setblocking(False)
    except BaseException:
        listening.close()
        raise
    return listening


def open_http_socket(where: str, *, explicit: bool) -> socket.socket:
    """Listen on HOST:PORT; where a port that nobody insisted on is taken, on a free one. Raises `NetworkError`."""
    host, port = split_host_port(where)
    try:
        family, kind, protocol, _, found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise NetworkError(f"the HTTP address {where} cannot be resolved: {error.strerror or error}") from error
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(found)
        except OSError as error:
            if explicit or error.errno != errno.EADDRINUSE:
                raise
            listening.bind((found[0], 0, *found[2:]))
        listening.listen(128)
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        reason = "the port is in use" if error.errno == errno.EADDRINUSE else (error.strerror or str(error))
        raise NetworkError(
            f"cannot listen for HTTP on {where}: {reason}; choose another with --http, or --http off"
        ) from error
    return listening
