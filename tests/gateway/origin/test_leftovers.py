"""What an origin's readers leave on the disk: it counts as the cache's, and does not stay for ever."""

import asyncio
import os
import time

import pytest

from p2pmodel.errors import NoSpaceError, VerificationError
from p2pmodel.gateway.repositories import Token
from p2pmodel.model import Sha256
from p2pmodel.model.parts import Parts
from p2pmodel.peer import NetworkConfig, Peer, PeerConfig
from p2pmodel.peer.draft import Draft
from p2pmodel.peer.filling import Filling
from p2pmodel.peer.leftovers import Leftovers
from p2pmodel.store import OS_FILES
from tests.gateway.origin.origins import noise, sha256

MIB = 1 << 20
DAY_S = 86400.0


@pytest.fixture
def left(tmp_path):
    """`left(name, size, days=N)`: a file with its state that was used last so many days ago."""

    def make(name, size, *, days=0.0):
        for path in (tmp_path / f"{name}.part", tmp_path / f"{name}.state"):
            path.write_bytes(b"x" * (size if path.suffix == ".part" else 10))
            used_at = time.time() - days * DAY_S
            os.utime(path, (used_at, used_at))

    return make


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def test_what_nobody_used_for_a_week_goes_and_the_rest_stays(tmp_path, left):
    left("old", 5000, days=8)
    left("young", 5000, days=6)
    leftovers = Leftovers([tmp_path, tmp_path / "missing"], OS_FILES)
    before = leftovers.used_bytes()
    freed = leftovers.remove_unused(time.time() - 7 * DAY_S)
    assert names(tmp_path) == ["young.part", "young.state"]
    assert freed == before - leftovers.used_bytes() >= 5000


def test_for_room_goes_what_was_not_used_for_longest_and_no_more_than_has_to(tmp_path, left):
    for name, days in (("a", 1), ("b", 3), ("c", 2)):
        left(name, 100_000, days=days)
    leftovers = Leftovers([tmp_path], OS_FILES)
    assert sum(gone.bytes_freed for gone in leftovers.release(150_000)) >= 200_000
    assert names(tmp_path) == ["a.part", "a.state"]


def test_what_would_go_is_what_then_goes(tmp_path, left):
    for name, days in (("a", 1), ("b", 3), ("c", 2)):
        left(name, 100_000, days=days)
    leftovers = Leftovers([tmp_path], OS_FILES)
    leftovers.use(tmp_path / "c")
    planned = leftovers.release(150_000, dry_run=True)
    assert [gone.path for gone in planned] == [tmp_path / "b", tmp_path / "a"]
    assert len(names(tmp_path)) == 6
    assert leftovers.release(150_000) == planned
    assert names(tmp_path) == ["c.part", "c.state"]


def test_what_is_in_use_stays_until_it_is_not(tmp_path, left):
    left("busy", 100_000, days=30)
    leftovers = Leftovers([tmp_path], OS_FILES)
    leftovers.use(tmp_path / "busy")
    assert leftovers.release(1) == [] and leftovers.releasable_bytes() == leftovers.remove_unused(time.time()) == 0
    assert names(tmp_path) == ["busy.part", "busy.state"]
    leftovers.let_go(tmp_path / "busy")
    assert leftovers.releasable_bytes() == leftovers.used_bytes() >= 100_000
    leftovers.remove_unused(time.time())
    assert names(tmp_path) == []


def test_what_a_crash_left_half_removed_goes_with_the_next_look(tmp_path, left):
    left("young", 5000)
    (tmp_path / "young.part").rename(tmp_path / "young.part.gone")
    leftovers = Leftovers([tmp_path], OS_FILES)
    leftovers.use(tmp_path / "young")  # begun anew meanwhile
    leftovers.remove_unused(0.0)
    assert names(tmp_path) == ["young.state"]


def test_what_is_being_written_beside_a_file_is_that_files_and_goes_and_stays_with_it(tmp_path, left):
    left("busy", 5000, days=30)
    (tmp_path / ".busy.state.new").write_bytes(b"x" * 10)  # of a claim that is being made, or that a crash cut short
    leftovers = Leftovers([tmp_path], OS_FILES)
    leftovers.use(tmp_path / "busy")
    assert leftovers.release(1) == [] and leftovers.releasable_bytes() == 0
    leftovers.let_go(tmp_path / "busy")
    (gone,) = leftovers.release(1)
    assert gone.path == tmp_path / "busy" and gone.bytes_freed >= 5000
    assert names(tmp_path) == []


def test_what_another_has_removed_meanwhile_has_freed_nothing(tmp_path, left):
    left("old", 5000, days=8)

    class Slow(type(OS_FILES)):
        def entries(self, path):
            found = super().entries(path)
            Leftovers([tmp_path], OS_FILES).release(1)
            return found

    assert Leftovers([tmp_path], Slow()).release(1) == []


def test_one_file_that_cannot_be_removed_keeps_no_other(tmp_path, left):
    left("older", 5000, days=9)
    left("old", 5000, days=8)
    (tmp_path / "older.part.gone").mkdir()
    (tmp_path / "older.part.gone" / "in the way").touch()
    assert Leftovers([tmp_path], OS_FILES).remove_unused(time.time()) >= 5000
    assert "old.part" not in names(tmp_path)


async def test_a_daemon_that_has_no_origin_any_more_removes_them_as_well(tmp_path):
    drafts = tmp_path / "origin" / "drafts"
    drafts.mkdir(parents=True)
    for name, days in (("old", 8), ("young", 6)):
        used_at = time.time() - days * DAY_S
        (drafts / f"{name}.part").write_bytes(b"x" * 5000)
        os.utime(drafts / f"{name}.part", (used_at, used_at))
    lone = PeerConfig(data_dir=tmp_path, listen="127.0.0.1:0", http=None, network=NetworkConfig(name="lab"), lan=False)

    async def tidied():
        return names(drafts) == ["young.part"]

    async with Peer(lone):
        await comes_true(tidied)


async def comes_true(ask, *arguments):
    async with asyncio.timeout(15):
        while not await ask(*arguments):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.fixture
def private(hub):
    """Adds a repository that only a token opens: what is read of it never enters the cache."""
    hub.tokens.add("hf_good")
    return lambda name, content: hub.add(name, {"model.safetensors": content}, private=True)


async def test_private_files_count_for_the_quota_and_make_room_for_each_other(mirror, private):
    first, second = noise(3 * MIB, seed=1), noise(3 * MIB, seed=2)
    private("org/first", first)
    private("org/second", second)
    peer = await mirror(cache_quota_bytes=5 * MIB)
    assert await peer.read("org/first", "model.safetensors", token=Token("hf_good")) == first
    assert 3 * MIB <= peer.peer.store.cache_use().used_bytes < 4 * MIB
    await peer.repositories.supplies.close()  # nobody reads it any more
    assert await peer.read("org/second", "model.safetensors", token=Token("hf_good")) == second
    assert peer.peer.store.cache_use().used_bytes < 4 * MIB


async def test_a_file_of_the_origin_takes_the_room_of_models_that_were_not_used_for_long(hub, mirror):
    for number in range(3):
        hub.add(f"org/model-{number}", {"model.safetensors": noise(3 * MIB, seed=number)})
    peer = await mirror(cache_quota_bytes=7 * MIB)
    for number in range(3):
        content = noise(3 * MIB, seed=number)
        assert await peer.read(f"org/model-{number}", "model.safetensors") == content
        await comes_true(peer.repositories.supplies.proofs.held, Sha256.from_hex(sha256(content)))
    assert len(peer.peer.store.models()) == 2
    assert peer.peer.store.cache_use().used_bytes <= 7 * MIB


async def test_a_file_that_is_longer_than_the_quota_is_refused_with_what_to_do_and_leaves_nothing(hub, mirror):
    hub.add("org/model", {"model.safetensors": noise(3 * MIB)})
    peer = await mirror(cache_quota_bytes=2 * MIB)
    with pytest.raises(NoSpaceError, match="cache_quota"):
        await peer.read("org/model", "model.safetensors")
    await peer.repositories.supplies.close()
    assert peer.peer.store.cache_use().used_bytes == 0


async def test_a_draft_that_has_moved_removes_none_that_was_begun_in_its_place(mirror):
    peer, content = (await mirror()).peer, noise(MIB)
    parts, place = Parts(Sha256.from_hex(sha256(content)), len(content)), peer.config.data_dir / "drafts"
    first, second = (Draft(parts, place, peer.files, peer.network, peer.store.cache.room_beside) for _ in range(2))
    await first.open()
    first.path.rename(place / "a model")
    await second.open()
    second.arrived(0, second.write(0, memoryview(content)[: parts.part_bytes], believed=True), None)
    await second.close()
    await first.close(remove=True)
    third = Draft(parts, place, peer.files, peer.network, peer.store.cache.room_beside)
    await third.open()
    assert third.have == 1
    await third.close()


async def test_who_asks_again_while_wrong_bytes_are_being_removed_gets_right_ones_that_stay(hub, mirror, monkeypatch):
    content, closing, leave = noise(MIB), asyncio.Event(), Filling.leave
    hub.add("org/model", {"model.safetensors": content})
    hub.faults.wrong |= {"model.safetensors"}
    peer, left = await mirror(), []

    async def leave_late(self):
        await leave(self)
        left.append(self)
        if len(left) == 1:
            await closing.wait()

    monkeypatch.setattr(Filling, "leave", leave_late)
    with pytest.raises(VerificationError):
        await peer.read("org/model", "model.safetensors")
    hub.faults.wrong.clear()
    again = asyncio.create_task(peer.read("org/model", "model.safetensors"))
    await asyncio.wait([again], timeout=0.2)  # it would go on in the file that is about to be removed
    closing.set()
    assert await again == content
    await comes_true(peer.repositories.supplies.proofs.held, Sha256.from_hex(sha256(content)))
