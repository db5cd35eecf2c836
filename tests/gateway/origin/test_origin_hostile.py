"""An origin that lies, leads astray or never ends: an error in time, and nothing is asked where nothing should be."""

import asyncio
import socket

import pytest

from p2pmodel.errors import GatedError, NetworkError, P2PModelError, RateLimitedError
from p2pmodel.gateway.origin import Origin
from p2pmodel.gateway.origin_addresses import INTERNET, NEVER, PRIVATE, THIS_MACHINE, GuardedResolver, nearness
from p2pmodel.gateway.repositories import RepoAddress, Token
from p2pmodel.limits import ORIGIN_HEADER_BYTES_MAX, ORIGIN_JSON_BYTES_MAX
from tests.gateway.origin.origins import noise

WEIGHTS = noise(300_000)
REPO = RepoAddress("model", "org/model")


@pytest.fixture
async def origin(hub):
    hub.add("org/model", {"model.safetensors": WEIGHTS, "a.txt": b"a"})
    client = Origin(hub.url)
    yield client
    await client.close()


async def content(origin, token=None):
    async with origin.content(REPO, "model.safetensors", token, 0, len(WEIGHTS)) as pieces:
        return b"".join([piece async for piece in pieces])


@pytest.mark.parametrize(
    ("host", "near"),
    [
        ("8.8.8.8", INTERNET),
        ("2606:4700::1111", INTERNET),
        ("10.1.2.3", PRIVATE),
        ("192.168.0.1", PRIVATE),
        ("100.64.0.1", PRIVATE),
        ("fd00::1", PRIVATE),
        ("127.0.0.1", THIS_MACHINE),
        ("127.9.9.9", THIS_MACHINE),
        ("[::1]", THIS_MACHINE),
        ("::ffff:127.0.0.1", THIS_MACHINE),
        ("::ffff:10.0.0.1", PRIVATE),
        ("64:ff9b::7f00:1", THIS_MACHINE),
        ("2002:7f00:1::", THIS_MACHINE),
        ("169.254.169.254", NEVER),
        ("fe80::1%eth0", NEVER),
        ("224.0.0.1", NEVER),
        ("0.0.0.0", NEVER),
        ("::", NEVER),
        ("example.org", None),
        ("2130706433", None),
    ],
)
def test_how_near_an_address_is_does_not_depend_on_how_it_is_written(host, near):
    assert nearness(host) == near


async def test_a_name_that_leads_to_this_machine_is_not_followed_from_the_internet():
    guard = GuardedResolver("8.8.8.8")
    for name in ("localhost", "2130706433", "0x7f000001"):
        with pytest.raises(OSError):
            await guard.resolve(name, 80, socket.AF_INET)
    near = GuardedResolver("127.0.0.1")
    assert [one["host"] for one in await near.resolve("localhost", 80, socket.AF_INET)] == ["127.0.0.1"]
    await guard.close()
    await near.close()


@pytest.mark.parametrize(
    "location",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://[fe80::1]/x",
        "http://0.0.0.0:1/x",
        "file:///etc/passwd",
        "gopher://127.0.0.1/x",
        "http://user:password@127.0.0.1:1/x",
        "//",
        "http://",
        "http://127.0.0.1:99999/x",
    ],
)
async def test_a_redirect_to_where_nothing_of_ours_should_go_is_an_error(hub, origin, location):
    hub.faults.location = location
    with pytest.raises(NetworkError):
        await content(origin)
    assert hub.asked("content") == 0


async def test_an_origin_of_the_internet_leads_to_no_private_network(hub, origin, monkeypatch):
    async def internet(self):
        return INTERNET

    monkeypatch.setattr(GuardedResolver, "allowed", internet)
    with pytest.raises(NetworkError, match="not its own"):
        await content(origin)
    hub.faults.location = hub.content_url.replace("127.0.0.1", "localhost") + "/x"
    with pytest.raises(NetworkError):
        await content(origin)
    assert hub.asked("content") == 0


async def test_redirects_without_end_end(hub, origin):
    hub.faults.loop = True
    with pytest.raises(NetworkError, match="without end"):
        await content(origin)
    assert hub.asked("resolve") <= 6


async def test_a_token_is_not_taken_along_by_a_redirect_to_another_port_nor_back(hub, origin):
    hub.tokens.add("hf_x")
    assert await content(origin, token=Token("hf_x")) == WEIGHTS
    assert {one.authorization for one in hub.seen if one.what == "content"} == {""}


async def test_an_answer_that_is_too_long_is_not_read_to_its_end(hub, origin):
    hub.faults.json_bytes = ORIGIN_JSON_BYTES_MAX + 1
    with pytest.raises(NetworkError, match="more than"):
        await origin.json("/api/models/org/model")
    hub.faults.json_bytes, hub.faults.header_bytes = 0, ORIGIN_HEADER_BYTES_MAX + 1
    with pytest.raises(NetworkError, match="cannot be asked"):
        await origin.json("/api/models/org/model")


async def test_a_connection_that_ends_early_is_an_error_and_so_is_one_that_is_refused(hub, origin):
    hub.faults.cut["model.safetensors"] = 1
    with pytest.raises(NetworkError):
        await content(origin)
    await hub.die()
    with pytest.raises(NetworkError, match="cannot be asked"):
        await content(origin)


async def test_busy_is_told_with_how_long(hub, origin):
    hub.faults.rate_limited, hub.faults.retry_after_s = 1, 60
    with pytest.raises(RateLimitedError) as busy:
        await origin.json("/api/models/org/model")
    assert busy.value.retry_after_s == 60


async def test_a_status_without_a_code_says_what_it_can(hub, origin):
    for status, kind in [(401, GatedError), (403, GatedError), (500, NetworkError), (503, NetworkError)]:
        hub.faults.status = status
        with pytest.raises(kind):
            await origin.json("/api/models/org/model")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"sha": "main"}',
        b'{"sha": "' + b"A" * 40 + b'"}',
        b"[" * 100_000,
        b"\xff\xfe",
        b'{"sha": null}',
    ],
)
async def test_an_answer_that_makes_no_sense_is_the_origins_fault(body):
    async def answer(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()

    from p2pmodel.gateway.origin_trees import Trees

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    client = Origin(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    trees = Trees(client, Nothing(), now=asyncio.get_running_loop().time)
    try:
        with pytest.raises(P2PModelError, match="makes no sense"):
            await trees.head(REPO, None)
    finally:
        await trees.close()
        await client.close()
        server.close()


class Nothing:
    """Keeps nothing."""

    async def read(self, name):
        return None

    async def write(self, name, content):
        pass
