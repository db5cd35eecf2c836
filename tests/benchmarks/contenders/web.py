"""`nginx`: what people do without peers: nginx with sendfile, aiohttp on uvloop into a file, then BLAKE3 over it."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import shutil
import socket
import sys
import time
from pathlib import Path

from blake3 import blake3

from tests.benchmarks.contenders.contender import Sample, Stage, Watched
from tests.benchmarks.measure import MIB, BenchmarkError, Child, child

_MODULE = "tests.benchmarks.contenders.web"
_PROGRAM = os.environ.get("NGINX", "nginx")
_CONFIGURATION = """
daemon off;
worker_processes 2;
{user}
pid {work}/nginx.pid;
error_log {work}/error.log;
events {{ worker_connections 64; }}
http {{
    sendfile on; tcp_nopush on; sendfile_max_chunk 2m; access_log off; default_type application/octet-stream;
    client_body_temp_path {work}/body; proxy_temp_path {work}/proxy; fastcgi_temp_path {work}/fastcgi;
    uwsgi_temp_path {work}/uwsgi; scgi_temp_path {work}/scgi;
    server {{ listen 127.0.0.1:{port}; root {root}; }}
}}
"""


class Nginx:
    name = "nginx"
    what = "nginx with sendfile, aiohttp on uvloop into a file, then BLAKE3 over the file"

    def __init__(self) -> None:
        self._sender: Child | None = None

    def missing(self) -> str:
        absent = [name for name in ("aiohttp", "uvloop") if importlib.util.find_spec(name) is None]
        if shutil.which(_PROGRAM) is None:
            absent.append("the program nginx (or its path in the environment as NGINX)")
        return f"{', '.join(absent)}: not installed" if absent else ""

    def start(self, stage: Stage) -> None:
        self._stage = stage
        self._log = stage.work / "log"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        configuration = stage.work / "nginx.conf"
        user = "user root;" if os.geteuid() == 0 else ""
        configuration.write_text(
            _CONFIGURATION.format(work=stage.work, root=stage.source.parent, port=self._port, user=user)
        )
        program = shutil.which(_PROGRAM) or _PROGRAM
        self._sender = Child(
            [program, "-p", stage.work, "-e", stage.work / "error.log", "-c", configuration], self._log
        )
        self._wait_until_it_answers()
        self._expected = blake3(max_threads=blake3.AUTO).update_mmap(stage.source).hexdigest()

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self._port), timeout=1).close()
            except OSError:
                time.sleep(0.05)
            else:
                return
        raise BenchmarkError("nginx does not answer")

    def transfer(self, destination: Path) -> Sample:
        assert self._sender is not None
        destination.mkdir()
        file = destination / self._stage.source.name
        with child([sys.executable, "-m", _MODULE], self._log) as receiver:
            receiver.hear()
            watched = Watched(self._sender, receiver)
            url = f"http://127.0.0.1:{self._port}/{file.name}"
            answer = receiver.ask(url=url, to=str(file), expected=self._expected)
            return watched.sample(answer["seconds"], file)

    def stop(self) -> None:
        if self._sender is not None:
            self._sender.stop()


async def _fetch(url: str, to: str) -> None:
    import aiohttp

    limits = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(read_bufsize=MIB, timeout=limits) as session, session.get(url) as response:
        response.raise_for_status()
        # Blocking writes into the page cache, as every such script does; aiofiles would only add a thread's hops.
        with open(to, "wb", buffering=0) as file:  # noqa: ASYNC230, PTH123
            async for data in response.content.iter_any():
                file.write(data)


def main() -> None:
    import uvloop

    print(json.dumps({"ready": True}), flush=True)
    asked = json.loads(sys.stdin.readline())
    began = time.monotonic()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_fetch(asked["url"], asked["to"]))
    found = blake3(max_threads=blake3.AUTO).update_mmap(asked["to"]).hexdigest()
    seconds = time.monotonic() - began
    if found != asked["expected"]:
        raise SystemExit("the file is corrupt")
    print(json.dumps({"seconds": seconds}), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
