"""The simulated disk loses what a real one may lose, keeps what a real one keeps, and does it again for the same seed.

That it is a disk at all is shown by the stories of `tests/store`, which run on it and on the real one.
"""

from __future__ import annotations

import errno
import random
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from p2pmodel.errors import NoSpaceError, P2PModelError, RefusedError
from p2pmodel.store import Store
from p2pmodel.testing.disk import SimDisk
from p2pmodel.testing.disk_pages import PAGE_BYTES, SECTOR_BYTES

HOME = Path("/home")


@pytest.fixture
def disk():
    with SimDisk(random.Random(1)) as made:
        yield made


def opened(files, name="a", size=0, **options):
    """An open file in a directory whose name is durable, and that directory."""
    directory = files.open_directory(HOME, create=True)
    file = directory.open(name, write=True, create=True, **options)
    if size:
        file.allocate(size)
    return file, directory


def cut_many(disk, count=60):
    """What many power cuts at this moment would leave."""
    for seed in range(count):
        fork = disk.fork()
        fork.rng.seed(seed)
        fork.cut_power()
        yield fork
        fork.close()


# --- crashes


def test_a_crash_keeps_what_was_written_and_kills_every_handle(disk):
    files = disk.process()
    file, directory = opened(files)
    file.write(memoryview(b"data"), 0)
    disk.crash()
    assert disk.tree(HOME) == {"a": b"data"}
    for call in (
        file.status, file.sync, directory.sync, lambda: file.write(memoryview(b"x"), 0), lambda: directory.open("a"),
        lambda: files.status(HOME), lambda: files.write_small(HOME / "b", b""),
    ):  # fmt: skip
        with pytest.raises(P2PModelError, match="has died"):
            call()
    file.close()
    directory.close()
    assert disk.tree(HOME) == {"a": b"data"}


def test_one_process_dies_without_the_others(disk):
    one, other = disk.process(), disk.process()
    file, _ = opened(one)
    lock = one.lock(Path("/data"))
    with pytest.raises(RefusedError, match="in use by another peer"):
        other.lock(Path("/data"))
    one.crash()
    other.lock(Path("/data")).release()
    lock.release()
    kept, _ = opened(other)
    assert kept.status().kind == "file"
    with pytest.raises(P2PModelError):
        file.status()


def test_directories_that_one_holds_alone_are_free_after_its_crash(disk):
    one, other = disk.process(), disk.process()
    held = one.open_directory(HOME, create=True).directory("x", create=True, exclusive=True)
    with pytest.raises(RefusedError):
        other.open_directory(HOME).directory("x", exclusive=True)
    one.crash()
    again = other.open_directory(HOME).directory("x", exclusive=True)
    held.close()
    with pytest.raises(RefusedError):
        disk.open_directory(HOME).directory("x", exclusive=True)
    again.close()


def test_the_machine_stops_at_a_call_and_fails_until_it_is_started_again(disk):
    files = disk.process()
    file, _ = opened(files)
    disk.stop_after(1)
    file.write(memoryview(b"x" * PAGE_BYTES), 0)
    for _ in range(3):
        with pytest.raises(P2PModelError, match="the machine has stopped"):
            file.write(memoryview(b"y" * PAGE_BYTES), PAGE_BYTES)
    disk.crash()
    assert disk.process().status(HOME / "a") is not None


def test_a_write_that_the_machine_stops_in_may_have_happened_in_part():
    sizes = set()
    for seed in range(60):
        with SimDisk(random.Random(seed)) as disk:
            file, _ = opened(disk.process(), size=4 * PAGE_BYTES)
            disk.stop_after(0)
            with pytest.raises(P2PModelError):
                file.write(memoryview(b"x" * 4 * PAGE_BYTES), 0)
            disk.crash()
            sizes.add(disk.read_file(HOME / "a").count(b"x"))
    assert sizes == {number * PAGE_BYTES for number in range(5)}


# --- power cuts: bytes


def test_what_was_synced_is_there_after_every_power_cut(disk):
    file, directory = opened(disk.process())
    file.write(memoryview(b"x" * 10_000), 0)
    file.sync()
    directory.sync()
    file.write(memoryview(b"y" * 5000), 20_000)
    for left in cut_many(disk):
        assert left.read_file(HOME / "a")[:10_000] == b"x" * 10_000


def test_pages_that_were_not_synced_are_kept_lost_or_torn_each_for_itself(disk):
    file, directory = opened(disk.process(), size=8 * PAGE_BYTES)
    file.sync()
    directory.sync()
    file.write(memoryview(b"x" * 8 * PAGE_BYTES), 0)
    seen = set()
    for left in cut_many(disk, 200):
        data = left.read_file(HOME / "a")
        for at in range(0, len(data), PAGE_BYTES):
            page = data[at : at + PAGE_BYTES]
            seen.add("new" if page == b"x" * PAGE_BYTES else "old" if not page.strip(b"\0") else "torn")
            sectors = {page[at : at + SECTOR_BYTES] for at in range(0, PAGE_BYTES, SECTOR_BYTES)}
            assert sectors <= {b"x" * SECTOR_BYTES, bytes(SECTOR_BYTES)}, "a sector is whole"
    assert seen == {"new", "old", "torn"}


def test_the_kernel_may_have_written_back_what_stood_there_in_between(disk):
    file, directory = opened(disk.process(), size=PAGE_BYTES)
    file.sync()
    directory.sync()
    for letter in (b"1", b"2", b"3"):
        file.write(memoryview(letter * PAGE_BYTES), 0)
    seen = {left.read_file(HOME / "a")[:1] for left in cut_many(disk, 300)}
    assert seen == {b"\0", b"1", b"2", b"3"}


def test_length_and_time_go_back_unless_they_were_synced(disk):
    file, directory = opened(disk.process())
    file.write(memoryview(b"x" * 100), 0)
    file.sync()
    directory.sync()
    before = file.status().identity
    file.write(memoryview(b"x" * 900), 100)
    after = file.status().identity
    found = [left.status(HOME / "a").identity for left in cut_many(disk)]
    assert {mark.size for mark in found} == {before.size, after.size}
    assert {mark.mtime_ns for mark in found} == {before.mtime_ns, after.mtime_ns}


def test_a_sync_that_fails_loses_pages_and_the_next_one_does_not_bring_them_back(disk):
    file, directory = opened(disk.process(), size=8 * PAGE_BYTES)
    file.sync()
    directory.sync()
    file.write(memoryview(b"x" * 8 * PAGE_BYTES), 0)
    disk.rng = random.Random(3)
    disk.fail_after(only={"sync"})
    with pytest.raises(P2PModelError, match="Input/output error"):
        file.sync()
    file.sync()
    whole = b"x" * 8 * PAGE_BYTES
    assert disk.read_file(HOME / "a") == whole, "the page cache does not tell"
    fork = disk.fork()
    fork.cut_power()
    assert fork.read_file(HOME / "a") != whole
    fork.close()
    file.write(memoryview(b"x" * PAGE_BYTES), 0)
    file.sync()
    disk.forget_cache()
    assert disk.read_file(HOME / "a").startswith(b"x" * PAGE_BYTES), "written again, it is durable"
    assert disk.read_file(HOME / "a") != whole


# --- power cuts: names


def test_a_name_is_durable_with_its_directory_and_not_with_its_file(disk):
    file, directory = opened(disk.process())
    file.write(memoryview(b"x"), 0)
    file.sync()
    assert {tuple(left.tree(HOME)) for left in cut_many(disk)} == {(), ("a",)}
    directory.sync()
    assert {tuple(left.tree(HOME)) for left in cut_many(disk)} == {("a",)}


def test_a_rename_is_kept_whole_or_not_at_all_and_replaces_or_does_not(disk):
    files = disk.process()
    for name in ("new", "old"):
        file, directory = opened(files, name)
        file.write(memoryview(name.encode()), 0)
        file.sync()
    directory.sync()
    directory.rename("new", directory, "old")
    assert {tuple(left.tree(HOME).items()) for left in cut_many(disk)} == {
        (("old", b"new"),),
        (("new", b"new"), ("old", b"old")),
    }


def test_changes_of_names_are_lost_in_any_order_that_can_be(disk):
    files = disk.process()
    _, directory = opened(files, "a")
    opened(files, "b")
    directory.rename("a", directory, "c")
    found = {tuple(left.tree(HOME)) for left in cut_many(disk, 300)}
    assert found == {(), ("a",), ("b",), ("c",), ("a", "b"), ("b", "c")}


def test_a_file_in_a_directory_that_was_lost_is_lost(disk):
    _, home = opened(disk.process())
    inner = home.directory("inner", create=True)
    file = inner.open("b", write=True, create=True)
    file.sync()
    inner.sync()
    found = {"inner/b" in left.tree(HOME) for left in cut_many(disk)}
    assert found == {True, False}
    home.sync()
    assert all("inner/b" in left.tree(HOME) for left in cut_many(disk))


def test_a_directory_is_not_removed_while_it_still_holds_something_on_the_disk(disk):
    _, home = opened(disk.process())
    inner = home.directory("inner", create=True)
    inner.open("b", write=True, create=True).close()
    inner.sync()
    home.sync()
    inner.rename("b", home, "c")
    home.remove("inner")
    for left in cut_many(disk, 100):
        assert {"inner/b", "c"} & set(left.tree(HOME)), "the file is here or there"
    home.sync()
    assert all(tuple(left.tree(HOME)) == ("a", "c") for left in cut_many(disk))


def test_every_outcome_is_enumerated_once_where_there_are_few(disk):
    file, _ = opened(disk.process())
    file.write(memoryview(b"x" * PAGE_BYTES), 0)
    outcomes = [left.tree(HOME) for left in disk.outcomes(100)]
    kinds = {data.get("a") for data in outcomes}
    half = PAGE_BYTES // 2
    assert kinds == {None, b"", bytes(PAGE_BYTES), b"x" * PAGE_BYTES, b"x" * half + bytes(half)}
    assert len(outcomes) < 30
    assert len(list(disk.outcomes(3))) == 6, "past the limit dice take over"


# --- databases


def test_commits_survive_every_power_cut_and_other_transactions_none(disk):
    files = disk.process()
    files.open_directory(HOME, create=True).close()
    connection = files.connect(HOME / "index")
    connection.executescript("BEGIN; CREATE TABLE t (a); COMMIT;")
    for number in (1, 2):
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO t VALUES (?)", (number,))
        if number == 1:
            connection.execute("COMMIT")
    disk.cut_power()
    with pytest.raises(sqlite3.ProgrammingError):
        connection.execute("SELECT 1")
    again = disk.process().connect(HOME / "index")
    assert again.execute("SELECT a FROM t").fetchall() == [(1,)]
    again.close()


def test_of_commits_that_need_not_be_durable_a_power_cut_keeps_the_first_few_until_one_is_durable(disk):
    files = disk.process()
    files.open_directory(HOME, create=True).close()
    connection = files.connect(HOME / "index")
    connection.executescript("BEGIN; CREATE TABLE t (a); COMMIT;")

    def add(number: int, synchronous: str) -> None:
        connection.execute(f"PRAGMA synchronous={synchronous}")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO t VALUES (?)", (number,))
        connection.execute("COMMIT")

    def left() -> set[tuple[int, ...]]:
        found = set()
        for cut in cut_many(disk):
            again = cut.process().connect(HOME / "index")
            found.add(tuple(row[0] for row in again.execute("SELECT a FROM t ORDER BY a")))
            again.close()
        return found

    add(1, "NORMAL")
    add(2, "NORMAL")
    assert left() == {(), (1,), (1, 2)}
    add(3, "FULL")
    assert left() == {(1, 2, 3)}
    disk.crash()
    assert left() == {(1, 2, 3)}


@pytest.mark.parametrize(("code", "kind"), [(errno.ENOSPC, NoSpaceError), (errno.EIO, P2PModelError)])
def test_a_commit_can_fail_and_then_it_did_not_happen(disk, code, kind):
    store = Store.open(HOME, files=disk.process())
    disk.fail_after(1, code, only={"commit"})
    with pytest.raises(kind) as raised:
        store.put_object(b"data")
    assert type(raised.value) is kind
    assert disk.fork().process().read_small(HOME / "nothing") is None
    digest = store.put_object(b"data")
    store.close()
    again = Store.open(HOME, files=disk.process())
    assert again.object(digest) == b"data"
    again.close()


def test_an_index_takes_space(disk):
    store = Store.open(HOME, files=disk.process())
    disk.capacity_bytes = disk.used_bytes
    with pytest.raises(NoSpaceError):
        store.put_object(bytes(100_000))
    disk.capacity_bytes += 200_000
    store.put_object(bytes(100_000))
    store.close()


# --- calls that fail, space, rot


@pytest.mark.parametrize("times", [1, 2, None])
def test_the_nth_call_of_a_kind_fails_as_often_as_planned(disk, times):
    file, _ = opened(disk.process())
    disk.fail_after(3, errno.EDQUOT, only={"write"}, below=HOME, times=times)
    failed = []
    for at in range(8):
        file.status()
        try:
            file.write(memoryview(b"x"), at)
        except NoSpaceError:
            failed.append(at)
    assert failed == list(range(2, 2 + (times or 6)))
    disk.heal()
    file.write(memoryview(b"x"), 0)
    with pytest.raises(ValueError):
        disk.fail_after(only={"wirte"})


def test_a_full_disk_refuses_new_bytes_and_takes_those_whose_space_is_reserved(disk):
    reserved, _ = opened(disk.process(), "reserved", size=10 * PAGE_BYTES)
    other, directory = opened(disk.process(), "other")
    disk.capacity_bytes = disk.used_bytes + PAGE_BYTES
    assert directory.free_bytes() == PAGE_BYTES
    reserved.write(memoryview(b"x" * 10 * PAGE_BYTES), 0)
    other.write(memoryview(b"x" * PAGE_BYTES), 0)
    for call in (lambda: other.write(memoryview(b"x"), PAGE_BYTES), lambda: other.allocate(3 * PAGE_BYTES)):
        with pytest.raises(NoSpaceError):
            call()
    directory.remove("reserved")
    other.allocate(3 * PAGE_BYTES)


def test_bits_flip_at_the_rate_that_was_asked_for_and_rot_stays(disk):
    file, _ = opened(disk.process())
    file.write(memoryview(bytes(100)), 0)
    disk.flip_rate = 0.2
    buffer = bytearray(100)
    flipped = 0
    for _ in range(500):
        file.read_into(memoryview(buffer), 0)
        assert sum(byte.bit_count() for byte in buffer) <= 1
        flipped += any(buffer)
    assert 60 < flipped < 140
    disk.heal()
    marks = file.status()
    disk.rot(HOME / "a", 50, 3)
    for _ in range(2):
        file.read_into(memoryview(buffer), 0)
        assert buffer[50] == 8 and file.status() == marks


def test_times_come_from_the_clock_that_is_handed_in():
    now = [1000.5]
    with SimDisk(clock=lambda: now[0]) as disk:
        file, _ = opened(disk.process())
        assert file.status().identity.mtime_ns == 1_000_500_000_000
        file.write(memoryview(b"x"), 0)
        assert file.status().identity.mtime_ns == 1_000_500_000_001, "a change is seen even within one moment"
        now[0] = 2000.0
        file.write(memoryview(b"x"), 0)
        assert file.status().identity.mtime_ns == 2_000_000_000_000


# --- copies, and the same again


def test_a_fork_goes_its_own_way(disk):
    file, _ = opened(disk.process())
    file.write(memoryview(b"x" * 100), 0)
    store = Store.open(Path("/data"), files=disk.process())
    fork = disk.fork()
    file.write(memoryview(b"y" * 100), 0)
    digest = store.put_object(b"later")
    store.close()
    assert fork.read_file(HOME / "a") == b"x" * 100
    other = Store.open(Path("/data"), files=fork.process())
    assert other.object(digest) is None
    other.close()
    fork.remove(HOME / "a")
    assert disk.read_file(HOME / "a") == b"y" * 100


SAME = """
import hashlib, random, sys
from pathlib import Path
from p2pmodel.errors import P2PModelError
from p2pmodel.store import Store
from p2pmodel.testing.disk import SimDisk

told = hashlib.sha256()
for seed in range(20):
    dice = random.Random(seed)
    disk = SimDisk(dice)
    disk.on_call = lambda operation, path: told.update(f"{operation} {path}".encode())
    files = {f"{n}/{n}.bin": dice.randbytes(dice.randrange(100_000)) for n in range(6)}
    for name, data in files.items():
        disk.write_file(Path("/model", name), data)
    seeder = Store.open(Path("/seed"), files=disk.process())
    layout = seeder.publish(Path("/model")).layout
    disk.stop_after(dice.randrange(250))
    try:
        store = Store.open(Path("/data"), files=disk.process())
        intake = store.open_intake(layout, range(6), Path("/out"))
        intake.adopt()
        for index in intake.missing:
            chunk = seeder.chunk(layout[index].digest)
            buffer = memoryview(bytearray(chunk.length))
            chunk.read_into(buffer, 0)
            chunk.release()
            intake.write(index, buffer)
            intake.claim()
        intake.finish()
        intake.close()
        store.remove(layout.model_id)
    except P2PModelError as error:
        told.update(str(error).encode())
    disk.cut_power()
    for name, data in disk.tree().items():
        told.update(name.encode() + (b"" if name.endswith("sqlite3") else data))
    disk.close()
print(told.hexdigest())
"""


@pytest.mark.slow
def test_the_same_seed_gives_the_same_calls_and_the_same_disk_whatever_the_hash_seed():
    told = set()
    for hash_seed in ("0", "1", "77"):
        environment = {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(Path(__file__).parents[2])}
        ended = subprocess.run(
            [sys.executable, "-c", SAME], env=environment, capture_output=True, text=True, check=True
        )
        told.add(ended.stdout)
    assert len(told) == 1 and len(told.pop()) == 65


LARGE = """
import random
from pathlib import Path
from p2pmodel.testing.disk import SimDisk

def resident():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1]) * 1024

CHUNK = 1 << 20
model = [random.Random(n).randbytes(CHUNK) for n in range(64)]
before = resident()
disks = []
for number in range(50):
    disk = SimDisk()
    directory = disk.process().open_directory(Path("/out"), create=True)
    file = directory.open("model", write=True, create=True)
    file.allocate(64 * CHUNK + 5000)
    order = list(range(64))
    random.Random(number).shuffle(order)
    for index in order:
        file.write(memoryview(model[index]), index * CHUNK + 5000)
    file.sync()
    disks.append((disk, file))
print(resident() - before)
"""


@pytest.mark.slow
def test_fifty_peers_with_the_same_model_hold_it_once():
    ended = subprocess.run(
        [sys.executable, "-c", LARGE],
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(ended.stdout) < 150 << 20, "64 MiB once, and a little for each"
