"""The seam to the disk, real and simulated alike: no link followed, only regular files opened, errors with the path."""

from __future__ import annotations

import errno
import os
import threading

import pytest

from p2pmodel.errors import P2PModelError, RefusedError
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
