"""Waiting for what other tasks bring about, without guessing how long they take."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def comes_true(condition: Callable[[], object], timeout_s: float = 15.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110  (there is no event for every condition)
            await asyncio.sleep(0.01)
