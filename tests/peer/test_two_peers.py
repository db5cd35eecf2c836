"""Whole peers in one process on loopback: what one publishes, another finds, by id and by name."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from p2pmodel import Peer, PeerConfig
from p2pmodel.errors import FetchTimeoutError, InterruptedFetchError, NoPeersError, UsageError
from p2pmodel.model import Digest, ModelId
from p2pmodel.net.tcp import TcpChannel
from p2pmodel.overlay import overlay_key
from p2pmodel.peer import fetching
from p2pmodel.peer.config import NetworkConfig
from p2pmodel.peer.requests import FetchRequest, PublishRequest, VerifyRequest
from p2pmodel.peer.service import LocalService

pytestmark = pytest.mark.slow


@asynccontextmanager
async def two_peers(directory: Path, *, upload_limit: int | None = None) -> AsyncIterator[tuple[Peer, Peer]]:
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(Peer(config(directory / "a", upload_limit=upload_limit)))
        other = await stack.enter_async_context(Peer(config(directory / "b", one)))
        await other.joined.wait()
        yield one, other
        # Both at once, so that neither waits for the other to take back what it holds of it.
        await asyncio.gather(one.__aexit__(None, None, None), other.__aexit__(None, None, None))


def config(directory: Path, *entries: Peer, upload_limit: int | None = None) -> PeerConfig:
    return PeerConfig(
        data_dir=directory,
        listen="127.0.0.1:0",
        http=None,
        bootstrap=tuple(str(entry.listen) for entry in entries),
        network=NetworkConfig(name="lab"),
        lan=False,
        upload_limit_bytes_per_s=upload_limit,
    )


def model(directory: Path, text: str = "weights") -> Path:
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(text)
    return directory


async def publisher_of(peer: Peer) -> str:
    return (await peer.keyring.publisher_key()).public.text


async def test_a_name_given_when_a_model_is_published_again_is_found_by_others(tmp_path: Path) -> None:
    async with two_peers(tmp_path) as (one, other):
        model_id = await one.publish(model(tmp_path / "m"))
        again = await LocalService(one).publish(PublishRequest(path=str(tmp_path / "m"), name="tiny"))
        assert again.announced
        report = await other.fetch(f"{await publisher_of(one)}/tiny", to=tmp_path / "out")
        assert report.model_id == model_id


async def test_a_model_of_empty_files_alone_is_found_and_placed(tmp_path: Path) -> None:
    async with two_peers(tmp_path) as (one, other):
        model(tmp_path / "m", "")
        report = await other.fetch(await one.publish(tmp_path / "m"), to=tmp_path / "out")
        assert (report.files, report.bytes_total) == (1, 0)
        assert (tmp_path / "out" / "config.json").read_bytes() == b""


async def test_of_many_publishings_of_a_name_within_a_second_the_last_counts(tmp_path: Path) -> None:
    async with two_peers(tmp_path) as (one, other):
        published = [await one.publish(model(tmp_path / f"m{n}", str(n)), name="tiny") for n in range(8)]
        report = await other.fetch(f"{await publisher_of(one)}/tiny", to=tmp_path / "out")
        assert report.model_id == published[-1]


async def test_a_path_relative_to_nobody_knows_what_is_refused(tmp_path: Path) -> None:
    async with two_peers(tmp_path) as (one, _):
        service = LocalService(one)
        with pytest.raises(UsageError, match="absolute"):
            await service.fetch(FetchRequest(ref="ab" * 32, to="out"))
        with pytest.raises(UsageError, match="absolute"):
            await service.publish(PublishRequest(path="."))


async def test_two_fetches_of_a_model_into_one_directory_at_once_move_its_bytes_once(tmp_path: Path) -> None:
    async with two_peers(tmp_path) as (one, other):
        (model(tmp_path / "m") / "weights.bin").write_bytes(os.urandom(32 << 20))
        model_id = await one.publish(tmp_path / "m")
        reports = await asyncio.gather(*(other.fetch(model_id, to=tmp_path / "out") for _ in range(3)))
        total = reports[0].bytes_total
        assert sorted((each.bytes_fetched, each.bytes_reused) for each in reports) == [
            (0, total),
            (0, total),
            (total, 0),
        ]


async def test_a_fetch_that_is_given_up_while_the_model_is_checked_leaves_the_next_one_free(tmp_path: Path) -> None:
    async with two_peers(tmp_path) as (one, other):
        model_id = await one.publish(model(tmp_path / "m"))
        await other.fetch(model_id, to=tmp_path / "out")
        await other.closed(ModelId(Digest.from_hex(model_id)))
        with held_up(other, model_id), pytest.raises(FetchTimeoutError):
            await other.fetch(model_id, to=tmp_path / "out", timeout_s=0.3)
        assert (await other.fetch(model_id, to=tmp_path / "out", timeout_s=5)).bytes_fetched == 0


async def test_checks_that_take_long_leave_threads_for_serving_others(tmp_path: Path) -> None:
    async with two_peers(tmp_path) as (one, other):
        model_id = await one.publish(model(tmp_path / "m"))
        service = LocalService(one)
        with held_up(one, model_id):
            checks = [asyncio.create_task(service.verify(VerifyRequest(target=model_id))) for _ in range(8)]
            await asyncio.sleep(0)
            report = await other.fetch(model_id, to=tmp_path / "out", timeout_s=5)
        assert report.bytes_fetched and all(check.ok for check in await asyncio.gather(*checks))


async def test_a_publishing_that_is_given_up_is_not_reported_as_an_error_later(tmp_path: Path) -> None:
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    async with two_peers(tmp_path) as (one, _):
        (tmp_path / "big").write_bytes(bytes(256 << 20))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await one.publish(tmp_path / "big")
        gc.collect()
    assert reported == []


async def test_a_peer_whose_limit_makes_long_pauses_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "FETCH_STALL_S", 1.0)
    async with two_peers(tmp_path, upload_limit=400 << 10) as (one, other):
        (tmp_path / "weights.bin").write_bytes(os.urandom(2 << 20))
        report = await other.fetch(await one.publish(tmp_path / "weights.bin"), to=tmp_path / "out")
        assert report.bytes_fetched == 2 << 20


async def test_a_peer_that_promises_and_never_delivers_is_not_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "FETCH_PATIENCE_S", 1.0)
    async with two_peers(tmp_path, upload_limit=8 << 10) as (one, other):
        (tmp_path / "weights.bin").write_bytes(os.urandom(2 << 20))
        model_id = await one.publish(tmp_path / "weights.bin")
        with pytest.raises(NoPeersError, match="nothing comes any more"):
            await other.fetch(model_id, to=tmp_path / "out", timeout_s=20)


@contextmanager
def held_up(peer: Peer, model_id: str) -> Iterator[None]:
    """A check of the model that does not come to its end within the block."""
    begun, go_on = threading.Event(), threading.Event()

    def wait(*_: object) -> None:
        begun.set()
        go_on.wait(30)

    check = threading.Thread(
        target=peer.store.verify, args=[ModelId(Digest.from_hex(model_id))], kwargs={"on_progress": wait}
    )
    check.start()
    assert begun.wait(10)
    try:
        yield
    finally:
        go_on.set()
        check.join()


async def test_a_fetch_that_got_nothing_is_not_announced_any_more(tmp_path: Path) -> None:
    async with two_peers(tmp_path) as (one, other):
        (tmp_path / "m").mkdir()
        (tmp_path / "m" / "weights.bin").write_bytes(os.urandom(3 << 20))
        model_id = await one.publish(tmp_path / "m")
        (tmp_path / "m" / "weights.bin").write_bytes(b"others")  # the manifest is served, no chunk is
        key = overlay_key(Digest.from_hex(model_id))
        fetch = asyncio.ensure_future(other.fetch(model_id, to=tmp_path / "out", peers=[str(one.listen)]))
        async with asyncio.timeout(20):
            while other.peer_id not in [provider.peer async for provider in one.overlay.providers(key)]:
                pass  # each look-up waits for answers
            fetch.cancel()
            await asyncio.wait([fetch])
            while other.peer_id in [provider.peer async for provider in one.overlay.providers(key)]:
                pass


async def test_repeated_bytes_come_once_and_are_accounted_for(tmp_path: Path) -> None:
    async with two_peers(tmp_path) as (one, other):
        (model(tmp_path / "m") / "zeros.bin").write_bytes(bytes(16 << 20))
        report = await other.fetch(await one.publish(tmp_path / "m"), to=tmp_path / "out")
        assert report.bytes_fetched + report.bytes_reused == report.bytes_total
        assert report.bytes_fetched < 2 << 20
        assert report.bytes_wasted == 0


async def test_a_fetch_in_the_background_from_a_peer_on_this_machine_has_no_line_to_yield(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Round trips on a busy machine are long, and would be taken for the queue of others."""
    told: list[dict[str, bool]] = []
    monkeypatch.setattr(TcpChannel, "yield_line", lambda channel, **what: told.append(what))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "w.bin").write_bytes(os.urandom(1 << 20))
    async with two_peers(tmp_path) as (one, other):
        model_id = await one.publish(tmp_path / "model")
        request = FetchRequest(ref=model_id, to=str(tmp_path / "out"), background=True)
        assert (await LocalService(other).fetch(request)).bytes_fetched == 1 << 20
    assert not any(any(what.values()) for what in told)


async def test_a_peer_that_is_left_ends_what_is_under_way_and_tells_who_waits(tmp_path: Path, caplog: Any) -> None:
    size = 8 << 20
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights.bin").write_bytes(os.urandom(size))
    (tmp_path / "large.bin").write_bytes(b"")
    os.truncate(tmp_path / "large.bin", 16 << 30)  # takes seconds to hash
    async with Peer(config(tmp_path / "a", upload_limit=4 << 20)) as one:
        model_id = await one.publish(tmp_path / "model")
        async with Peer(config(tmp_path / "b", one)) as other:
            fetch, publish = map(asyncio.create_task, (other.fetch(model_id), other.publish(tmp_path / "large.bin")))
            async with await other.open_reader(model_id) as reader:
                await reader.ready("weights.bin", 0, 1)
            assert not fetch.done() and not publish.done()
        for task in (fetch, publish):
            with pytest.raises(InterruptedFetchError):
                await task
        assert not [record for record in caplog.records if record.exc_info], "nothing ended by accident"
        one.swarm.limit_upload(None)
        async with Peer(config(tmp_path / "b", one)) as other:
            assert (await other.fetch(model_id)).bytes_reused >= 1 << 20
