"""Peers that want the same file of an origin at the same time: it is read there once, and passed on among them."""

import asyncio

import pytest

from tests.gateway.origin.origins import noise

pytestmark = pytest.mark.slow

REPO = "org/model"


async def test_ten_peers_that_ask_at_once_read_the_model_from_the_origin_about_once(hub, mirror):
    files = {"config.json": b"{}", "model.safetensors": noise(16_000_000, seed=5)}
    hub.add(REPO, files)
    peers = [await mirror() for _ in range(10)]
    size = sum(map(len, files.values()))

    async def everything(peer):
        return {path: await peer.read(REPO, path) for path in files}

    for got in await asyncio.gather(*(everything(peer) for peer in peers)):
        assert got == files
    assert hub.bytes_sent <= 1.1 * size, f"{hub.bytes_sent / size:.3f} times the model"
    assert sum(peer.origin_bytes for peer in peers) <= hub.bytes_sent
