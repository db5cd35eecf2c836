"""S8: files of other people's, served where they lie. Whatever is done to them, right bytes leave or none."""

from __future__ import annotations

import errno
import mmap
import os
import random
import threading

import pytest

from p2pmodel.limits import CHUNK_BYTES
from p2pmodel.model import Digest
from p2pmodel.store import OS_FILES, serving
from p2pmodel.store.values import FileIdentity


def serve(store, digest):
    """What leaves when a peer asks for this chunk: checked bytes, or None."""
    source = store.chunk(digest)
    if source is None:
        return None
    try:
        if not source.open():
            return None
        buffer = bytearray(source.length)
        for start in range(0, len(buffer), 100_000):
            source.read_into(memoryview(buffer)[start : start + 100_000], start)
        return bytes(buffer)
    finally:
        source.release()


def test_other_bytes_under_the_same_marks_are_not_served(shop, moves):
    seed, published = shop.published({"a.bin": shop.dice.randbytes(3 * CHUNK_BYTES)})
    moves.damage(published.path / "a.bin", CHUNK_BYTES + 5)
    served = [serve(seed, place.digest) for place in published.layout]
    assert served[1] is None and all(Digest.of(served[at]) == published.layout[at].digest for at in (0, 2))
    assert list(seed.have_map(published.model_id)) == [0, 2]
    model = seed.model(published.model_id)
    assert model.state == "broken" and "a.bin' has 1 damaged chunk;" in model.fault
    seed.close()
    assert list(shop.store("source-data").have_map(published.model_id)) == [0, 2], "and it is remembered"


def test_a_change_elsewhere_in_the_file_after_the_look_up_is_noticed_too(shop):
    seed, published = shop.published({"a.bin": shop.dice.randbytes(2 * CHUNK_BYTES)})
    source = seed.chunk(published.layout[0].digest)
    with (published.path / "a.bin").open("r+b") as file:
        file.seek(CHUNK_BYTES)
        file.write(b"new")
    assert not source.open()
    source.release()
    assert "changed since" in seed.model(published.model_id).fault


def test_a_write_that_restores_the_time_leaves_the_file_in_doubt(shop, moves):
    seed, published = shop.published({"a.bin": shop.dice.randbytes(100)})
    (copy,) = seed._catalogue.copies(published.model_id)
    assert copy.file(0).identity.ctime_ns
    moves.damage(published.path / "a.bin")
    assert seed.check_files() == [], "size and time are as they were"
    assert copy.file(0).identity.ctime_ns == 0
    seed.close()
    (copy,) = shop.store("source-data")._catalogue.copies(published.model_id)
    assert copy.file(0).identity.ctime_ns == 0


def test_a_file_in_doubt_is_hashed_when_it_is_published_again(shop, moves):
    seed, published = shop.published({"a.bin": shop.dice.randbytes(100)})
    assert seed.publish(published.path).bytes_hashed == 0
    moves.damage(published.path / "a.bin")
    again = seed.publish(published.path)
    assert again.bytes_hashed == 100 and again.model_id != published.model_id


def test_a_file_that_went_and_came_back_is_served_at_once_and_in_doubt(shop, tmp_path):
    data = shop.dice.randbytes(100)
    seed, published = shop.published({"a.bin": data})
    (published.path / "a.bin").rename(tmp_path / "away")
    assert serve(seed, published.layout[0].digest) is None
    (tmp_path / "away").rename(published.path / "a.bin")
    seed.check_files()
    assert serve(seed, published.layout[0].digest) == data
    (copy,) = seed._catalogue.copies(published.model_id)
    assert copy.file(0).identity.ctime_ns == 0


@pytest.mark.real_disk
def test_what_another_program_writes_through_a_mapping_does_not_leave(shop):
    seed, published = shop.published({"a.bin": shop.dice.randbytes(2 * CHUNK_BYTES)})
    with (published.path / "a.bin").open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        mapping[10:13] = b"new"
        first, second = (serve(seed, place.digest) for place in published.layout)
    assert first is None
    assert second is None or Digest.of(second) == published.layout[1].digest


@pytest.mark.real_disk
def test_a_file_is_hashed_only_when_a_later_change_will_show(shop, monkeypatch):
    waited: list[float] = []
    monkeypatch.setattr(OS_FILES, "unsettled_s", lambda identity: 0.0 if waited else 0.01, raising=False)
    stop = threading.Event()
    monkeypatch.setattr(stop, "wait", lambda timeout: bool(waited.append(timeout)))
    assert shop.store().publish(shop.tree("source", {"a.bin": b"a"}), stop=stop).files == 1
    assert waited == [0.01]


@pytest.mark.real_disk
def test_times_are_trusted_once_the_clock_that_wrote_them_has_moved_on(monkeypatch):
    monkeypatch.setattr("time.time", lambda: 1_000.005)
    fine = FileIdentity(1, 1, 1, 1, ctime_ns=1_000_001_000_000)
    assert OS_FILES.unsettled_s(fine) == pytest.approx(0.016)
    seconds = FileIdentity(1, 1, 1, 1, ctime_ns=1_000_000_000_000)
    assert OS_FILES.unsettled_s(seconds) == pytest.approx(1.995)
    assert OS_FILES.unsettled_s(FileIdentity(1, 1, 1, 1, ctime_ns=900_000_000_001)) == 0
    ahead = FileIdentity(1, 1, 1, 1, ctime_ns=2_000_000_000_001)
    assert OS_FILES.unsettled_s(ahead) == pytest.approx(0.02), "no waiting for a clock that was set back"


@pytest.mark.real_disk
def test_sent_by_the_kernel_a_chunk_is_hashed_once_after_something_was_done_to_its_file(shop, moves, monkeypatch):
    seed, published = shop.published({"a.bin": shop.dice.randbytes(100)})
    seed.hash_each_read = False
    digest, hashed = published.layout[0].digest, []
    is_of = Digest.is_of
    monkeypatch.setattr(Digest, "is_of", lambda digest, data: hashed.append(len(data)) or is_of(digest, data))

    def ready():
        source = seed.chunk(digest)
        try:
            return source is not None and source.open() and source.file_range() is not None
        finally:
            if source is not None:
                source.release()

    assert ready() and hashed == [], "nothing was done to it since it was hashed"
    (published.path / "a.bin").chmod(0o600)
    assert ready() and ready() and hashed == [100]
    moves.damage(published.path / "a.bin")
    assert not ready() and hashed == [100, 100, 100], "and once more, before it is given up"
    assert not ready() and seed.have_map(published.model_id).held == 0


def test_when_no_memory_is_left_a_chunk_is_hashed_and_then_read_again(shop, monkeypatch):
    monkeypatch.setattr(serving, "SERVING_BUFFER_BYTES_MAX", CHUNK_BYTES)
    data = shop.dice.randbytes(2 * CHUNK_BYTES)
    seed, published = shop.published({"a.bin": data})
    first, second = (seed.chunk(place.digest) for place in published.layout)
    assert first.open() and second.open()
    assert serve(seed, published.layout[1].digest) == data[CHUNK_BYTES:]
    for source in (first, second):
        source.release()
    assert seed._server.buffers._lent_bytes == 0


@pytest.mark.simulated_disk
def test_bits_that_flip_on_the_way_from_the_disk_do_not_leave_and_are_counted(shop, tmp_path):
    data = shop.dice.randbytes(CHUNK_BYTES)
    seed, published = shop.published({"a.bin": data})
    tmp_path.disk.flip_rate = 0.02
    assert {serve(seed, published.layout[0].digest) for _ in range(100)} == {data}
    assert seed.wrong_reads
    tmp_path.disk.flip_rate = 1.0
    assert serve(seed, published.layout[0].digest) is None, "two wrong reads in a row: it is bad until looked at again"
    assert seed.have_map(published.model_id).held == 0


@pytest.mark.simulated_disk
def test_a_sector_that_cannot_be_read_costs_its_chunk_and_no_other(shop, tmp_path):
    data = shop.dice.randbytes(2 * CHUNK_BYTES)
    seed, published = shop.published({"a.bin": data})
    tmp_path.disk.fail_after(1, errno.EIO, only={"read"}, times=2)
    assert serve(seed, published.layout[0].digest) is None
    assert serve(seed, published.layout[1].digest) == data[CHUNK_BYTES:]
    assert list(seed.have_map(published.model_id)) == [1]


@pytest.mark.real_disk
@pytest.mark.slow
@pytest.mark.parametrize("in_memory", [True, False])
def test_a_file_changed_during_a_thousand_serves_never_gives_a_wrong_byte(shop, in_memory):
    """S8. Writers overwrite, restore times, replace and cut files short while four threads serve them."""
    files = {f"{number}": shop.dice.randbytes(40_000) for number in range(40)}
    seed, published = shop.published(files)
    if not in_memory:
        seed._server.buffers.lease = lambda length: None
    wrong, right, over = [], [], threading.Event()

    def readers(number: int) -> None:
        dice = random.Random(number)
        for _ in range(250):
            place = published.layout[dice.randrange(40)]
            try:
                data = serve(seed, place.digest)
            except Exception:  # noqa: BLE001  (cut off in the middle: nothing that a receiver would take)
                continue
            if data is not None:
                (right if Digest.of(data) == place.digest else wrong).append(place.index)

    def writer() -> None:
        dice = random.Random(9)
        while not over.is_set():
            path = published.path / str(dice.randrange(20))
            status = path.stat()
            with path.open("r+b") as file:
                file.seek(dice.randrange(40_000))
                file.write(dice.randbytes(8))
            if dice.random() < 0.7:
                os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    threads = [threading.Thread(target=readers, args=(number,)) for number in range(4)]
    writing = threading.Thread(target=writer)
    for thread in (writing, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    over.set()
    writing.join()
    assert wrong == [] and len(right) > 300
