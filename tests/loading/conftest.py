"""A publisher in a thread of this process, and data directories that know it: what synchronous calls need to be run."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from p2pmodel import Peer, PeerConfig
from p2pmodel.loading import engine
from p2pmodel.peer.config import NetworkConfig


class Publisher:
    """A peer whose models others read. Its calls block, as those under test do."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.network = directory / "network.toml"
        self.peer = self.run(self.start())
        self.network.write_text(f'name = "loading"\nbootstrap = ["{self.peer.listen}"]\nprofile = "cluster"\n')
        self.made = 0

    async def start(self) -> Peer:
        config = PeerConfig(
            data_dir=self.directory / "publisher",
            listen="127.0.0.1:0",
            http=None,
            network=NetworkConfig(name="loading", profile="cluster"),
            lan=False,
        )
        return await Peer(config).__aenter__()

    def run(self, work):
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(60)

    def publish(self, files: dict[str, bytes], **options) -> str:
        """A model of these files; its id."""
        self.made += 1
        root = self.directory / f"model-{self.made}"
        for path, data in files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(data)
        return self.run(self.peer.publish(root, **options))

    @property
    def bytes_sent(self) -> int:
        return self.peer.swarm.bytes_sent

    def data_dir(self, name: str) -> Path:
        """A data directory of its own for whoever reads."""
        place = self.directory / name
        place.mkdir(exist_ok=True)
        (place / "config.toml").write_text(
            f'listen = "127.0.0.1:0"\nhttp = "off"\nlan = false\nnetwork = "{self.network}"\n'
        )
        return place

    def close(self) -> None:
        self.run(self.peer.__aexit__(None, None, None))
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()


@pytest.fixture(scope="session")
def publisher(tmp_path_factory):
    made = Publisher(tmp_path_factory.mktemp("loading"))
    yield made
    engine._close_all()
    engine._engines.clear()
    made.close()


@pytest.fixture
def here(publisher, request, monkeypatch):
    """A data directory with nothing in it, which is the default one for this test."""
    place = publisher.data_dir(request.node.name[:60])
    monkeypatch.setenv("P2PMODEL_DATA_DIR", str(place))
    yield place
    for key in [key for key in engine._engines if key[0] == place]:
        engine._engines.pop(key).close()
