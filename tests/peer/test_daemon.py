"""The daemon's life: what it leaves while it runs, and that nothing of it is left afterwards, however it ended."""

import asyncio
import os
from contextlib import asynccontextmanager

import pytest

from p2pmodel.errors import NetworkError, RefusedError
from p2pmodel.peer.client import find_daemon
from p2pmodel.peer.config import NetworkConfig, PeerConfig
from p2pmodel.peer.control import open_http_socket
from p2pmodel.peer.daemon import run_daemon
from p2pmodel.peer.runtime import read_runtime

NETWORK = NetworkConfig(name="test-daemon", profile="cluster")


def config(directory, **changes):
    values = {"data_dir": directory, "listen": "127.0.0.1:0", "http": None, "network": NETWORK, "lan": False}
    return PeerConfig(**(values | changes))


@asynccontextmanager
async def running(settings):
    """A daemon in this process; gives its runtime record."""
    ready, stop = asyncio.get_running_loop().create_future(), asyncio.Event()
    daemon = asyncio.ensure_future(run_daemon(settings, on_ready=ready.set_result, stop=stop))
    await asyncio.wait({daemon, ready}, return_when=asyncio.FIRST_COMPLETED)
    if daemon.done():
        daemon.result()
    yield ready.result()
    stop.set()
    await daemon


def traces(directory):
    return {path.name for path in directory.iterdir()} & {"daemon.json", "control.sock"}


async def test_a_running_daemon_is_found_and_a_stopped_one_leaves_no_trace(tmp_path):
    async with running(config(tmp_path, http="127.0.0.1:0")) as record:
        assert await read_runtime(tmp_path) == record and record.pid == os.getpid()
        client = await find_daemon(tmp_path)
        status = await client.status()
        assert (status.peer_id, status.listen, status.http) == (record.peer_id, record.listen, record.http)
        assert status.network == "test-daemon"
        await client.close()
    assert traces(tmp_path) == set() and await find_daemon(tmp_path) is None


async def test_the_same_data_directory_is_the_same_peer_again(tmp_path):
    async with running(config(tmp_path)) as first:
        pass
    async with running(config(tmp_path)) as second:
        assert first.peer_id == second.peer_id


async def test_a_second_daemon_on_a_data_directory_is_refused_and_disturbs_nothing(tmp_path):
    async with running(config(tmp_path)) as record:
        with pytest.raises(RefusedError, match=str(os.getpid())):
            await run_daemon(config(tmp_path), on_ready=lambda _: pytest.fail("it started"))
        client = await find_daemon(tmp_path)
        assert (await client.status()).peer_id == record.peer_id
        await client.close()


async def test_a_daemon_that_cannot_start_leaves_no_trace_and_no_lock(tmp_path):
    taken = open_http_socket("127.0.0.1:0", explicit=True)
    where = f"127.0.0.1:{taken.getsockname()[1]}"
    with pytest.raises(NetworkError, match="cannot listen for HTTP on"):
        await run_daemon(config(tmp_path, http=where), on_ready=lambda _: pytest.fail("it started"))
    assert traces(tmp_path) == set()
    taken.close()
    async with running(config(tmp_path, http=where)) as record:
        assert record.http == where


async def test_a_stop_during_the_start_ends_it_in_order(tmp_path):
    stop = asyncio.Event()
    stop.set()
    await run_daemon(config(tmp_path), on_ready=lambda _: None, stop=stop)
    assert traces(tmp_path) == set()
    async with running(config(tmp_path)):
        pass


async def test_several_daemons_on_one_machine_take_the_default_ports_or_free_ones(tmp_path):
    default = {"listen": "127.0.0.1:0", "http": "127.0.0.1:8765"}
    async with (
        running(config(tmp_path / "a", **default)) as first,
        running(config(tmp_path / "b", **default)) as second,
    ):
        assert first.http != second.http and first.listen != second.listen
