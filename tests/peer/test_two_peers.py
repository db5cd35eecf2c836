"""Whole peers in one process on loopback: what one publishes, another finds, by id and by name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from p2pmodel import Peer, PeerConfig
from p2pmodel.peer.config import NetworkConfig
from p2pmodel.peer.requests import PublishRequest
from p2pmodel.peer.service import LocalService

pytestmark = pytest.mark.slow


@asynccontextmanager
async def two_peers(directory: Path) -> AsyncIterator[tuple[Peer, Peer]]:
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(Peer(config(directory / "a")))
        other = await stack.enter_async_context(Peer(config(directory / "b", one)))
        await other.joined.wait()
        yield one, other
        # Both at once, so that neither waits for the other to take back what it holds of it.
        await asyncio.gather(one.__aexit__(None, None, None), other.__aexit__(None, None, None))


def config(directory: Path, *entries: Peer) -> PeerConfig:
    return PeerConfig(
        data_dir=directory,
        listen="127.0.0.1:0",
        http=None,
        bootstrap=tuple(str(entry.listen) for entry in entries),
        network=NetworkConfig(name="lab"),
        lan=False,
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
