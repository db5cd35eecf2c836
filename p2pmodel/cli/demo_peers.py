"""The peers of the demo: daemons as processes of their own, in a network of their own, and their certain end."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from p2pmodel.errors import NetworkError, P2PModelError
from p2pmodel.limits import STOP_TIMEOUT_S
from p2pmodel.peer.client import DaemonClient, find_daemon
from p2pmodel.peer.runtime import read_tail

_START_TIMEOUT_S = 20.0


class _Ready(msgspec.Struct):
    event: str
    peer_id: str
    listen: str


@dataclass(frozen=True, slots=True)
class DemoPeer:
    """A running daemon, numbered from 1."""

    number: int
    peer_id: str
    listen: str
    directory: Path
    process: asyncio.subprocess.Process
    client: DaemonClient

    @property
    def data_dir(self) -> Path:
        return self.directory / "data"


@asynccontextmanager
async def running_peers(count: int, directory: Path, network_name: str) -> AsyncIterator[list[DemoPeer]]:
    """`count` daemons, all entered through the first. However the body ends, none of their processes is left."""
    network = directory / "network.toml"
    network.write_text(f'name = "{network_name}"\nprofile = "cluster"\nbootstrap = []\n')
    processes: list[asyncio.subprocess.Process] = []
    peers: list[DemoPeer] = []
    try:
        first = await _start(1, directory, network, None, processes)
        peers.append(first)
        starts = [_start(n, directory, network, first.listen, processes) for n in range(2, count + 1)]
        peers += await asyncio.gather(*starts)
        yield peers
    finally:
        for peer in peers:
            await peer.client.close()
        await asyncio.shield(_stop(processes))


async def _start(
    number: int, directory: Path, network: Path, bootstrap: str | None, processes: list[asyncio.subprocess.Process]
) -> DemoPeer:
    home = directory / f"peer-{number}"
    home.mkdir()
    command = [sys.executable, "-m", "p2pmodel", "daemon", "--json", "--listen", "127.0.0.1:0", "--http", "off"]
    command += ["--data-dir", str(home / "data"), "--network", str(network), "--no-lan", "--encryption", "required"]
    # What this person has configured for the own peer must not colour the demo.
    command += ["--upload-limit", "unlimited", "--download-limit", "unlimited"]
    command += ["--bootstrap", bootstrap] if bootstrap else []
    environment = {key: value for key, value in os.environ.items() if not key.startswith("P2PMODEL_")}
    log = home / "daemon.log"
    with log.open("wb") as log_file:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=log_file,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the demo, which then stops them in order
        )
    processes.append(process)
    assert process.stdout is not None
    try:
        async with asyncio.timeout(_START_TIMEOUT_S):
            line = await process.stdout.readline()
        ready = msgspec.json.decode(line, type=_Ready)
    except (TimeoutError, msgspec.MsgspecError) as error:
        tail = " ".join((await read_tail(log, 600)).split())
        raise NetworkError(f"peer {number} of the demo did not start: {tail or 'it said nothing'}") from error
    client = await find_daemon(home / "data")
    if client is None:
        raise P2PModelError(f"peer {number} of the demo started and does not answer")
    return DemoPeer(number, ready.peer_id, ready.listen, home, process, client)


async def _stop(processes: list[asyncio.subprocess.Process]) -> None:
    """SIGTERM, then SIGKILL for what is still there after the time that a daemon may take. By process id only."""
    running = [process for process in processes if process.returncode is None]
    for process in running:
        _signal(process, signal.SIGTERM)
    try:
        async with asyncio.timeout(STOP_TIMEOUT_S):
            await asyncio.gather(*(process.wait() for process in running))
    except TimeoutError:
        for process in running:
            _signal(process, signal.SIGKILL)
        await asyncio.gather(*(process.wait() for process in running))


def _signal(process: asyncio.subprocess.Process, number: int) -> None:
    if process.returncode is None:
        try:
            process.send_signal(number)
        except ProcessLookupError:
            pass
