"""`p2pmodel://` through fsspec: names, ranges, globs and what moves for them."""

from __future__ import annotations

import fsspec
import pytest
from loading_models import MIB

pytestmark = pytest.mark.slow


@pytest.fixture
def model(publisher, here):
    """An id, and a file system that has not seen it."""
    files = {"data/a.csv": b"x,y\n1,2\n", "data/b.csv": b"x,y\n3,4\n", "weights.bin": bytes(range(256)) * 16 * 1024}
    return publisher.publish(files)


@pytest.fixture
def fs(here):
    made = fsspec.filesystem("p2pmodel", data_dir=str(here))
    yield made
    made.close()


def test_the_scheme_is_known_to_fsspec_and_files_are_listed_as_they_are(model, fs):
    assert fs.ls(f"p2pmodel://{model}", detail=False) == [f"{model}/data", f"{model}/weights.bin"]
    assert fs.glob(f"p2pmodel://{model}/data/*.csv") == [f"{model}/data/a.csv", f"{model}/data/b.csv"]
    assert [one["type"] for one in fs.ls(model)] == ["directory", "file"]
    assert fs.find(model) == [f"{model}/data/a.csv", f"{model}/data/b.csv", f"{model}/weights.bin"]
    told = fs.info(f"{model}/weights.bin")
    assert (told["size"], told["type"], len(told["sha256"])) == (4 * MIB, "file", 64)
    assert fs.isdir(f"{model}/data") and fs.exists(f"{model}/data/a.csv") and not fs.exists(f"{model}/none")
    assert fs.ukey(f"{model}/data/a.csv") != fs.ukey(f"{model}/data/b.csv")


def test_a_range_moves_the_chunks_that_it_lies_in(publisher, model, fs):
    before = publisher.bytes_sent
    assert fs.cat_file(f"{model}/weights.bin", 2 * MIB, 2 * MIB + 256) == bytes(range(256))
    assert fs.cat_file(f"{model}/weights.bin", -4) == bytes(range(252, 256))
    ranges = fs.cat_ranges([f"{model}/weights.bin"] * 3, [0, 256, 2 * MIB], [4, 260, 2 * MIB + 4])
    assert ranges == [bytes(range(4))] * 3
    assert publisher.bytes_sent - before < 3.5 * MIB


def test_files_are_opened_sought_in_and_read_by_lines(model, here):
    with fsspec.open(f"p2pmodel://{model}/data/a.csv", "rt", data_dir=str(here)) as file:
        assert file.read().splitlines() == ["x,y", "1,2"]
    with fsspec.open(f"p2pmodel://{model}/weights.bin", data_dir=str(here)) as file:
        file.seek(3 * MIB)
        assert file.read(4) == bytes(range(4))
        assert len(file.read()) == MIB - 4


def test_a_directory_is_copied_to_this_disk(model, fs, tmp_path):
    fs.get(f"{model}/data", str(tmp_path / "out"), recursive=True)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.csv", "b.csv"]


def test_what_is_not_there_or_not_to_be_written_is_an_error_that_every_program_knows(model, fs):
    with pytest.raises(FileNotFoundError):
        fs.cat_file(f"{model}/none")
    with pytest.raises(FileNotFoundError):
        fs.ls(f"{model}/none")
    with pytest.raises(OSError, match="read-only"):
        fs.open(f"{model}/new", "wb")
    with pytest.raises(IsADirectoryError):
        fs.open(f"{model}/data")
    assert isinstance(fs.cat_ranges([f"{model}/none"], [0], [1])[0], FileNotFoundError)
