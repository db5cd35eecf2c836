"""A reader that another process has open: a WebSocket on the control socket, which holds it for as long as it is open.

The first message opens it; then any number of ranges are wanted and waited for at once, and answered with where they
lie. Closing the connection, or the end of the process, closes the reader.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import msgspec
from aiohttp import WSMsgType, web

from p2pmodel.errors import P2PModelError, ServiceGoneError, UsageError
from p2pmodel.limits import API_BODY_BYTES_MAX, READ_ASKS_MAX
from p2pmodel.net import cancelled
from p2pmodel.peer.envelope import describe_error
from p2pmodel.peer.open_model import ReadAnswer, ReadAsk
from p2pmodel.peer.reader import Reader
from p2pmodel.peer.requests import ReadRequest

OpenReader = Callable[[ReadRequest], Awaitable[Reader]]
log = logging.getLogger(__name__)
_decoder, _encoder = msgspec.json.Decoder(ReadAsk), msgspec.json.Encoder()


async def serve_reader(
    request: web.Request, open_reader: OpenReader, running: set[asyncio.Future[object]]
) -> web.StreamResponse:
    """Until the other side has gone. What waits is in `running`; to cancel it there answers that the peer stops."""
    socket = web.WebSocketResponse(max_msg_size=API_BODY_BYTES_MAX)
    await socket.prepare(request)
    desk = _Desk(socket, open_reader, running)
    try:
        async for message in socket:
            if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
                break
            desk.ask(message.data)
    finally:
        await desk.close()
    return socket


class _Desk:
    """One connection: what it asks, and the reader that it has."""

    def __init__(
        self, socket: web.WebSocketResponse, open_reader: OpenReader, running: set[asyncio.Future[object]]
    ) -> None:
        self._socket, self._open_reader, self._running = socket, open_reader, running
        self._reader: Reader | None = None
        self._tasks: set[asyncio.Future[object]] = set()

    def ask(self, data: str | bytes) -> None:
        """Raises nothing: what is no question, or one too many, is answered with an error."""
        ask_id = -1
        try:
            ask = _decoder.decode(data)
            ask_id = ask.id
            if len(self._tasks) >= READ_ASKS_MAX:
                raise UsageError(f"more than {READ_ASKS_MAX} ranges are waited for at once")
            if ask.do == "want":  # at once, so that it is brought in the order in which it was said
                self._opened.want(ask.path, ask.start, ask.end)
            elif ask.do == "want_all":
                self._opened.want_all()
            else:
                self._start(self._answer(ask))
        except P2PModelError as error:
            self._start(self._send(ReadAnswer(ask_id, error=describe_error(error))))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            self._start(self._send(ReadAnswer(-1, error=describe_error(UsageError(f"not a question: {error}")))))

    @property
    def _opened(self) -> Reader:
        if self._reader is None:
            raise UsageError("nothing is open on this connection")
        return self._reader

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task: asyncio.Future[Any] = asyncio.get_running_loop().create_task(work)
        for those in (self._tasks, self._running):
            those.add(task)
            task.add_done_callback(those.discard)

    async def _answer(self, ask: ReadAsk) -> None:
        try:
            answer = await (self._open(ask) if ask.do == "open" else self._ready(ask))
        except asyncio.CancelledError:
            answer = ReadAnswer(ask.id, error=describe_error(ServiceGoneError("the peer stops before this was read")))
        except P2PModelError as error:
            answer = ReadAnswer(ask.id, error=describe_error(error))
        except Exception as error:
            log.exception("a question about a model failed")
            answer = ReadAnswer(ask.id, error=describe_error(error))
        await self._send(answer)

    async def _open(self, ask: ReadAsk) -> ReadAnswer:
        if ask.open is None or self._reader is not None:
            raise UsageError("one model is opened on each connection, and it has to be named")
        reader = await self._open_reader(ask.open)
        if self._reader is not None or self._socket.closed:
            reader.close()
            raise UsageError("one model is opened on each connection")
        self._reader = reader
        return ReadAnswer(ask.id, model_id=reader.model_hex, files=list(reader.entries.values()))

    async def _ready(self, ask: ReadAsk) -> ReadAnswer:
        if ask.do == "whole":
            places = [await self._opened.whole_file(ask.path)]
        else:
            places = await self._opened.located(ask.path, ask.start, ask.end)
        return ReadAnswer(ask.id, places=places, bytes_fetched=self._opened.bytes_fetched)

    async def _send(self, answer: ReadAnswer) -> None:
        if not self._socket.closed:
            try:
                await self._socket.send_bytes(_encoder.encode(answer))
            except ConnectionError:
                pass  # it has just gone, and the reader is closed with it

    async def close(self) -> None:
        await cancelled(self._tasks)
        if self._reader is not None:
            self._reader.close()
