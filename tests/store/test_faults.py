"""Disks that are full, refuse, or fail at any call: the right error, nothing half-made, no claim that is not true."""

from __future__ import annotations

import errno
import os
import random
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from p2pmodel.errors import NoSpaceError, P2PModelError, RefusedError
from p2pmodel.limits import CHUNK_BYTES
from p2pmodel.model import Digest
from p2pmodel.store import Store
from p2pmodel.store.files import os_fault
from p2pmodel.testing.disk import SimDisk
from p2pmodel.testing.disk_faults import OPERATIONS

DATA, OUT = Path("/home/peer/data"), Path("/home/peer/out")


@pytest.fixture(scope="module")
def source():
    """A small model with equal chunks in two files, directories and an empty file, and a store that serves it."""
    dice = random.Random(2)
    same = dice.randbytes(5000)
    files = {"a.bin": dice.randbytes(CHUNK_BYTES + 9), "d/b": same, "d/c": same, "empty": b""}
    with SimDisk() as disk:
        for name, data in files.items():
            disk.write_file(f"/model/{name}", data)
        seed = Store.open(Path("/data"), files=disk)
        yield {"files": files, "seed": seed, "layout": seed.publish(Path("/model")).layout}
        seed.close()


def story(files, source, moves) -> None:
    """Fetch half, claim, close; fetch the rest, finish, claim, close; look at it and hash it."""
    layout = source["layout"]
    store = Store.open(DATA, files=files)
    try:
        for share in (2, 1):
            intake = store.open_intake(layout, range(len(layout.files)), OUT)
            try:
                intake.adopt()
                missing = list(intake.missing)
                moves.pull(source["seed"], intake, missing[: len(missing) // share])
                intake.claim()
                if share == 1:
                    intake.finish()
                    intake.claim()
            finally:
                intake.close()
        store.check_files()
        store.verify(layout.model_id)
    finally:
        store.close()


def check_haves(store, layout, moves):
    for index in store.have_map(layout.model_id) or ():
        data = moves.read_chunk(store, layout[index].digest)
        assert data is not None and Digest.of(data) == layout[index].digest


def complete(disk, source, moves) -> None:
    """The next run finds nothing that is not there, brings the rest, and leaves nothing else."""
    store = Store.open(DATA, files=disk.process())
    check_haves(store, source["layout"], moves)
    moves.fetch(source["seed"], store, source["layout"], OUT)
    assert disk.tree(OUT) == source["files"]
    assert store.verify(source["layout"].model_id) == []
    store.close()


def calls_of(source, moves, only=OPERATIONS) -> int:
    counted = []
    with SimDisk() as disk:
        disk.on_call = lambda operation, path: counted.append(operation)
        story(disk.process(), source, moves)
    return sum(operation in only for operation in counted)


CLASSES = {errno.EIO: P2PModelError, errno.ENOSPC: NoSpaceError, errno.EDQUOT: NoSpaceError, errno.EACCES: RefusedError}


@pytest.mark.slow
@pytest.mark.simulated_disk
@pytest.mark.parametrize("code", CLASSES)
def test_whichever_call_fails_the_next_run_completes_and_nothing_is_claimed_falsely(source, moves, code):
    calls = calls_of(source, moves)
    assert calls > 150
    failed = 0
    for at in range(1, calls + 1, 1 if code == errno.EIO else 3):
        with SimDisk(random.Random(at)) as disk:
            disk.fail_after(at, code)
            try:
                story(disk.process(), source, moves)
            except P2PModelError as error:
                failed += 1
                assert type(error) is CLASSES[code], f"call {at}: {error!r}"
            disk.heal()
            if at % 2 == 0:
                disk.cut_power()
            complete(disk, source, moves)
    assert failed > calls / 6


@pytest.mark.slow
@pytest.mark.simulated_disk
def test_whichever_barrier_fails_no_claim_is_false_though_its_pages_count_as_clean(source, moves):
    """After a failed `fsync` the next one succeeds and writes nothing (ATC 2020): only new bytes help."""
    calls = calls_of(source, moves, only={"sync", "sync_directory", "commit"})
    failed = 0
    for seed in range(calls * 3):
        with SimDisk(random.Random(seed)) as disk:
            disk.fail_after(1 + seed % calls, only={"sync", "sync_directory", "commit"})
            try:
                story(disk.process(), source, moves)
            except P2PModelError:
                failed += 1
            disk.heal()
            if seed % 3:
                disk.forget_cache() if seed % 3 == 1 else disk.cut_power()
            complete(disk, source, moves)
            disk.cut_power()  # what the next run found in memory, it has to have found on the disk
            assert disk.tree(OUT) == source["files"]
            store = Store.open(DATA, files=disk.process())
            assert store.verify(source["layout"].model_id) == []
            store.close()
    assert failed > calls * 2


@pytest.mark.simulated_disk
@pytest.mark.parametrize("operation", ["allocate", "write", "sync", "rename"])
def test_a_small_file_that_cannot_be_replaced_is_as_it_was_and_nothing_is_left_over(operation):
    with SimDisk() as disk:
        disk.write_small(OUT / "trust.json", b"old")
        disk.fail_after(only={operation})
        with pytest.raises(P2PModelError, match="Input/output error"):
            disk.write_small(OUT / "trust.json", b"new")
        assert disk.tree(OUT) == {"trust.json": b"old"}


@pytest.mark.simulated_disk
def test_after_a_barrier_that_failed_nothing_since_the_last_claim_is_held(source, moves):
    layout = source["layout"]
    with SimDisk() as disk:
        store = Store.open(DATA, files=disk.process())
        intake = store.open_intake(layout, range(4), OUT)
        intake.adopt()
        first, *others = list(intake.missing)
        moves.pull(source["seed"], intake, [first])
        intake.claim()
        claimed = intake.have
        moves.pull(source["seed"], intake, [index for index in others if layout[index].file_index == 0])
        assert intake.have != claimed
        disk.fail_after(only={"sync"})
        with pytest.raises(P2PModelError, match="cannot make durable"):
            intake.claim()
        assert intake.have == claimed, "what the failed barrier should have proven is fetched again"
        moves.pull(source["seed"], intake)
        intake.finish()
        intake.claim()
        intake.close()
        disk.forget_cache()
        assert store.verify(layout.model_id) == []
        store.close()
        disk.cut_power()
        assert disk.tree(OUT) == source["files"]


@pytest.mark.simulated_disk
@pytest.mark.parametrize("free", [0, 1000, CHUNK_BYTES])
def test_too_little_space_is_said_before_anything_is_written(source, moves, free):
    with SimDisk() as disk:
        store = Store.open(DATA, files=disk.process())
        store.put_object(b"so that the index has its size")
        intake = store.open_intake(source["layout"], range(4), OUT)
        disk.capacity_bytes = disk.used_bytes + free
        with pytest.raises(NoSpaceError, match=rf"needs [\d,]+ bytes more and has {free:,} free"):
            intake.adopt()
        intake.close()
        assert disk.status(OUT) is None and store.models() == []
        disk.capacity_bytes *= 1000
        moves.fetch(source["seed"], store, source["layout"], OUT)
        assert disk.tree(OUT) == source["files"], "with space again it goes on without a restart"
        store.close()


@pytest.mark.slow
@pytest.mark.simulated_disk
def test_a_disk_that_fills_up_at_any_time_keeps_what_has_arrived_and_goes_on_when_there_is_space(source, moves):
    """The space of a fetch is reserved; what can still run out is that of the index and of new directories."""
    layout = source["layout"]
    refused = 0
    for seed in range(150):
        dice = random.Random(seed)
        with SimDisk(dice) as disk:
            full_at = dice.randrange(140)

            def fill(operation: str, path: Path, disk=disk, full_at=full_at) -> None:
                if disk.calls == full_at:
                    disk.capacity_bytes = disk.used_bytes

            disk.on_call = fill
            store = intake = None
            try:
                store = Store.open(DATA, files=disk.process())
                intake = store.open_intake(layout, range(4), OUT)
                intake.adopt()
                moves.pull(source["seed"], intake)
                intake.claim()
                intake.finish()
                intake.claim()
            except NoSpaceError:
                refused += 1
            disk.on_call = None
            disk.capacity_bytes = 1 << 40
            for open_one in (intake, store):
                if open_one is not None:
                    open_one.close()
            complete(disk, source, moves)
    assert refused > 10


@pytest.fixture
def tiny_disk(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("to mount a file system takes root")
    place = tmp_path / "tiny"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.real_disk
def test_a_full_disk_ends_the_fetch_with_no_space_and_leaves_no_trace(shop, moves, tiny_disk):
    seed, published = shop.published()
    store = shop.store()
    with pytest.raises(NoSpaceError):
        moves.fetch(seed, store, published.layout, tiny_disk / "out")
    assert list(tiny_disk.iterdir()) == [] and store.models() == []


@pytest.mark.real_disk
def test_a_disk_that_fills_up_while_space_is_reserved_leaves_no_trace(shop, moves, tiny_disk, monkeypatch):
    seed, published = shop.published()
    store = shop.store()
    monkeypatch.setattr("p2pmodel.store.os_files.OsDirectory.free_bytes", lambda self: 1 << 40)
    with pytest.raises(NoSpaceError):
        moves.fetch(seed, store, published.layout, tiny_disk / "out")
    assert list(tiny_disk.iterdir()) == [] and store.models() == []


@pytest.mark.real_disk
def test_a_fetch_goes_on_when_there_is_space_again(shop, moves, tiny_disk):
    seed, published = shop.published({"a": shop.dice.randbytes(2 * CHUNK_BYTES)})
    store = shop.store()
    (tiny_disk / "ballast").write_bytes(bytes(3 * CHUNK_BYTES))
    with pytest.raises(NoSpaceError):
        moves.fetch(seed, store, published.layout, tiny_disk / "out")
    (tiny_disk / "ballast").unlink()
    moves.fetch(seed, store, published.layout, tiny_disk / "out")
    assert store.verify(published.model_id) == []


@pytest.mark.real_disk
def test_a_data_directory_on_a_full_disk_is_no_space(shop, tiny_disk):
    with (tiny_disk / "ballast").open("wb", buffering=0) as ballast, suppress(OSError):
        while True:
            ballast.write(bytes(4096))
    with pytest.raises(NoSpaceError):
        shop.store("tiny/data")


@pytest.mark.real_disk
def test_a_store_whose_disk_has_filled_up_since_is_no_space_and_no_broken_disk(shop, tiny_disk):
    shop.store("tiny/data").close()
    with (tiny_disk / "ballast").open("wb", buffering=0) as ballast, suppress(OSError):
        while True:
            ballast.write(bytes(4096))
    with pytest.raises(NoSpaceError):
        shop.store("tiny/data")


@pytest.mark.real_disk
@pytest.mark.skipif(os.geteuid() != 0, reason="to become nobody takes root")
def test_a_destination_without_permission_is_refused(shop, tmp_path):
    _, published = shop.published()
    store = shop.store()
    locked = shop.tree("locked", {})
    locked.chmod(0o500)
    for directory in (tmp_path, *tmp_path.parents[:3]):
        directory.chmod(directory.stat().st_mode | 0o055)
    os.seteuid(65534)
    try:
        for destination in (locked, locked / "below"):
            with pytest.raises(RefusedError, match="Permission denied"):
                store.open_intake(published.layout, [0], destination)
    finally:
        os.seteuid(0)


@pytest.mark.parametrize(
    ("code", "kind"),
    [(errno.ENOSPC, NoSpaceError), (errno.EDQUOT, NoSpaceError), (errno.EACCES, RefusedError),
     (errno.EPERM, RefusedError), (errno.EROFS, RefusedError), (errno.EIO, P2PModelError),
     (errno.EMFILE, P2PModelError)],
)  # fmt: skip
def test_errors_of_the_system_keep_their_path_and_get_our_class(code, kind):
    fault = os_fault(OSError(code, os.strerror(code)), "/some/where", "write")
    assert type(fault) is kind and "/some/where" in str(fault) and os.strerror(code) in str(fault)
