"""A model that is open for reading in a daemon, or in another command's peer: the other end of `control_reading.py`."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping

import aiohttp
import msgspec

from p2pmodel.errors import P2PModelError, ServiceGoneError
from p2pmodel.peer.envelope import rebuild_error
from p2pmodel.peer.open_model import Located, ReadAnswer, ReadAsk, ReadFile
from p2pmodel.peer.requests import ReadRequest

_decoder, _encoder = msgspec.json.Decoder(ReadAnswer), msgspec.json.Encoder()


class RemoteReader:
    """Made by `DaemonClient.open_reader`. Fills `OpenModel`; each call also raises `ServiceGoneError`."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, who: str) -> None:
        self._socket, self._who = socket, who
        self._ids = itertools.count()
        self._answers: dict[int, asyncio.Future[ReadAnswer]] = {}
        self._outbox: asyncio.Queue[ReadAsk] = asyncio.Queue()
        self._gone: P2PModelError | None = None
        self._closed = False
        loop = asyncio.get_running_loop()
        self._work = [loop.create_task(self._send()), loop.create_task(self._receive())]
        self.model_hex = ""
        self.entries: Mapping[str, ReadFile] = {}
        self.bytes_fetched = 0

    async def open(self, request: ReadRequest) -> None:
        answer = await self._ask(ReadAsk(next(self._ids), "open", open=request))
        self.model_hex, self.entries = answer.model_id, {file.path: file for file in answer.files}

    def want(self, path: str, start: int = 0, end: int | None = None) -> None:
        """As `Reader.want`, but that a range which is none is told of by the next `located`."""
        self._outbox.put_nowait(ReadAsk(next(self._ids), "want", path=path, start=start, end=end))

    def want_all(self) -> None:
        """As `Reader.want_all`."""
        self._outbox.put_nowait(ReadAsk(next(self._ids), "want_all"))

    async def located(self, path: str, start: int = 0, end: int | None = None) -> list[Located]:
        """As `Reader.located`."""
        answer = await self._ask(ReadAsk(next(self._ids), "ready", path=path, start=start, end=end))
        self.bytes_fetched = answer.bytes_fetched
        return answer.places

    async def whole_file(self, path: str) -> Located:
        """As `Reader.whole_file`."""
        answer = await self._ask(ReadAsk(next(self._ids), "whole", path=path))
        self.bytes_fetched = answer.bytes_fetched
        return answer.places[0]

    def close(self) -> None:
        """The daemon closes its reader when the connection ends."""
        if not self._closed:
            self._closed = True
            self._end(ServiceGoneError("this reader is closed"))
            asyncio.get_running_loop().create_task(self._hang_up()).add_done_callback(lambda _: None)

    async def _hang_up(self) -> None:
        for task in self._work:
            task.cancel()
        await asyncio.wait(self._work)
        await self._socket.close()

    async def _ask(self, ask: ReadAsk) -> ReadAnswer:
        if self._gone is not None:
            raise self._gone
        answer: asyncio.Future[ReadAnswer] = asyncio.get_running_loop().create_future()
        self._answers[ask.id] = answer
        self._outbox.put_nowait(ask)
        try:
            got = await answer
        finally:
            self._answers.pop(ask.id, None)
        if got.error is not None:
            raise rebuild_error(got.error)
        return got

    async def _send(self) -> None:
        while True:
            ask = await self._outbox.get()
            try:
                await self._socket.send_bytes(_encoder.encode(ask))
            except ConnectionError:
                return  # `_receive` says so

    async def _receive(self) -> None:
        try:
            async for message in self._socket:
                if message.type is not aiohttp.WSMsgType.BINARY:
                    break
                answer = _decoder.decode(message.data)
                if (waiting := self._answers.get(answer.id)) is not None and not waiting.done():
                    waiting.set_result(answer)
        except msgspec.MsgspecError as error:
            self._end(P2PModelError(f"the daemon's answer is not understood ({error}); is it of another version?"))
            return
        except (aiohttp.ClientError, OSError):
            pass
        self._end(ServiceGoneError(f"{self._who} went away before this was read"))

    def _end(self, error: P2PModelError) -> None:
        self._gone = self._gone or error
        for waiting in self._answers.values():
            if not waiting.done():
                waiting.set_exception(self._gone)
