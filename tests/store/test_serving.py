"""Serving in place: right bytes or none, changed files noticed before a byte leaves, few descriptors held."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading

import pytest

from p2pmodel.errors import VerificationError
from p2pmodel.limits import CHUNK_BYTES
from p2pmodel.model import ChunkList, Digest, FileEntry, Layout, Manifest, PortablePath, Sha256
from p2pmodel.store.copies import KeptFile
from p2pmodel.store.os_files import OS_FILES
from p2pmodel.store.serving import OpenFiles
from p2pmodel.store.values import FileState


def rewrite(path):
    with path.open("r+b") as file:
        file.write(b"changed")


def replace(path):
    path.with_name("other").write_bytes(path.read_bytes())
    path.with_name("other").replace(path)


def shorten(path):
    with path.open("r+b") as file:
        file.truncate(10)


def remove(path):
    path.unlink()


@pytest.mark.parametrize("change", [rewrite, replace, shorten, remove])
@pytest.mark.parametrize("served_before", [False, True])
def test_nothing_is_served_from_a_file_that_changed(shop, moves, change, served_before):
    seed, published = shop.published({"a.bin": shop.dice.randbytes(100), "b.bin": shop.dice.randbytes(100)})
    first, second = published.layout
    if served_before:
        assert moves.read_chunk(seed, first.digest)
    change(published.path / "a.bin")
    assert seed.chunk(first.digest) is None
    assert list(seed.have_map(published.model_id)) == [1]
    assert moves.read_chunk(seed, second.digest), "the other file is as it was"
    model = seed.model(published.model_id)
    assert model.state == "broken" and "a.bin" in model.fault
    seed.close()
    assert shop.store("source-data").model(published.model_id).state == "broken"


def test_a_file_that_changes_between_the_look_up_and_the_read_is_not_sent(shop):
    seed, published = shop.published({"a.bin": shop.dice.randbytes(100)})
    source = seed.chunk(published.layout[0].digest)
    rewrite(published.path / "a.bin")
    with pytest.raises(VerificationError, match="changed while it was being served"):
        source.read_into(memoryview(bytearray(100)), 0)
    source.release()
    assert seed.have_map(published.model_id).held == 0


def test_a_look_at_the_files_finds_what_changed_and_what_came_back(shop, moves, tmp_path):
    seed, published = shop.published({"a.bin": b"1" * 100, "b.bin": b"2" * 100})
    assert seed.check_files() == []
    (published.path / "a.bin").rename(tmp_path / "away")
    (broken,) = seed.check_files()
    assert broken.state == "broken" and "a.bin' has vanished" in broken.fault
    assert broken.chunks_held == 1 and seed.check_files() == []
    (tmp_path / "away").rename(published.path / "a.bin")
    (whole,) = seed.check_files()
    assert whole.state == "published" and whole.fault == "" and whole.chunks_held == 2
    moves.touch(published.path / "b.bin")
    (broken,) = seed.check_files()
    assert "b.bin' changed" in broken.fault
    assert seed.verify(published.model_id) == [], "touched, not changed"
    assert seed.model(published.model_id).state == "published"


def test_unknown_chunks_and_models_are_none(shop):
    store = shop.store()
    nothing = Digest.of(b"nothing")
    assert store.chunk(nothing) is None and store.have_map(nothing) is None and store.layout(nothing) is None
    assert store.model(nothing) is None and list(store.digests(nothing)) == [] and store.object(nothing) is None


def test_a_chunk_whose_hash_begins_like_another_is_not_taken_for_it(shop):
    seed, published = shop.published({"a.bin": b"x" * 100})
    digest = published.layout[0].digest
    assert seed.chunk(Digest(digest.raw[:31] + bytes([digest.raw[31] ^ 1]))) is None


def test_a_chunk_comes_from_the_copy_that_still_has_it(shop, moves):
    files = {"a.bin": shop.dice.randbytes(100)}
    seed, published = shop.published(files)
    second = shop.tree("second", files)
    assert seed.publish(second).model_id == published.model_id
    rewrite(published.path / "a.bin")
    digest = published.layout[0].digest
    assert moves.read_chunk(seed, digest) == files["a.bin"]
    assert seed.have_map(published.model_id).whole
    assert seed.model(published.model_id).path == second


def test_a_range_of_a_chunk_can_be_read(shop):
    data = shop.dice.randbytes(2 * CHUNK_BYTES)
    seed, published = shop.published({"a.bin": data})
    source = seed.chunk(published.layout[1].digest)
    buffer = bytearray(10)
    source.read_into(memoryview(buffer), 5)
    assert bytes(buffer) == data[CHUNK_BYTES + 5 : CHUNK_BYTES + 15]
    source.release()


@pytest.mark.real_disk
def test_few_files_are_kept_open_and_those_in_use_are_not_closed(tmp_path):
    for number in range(20):
        (tmp_path / str(number)).write_bytes(b"x" * number)
    cache = OpenFiles(capacity=4)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208  (no files, and it must not open one of its own for long)
    held = [
        cache.acquire((0, number), lambda number=number: OS_FILES.open_file(tmp_path / str(number)))
        for number in range(6)
    ]
    for number in range(6, 20):
        cache.release(cache.acquire((0, number), lambda number=number: OS_FILES.open_file(tmp_path / str(number))))
    cache.drop((0, 0))
    assert [entry.file.status().identity.size for entry in held] == list(range(6))
    for entry in held:
        cache.release(entry)
    assert len(os.listdir("/proc/self/fd")) - before <= 4  # noqa: PTH208
    assert cache.acquire((0, 99), lambda: None) is None
    cache.close()
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


@pytest.mark.real_disk
@pytest.mark.slow
def test_threads_read_while_the_files_are_changed_under_them_and_never_get_wrong_bytes(shop, moves):
    files = {f"{number}": shop.dice.randbytes(50_000) for number in range(200)}
    seed, published = shop.published(files)
    wrong: list[int] = []

    def read(seed_number: int) -> None:
        dice = random.Random(seed_number)
        for _ in range(300):
            place = published.layout[dice.randrange(200)]
            try:
                data = moves.read_chunk(seed, place.digest)
            except VerificationError:
                continue
            if data is not None and Digest.of(data) != place.digest:
                wrong.append(place.index)

    threads = [threading.Thread(target=read, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for name in list(files)[:50]:
        rewrite(published.path / name)
    for thread in threads:
        thread.join()
    assert wrong == []


def synthetic_layout(count: int, seed: int) -> Layout:
    """A model of one file whose chunks nobody has ever seen."""
    dice = random.Random(seed)
    length = CHUNK_BYTES.to_bytes(4, "big")
    chunks = ChunkList(b"".join(dice.randbytes(32) + length for _ in range(count)))
    whole = Digest.of(chunks.encoded)
    entry = FileEntry(PortablePath("a.bin"), chunks.size, whole, Sha256(whole.raw), len(chunks), chunks.digest)
    return Layout(Manifest.of([entry]), [chunks])


START = """
import sys
from pathlib import Path
from p2pmodel.model import Digest
from p2pmodel.store import Store

peak = lambda: int(next(x for x in open("/proc/self/status") if x.startswith("VmHWM")).split()[1])
before = peak()
store = Store.open(Path(sys.argv[1]))
assert len(store.models()) == 4
for digest in sys.stdin.read().split():
    store.chunk(Digest.from_hex(digest)).release()
print((peak() - before) * 1024)
"""


@pytest.mark.real_disk
@pytest.mark.slow
def test_a_million_chunks_are_indexed_and_found_in_little_memory(shop, tmp_path):
    store = shop.store()
    layouts = [synthetic_layout(250_000, seed) for seed in range(4)]
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as file:
        file.truncate(250_000 * CHUNK_BYTES)
    identity = OS_FILES.status(sparse).identity
    for number, layout in enumerate(layouts):
        with store._database.transaction() as writer:
            store._objects.put_layout(writer, layout)
            copy = store._catalogue.create(writer, layout, tmp_path / str(number), "published")
            kept = KeptFile(0, layout.chunks_of(0), sparse, FileState.PROVEN, identity)
            store._catalogue.save_files(writer, copy, [kept])
            store._catalogue.save_have(writer, copy, layout.have_map().bits, clean=True)
    store.close()
    size = sum(path.stat().st_size for path in (tmp_path / "data").iterdir())
    assert size < 100_000_000, "36 bytes a chunk in the lists, about as many in the index"
    dice = random.Random(0)
    chosen = [layouts[dice.randrange(4)][dice.randrange(250_000)].digest.hex for _ in range(2000)]
    command = [sys.executable, "-c", START, str(tmp_path / "data")]
    ended = subprocess.run(command, input="\n".join(chosen), capture_output=True, text=True, check=True)
    assert int(ended.stdout) < 150 << 20
