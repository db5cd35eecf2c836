"""The package's hub with one repository, beside a test that is no coroutine: what fills a real Hugging Face cache."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from p2pmodel.testing.hub import Hub

REPO = "org/tiny"


@contextmanager
def running(files: Mapping[str, bytes], cut: str = "") -> Iterator[tuple[str, str]]:
    """Its address, as `HF_ENDPOINT` takes it, and the commit of `REPO`. `cut` is a path that always ends half-way."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    hub = Hub(xet=False)
    commit = hub.add(REPO, files)
    hub.faults.cut[cut] = 1000
    try:
        asyncio.run_coroutine_threadsafe(hub.__aenter__(), loop).result()
        yield hub.url, commit
    finally:
        asyncio.run_coroutine_threadsafe(hub.die(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
