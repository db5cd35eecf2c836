"""A client that may have wrong bytes asks for the rest of a file: it is sent all of it, and throws away what it has."""

import aiohttp
import pytest
from aiohttp import web

from p2pmodel.errors import StaleBytesError
from p2pmodel.gateway import HubFront, RepoAddress, RepoFile

CONTENT = b"0123456789"


class Stale:
    """A repository whose file has to be begun anew."""

    address, commit, last_modified = RepoAddress("model", "o/n"), "a" * 40, 0.0

    async def find(self, address, token=None):
        return self

    async def file(self, path):
        return RepoFile.in_lfs(path, len(CONTENT), "b" * 64)

    async def read(self, file, start, end):
        if start:
            raise StaleBytesError("begin anew")
        yield CONTENT[start:end]


@pytest.fixture
async def endpoint():
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", HubFront(Stale()).handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/hf/o/n/resolve/main/w.bin"
    await runner.cleanup()


@pytest.mark.parametrize(("asked", "status", "body"), [("bytes=5-", 200, CONTENT), ("bytes=0-4", 206, CONTENT[:5])])
async def test_the_rest_of_a_file_that_was_wrong_is_all_of_it(endpoint, asked, status, body):
    async with aiohttp.ClientSession() as session, session.get(endpoint, headers={"Range": asked}) as answer:
        assert (answer.status, await answer.read()) == (status, body)
        assert ("Content-Range" in answer.headers) == (status == 206)
