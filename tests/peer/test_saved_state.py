"""What a peer keeps for its next start: its neighbours, how far announcing has come. A broken file is a warning."""

from __future__ import annotations

import json
import logging
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from patience import comes_true

from p2pmodel import Peer, PeerConfig
from p2pmodel.errors import NoSpaceError
from p2pmodel.peer import saved
from p2pmodel.peer.config import NetworkConfig
from p2pmodel.peer.saved import ANNOUNCING_NAME, NEIGHBOURS_NAME, SavedState
from p2pmodel.peer.service import LocalService

LAB = NetworkConfig(name="lab", profile="cluster")


def config(directory: Path, *entries: str) -> PeerConfig:
    return PeerConfig(data_dir=directory, listen="127.0.0.1:0", http=None, bootstrap=entries, network=LAB, lan=False)


def model(directory: Path) -> Path:
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text("weights")
    return directory


async def meets(peer: Peer, *others: Peer) -> None:
    wanted = {other.peer_id for other in others}
    await comes_true(lambda: wanted <= {key for key, _ in peer.overlay.neighbours()})


def saved_keys(directory: Path) -> set[str]:
    return {entry["peer"] for entry in json.loads((directory / NEIGHBOURS_NAME).read_bytes())["neighbours"]}


@pytest.mark.slow
async def test_a_peer_whose_entry_nodes_are_all_dead_comes_back_through_the_neighbours_it_had(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        staying = await stack.enter_async_context(Peer(config(tmp_path / "staying")))
        model_id = await staying.publish(model(tmp_path / "model"))
        async with Peer(config(tmp_path / "entry")) as entry:
            dead = str(entry.listen)
            await staying.bootstrap([dead])
            async with Peer(config(tmp_path / "back", dead)) as leaving:
                await meets(leaving, entry, staying)
        settings = config(tmp_path / "back", dead)
        async with Peer(settings) as back:
            await meets(back, staying)
            report = await back.fetch(model_id, to=tmp_path / "out", timeout_s=20)
            assert report.verified
            assert staying.peer_id.text in saved_keys(tmp_path / "back")
        # A command of its own on the same data directory finds in as well, and leaves the file to those that stay.
        before = (tmp_path / "back" / NEIGHBOURS_NAME).read_bytes()
        async with Peer(settings.for_one_command(offline=False)) as command:
            await meets(command, staying)
        async with Peer(settings.for_one_command(offline=True)) as offline:
            assert offline.overlay.saved_neighbours() == b'{"version":1,"neighbours":[]}'
        assert (tmp_path / "back" / NEIGHBOURS_NAME).read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"{", b'{"version":1,"neighbours":[3]}', b"\xff" * 5000, b"[" * (1 << 19)])
async def test_broken_files_are_a_warning_and_are_replaced(tmp_path: Path, content: bytes, caplog) -> None:
    for name in (NEIGHBOURS_NAME, ANNOUNCING_NAME):
        (tmp_path / name).write_bytes(content)
    with caplog.at_level(logging.WARNING):
        async with Peer(config(tmp_path)) as peer:
            assert peer.overlay.neighbours() == []
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == (2 if content else 0) and all("is of no use" in one for one in said), said
    assert saved_keys(tmp_path) == set() and (tmp_path / ANNOUNCING_NAME).read_bytes() == b""


class Disk:
    """Counts what is written; full from a given write on."""

    def __init__(self, full_after: int = 1_000) -> None:
        self.content: dict[str, bytes] = {}
        self.writes: list[str] = []
        self.full_after = full_after

    def read_small(self, path: Path, bytes_max: int = 0) -> bytes | None:
        return self.content.get(path.name)

    def write_small(self, path: Path, data: bytes) -> None:
        if len(self.writes) >= self.full_after:
            raise NoSpaceError("the disk is full")
        self.writes.append(path.name)
        self.content[path.name] = data


async def state(peer: Peer, disk: Disk, mode: str = "keep") -> SavedState:
    return SavedState(peer.config.data_dir, mode, disk, peer.overlay, peer.network)  # type: ignore[arg-type]


async def test_what_has_not_changed_is_not_written_again(tmp_path: Path) -> None:
    disk = Disk()
    async with Peer(config(tmp_path)) as peer:
        keeping = await state(peer, disk)
        await keeping.restore()
        for _ in range(3):
            await keeping.save()
        assert disk.writes == [NEIGHBOURS_NAME]


async def test_announcing_goes_on_after_a_crash_and_begins_anew_after_a_stop(tmp_path: Path) -> None:
    directory = tmp_path / "b"
    async with Peer(config(tmp_path / "a")) as holder, Peer(config(directory, str(holder.listen))) as peer:
        await peer.joined.wait()
        await peer.publish(model(tmp_path / "model"))
        await peer.saved.save()
        as_a_crash_leaves_it = (directory / ANNOUNCING_NAME).read_bytes()
    assert (directory / ANNOUNCING_NAME).read_bytes() == b""
    for content, goes_on in ((b"", False), (as_a_crash_leaves_it, True)):
        (directory / ANNOUNCING_NAME).write_bytes(content)
        async with Peer(config(directory)) as again:
            await comes_true(lambda again=again: again.overlay.stats().keys_provided)
            # Nobody is there to take a record: what is not pending is what the last run announced.
            stats = again.overlay.stats()
            assert (stats.keys_pending < stats.keys_provided) is goes_on


async def test_a_full_disk_is_a_warning(tmp_path: Path, caplog) -> None:
    async with Peer(config(tmp_path)) as peer:
        keeping = await state(peer, Disk(full_after=0))
        with caplog.at_level(logging.WARNING):
            await keeping.save()
    assert any("cannot keep" in record.getMessage() for record in caplog.records)


async def test_a_peer_saves_by_itself_while_it_runs(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(saved, "_FIRST_SAVE_S", 0.0)
    async with Peer(config(tmp_path)):
        await comes_true((tmp_path / NEIGHBOURS_NAME).exists)


async def test_announcing_that_falls_behind_is_a_warning_of_the_status(tmp_path: Path, monkeypatch) -> None:
    async with Peer(config(tmp_path)) as peer:
        service, stats = LocalService(peer), peer.overlay.stats()
        for behind_s, warned in ((59.0, False), (100.0, True)):
            late = replace(stats, announce_behind_s=behind_s, keys_provided=133_000, keys_pending=7)
            monkeypatch.setattr(peer.overlay, "stats", lambda late=late: late)
            status = await service.status()
            assert (status.keys_pending, status.announce_behind_s) == (7, behind_s)
            assert any("falls behind by 1 min 40 s" in warning for warning in status.warnings) is warned
