"""The control API: a daemon answers as a peer in this process would, and nobody else may speak to it.

Real sockets, a service that does nothing but what the test tells it to.
"""

import asyncio
import io
import os
import stat

import aiohttp
import msgspec
import pytest

from p2pmodel import errors
from p2pmodel.errors import NetworkError, NotFoundError, P2PModelError, UsageError
from p2pmodel.limits import API_BODY_BYTES_MAX
from p2pmodel.peer.client import DaemonClient, find_daemon
from p2pmodel.peer.control import ControlServer, open_http_socket
from p2pmodel.peer.envelope import ErrorInfo, describe_error, rebuild_error
from p2pmodel.peer.inventory import ModelDetail, ModelFile, ModelSummary
from p2pmodel.peer.reports import Progress, PublishReport, VerifyReport
from p2pmodel.peer.requests import FetchRequest, LimitsChange, PublishRequest, ShowRequest, VerifyRequest
from p2pmodel.peer.runtime import RuntimeRecord, read_runtime, remove_runtime, write_runtime
from p2pmodel.peer.status import Limits, PeerStatus

SUMMARY = ModelSummary(
    model_id="ab" * 32,
    name="lab/demo",
    path="/m",
    state="published",
    files=1,
    bytes_total=10,
    bytes_held=10,
    chunks=1,
    chunks_held=1,
)


class FakeService:
    """A `PeerService` whose answers the test sets."""

    def __init__(self):
        self.error: Exception | None = None
        self.requests = []
        self.cancelled = asyncio.Event()
        self.started = asyncio.Event()
        self.files = 1
        self.limited = Limits()

    async def status(self):
        if self.error:
            raise self.error
        return PeerStatus(
            peer_id="p",
            listen="127.0.0.1:1",
            http=None,
            data_dir="/d",
            network="lab",
            version="0",
            pid=os.getpid(),
            uptime_s=1,
            neighbours=0,
            connections=0,
            models=1,
            chunks_held=1,
            keys_announced=0,
            records_held=0,
            bytes_sent=0,
            bytes_received=0,
            transfers=[],
        )

    async def neighbours(self):
        return []

    async def models(self):
        return [SUMMARY]

    async def show(self, request):
        self.requests.append(request)
        file = ModelFile(path="x" * 900, size=10, blake3="a" * 64, sha256="b" * 64, chunks=1, bytes_held=10)
        return ModelDetail(model=SUMMARY, chunker="tensor-1", manifest_bytes=1, files=[file] * self.files, signers=[])

    async def publish(self, request, on_progress=None):
        self.requests.append(request)
        for done in range(1000):
            on_progress(Progress(phase="hashing", bytes_done=done, bytes_total=1000))
        await asyncio.to_thread(on_progress, Progress(phase="hashing", bytes_done=1000, bytes_total=1000))
        return PublishReport(
            model_id="ab" * 32, path=request.path, files=1, bytes_total=10, chunks=1, signed_by="k", seconds=0.1
        )

    async def fetch(self, request, on_progress=None):
        self.requests.append(request)
        if self.error:
            raise self.error
        self.started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def verify(self, request, on_progress=None):
        return VerifyReport(model_id="ab" * 32, path="/m", files=1, bytes_checked=10, ok=True, bad=[], seconds=0.1)

    async def limits(self):
        return self.limited

    async def set_limits(self, change):
        self.limited = msgspec.structs.replace(self.limited, **msgspec.to_builtins(change))
        return self.limited

    async def close(self):
        pass


@pytest.fixture
async def service():
    return FakeService()


@pytest.fixture
async def server(service, tmp_path):
    server = ControlServer(service, tmp_path, http="127.0.0.1:0", limits=service)
    await server.start()
    record = RuntimeRecord(
        pid=os.getpid(), peer_id="p", listen="127.0.0.1:1", http=server.http, socket=str(server.socket)
    )
    await write_runtime(tmp_path, record)
    yield server
    await server.stop()


@pytest.fixture
async def client(server, tmp_path):
    client = await find_daemon(tmp_path)
    assert client is not None
    yield client
    await client.close()


async def test_reports_come_through_the_socket_as_they_were(client, server):
    assert await client.models() == [SUMMARY]
    assert await client.neighbours() == []
    assert (await client.status()).http == server.http
    assert (await client.verify(VerifyRequest(target="/m"))).ok


async def test_progress_ends_with_the_newest_report_and_skips_what_nobody_read(client, service):
    seen = []
    report = await client.publish(PublishRequest(path="/m"), seen.append)
    assert report.path == "/m"
    assert seen[-1].bytes_done == 1000 and len(seen) < 100
    assert service.requests == [PublishRequest(path="/m")]


async def test_a_manifest_of_megabytes_is_one_line_that_arrives_whole(client, service):
    service.files = 5000
    detail = await client.show(ShowRequest(ref="x"))
    assert len(detail.files) == 5000


@pytest.mark.parametrize(
    "kind",
    [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, P2PModelError)],
)
def test_every_error_arrives_as_its_own_class(kind):
    rebuilt = rebuild_error(describe_error(kind("why")))
    assert (type(rebuilt), str(rebuilt), rebuilt.exit_code) == (kind, "why", kind.exit_code)


def test_an_error_of_an_unknown_class_keeps_its_exit_code():
    rebuilt = rebuild_error(ErrorInfo(name="FutureError", message="why", exit_code=7))
    assert (type(rebuilt), rebuilt.exit_code) == (P2PModelError, 7)
    assert type(rebuild_error(ErrorInfo(name="annotations", message="why"))) is P2PModelError


async def test_an_error_of_an_operation_and_of_a_read_is_raised_here(client, service):
    service.error = NotFoundError("nobody has it")
    with pytest.raises(NotFoundError, match="nobody has it"):
        await client.fetch(FetchRequest(ref="x"))
    with pytest.raises(NotFoundError):
        await client.status()


async def test_an_unexpected_error_in_the_daemon_does_not_end_it(client, service, caplog):
    service.error = ZeroDivisionError("oops")
    with pytest.raises(P2PModelError, match="internal error in the daemon: ZeroDivisionError"):
        await client.fetch(FetchRequest(ref="x"))
    assert "ZeroDivisionError" in caplog.text
    assert await client.models() == [SUMMARY]


async def test_giving_up_a_call_stops_the_work_in_the_daemon(client, service):
    call = asyncio.create_task(client.fetch(FetchRequest(ref="x")))
    await service.started.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await asyncio.wait_for(service.cancelled.wait(), 5)


async def test_a_daemon_that_stops_in_the_middle_is_an_error_of_the_call(client, service, server):
    call = asyncio.create_task(client.fetch(FetchRequest(ref="x")))
    await service.started.wait()
    await server.stop()
    with pytest.raises(NetworkError, match="the daemon stopped before this was done"):
        await call
    assert service.cancelled.is_set()


async def test_a_daemon_that_dies_in_the_middle_is_a_network_error(tmp_path):
    async def die(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await writer.drain()
        writer.transport.abort()

    path = tmp_path / "s"
    async with await asyncio.start_unix_server(die, path):
        client = DaemonClient(RuntimeRecord(pid=1, peer_id="p", listen="", http=None, socket=str(path)))
        with pytest.raises(NetworkError, match="went away"):
            await client.fetch(FetchRequest(ref="x"))
        await client.close()


async def test_a_record_that_a_killed_daemon_left_means_no_daemon(tmp_path, server):
    assert await find_daemon(tmp_path / "elsewhere") is None
    await server.stop()
    assert await read_runtime(tmp_path) is not None
    assert await find_daemon(tmp_path) is None
    remove_runtime(tmp_path)
    (tmp_path / "daemon.json").write_text("{")
    assert await find_daemon(tmp_path) is None


async def test_the_socket_is_private_and_gone_after_a_stop(tmp_path, server):
    assert stat.S_IMODE(server.socket.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "api-token").stat().st_mode) == 0o600
    await server.stop()
    assert not server.socket.exists()


async def test_a_data_directory_with_a_long_name_gets_a_short_socket(tmp_path, service):
    directory = tmp_path / ("d" * 120)
    directory.mkdir()
    server = ControlServer(service, directory, http=None)
    await server.start()
    assert len(os.fsencode(server.socket)) < 100 and stat.S_IMODE(server.socket.parent.stat().st_mode) == 0o700
    client = DaemonClient(RuntimeRecord(pid=1, peer_id="p", listen="", http=None, socket=str(server.socket)))
    assert await client.knock()
    await client.close()
    await server.stop()
    assert not server.socket.parent.exists()


# --- the HTTP port ------------------------------------------------------------------------------------------------


async def ask(server, method, path, *, body=b"{}", **headers):
    async with aiohttp.ClientSession() as session:
        names = {key.replace("_", "-"): value for key, value in headers.items() if value is not None}
        data = io.BytesIO(body) if method in ("POST", "PUT") else None
        async with session.request(method, f"http://{server.http}{path}", headers=names, data=data) as response:
            return response.status, await response.read()


def token(tmp_path):
    return f"Bearer {(tmp_path / 'api-token').read_text().strip()}"


async def test_reading_needs_no_token_and_changing_does(server, tmp_path):
    assert (await ask(server, "GET", "/healthz"))[0] == 200
    assert (await ask(server, "GET", "/api/v1/status"))[0] == 200
    json, body = "application/json", b'{"target": "/m"}'
    refused, text = await ask(server, "POST", "/api/v1/verify", body=body, Content_Type=json)
    assert refused == 401 and b"api-token" in text
    wrong = await ask(server, "POST", "/api/v1/verify", body=body, Content_Type=json, Authorization="Bearer x\xff")
    assert wrong[0] == 401
    done = await ask(server, "POST", "/api/v1/verify", body=body, Content_Type=json, Authorization=token(tmp_path))
    assert done[0] == 200 and msgspec.json.decode(done[1])["event"] == "done"


async def test_limits_are_changed_with_a_token_and_only_to_what_makes_sense(server, service, client, tmp_path):
    async def put(body, authorization):
        return await ask(
            server,
            "PUT",
            "/api/v1/limits",
            body=body,
            Content_Type="application/json",
            Authorization=authorization,
        )

    assert (await put(b'{"upload_bytes_per_s": 5}', None))[0] == 401
    for nonsense in (b'{"upload_bytes_per_s": 0}', b'{"upload_bytes_per_s": -1}', b'{"up": 1}', b"[]", b"{"):
        status, answer = await put(nonsense, token(tmp_path))
        assert status == 400 and b"UsageError" in answer
    assert service.limited == Limits()
    assert (await put(b'{"upload_bytes_per_s": 5, "download_bytes_per_s": 7}', token(tmp_path)))[0] == 200
    assert await client.set_limits(LimitsChange(upload_bytes_per_s=None)) == Limits(download_bytes_per_s=7)
    assert await client.limits() == Limits(download_bytes_per_s=7)
    assert msgspec.json.decode((await ask(server, "GET", "/api/v1/limits"))[1]) == {
        "upload_bytes_per_s": None,
        "download_bytes_per_s": 7,
    }


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.evil.com",
        "127.0.0.1.evil.com",
        "10.0.0.1",
        "127.0.0.1@evil.com",
        "[::1",
        "localhost.evil",
        "",
    ],
)
async def test_a_host_that_is_not_ours_is_refused(server, host):
    port = server.http.rpartition(":")[2]
    assert (await ask(server, "GET", "/healthz", Host=f"{host}:{port}"))[0] == 403


async def test_our_own_hosts_pass_and_another_port_does_not(server):
    port = int(server.http.rpartition(":")[2])
    for host in ("127.0.0.1", "localhost", "[::1]", "127.0.0.2"):
        assert (await ask(server, "GET", "/healthz", Host=f"{host}:{port}"))[0] == 200
        assert (await ask(server, "GET", "/healthz", Host=f"{host}:{port % 65535 + 1}"))[0] == 403
    assert (await ask(server, "GET", "/healthz", Host="127.0.0.1"))[0] == 403


async def test_a_request_from_another_origin_is_refused(server):
    for origin in ("http://evil.example", "null", "https://" + server.http, f"http://{server.http}.evil", "http://["):
        assert (await ask(server, "GET", "/healthz", Origin=origin))[0] == 403, origin
    assert (await ask(server, "GET", "/healthz", Origin=f"http://{server.http}"))[0] == 200


async def test_a_form_cannot_post(server, tmp_path):
    for kind in ("text/plain", "application/x-www-form-urlencoded", "application/jsonp"):
        status, _ = await ask(server, "POST", "/api/v1/fetch", Authorization=token(tmp_path), Content_Type=kind)
        assert status == 415


@pytest.mark.parametrize(
    ("body", "status"), [(b"{", 400), (b'{"ref": 1}', 400), (b"[]", 400), (b"x" * (API_BODY_BYTES_MAX + 1), 413)]
)
async def test_a_body_that_is_no_request_is_an_error_and_nothing_is_called(server, service, tmp_path, body, status):
    headers = {"Authorization": token(tmp_path), "Content_Type": "application/json"}
    answer = await ask(server, "POST", "/api/v1/fetch", body=body, **headers)
    assert answer[0] == status and "message" in msgspec.json.decode(answer[1])["error"]
    assert service.requests == []


async def test_an_unknown_path_and_method_are_errors_in_json(server):
    assert (await ask(server, "GET", "/nothing"))[0] == 404
    status, body = await ask(server, "GET", "/api/v1/fetch")
    assert status == 405 and msgspec.json.decode(body)["error"]["class"] == "UsageError"


async def test_readiness_says_why_not(service, tmp_path):
    reason = "no bootstrap peer has answered yet"

    async def not_ready():
        return reason

    server = ControlServer(service, tmp_path, http="127.0.0.1:0", not_ready=not_ready)
    await server.start()
    status, body = await ask(server, "GET", "/readyz")
    assert status == 503 and reason.encode() in body
    reason = ""
    assert (await ask(server, "GET", "/readyz"))[0] == 200
    await server.stop()


async def test_the_description_names_every_path_and_resolves(server):
    _, body = await ask(server, "GET", "/openapi.json")
    document = msgspec.json.decode(body)
    assert {"/healthz", "/api/v1/fetch", "/api/v1/status", "/api/v1/limits"} <= set(document["paths"])
    schemas = document["components"]["schemas"]
    for part in body.decode().split('"$ref":"')[1:]:
        assert part.partition('"')[0].rpartition("/")[2] in schemas


async def test_a_default_port_gives_way_and_an_explicit_one_is_an_error():
    taken = open_http_socket("127.0.0.1:0", explicit=True)
    where = f"127.0.0.1:{taken.getsockname()[1]}"
    other = open_http_socket(where, explicit=False)
    assert other.getsockname()[1] != taken.getsockname()[1]
    with pytest.raises(NetworkError, match="the port is in use"):
        open_http_socket(where, explicit=True)
    with pytest.raises(UsageError):
        open_http_socket("nonsense", explicit=True)
    taken.close()
    other.close()
