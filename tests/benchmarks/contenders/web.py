"""What people do without peers: nginx with sendfile, a client that writes a file, then a hash over the file.

The clients are aiohttp on uvloop and the program curl; the hashes BLAKE3 (what `b3sum` computes) and SHA-256 as OpenSSL
computes it, which takes a third of the time of `sha256sum` from coreutils.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from blake3 import blake3

from tests.benchmarks.contenders.contender import ONE_TO_ONE, Sample, Shape, Stage, Watched, ask_all
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


def _blake3(path: str | Path) -> str:
    return blake3(max_threads=blake3.AUTO).update_mmap(path).hexdigest()


def _sha256(path: str | Path) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_HASHES: dict[str, Callable[[str | Path], str]] = {"blake3": _blake3, "sha256": _sha256}


class Nginx:
    shapes: Sequence[Shape] = (ONE_TO_ONE,)

    def __init__(self, name: str, client: str = "aiohttp", hash_name: str = "blake3") -> None:
        self.name = name
        self.what = f"nginx with sendfile, {client} into a file, then {hash_name} over the file"
        self._client, self._hash = client, hash_name
        self._sender: Child | None = None

    def missing(self) -> str:
        modules = ("aiohttp", "uvloop") if self._client == "aiohttp" else ()
        absent = [name for name in modules if importlib.util.find_spec(name) is None]
        if self._client == "curl" and shutil.which("curl") is None:
            absent.append("the program curl")
        if shutil.which(_PROGRAM) is None:
            absent.append("the program nginx (or its path in the environment as NGINX)")
        return f"{', '.join(absent)}: not installed" if absent else ""

    def start(self, stage: Stage, senders: int) -> None:
        self._stage = stage
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        configuration = stage.work / "nginx.conf"
        user = "user root;" if os.geteuid() == 0 else ""
        configuration.write_text(
            _CONFIGURATION.format(work=stage.work, root=stage.source.parent, port=self._port, user=user)
        )
        program = shutil.which(_PROGRAM) or _PROGRAM
        self._sender = Child(
            [program, "-p", stage.work, "-e", stage.work / "error.log", "-c", configuration], stage.log
        )
        self._wait_until_it_answers()
        self._expected = _HASHES[self._hash](stage.source)

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

    def transfer(self, destinations: Sequence[Path]) -> Sample:
        assert self._sender is not None
        (destination,) = destinations
        destination.mkdir(parents=True)
        file = destination / self._stage.source.name
        argv = [sys.executable, "-m", _MODULE, self._client, self._hash]
        with child(argv, self._stage.log) as receiver:
            receiver.hear()
            watched = Watched([self._sender], [receiver])
            url = f"http://127.0.0.1:{self._port}/{file.name}"
            seconds = ask_all([receiver], [{"url": url, "to": str(file), "expected": self._expected}])
            return watched.sample(seconds, [file])

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


def _by_aiohttp(url: str, to: str) -> None:
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_fetch(url, to))


def _by_curl(url: str, to: str) -> None:
    subprocess.run(
        ["curl", "--disable", "--noproxy", "*", "--silent", "--show-error", "--fail", "--output", to, url], check=True
    )


def main() -> None:
    client, hash_name = sys.argv[1:]
    get = _by_aiohttp if client == "aiohttp" else _by_curl
    print(json.dumps({"ready": True}), flush=True)
    asked = json.loads(sys.stdin.readline())
    began = time.monotonic()
    get(asked["url"], asked["to"])
    found = _HASHES[hash_name](asked["to"])
    ended = time.monotonic()
    if found != asked["expected"]:
        raise SystemExit("the file is corrupt")
    print(json.dumps({"began": began, "ended": ended}), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
