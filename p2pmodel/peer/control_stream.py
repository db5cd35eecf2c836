"""One long operation as a stream of JSON Lines: progress while it runs, then exactly one line `done` or `error`.

Whoever reads slowly gets fewer progress lines, never a growing queue; whoever goes away cancels the operation.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import web

from p2pmodel.errors import P2PModelError, ServiceGoneError
from p2pmodel.peer.envelope import StreamEvent, describe_error
from p2pmodel.peer.reports import Progress
from p2pmodel.peer.requests import OnProgress

PROGRESS_INTERVAL_S = 0.1
log = logging.getLogger(__name__)


_encoder = msgspec.json.Encoder()


async def stream_operation(
    request: web.Request,
    operation: Callable[[OnProgress], Awaitable[object]],
    running: set[asyncio.Future[object]],
) -> web.StreamResponse:
    """Run `operation` and answer with its events. Cancelled together with the request.

    It is in `running` for as long as it runs; to cancel it there ends the stream with an error.
    """
    response = web.StreamResponse(
        headers={
            "Content-Type": "application/x-ndjson",
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
        }
    )
    await response.prepare(request)
    loop, wake, latest = asyncio.get_running_loop(), asyncio.Event(), _Latest()

    def on_progress(progress: Progress) -> None:
        latest.progress = progress
        loop.call_soon_threadsafe(wake.set)  # the operation may report from a thread

    task = asyncio.ensure_future(operation(on_progress))
    running.add(task)
    task.add_done_callback(lambda _: wake.set())
    task.add_done_callback(running.discard)
    try:
        while not task.done():
            await wake.wait()
            wake.clear()
            if progress := latest.take():
                await response.write(_line(StreamEvent(event="progress", progress=progress)))
                await asyncio.wait({task}, timeout=PROGRESS_INTERVAL_S)
        if progress := latest.take():
            await response.write(_line(StreamEvent(event="progress", progress=progress)))
        await response.write(_line(_outcome(task)))
        await response.write_eof()
    except ConnectionResetError:
        log.debug("the client of %s went away", request.path)
    finally:
        task.cancel()
        await asyncio.wait({task})
    return response


class _Latest:
    """A mailbox for one progress report: a newer one replaces it."""

    progress: Progress | None = None

    def take(self) -> Progress | None:
        progress, self.progress = self.progress, None
        return progress


def _outcome(task: asyncio.Future[object]) -> StreamEvent:
    if task.cancelled():
        return StreamEvent(
            event="error", error=describe_error(ServiceGoneError("the daemon stopped before this was done"))
        )
    if error := task.exception():
        if not isinstance(error, P2PModelError):
            log.error("an operation failed", exc_info=error)
        return StreamEvent(event="error", error=describe_error(error))
    return StreamEvent(event="done", result=task.result())


def _line(event: StreamEvent) -> bytes:
    return _encoder.encode(event) + b"\n"
