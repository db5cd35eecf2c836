"""Ending tasks: in order, and in the same number of turns of the event loop in every version of Python."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any


async def ended(tasks: Iterable[asyncio.Future[Any]]) -> None:
    """Until all of them have ended; what they raised is theirs. Cancelled meanwhile, it cancels them and still waits.

    Not `asyncio.gather`: for tasks that have ended already it takes two turns of the loop in Python 3.11 and none from
    3.12 on, and the same seed has to give the same simulation in both.
    """
    tasks = list(tasks)
    interrupted: asyncio.CancelledError | None = None
    for task in tasks:
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError as error:
                interrupted = error
                for other in tasks:
                    other.cancel()
        if not task.cancelled():
            task.exception()  # looked at, so that nobody reports it as forgotten
    if interrupted is not None:
        raise interrupted


async def cancelled(tasks: Iterable[asyncio.Future[Any]]) -> None:
    """Cancel all of them, and wait until they have ended."""
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await ended(tasks)
