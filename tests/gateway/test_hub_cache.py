"""What is put into the Hugging Face cache is found by its clients whole, or not at all."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from p2pmodel.errors import VerificationError
from p2pmodel.gateway.hub_cache import cache_directory, import_into_cache
from tests.gateway.killed_imports import COMMIT, FILES, REPO, entry_of

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.slow
def test_killed_at_any_step_an_import_is_never_taken_for_a_whole_one_and_can_be_repeated(tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.gateway.killed_imports", str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["steps"] > 30
    assert (result["wrong"], result["again"]) == ([], [])


def test_large_files_are_linked_and_small_ones_copied(tmp_path):
    snapshot = import_into_cache(tmp_path / "hub", entry_of(tmp_path / "source"))
    for name in FILES:
        linked = (snapshot / name).samefile(tmp_path / "source" / name)
        assert linked == (len(FILES[name]) >= 64 * 1024), name


def test_a_file_of_the_cache_that_is_not_what_its_name_says_is_replaced(tmp_path):
    entry = entry_of(tmp_path / "source")
    snapshot = import_into_cache(tmp_path / "hub", entry)
    blob = (snapshot / "model.safetensors").resolve()
    blob.unlink()
    blob.write_bytes(b"x" * len(FILES["model.safetensors"]))
    import_into_cache(tmp_path / "hub", entry)
    assert (snapshot / "model.safetensors").read_bytes() == FILES["model.safetensors"]


def test_a_source_that_is_not_what_the_manifest_says_is_refused(tmp_path):
    entry = entry_of(tmp_path / "source")
    (tmp_path / "source" / "config.json").write_bytes(b"[]")
    with pytest.raises(VerificationError, match="verify"):
        import_into_cache(tmp_path / "hub", entry)
    assert not list((tmp_path / "hub").glob("models--*/snapshots/*"))


def test_of_a_model_that_is_here_in_part_no_list_of_files_is_written(tmp_path):
    entry = entry_of(tmp_path / "source")
    (tmp_path / "source" / "model.safetensors").unlink()
    part = type(entry)("model", REPO, COMMIT, "v1", entry.source, entry.files, ["config.json"])
    snapshot = import_into_cache(tmp_path / "hub", part)
    assert [path.name for path in snapshot.iterdir()] == ["config.json"]
    assert not (snapshot.parents[1] / "trees").exists()
    assert (snapshot.parents[1] / "refs" / "v1").read_text() == COMMIT


@pytest.mark.parametrize(
    ("environment", "where"),
    [
        ({"HF_HUB_CACHE": "/a", "HF_HOME": "/b"}, "/a"),
        ({"HUGGINGFACE_HUB_CACHE": "/c", "HF_HOME": "/b"}, "/c"),
        ({"HF_HOME": "/b", "XDG_CACHE_HOME": "/d"}, "/b/hub"),
        ({"XDG_CACHE_HOME": "/d"}, "/d/huggingface/hub"),
        ({}, str(Path("~/.cache/huggingface/hub").expanduser())),
    ],
)
def test_the_cache_is_where_clients_have_it(environment, where):
    assert str(cache_directory(environment)) == where
