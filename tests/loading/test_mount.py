"""Models as a directory of the system: a mount in a process of its own, read with nothing but `open` and `read`."""

from __future__ import annotations

import ctypes.util
import errno
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from loading_models import MIB

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/dev/fuse").exists(), reason="there is no /dev/fuse"),
    pytest.mark.skipif(ctypes.util.find_library("fuse3") is None, reason="libfuse 3 is not installed"),
]
READY_S = 30


def program(*args: object) -> list[str]:
    return [sys.executable, "-m", "p2pmodel", *map(str, args)]


@contextmanager
def mounted(directory: Path, here: Path, *references: str):
    directory.mkdir()
    process = subprocess.Popen(program("mount", directory, *references, "--data-dir", here))
    deadline = time.monotonic() + READY_S
    while not os.path.ismount(directory):
        assert process.poll() is None and time.monotonic() < deadline, "it is not mounted"
        time.sleep(0.02)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(20)


def test_models_are_files_that_come_when_they_are_read_and_the_mount_goes_with_its_process(publisher, here, tmp_path):
    weights = os.urandom(6 * MIB)
    model = publisher.publish({"weights.bin": weights, "sub/config.json": b"{}", "empty": b""}, name="mounted")
    name = f"{publisher.run(publisher.peer.keyring.publisher_key()).public.text}/mounted"
    root, sent = tmp_path / "mnt", publisher.bytes_sent
    with mounted(root, here, name) as process:
        place = root / model
        assert sorted(path.name for path in place.iterdir()) == ["empty", "sub", "weights.bin"]
        assert (place / "sub" / "config.json").read_bytes() == b"{}" and (place / "empty").read_bytes() == b""
        status = (place / "weights.bin").stat()
        assert status.st_size == len(weights) and status.st_mode & 0o777 == 0o444
        with (place / "weights.bin").open("rb") as file:
            file.seek(4 * MIB)
            assert file.read(100) == weights[4 * MIB : 4 * MIB + 100]
        assert publisher.bytes_sent - sent < 4 * MIB
        # In another process: what a page fault waits for here comes from a thread of this one, which it would stop.
        code = "import mmap, sys; f = open(sys.argv[1], 'rb'); m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ);"
        code += "sys.stdout.buffer.write(m[:])"
        mapped = subprocess.run([sys.executable, "-c", code, place / "weights.bin"], capture_output=True, timeout=60)
        assert mapped.stdout == weights
        assert (root / name / "weights.bin").read_bytes() == weights
        for wrong in (place / "none", root / ("0" * 8)):
            with pytest.raises(FileNotFoundError):
                wrong.read_bytes()
        with pytest.raises(OSError) as refused:
            (place / "new").write_bytes(b"x")
        assert refused.value.errno in (errno.EROFS, errno.EACCES)
        process.send_signal(signal.SIGTERM)
        process.wait(20)
        assert not os.path.ismount(root) and not list(root.iterdir())


def test_a_daemon_that_was_killed_is_an_error_for_whoever_reads_and_no_wait(publisher, here, tmp_path):
    model = publisher.publish({"weights.bin": os.urandom(4 * MIB), "config.json": b"{}"})
    daemon = subprocess.Popen(program("daemon", "--data-dir", here, "--json"), stdout=subprocess.PIPE, text=True)
    assert daemon.stdout is not None and "ready" in daemon.stdout.readline()
    try:
        with mounted(tmp_path / "mnt", here):
            place = tmp_path / "mnt" / model
            assert (place / "config.json").read_bytes() == b"{}"
            daemon.kill()
            daemon.wait()
            began = time.monotonic()
            with pytest.raises(OSError) as failed:
                (place / "weights.bin").read_bytes()
            assert failed.value.errno == errno.EIO and time.monotonic() - began < 10
    finally:
        daemon.kill()
        daemon.wait()
        daemon.stdout.close()


def test_what_lies_in_a_directory_is_not_hidden_by_a_mount(tmp_path):
    (tmp_path / "model.bin").write_bytes(b"precious")
    for place in (tmp_path, tmp_path / "model.bin", tmp_path / "nothing"):
        refused = subprocess.run(
            program("mount", place, "--data-dir", tmp_path / "data"), capture_output=True, text=True
        )
        assert refused.returncode == 2 and str(place) in refused.stderr
