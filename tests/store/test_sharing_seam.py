"""The seam for bytes that two files have in common, real and simulated alike: copies, reflinks, hard links."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from contextlib import closing

import pytest

from p2pmodel.errors import NoSpaceError, P2PModelError

KIB = 1024


@pytest.fixture
def directory(files, tmp_path):
    opened = files.open_directory(tmp_path / "place", create=True)
    yield opened
    opened.close()


@pytest.fixture
def source(files, directory, shop):
    (directory.path / "source").write_bytes(shop.dice.randbytes(300 * KIB))
    with closing(files.open_file(directory.path / "source")) as file:
        yield file


@pytest.mark.parametrize(
    ("at", "to", "length"), [(0, 0, 300 * KIB), (4096, 8192, 65536), (7, 7, 100_000), (5, 9, 70_000), (3, 4099, 10)]
)
def test_a_range_is_copied_and_what_lies_around_it_stays(files, directory, source, at, to, length):
    before = (directory.path / "source").read_bytes()
    with closing(directory.open("target", write=True, create=True)) as target:
        target.allocate(400 * KIB)
        target.write(memoryview(b"x" * 400 * KIB), 0)
        assert files.sharing.copy(source, at, target, to, length) in ("reflinked", "copied")
    expected = b"x" * to + before[at : at + length] + b"x" * (400 * KIB - to - length)
    assert (directory.path / "target").read_bytes() == expected
    assert (directory.path / "source").read_bytes() == before


def test_a_copy_does_not_change_with_its_source(files, directory, source):
    before = (directory.path / "source").read_bytes()
    with closing(directory.open("target", write=True, create=True)) as target:
        files.sharing.copy(source, 0, target, 0, len(before))
    with (directory.path / "source").open("r+b") as file:
        file.write(b"edited in place")
    assert (directory.path / "target").read_bytes() == before


def test_a_source_that_is_shorter_than_was_thought_gives_what_it_has(files, directory, source):
    with closing(directory.open("target", write=True, create=True)) as target:
        target.allocate(400 * KIB)
        files.sharing.copy(source, 250 * KIB, target, 0, 100 * KIB)
    before = (directory.path / "source").read_bytes()
    assert (directory.path / "target").read_bytes() == before[250 * KIB :] + bytes(350 * KIB)


def test_a_linked_file_is_one_file_under_two_names(files, directory, source):
    assert files.sharing.link(source, directory, "other")
    one, other = directory.status("source"), directory.status("other")
    assert one == other and one.links == 2
    directory.remove("source")
    assert directory.status("other").links == 1
    assert len((directory.path / "other").read_bytes()) == 300 * KIB


def test_a_name_that_is_in_use_is_left_alone_and_a_file_without_a_name_is_not_linked(files, directory, source):
    (directory.path / "mine").write_bytes(b"mine")
    assert not files.sharing.link(source, directory, "mine")
    assert (directory.path / "mine").read_bytes() == b"mine"
    directory.remove("source")
    assert not files.sharing.link(source, directory, "other")
    assert directory.status("other") is None


@pytest.mark.real_disk
def test_where_a_file_lies_is_known_or_said_not_to_be(files, directory, source):
    os.sync()
    extents = files.sharing.extents(source)
    assert extents is None or sum(extent.length for extent in extents) >= 300 * KIB


@pytest.mark.real_disk
def test_without_help_of_the_file_system_bytes_are_read_and_written(files, directory, source, monkeypatch):
    def refuse(*arguments):
        raise OSError(errno.EXDEV, "not these two")

    monkeypatch.setattr(fcntl, "ioctl", refuse)
    monkeypatch.setattr(os, "copy_file_range", refuse)
    with closing(directory.open("target", write=True, create=True)) as target:
        assert files.sharing.copy(source, 0, target, 0, 300 * KIB) == "copied"
    assert (directory.path / "target").read_bytes() == (directory.path / "source").read_bytes()


@pytest.mark.real_disk
def test_whole_blocks_are_shared_and_the_edges_copied_where_the_file_system_shares(
    files, directory, source, monkeypatch
):
    asked = []

    def clone(fd, request, argument):
        _, source_offset, length, offset = struct.unpack("=qQQQ", argument)
        asked.append((source_offset, length, offset))
        os.pwrite(fd, os.pread(source.fileno(), length, source_offset), offset)

    monkeypatch.setattr(fcntl, "ioctl", clone)
    block = os.statvfs(directory.path).f_bsize
    with closing(directory.open("target", write=True, create=True)) as target:
        assert files.sharing.copy(source, 100, target, block + 100, 5 * block) == "reflinked"
        assert files.sharing.copy(source, 100, target, block + 101, 5 * block) == "copied"
    assert asked == [(block, 4 * block, 2 * block)]
    assert (directory.path / "target").read_bytes()[block + 101 :] == source_bytes(source, 100, 5 * block)


def source_bytes(source, offset, length) -> bytes:
    return os.pread(source.fileno(), length, offset)


@pytest.mark.real_disk
def test_a_full_disk_is_told_of_as_such(files, directory, source, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "copy_file_range", full)
    target = directory.open("target", write=True, create=True)
    with closing(target), pytest.raises(NoSpaceError, match="target"):
        files.sharing.copy(source, 0, target, 0, 10)


@pytest.mark.simulated_disk
def test_a_link_and_a_copy_are_durable_only_after_their_barriers(files, directory, source):
    disk = directory.path.disk
    disk.sync_all()
    with closing(directory.open("target", write=True, create=True)) as target:
        target.allocate(4096)
        directory.sync()
        target.sync()
        files.sharing.copy(source, 0, target, 0, 4096)
        files.sharing.link(source, directory, "other")
        lost = {(bytes(4096) == found.read_file(directory.path / "target"), found.status(directory.path / "other"))
                for found in disk.outcomes(64)}  # fmt: skip
        assert {whole for whole, _ in lost} == {True, False} and {status is None for _, status in lost} == {True, False}
        target.sync()
        directory.sync()
        before = disk.read_file(directory.path / "source")
        for found in disk.outcomes(64):
            assert found.read_file(directory.path / "target") == before[:4096]
            assert found.read_file(directory.path / "other") == before
            assert found.status(directory.path / "other").links == 2


@pytest.mark.simulated_disk
def test_calls_that_share_fail_by_plan_like_any_other(files, directory, source):
    disk = directory.path.disk
    disk.fail_after(1, errno.EIO, only={"link"})
    with pytest.raises(P2PModelError, match="link"):
        files.sharing.link(source, directory, "other")
    assert files.sharing.link(source, directory, "other")
