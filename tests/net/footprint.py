"""What this process holds: descriptors, threads, tasks. Counted before and after, so that nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from dataclasses import dataclass


@dataclass(frozen=True)
class Footprint:
    descriptors: int
    threads: int
    tasks: int

    @classmethod
    def now(cls) -> Footprint:
        return cls(len(os.listdir("/proc/self/fd")), threading.active_count(), len(asyncio.all_tasks()))  # noqa: PTH208


async def returns_to(before: Footprint, *, threads_more: int = 8, patience_s: float = 10.0) -> None:
    """Until no more is held than before, but for the threads by which a pool may have grown."""

    def returned(now: Footprint) -> bool:
        fewer = now.descriptors <= before.descriptors and now.tasks <= before.tasks
        return fewer and now.threads <= before.threads + threads_more

    loop = asyncio.get_running_loop()
    until = loop.time() + patience_s
    while not returned(Footprint.now()):
        assert loop.time() < until, f"{before} has become {Footprint.now()}"
        gc.collect()
        await asyncio.sleep(0.005)
