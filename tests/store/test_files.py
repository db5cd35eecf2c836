"""The seam to the disk, real and simulated alike: no link followed, only regular files opened, errors with the path."""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
from contextlib import closing

import pytest

from p2pmodel.errors import P2PModelError, RefusedError, UsageError
from p2pmodel.limits import CHUNK_BYTES


@pytest.fixture
def directory(files, tmp_path):
    opened = files.open_directory(tmp_path / "new" / "place", create=True)
    yield opened
    opened.close()


def test_a_file_keeps_what_is_written_and_tells_its_marks(files, directory):
    file = directory.open("a", write=True, create=True)
    file.allocate(3 * CHUNK_BYTES)
    file.write(memoryview(b"hello"), CHUNK_BYTES)
    file.sync()
    buffer = bytearray(7)
    assert file.read_into(memoryview(buffer), CHUNK_BYTES - 1) == 7 and bytes(buffer) == b"\0hello\0"
    assert file.read_into(memoryview(buffer), 3 * CHUNK_BYTES - 2) == 2
    status = file.status()
    assert status == directory.status("a") == files.status(directory.path / "a")
    assert (status.kind, status.identity.size, status.links) == ("file", 3 * CHUNK_BYTES, 1)
    assert status.allocated_bytes >= 3 * CHUNK_BYTES
    file.close()


def test_space_that_was_never_written_is_no_data(directory):
    file = directory.open("a", write=True, create=True)
    file.allocate(8 * CHUNK_BYTES)
    file.write(memoryview(b"x" * 4096), 4 * CHUNK_BYTES)
    ranges = list(file.data_ranges(8 * CHUNK_BYTES))
    assert sum(end - start for start, end in ranges) < 4 * CHUNK_BYTES
    assert any(start <= 4 * CHUNK_BYTES < end for start, end in ranges)
    assert list(file.data_ranges(0)) == []
    file.close()


@pytest.mark.real_disk
def test_a_file_system_that_cannot_tell_holes_is_all_data(directory, monkeypatch):
    def refuse(*arguments):
        raise OSError(errno.EINVAL, "not here")

    file = directory.open("a", write=True, create=True)
    file.allocate(100)
    monkeypatch.setattr(os, "lseek", refuse)
    assert list(file.data_ranges(100)) == [(0, 100)]
    file.close()


def test_links_are_never_followed_below_a_directory(files, directory, tmp_path):
    (tmp_path / "secret").write_bytes(b"key")
    (directory.path / "link").symlink_to(tmp_path / "secret")
    (directory.path / "folder").symlink_to(tmp_path)
    for options in ({}, {"write": True}, {"write": True, "create": True}):
        with pytest.raises(RefusedError, match="not a regular file"):
            directory.open("link", **options)
    for create in (False, True):
        with pytest.raises(RefusedError, match="a link or a file"):
            directory.directory("folder", create=create)
    assert directory.status("link").kind == "link"
    assert files.open_file(directory.path / "link") is None
    assert files.status(directory.path / "link").kind == "file"


def test_what_is_missing_is_none(files, directory):
    assert directory.open("a") is None and directory.status("a") is None and directory.directory("a") is None
    assert files.open_file(directory.path / "a") is None and files.status(directory.path / "a" / "b") is None
    assert files.open_directory(directory.path / "a") is None


def test_pipes_and_directories_are_no_files_and_do_not_block(files, directory, moves):
    moves.mkfifo(directory.path / "pipe")
    (directory.path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(RefusedError, match="not a regular file"):
            directory.open(name)
        with pytest.raises(RefusedError, match="not a regular file"):
            directory.open(name, write=True)
        assert files.open_file(directory.path / name) is None
    assert directory.status("pipe").kind == "pipe" and directory.status("folder").kind == "directory"


def test_a_full_directory_is_not_removed_and_an_empty_one_is(directory):
    (directory.path / "folder").mkdir()
    (directory.path / "folder" / "a").write_bytes(b"1")
    directory.remove("folder")
    assert (directory.path / "folder" / "a").exists()
    inner = directory.directory("folder")
    inner.remove("a")
    inner.remove("a")
    inner.sync()
    inner.close()
    directory.remove("folder")
    assert not (directory.path / "folder").exists()


def test_a_rename_replaces_and_a_failed_one_says_what(directory):
    (directory.path / "a").write_bytes(b"1")
    (directory.path / "b").write_bytes(b"2")
    directory.rename("a", directory, "b")
    assert (directory.path / "b").read_bytes() == b"1"
    with pytest.raises(P2PModelError, match=r"cannot put in its place .*/c'"):
        directory.rename("a", directory, "c")


def test_one_at_a_time_opens_a_directory_for_itself(directory):
    first = directory.directory("x", create=True, exclusive=True)
    with pytest.raises(RefusedError, match="another fetch"):
        directory.directory("x", create=True, exclusive=True)
    directory.directory("x").close()
    first.close()
    directory.directory("x", exclusive=True).close()


def test_errors_of_an_open_file_name_it(directory):
    (directory.path / "a").write_bytes(b"1")
    file = directory.open("a")
    for doing, call in (
        ("write", lambda: file.write(memoryview(b"x"), 0)),
        ("read", lambda: file.read_into(memoryview(bytearray(1)), -5)),
        ("reserve 10 bytes for", lambda: file.allocate(10)),
    ):
        with pytest.raises(P2PModelError, match=rf"cannot {doing} .*/a'"):
            call()
    file.close()


def test_the_final_name_waits_for_a_write_that_is_under_way(shop, moves, tmp_path):
    """Two peers send the last chunk at once; the slower write must not touch the file after its marks were taken."""
    seed, published = shop.published({"a.bin": shop.dice.randbytes(100)})
    store = shop.store()
    intake = store.open_intake(published.layout, [0], tmp_path / "out")
    intake.adopt()
    data = memoryview(moves.read_chunk(seed, published.layout[0].digest))
    writing, go_on = threading.Event(), threading.Event()

    class SlowFile:
        def __init__(self, inner):
            self._inner = inner

        def __getattr__(self, name):
            return getattr(self._inner, name)

        def write(self, data, offset):
            if threading.current_thread() is slow:
                writing.set()
                go_on.wait()
            self._inner.write(data, offset)

    open_partial = intake._destination.open_partial
    intake._destination.open_partial = lambda index: SlowFile(open_partial(index))
    slow = threading.Thread(target=intake.write, args=(0, data), daemon=True)
    slow.start()
    writing.wait()
    intake.write(0, data)
    finishing = threading.Thread(target=intake.finish)
    finishing.start()
    finishing.join(0.05)
    waited = finishing.is_alive() and not (tmp_path / "out" / "a.bin").exists()
    go_on.set()
    slow.join()
    finishing.join()
    intake.close()
    assert waited and store.check_files() == [] and store.have_map(published.model_id).whole


def test_a_small_file_is_replaced_whole_and_read_whole(files, tmp_path):
    path = tmp_path / "private" / "trust.json"
    assert files.read_small(path) is None
    for data in (b"one" * 1000, b"two", b""):
        files.write_small(path, data)
        assert files.read_small(path) == data
        assert [entry.name for entry in files.entries(path.parent)] == ["trust.json"]
    files.write_small(path, bytes(100))
    with pytest.raises(P2PModelError, match="100 bytes, more than the 99"):
        files.read_small(path, 99)


@pytest.mark.real_disk
def test_a_small_file_and_its_directory_are_private(files, tmp_path):
    files.write_small(tmp_path / "private" / "token", b"secret")
    assert (tmp_path / "private").stat().st_mode & 0o077 == 0
    assert (tmp_path / "private" / "token").stat().st_mode & 0o177 == 0


@pytest.mark.real_disk
@pytest.mark.slow
def test_many_that_replace_a_small_file_at_once_never_mix(files, tmp_path):
    contents = [bytes([number]) * (1000 + number) for number in range(8)]

    def write(data: bytes) -> None:
        for _ in range(10):
            files.write_small(tmp_path / "a", data)
            assert files.read_small(tmp_path / "a") in contents

    threads = [threading.Thread(target=write, args=(data,)) for data in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [entry.name for entry in files.entries(tmp_path)] == ["a"]


def test_entries_are_in_order_and_say_where_links_lead(files, directory, moves):
    (directory.path / "b").write_bytes(b"12")
    (directory.path / "c").mkdir()
    (directory.path / "a").symlink_to("b")
    moves.mkfifo(directory.path / "d")
    found = files.entries(directory.path)
    assert [(entry.name, entry.status.kind, entry.target) for entry in found] == [
        ("a", "link", "b"), ("b", "file", ""), ("c", "directory", ""), ("d", "pipe", ""),
    ]  # fmt: skip
    for path in (directory.path / "b", directory.path / "nowhere"):
        with pytest.raises(P2PModelError, match="cannot read the directory"):
            files.entries(path)


def test_a_path_is_resolved_as_far_as_it_exists(files, directory):
    (directory.path / "real").mkdir()
    (directory.path / "link").symlink_to("real")
    (directory.path / "loop").symlink_to("loop")
    (directory.path / "up").symlink_to("real/../real")
    base = files.resolve(directory.path)
    for path, real in (
        ("link", "real"), ("link/x/y", "real/x/y"), ("up", "real"), ("real/../link/z", "real/z"), ("none/x", "none/x"),
    ):  # fmt: skip
        assert files.resolve(directory.path / path) == base / real
    with pytest.raises(UsageError, match="leads back to itself"):
        files.resolve(directory.path / "loop")


def test_a_database_takes_two_connections_and_keeps_what_was_committed(files, directory):
    with closing(files.connect(directory.path / "index")) as writer:
        writer.executescript("BEGIN; CREATE TABLE t (a); COMMIT;")
        with closing(files.connect(directory.path / "index")) as reader:
            writer.execute("BEGIN IMMEDIATE")
            writer.execute("INSERT INTO t VALUES (1)")
            writer.execute("COMMIT")
            assert reader.execute("SELECT a FROM t").fetchall() == [(1,)]
            writer.execute("BEGIN IMMEDIATE")
            writer.execute("INSERT INTO t VALUES (2)")
    with closing(files.connect(directory.path / "index")) as again:
        assert again.execute("SELECT a FROM t").fetchall() == [(1,)]
    with pytest.raises(sqlite3.OperationalError):
        files.connect(directory.path / "nowhere" / "index")


def test_a_read_only_handle_writes_nothing(directory):
    (directory.path / "a").write_bytes(b"1")
    file = directory.open("a")
    with pytest.raises(P2PModelError, match="cannot write"):
        file.write(memoryview(b"2"), 0)
    file.close()
    assert (directory.path / "a").read_bytes() == b"1"


def test_two_handles_see_each_others_writes_and_outlive_the_name(directory):
    one = directory.open("a", write=True, create=True)
    other = directory.open("a")
    one.write(memoryview(b"hello"), 0)
    directory.remove("a")
    buffer = bytearray(5)
    assert other.read_into(memoryview(buffer), 0) == 5 and bytes(buffer) == b"hello"
    assert other.status().links == 0 and directory.status("a") is None
    one.close()
    other.close()


def test_a_shorter_file_has_lost_its_end_and_a_longer_one_has_zeros(directory):
    file = directory.open("a", write=True, create=True)
    file.write(memoryview(b"x" * 100_000), 0)
    file.allocate(70_000)
    file.allocate(100_000)
    buffer = bytearray(100_000)
    assert file.read_into(memoryview(buffer), 0) == 100_000
    assert bytes(buffer) == b"x" * 70_000 + bytes(30_000)
    file.close()
