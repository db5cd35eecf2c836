"""The peers of the demo: daemons as processes of their own, in a network of their own, and their certain end."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
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


class DemoNetwork:
    """Daemons in a network of their own, entered through the first. After `stop` none of their processes is left."""

    def __init__(self, directory: Path, name: str) -> None:
        self.peers: list[DemoPeer] = []
        self._directory = directory
        self._network = directory / "network.toml"
        self._network.write_text(f'name = "{name}"\nprofile = "cluster"\nbootstrap = []\n')
        self._births: list[asyncio.Task[asyncio.subprocess.Process]] = []

    async def start(self, count: int) -> None:
        """Raises `NetworkError` with what the daemon said where one does not come up."""
        first = await self._start(1, None)
        self.peers.append(first)
        self.peers += await asyncio.gather(*(self._start(n, first.listen) for n in range(2, count + 1)))

    async def stop(self) -> None:
        """SIGTERM, then SIGKILL for what is still there after the time that a daemon may take. By process id only."""
        for peer in self.peers:
            await peer.client.close()
        born = await asyncio.gather(*self._births, return_exceptions=True)
        running = [process for process in born if not isinstance(process, BaseException)]
        for process in running:
            _signal(process, signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await asyncio.gather(*(process.wait() for process in running))
        except TimeoutError:
            for process in running:
                _signal(process, signal.SIGKILL)
            await asyncio.gather(*(process.wait() for process in running))

    async def _start(self, number: int, bootstrap: str | None) -> DemoPeer:
        home = self._directory / f"peer-{number}"
        home.mkdir()
        log = home / "daemon.log"
        # A cancellation must not lose a process that is just being born: it would outlive the demo.
        birth = asyncio.ensure_future(_spawn(self._command(home, bootstrap), log))
        self._births.append(birth)
        process = await asyncio.shield(birth)
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

    def _command(self, home: Path, bootstrap: str | None) -> list[str]:
        command = [sys.executable, "-m", "p2pmodel", "daemon", "--json", "--listen", "127.0.0.1:0", "--http", "off"]
        command += ["--data-dir", str(home / "data"), "--network", str(self._network), "--no-lan"]
        # What this person has configured for the own peer must not colour the demo.
        command += ["--encryption", "required", "--upload-limit", "unlimited", "--download-limit", "unlimited"]
        return command + (["--bootstrap", bootstrap] if bootstrap else [])


async def _spawn(command: list[str], log: Path) -> asyncio.subprocess.Process:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("P2PMODEL_")}
    with log.open("wb") as log_file:
        return await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=log_file,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the demo, which then stops them in order
        )


def _signal(process: asyncio.subprocess.Process, number: int) -> None:
    if process.returncode is None:
        try:
            process.send_signal(number)
        except ProcessLookupError:
            pass
