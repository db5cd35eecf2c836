"""Disks that are full, refuse, or fail at any call: the right error, nothing half-made, no claim that is not true."""

from __future__ import annotations

import errno
import os
import subprocess
from contextlib import suppress

import pytest

from p2pmodel.errors import NoSpaceError, P2PModelError, RefusedError
from p2pmodel.limits import CHUNK_BYTES
from p2pmodel.model import Digest
from p2pmodel.store import OS_FILES
from p2pmodel.store.files import os_fault


class Fault:
    """Counts the calls that touch the disk and lets one of them fail."""

    def __init__(self, at: int | None = None, code: int = errno.EIO, only: str = "") -> None:
        self.at, self.code, self.only, self.calls = at, code, only, 0

    def check(self, name: str) -> None:
        if self.only and name != self.only:
            return
        self.calls += 1
        if self.at is not None and self.calls == self.at:
            raise os_fault(OSError(self.code, os.strerror(self.code)), "the disk", name)


class FaultyFile:
    def __init__(self, inner, fault):
        self._inner, self._fault = inner, fault

    def __getattr__(self, name):
        value = getattr(self._inner, name)
        if name in ("path", "fileno", "close"):
            return value

        def call(*arguments, **options):
            self._fault.check(name)
            return value(*arguments, **options)

        return call


class FaultyDirectory(FaultyFile):
    def directory(self, name, **options):
        self._fault.check("directory")
        inner = self._inner.directory(name, **options)
        return inner and FaultyDirectory(inner, self._fault)

    def open(self, name, **options):
        self._fault.check("open")
        inner = self._inner.open(name, **options)
        return inner and FaultyFile(inner, self._fault)

    def rename(self, name, to, new_name):
        self._fault.check("rename")
        self._inner.rename(name, to._inner, new_name)


class FaultyFiles(type(OS_FILES)):
    """The real disk with one fault in it."""

    def __init__(self, fault: Fault) -> None:
        self._fault = fault

    def open_directory(self, path, *, create=False):
        self._fault.check("open_directory")
        inner = OS_FILES.open_directory(path, create=create)
        return inner and FaultyDirectory(inner, self._fault)

    def open_file(self, path):
        self._fault.check("open_file")
        inner = OS_FILES.open_file(path)
        return inner and FaultyFile(inner, self._fault)

    def status(self, path):
        self._fault.check("status")
        return OS_FILES.status(path)


def story(shop, moves, seed, published, files, number):
    """Fetch half, claim, close; fetch the rest, finish, claim, close."""
    store = shop.store(f"data-{number}", files=files)
    try:
        for share in (2, 1):
            intake = store.open_intake(
                published.layout, range(len(published.layout.files)), shop.base / f"out-{number}"
            )
            try:
                intake.adopt()
                missing = list(intake.missing)
                moves.pull(seed, intake, missing[: len(missing) // share])
                intake.claim()
                if share == 1:
                    intake.finish()
            finally:
                intake.close()
    finally:
        store.close()


def no_false_have(store, layout, moves):
    have = store.have_map(layout.model_id)
    for index in have or ():
        data = moves.read_chunk(store, layout[index].digest)
        assert data is not None and Digest.of(data) == layout[index].digest


def small_files(shop):
    same = shop.dice.randbytes(5000)
    return {"a.bin": shop.dice.randbytes(CHUNK_BYTES + 9), "d/b": same, "d/c": same, "empty": b""}


@pytest.mark.slow
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_whichever_call_fails_the_next_run_completes_and_nothing_is_claimed_falsely(shop, moves, code):
    files = small_files(shop)
    seed, published = shop.published(files)
    counting = Fault()
    story(shop, moves, seed, published, FaultyFiles(counting), "counting")
    assert counting.calls > 50
    failed = 0
    for at in range(1, counting.calls + 1):
        try:
            story(shop, moves, seed, published, FaultyFiles(Fault(at, code)), at)
        except P2PModelError as error:
            failed += 1
            assert code != errno.ENOSPC or isinstance(error, NoSpaceError), error
        store = shop.store(f"data-{at}")
        no_false_have(store, published.layout, moves)
        moves.fetch(seed, store, published.layout, shop.base / f"out-{at}")
        assert moves.contents(shop.base / f"out-{at}") == files, f"call {at}"
        store.close()
    assert failed > 50


def test_after_a_barrier_that_failed_nothing_since_the_last_claim_is_held(shop, moves, tmp_path):
    seed, published = shop.published(small_files(shop))
    fault = Fault(at=2, only="sync")
    store = shop.store(files=FaultyFiles(fault))
    intake = store.open_intake(published.layout, range(4), tmp_path / "out")
    intake.adopt()
    first, *others = list(intake.missing)
    moves.pull(seed, intake, [first])
    intake.claim()
    claimed = intake.have
    moves.pull(seed, intake, [index for index in others if published.layout[index].file_index == 0])
    assert intake.have != claimed
    with pytest.raises(P2PModelError, match="cannot sync"):
        intake.claim()
    assert intake.have == claimed, "what the failed barrier should have proven is fetched again"
    moves.pull(seed, intake)
    intake.finish()
    intake.claim()
    intake.close()
    assert store.verify(published.model_id) == []


def test_too_little_space_is_said_before_anything_is_written(shop, moves, tmp_path):
    class Small(FaultyDirectory):
        def free_bytes(self):
            return 1000

    class SmallFiles(FaultyFiles):
        def open_directory(self, path, *, create=False):
            inner = OS_FILES.open_directory(path, create=create)
            return inner and Small(inner, Fault())

    _, published = shop.published()
    store = shop.store(files=SmallFiles(Fault()))
    intake = store.open_intake(published.layout, range(4), tmp_path / "out")
    with pytest.raises(NoSpaceError, match=r"needs \d+ bytes more and has 1000 free"):
        intake.adopt()
    intake.close()
    assert not (tmp_path / "out").exists() and store.models() == []


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


def test_a_full_disk_ends_the_fetch_with_no_space_and_leaves_no_trace(shop, moves, tiny_disk):
    seed, published = shop.published()
    store = shop.store()
    with pytest.raises(NoSpaceError):
        moves.fetch(seed, store, published.layout, tiny_disk / "out")
    assert list(tiny_disk.iterdir()) == [] and store.models() == []


def test_a_disk_that_fills_up_while_space_is_reserved_leaves_no_trace(shop, moves, tiny_disk, monkeypatch):
    seed, published = shop.published()
    store = shop.store()
    monkeypatch.setattr("p2pmodel.store.os_files.OsDirectory.free_bytes", lambda self: 1 << 40)
    with pytest.raises(NoSpaceError):
        moves.fetch(seed, store, published.layout, tiny_disk / "out")
    assert list(tiny_disk.iterdir()) == [] and store.models() == []


def test_a_fetch_goes_on_when_there_is_space_again(shop, moves, tiny_disk):
    seed, published = shop.published({"a": shop.dice.randbytes(2 * CHUNK_BYTES)})
    store = shop.store()
    (tiny_disk / "ballast").write_bytes(bytes(3 * CHUNK_BYTES))
    with pytest.raises(NoSpaceError):
        moves.fetch(seed, store, published.layout, tiny_disk / "out")
    (tiny_disk / "ballast").unlink()
    moves.fetch(seed, store, published.layout, tiny_disk / "out")
    assert store.verify(published.model_id) == []


def test_a_data_directory_on_a_full_disk_is_no_space(shop, tiny_disk):
    with (tiny_disk / "ballast").open("wb", buffering=0) as ballast, suppress(OSError):
        while True:
            ballast.write(bytes(4096))
    with pytest.raises(NoSpaceError):
        shop.store("tiny/data")


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
