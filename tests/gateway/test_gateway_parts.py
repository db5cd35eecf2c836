"""The plain parts of the Hugging Face endpoint: what a path means, which bytes a range is, what files are called."""

import hashlib

import pytest

from p2pmodel.errors import (
    EntryNotFoundError,
    GatedError,
    NetworkError,
    NoSpaceError,
    RepositoryNotFoundError,
    UsageError,
)
from p2pmodel.gateway.addresses import Call, Target, parse_target
from p2pmodel.gateway.answers import error_of, tree_paths
from p2pmodel.gateway.git import blob_oid, in_lfs, pointer
from p2pmodel.gateway.ranges import UnsatisfiableRangeError, names, parse_range
from p2pmodel.gateway.repositories import RepoAddress, RepoFile, Token
from p2pmodel.limits import LFS_BYTES_MIN, PLAIN_FILES_BYTES_MAX, PLAIN_FILES_MAX


@pytest.mark.parametrize(
    ("path", "call", "repo", "inside"),
    [
        ("/api/models/org/name", Call.INFO, RepoAddress("model", "org/name"), ""),
        ("/api/models/gpt2", Call.INFO, RepoAddress("model", "gpt2"), ""),
        ("/api/models/gpt2/revision/v1", Call.INFO, RepoAddress("model", "gpt2", "v1"), ""),
        ("/api/datasets/o/n/revision/refs%2Fpr%2F1", Call.INFO, RepoAddress("dataset", "o/n", "refs/pr/1"), ""),
        ("/api/models/o/n/tree/main/sub%20dir/x", Call.TREE, RepoAddress("model", "o/n"), "sub dir/x"),
        ("/api/models/o/tree", Call.INFO, RepoAddress("model", "o/tree"), ""),
        ("/api/models/gpt2/tree/main", Call.TREE, RepoAddress("model", "gpt2"), ""),
        ("/api/spaces/o/n/paths-info/main", Call.PATHS_INFO, RepoAddress("space", "o/n"), ""),
        ("/api/models/o/n/xet-read-token/abc", Call.XET_TOKEN, RepoAddress("model", "o/n", "abc"), ""),
        ("/o/n/resolve/main/a/%C3%A9.txt", Call.RESOLVE, RepoAddress("model", "o/n"), "a/é.txt"),
        ("/gpt2/resolve/refs%2Fpr%2F1/a", Call.RESOLVE, RepoAddress("model", "gpt2", "refs/pr/1"), "a"),
        ("/datasets/o/n/resolve/main/resolve/b", Call.RESOLVE, RepoAddress("dataset", "o/n"), "resolve/b"),
        ("/spaces/o/n/resolve/main/app.py", Call.RESOLVE, RepoAddress("space", "o/n"), "app.py"),
        ("/api/whoami-v2", Call.WHOAMI, None, ""),
        ("/api/models/o/n/preupload/main", Call.UPLOAD, None, ""),
        ("/api/repos/create", Call.UPLOAD, None, ""),
        ("/o/n.git/info/lfs/objects/batch", Call.UPLOAD, None, ""),
        ("/api/agent-harnesses", Call.UNKNOWN, None, ""),
        ("/", Call.UNKNOWN, None, ""),
    ],
)
def test_a_path_means_what_it_means_to_the_hub(path, call, repo, inside):
    assert parse_target(path) == Target(call, repo, inside)


@pytest.mark.parametrize("path", ["/api/models/a--b/c", "/api/models/../etc", "/a%2Fb/c/resolve/main/x"])
def test_what_cannot_be_a_repository_is_none(path):
    with pytest.raises(RepositoryNotFoundError):
        parse_target(path)


def test_a_path_that_is_not_text_is_a_bad_request():
    with pytest.raises(UsageError):
        parse_target("/o/n/resolve/main/%ff")


@pytest.mark.parametrize(
    ("header", "part"),
    [
        (None, None),
        ("bytes=0-9", (0, 10)),
        ("bytes=90-", (90, 100)),
        ("bytes=-5", (95, 100)),
        ("bytes=-500", (0, 100)),
        ("BYTES=10-1000", (10, 100)),
        ("bytes=9-3", None),
        ("bytes=0-1,5-6", None),
        ("bytes=-", None),
        ("items=0-1", None),
    ],
)
def test_a_range_is_read_as_the_standard_says(header, part):
    assert parse_range(header, 100) == part


@pytest.mark.parametrize(
    ("header", "strong", "weak"),
    [
        (None, False, False),
        ("*", True, True),
        ('"abc"', True, True),
        ('W/"abc"', False, True),
        ('"x", W/"abc" , "y"', False, True),
        ('"x","abc"', True, True),
        ("abc", False, False),
        ('"abcd"', False, False),
    ],
)
def test_a_condition_names_a_file_as_the_standard_says(header, strong, weak):
    assert names(header, "abc", weak=False) == strong
    assert names(header, "abc", weak=True) == weak


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=-0", "bytes=100-200"])
def test_a_range_past_the_end_cannot_be_given(header):
    with pytest.raises(UnsatisfiableRangeError):
        parse_range(header, 100)


def test_files_have_the_ids_that_git_gives_them():
    assert blob_oid(b"") == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
    assert blob_oid(b"what is up, doc?") == "bd9dbf5aae1a3862dd1526723246b20206e5fc37"
    sha256 = hashlib.sha256(b"weights").hexdigest()
    file = RepoFile.in_lfs("w.bin", 7, sha256)
    assert (file.etag, file.git_oid) == (sha256, blob_oid(pointer(sha256, 7)))


def test_large_files_and_weights_go_by_sha256_and_small_ones_by_gits_id():
    sizes = {"config.json": 10, "a/model.safetensors": 10, "big.json": LFS_BYTES_MIN, "safetensors": 10}
    assert in_lfs(sizes) == {"a/model.safetensors", "big.json"}


def test_where_there_are_too_many_small_files_to_read_all_go_by_sha256():
    many = {f"{i:05}.txt": 10 for i in range(PLAIN_FILES_MAX)}
    assert not in_lfs(many)
    assert len(in_lfs({**many, "one more": 10})) == len(many) + 1
    heavy = {f"{i}.json": LFS_BYTES_MIN - 1 for i in range(PLAIN_FILES_BYTES_MAX // LFS_BYTES_MIN + 1)}
    assert len(in_lfs(heavy)) == len(heavy)


def test_a_tree_is_listed_level_by_level_or_as_a_whole():
    paths = ["a/b/c.txt", "a/d.txt", "e.txt"]
    assert tree_paths(paths, "", recursive=False) == [("a", True), ("e.txt", False)]
    assert tree_paths(paths, "a", recursive=False) == [("a/b", True), ("a/d.txt", False)]
    whole = [("a", True), ("a/b", True), ("a/b/c.txt", False), ("a/d.txt", False), ("e.txt", False)]
    assert tree_paths(paths, "", recursive=True) == whole
    with pytest.raises(EntryNotFoundError):
        tree_paths(paths, "e.txt", recursive=True)


def test_an_error_tells_a_client_what_kind_it_is_and_a_person_why():
    assert error_of(EntryNotFoundError("no\nfile é"))[1] == {
        "X-Error-Code": "EntryNotFound",
        "X-Error-Message": "no file ?",
    }
    assert error_of(GatedError("x"))[0] == 403
    assert error_of(NetworkError("x")) == (504, {"X-Error-Message": "x"})
    assert error_of(NoSpaceError("x"))[0] == 507  # 500 would be tried again


def test_a_token_stands_in_no_text():
    assert "hf_secret" not in repr(Token("hf_secret")) + str(Token("hf_secret"))
