"""The command line as a person runs it: a process, and a daemon whose answers the test sets."""

import asyncio
import os
import sys
from dataclasses import dataclass
from unittest.mock import patch

import msgspec
import pytest

from p2pmodel.cli.main import run_command_line
from p2pmodel.peer.control import ControlServer
from p2pmodel.peer.inventory import ModelDetail, ModelFile, ModelSummary, Signer
from p2pmodel.peer.reports import BadRange, FetchReport, PeerBytes, Progress, PublishReport, VerifyReport
from p2pmodel.peer.runtime import RuntimeRecord, write_runtime
from p2pmodel.peer.status import Limits, Neighbour, PeerStatus

MODEL_ID = "ab" * 32
PEER_ID = "p" * 52


@dataclass
class Result:
    code: int
    out: str
    err: str


class Terminal:
    """Runs commands on one data directory, without any settings of the person who runs the tests.

    A call runs the program's `main` in a thread of this process, which takes milliseconds; `start` and `process` run
    it as a process of its own.
    """

    def __init__(self, directory, capsys):
        self.data_dir = directory / "data"
        self.directory = directory
        self._capsys = capsys
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("P2PMODEL_")} | {
            "P2PMODEL_DATA_DIR": str(self.data_dir),
            "P2PMODEL_ORIGIN": "off",
            "XDG_CONFIG_HOME": str(directory / "config"),
            "XDG_DATA_HOME": str(directory / "share"),
        }

    async def __call__(self, *arguments, environment=None):
        self._capsys.readouterr()
        with patch.dict(os.environ, self.environment | (environment or {}), clear=True):
            code = await asyncio.to_thread(run_command_line, [str(argument) for argument in arguments])
        written = self._capsys.readouterr()
        return Result(code, written.out, written.err)

    async def start(self, *arguments, environment=None, interpreter_options=()):
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *interpreter_options,
            "-m",
            "p2pmodel",
            *map(str, arguments),
            env=self.environment | (environment or {}),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def process(self, *arguments, **options):
        process = await self.start(*arguments, **options)
        out, err = await process.communicate()
        return Result(process.returncode, out.decode(), err.decode())


@pytest.fixture
def p2pmodel(tmp_path, capsys):
    return Terminal(tmp_path, capsys)


class FakeService:
    """A `PeerService` whose answers the test sets."""

    model_id = MODEL_ID
    peer_id = PEER_ID

    def __init__(self):
        self.error = None
        self.requests = []
        self.fetching = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.endless = False
        self.sick = False
        self.limited = Limits()
        self.message = ""
        self.summaries = [summary()]
        self.reported = {}
        """Fields of the status that differ from the usual."""

    async def status(self):
        usual = PeerStatus(
            peer_id=PEER_ID,
            listen="127.0.0.1:8764",
            http=None,
            data_dir="/d",
            network="lab",
            version="0.1.0",
            pid=os.getpid(),
            uptime_s=61,
            neighbours=2,
            connections=1,
            models=1,
            chunks_held=3,
            keys_announced=4,
            records_held=5,
            bytes_sent=2048,
            bytes_received=1024,
            transfers=[],
            warnings=["the clock is off"],
        )
        return msgspec.structs.replace(usual, **self.reported)

    async def limits(self):
        return self.limited

    async def set_limits(self, change):
        self.requests.append(change)
        self.limited = msgspec.structs.replace(self.limited, **msgspec.to_builtins(change))
        return self.limited

    async def neighbours(self):
        connection = Neighbour(
            peer_id=PEER_ID,
            address="10.0.0.1:1",
            kind="connection",
            agent="evil\x1b[2J",
            send_rate_bytes_per_s=3 << 20,
            requests_in=17,
            in_upload_slot=True,
        )
        return [connection, Neighbour(peer_id="q" * 52, address="10.0.0.2:1", kind="overlay")]

    async def models(self):
        return self.summaries

    async def show(self, request):
        self.requests.append(request)
        file = ModelFile(
            path="model.safetensors", size=1 << 20, blake3="a" * 64, sha256="b" * 64, chunks=1, bytes_held=0
        )
        signer = Signer(key=PEER_ID, alias="alice", trusted=True, name="demo", message=self.message, issued_at=86400)
        return ModelDetail(model=summary(), chunker="tensor-1", manifest_bytes=300, files=[file], signers=[signer])

    async def publish(self, request, on_progress=None):
        self.requests.append(request)
        return PublishReport(
            model_id=MODEL_ID,
            path=request.path,
            files=2,
            bytes_total=1 << 20,
            chunks=3,
            signed_by=PEER_ID,
            seconds=0.5,
            skipped=[".git"],
            announced=True,
        )

    async def fetch(self, request, on_progress=None):
        self.requests.append(request)
        if self.error:
            raise self.error
        on_progress(Progress(phase="transfer", bytes_done=512 << 10, bytes_total=1 << 20, peers=2))
        self.fetching.set()
        if self.endless:
            try:
                await asyncio.Event().wait()
            finally:
                self.cancelled.set()
        return FetchReport(
            model_id=MODEL_ID,
            path=request.to or "/models/demo",
            files=2,
            bytes_total=1 << 20,
            bytes_fetched=1 << 20,
            bytes_reused=0,
            bytes_wasted=0,
            seconds=1,
            chunks_rejected=1,
            peers=[
                PeerBytes(peer_id=PEER_ID, address="10.0.0.1:1", bytes=1 << 19),
                PeerBytes(peer_id="q" * 52, address="10.0.0.2:1", bytes=1 << 19, rejected=1),
            ],
        )

    async def verify(self, request, on_progress=None):
        self.requests.append(request)
        bad = (
            [BadRange(file="model.safetensors", offset=1024, length=1024, reason="the hash differs")]
            if self.sick
            else []
        )
        return VerifyReport(
            model_id=MODEL_ID, path="/m", files=2, bytes_checked=10, ok=not self.sick, bad=bad, seconds=0.1
        )

    def change(self, **changes):
        self.summaries.append(summary(**changes))

    async def close(self):
        pass


def summary(**changes):
    values = {
        "model_id": MODEL_ID,
        "name": "lab/demo",
        "path": "/models/demo",
        "state": "partial",
        "files": 2,
        "bytes_total": 1000,
        "bytes_held": 999,
        "chunks": 3,
        "chunks_held": 2,
    }
    return ModelSummary(**(values | changes))


@pytest.fixture
async def daemon(p2pmodel):
    """A daemon on the terminal's data directory, played by `FakeService`."""
    service = FakeService()
    p2pmodel.data_dir.mkdir()
    server = ControlServer(service, p2pmodel.data_dir, http=None, limits=service, caring=service)
    await server.start()
    record = RuntimeRecord(
        pid=os.getpid(), peer_id=PEER_ID, listen="127.0.0.1:8764", http=None, socket=str(server.socket)
    )
    await write_runtime(p2pmodel.data_dir, record)
    yield service
    await server.stop()
