"""Models opened for reading in a daemon by another process: what it is told is on its own disk, and verified."""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from p2pmodel import Peer, PeerConfig
from p2pmodel.errors import NotFoundError, ServiceGoneError, UsageError
from p2pmodel.peer.client import find_daemon
from p2pmodel.peer.config import NetworkConfig
from p2pmodel.peer.daemon import run_daemon
from p2pmodel.peer.open_model import Located, Places
from p2pmodel.peer.requests import ReadRequest
from p2pmodel.peer.sharing import SharedService

pytestmark = pytest.mark.slow

MIB = 1 << 20


def config(directory, *entries):
    return PeerConfig(
        data_dir=directory,
        listen="127.0.0.1:0",
        http=None,
        bootstrap=tuple(entries),
        network=NetworkConfig(name="lab", profile="cluster"),
        lan=False,
    )


@asynccontextmanager
async def published(directory, size=5 * MIB):
    """A peer with a model; its address, the model's id and the bytes of its one large file."""
    data = os.urandom(size)
    (directory / "m" / "sub").mkdir(parents=True)
    (directory / "m" / "weights.bin").write_bytes(data)
    (directory / "m" / "sub" / "config.json").write_text("{}")
    (directory / "m" / "empty").write_bytes(b"")
    async with Peer(config(directory / "a")) as peer:
        yield str(peer.listen), await peer.publish(directory / "m"), data


@asynccontextmanager
async def daemon(settings):
    """A running daemon, and how to end it."""
    ready, stop = asyncio.get_running_loop().create_future(), asyncio.Event()
    running = asyncio.ensure_future(run_daemon(settings, on_ready=ready.set_result, stop=stop))
    await asyncio.wait({running, ready}, return_when=asyncio.FIRST_COMPLETED)
    yield stop, running
    stop.set()
    await running


@asynccontextmanager
async def opened(directory, entry, model_id, **options):
    client = await find_daemon(directory)
    reader = await client.open_reader(ReadRequest(ref=model_id, **options))
    try:
        yield reader
    finally:
        reader.close()
        await client.close()


@asynccontextmanager
async def far_model(directory):
    """A reader of a model that a daemon here does not have yet, and the bytes of its large file."""
    async with AsyncExitStack() as stack:
        entry, model_id, data = await stack.enter_async_context(published(directory))
        await stack.enter_async_context(daemon(config(directory / "b", entry)))
        yield await stack.enter_async_context(opened(directory / "b", entry, model_id)), data


async def bytes_of(reader, path, start=0, end=None):
    """As a program does it: told of a part that has just got its name, it asks once more."""
    places = Places()
    for _ in range(2):
        located = await reader.located(path, start, end)
        parts = [bytearray(one.end - one.start) for one in located]
        if all(places.read(one, one.start, memoryview(part)) for one, part in zip(located, parts, strict=True)):
            break
    else:
        raise AssertionError("it changes again and again")
    places.close()
    return b"".join(parts)


async def test_another_process_reads_ranges_of_a_model_that_comes_from_the_disk_it_shares(tmp_path):
    async with far_model(tmp_path) as (reader, data):
        assert {path: file.size for path, file in reader.entries.items()} == {
            "empty": 0,
            "sub/config.json": 2,
            "weights.bin": len(data),
        }
        parts = await asyncio.gather(
            bytes_of(reader, "weights.bin", 3 * MIB + 5, 4 * MIB),
            bytes_of(reader, "sub/config.json"),
            bytes_of(reader, "weights.bin", 10, 20),
            bytes_of(reader, "empty"),
        )
        assert parts == [data[3 * MIB + 5 : 4 * MIB], b"{}", data[10:20], b""]
        assert 0 < reader.bytes_fetched < 4 * MIB


async def test_a_file_is_waited_for_until_it_has_its_name(tmp_path):
    async with far_model(tmp_path) as (reader, data):
        for path, content in (("weights.bin", data), ("empty", b"")):
            place = await reader.whole_file(path)
            assert place.whole and Path(place.path).name == path
            assert await bytes_of(reader, path) == content


async def test_what_cannot_be_had_is_told_as_the_peer_tells_it(tmp_path):
    async with published(tmp_path) as (entry, model_id, _), daemon(config(tmp_path / "b", entry)):
        async with opened(tmp_path / "b", entry, model_id, files=["sub"]) as reader:
            with pytest.raises(NotFoundError, match="no file"):
                await reader.located("nothing")
            with pytest.raises(UsageError, match="no range"):
                await reader.located("sub/config.json", 0, 3)
        client = await find_daemon(tmp_path / "b")
        with pytest.raises(NotFoundError):
            await client.open_reader(ReadRequest(ref=model_id, files=["nothing"]))
        await client.close()


async def test_when_the_daemon_ends_whoever_waits_is_told(tmp_path):
    async with (
        published(tmp_path) as (entry, model_id, _),
        daemon(config(tmp_path / "b", entry)) as (stop, running),
        opened(tmp_path / "b", entry, model_id) as reader,
    ):
        waiting = asyncio.ensure_future(reader.located("weights.bin"))
        await asyncio.sleep(0)
        stop.set()
        await running
        with pytest.raises(ServiceGoneError):
            await waiting
            await reader.located("weights.bin", 0, 1)


async def test_without_a_daemon_two_programs_read_through_the_peer_of_the_first(tmp_path):
    async with published(tmp_path) as (entry, model_id, data):
        first = SharedService(config(tmp_path / "b", entry), offline=False, tell=lambda _: None)
        second = SharedService(config(tmp_path / "b", entry), offline=False, tell=lambda _: None)
        async with first, second:
            request = ReadRequest(ref=model_id)
            readers = [await service.as_service().open_reader(request) for service in (first, second)]
            assert [await bytes_of(reader, "weights.bin") for reader in readers] == [data] * 2
            for reader in readers:
                reader.close()
            await second.__aexit__(None, None, None)


def test_a_file_that_changed_since_it_was_told_of_is_not_read(tmp_path):
    path, buffer = tmp_path / "file", memoryview(bytearray(3))
    path.write_bytes(b"abcdef")
    status = path.stat()
    located = Located(0, 6, str(path), True, status.st_dev, status.st_ino, status.st_size, mtime_ns=status.st_mtime_ns)
    places = Places()
    assert places.read(located, 2, buffer) and bytes(buffer) == b"cde"
    os.utime(path, ns=(1, 1))
    assert not places.read(located, 2, buffer)
    places.close()
    path.unlink()
    assert not Places().read(located, 2, buffer)
