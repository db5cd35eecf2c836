"""The Hugging Face endpoint of a daemon, asked as its clients ask: real daemons, plain HTTP, one model."""

import hashlib
import http.client
import json
import random
import time
from pathlib import Path
from urllib.parse import quote

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

from tests.gateway.conftest import MIB, Town, git_oid, write_model

pytestmark = pytest.mark.slow


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def held(town: Town) -> int:
    """Bytes of the model that the reading daemon has."""
    models = town.hub.ask("/api/v1/models", prefix="").json["models"]
    return sum(model["bytes_held"] for model in models)


def test_metadata_of_weights_comes_from_the_manifest_alone(town):
    answer = town.hub.ask(f"/{town.repo}/resolve/main/model.safetensors", "HEAD")
    assert answer.status == 200
    content = town.files["model.safetensors"]
    assert answer.headers["etag"] == f'"{sha256(content)}"'
    assert answer.headers["content-length"] == str(len(content))
    assert answer.headers["x-repo-commit"] == town.model_id[:40]
    assert answer.headers["accept-ranges"] == "bytes"
    assert held(town) == 0


def test_files_by_their_names_alone_move_no_byte(town):
    answer = town.hub.ask(f"/api/models/{town.repo}")
    assert answer.json["siblings"] == [{"rfilename": path} for path in sorted(town.files)]
    assert (answer.json["id"], answer.json["sha"]) == (town.repo, town.model_id[:40])
    assert held(town) == 0


def test_a_range_brings_only_the_chunks_under_it(town):
    content = town.files["model.safetensors"]
    answer = town.hub.ask(f"/{town.repo}/resolve/main/model.safetensors", Range="bytes=2097160-2097199")
    assert (answer.status, answer.body) == (206, content[2097160:2097200])
    assert answer.headers["content-range"] == f"bytes 2097160-2097199/{len(content)}"
    assert held(town) <= MIB


@pytest.mark.parametrize(
    ("asked", "start", "end"), [("bytes=-5", -5, None), ("bytes=10-", 10, None), ("bytes=0-0", 0, 1)]
)
def test_ranges_are_cut_where_they_ask(town, asked, start, end):
    answer = town.hub.ask(f"/{town.repo}/resolve/main/config.json", range=asked)
    assert (answer.status, answer.body) == (206, town.files["config.json"][start:end])


def test_a_range_past_the_end_is_told_of(town):
    answer = town.hub.ask(f"/{town.repo}/resolve/main/config.json", Range="bytes=1000-")
    assert (answer.status, answer.headers["content-range"]) == (416, "bytes */18")


def test_every_file_comes_as_it_was_published(town):
    for path, content in town.files.items():
        answer = town.hub.ask(f"/{town.repo}/resolve/{town.model_id[:40]}/{quote(path)}")
        assert (answer.status, answer.body) == (200, content), path


def test_small_files_go_by_gits_id_in_the_header_and_in_all_lists(town):
    oid = git_oid(town.files["config.json"])
    assert town.hub.ask(f"/{town.repo}/resolve/main/config.json", "HEAD").headers["etag"] == f'"{oid}"'
    blobs = town.hub.ask(f"/api/models/{town.repo}/revision/main?blobs=True").json["siblings"]
    assert {"rfilename": "config.json", "size": 18, "blobId": oid} in blobs
    large = next(blob for blob in blobs if blob["rfilename"] == "model.safetensors")
    weights = town.files["model.safetensors"]
    assert large["lfs"] == {"sha256": sha256(weights), "size": len(weights), "pointerSize": 132}
    tree = town.hub.ask(f"/api/models/{town.repo}/tree/main?recursive=True&expand=False").json
    assert {"type": "file", "oid": oid, "size": 18, "path": "config.json"} in tree
    assert next(entry for entry in tree if entry["path"] == "model.safetensors")["lfs"]["oid"] == sha256(weights)


def test_a_file_that_the_client_has_is_not_sent_again(town):
    etag = town.hub.ask(f"/{town.repo}/resolve/main/config.json", "HEAD").headers["etag"]
    path = f"/{town.repo}/resolve/main/config.json"
    assert town.hub.ask(path, If_None_Match=etag).status == 304
    assert town.hub.ask(path, If_None_Match=f'"other", W/{etag}').status == 304
    assert town.hub.ask(path, If_None_Match='"other"').status == 200
    assert town.hub.ask(path, If_Match='"other"').status == 412


def test_a_part_of_a_file_that_has_changed_is_all_of_it(town):
    path = f"/{town.repo}/resolve/main/config.json"
    etag = town.hub.ask(path, "HEAD").headers["etag"]
    assert town.hub.ask(path, Range="bytes=1-3", If_Range=etag).status == 206
    assert town.hub.ask(path, Range="bytes=1-3", If_Range='"other"').body == town.files["config.json"]


def test_a_question_with_parameters_without_end_is_refused(town):
    answer = town.hub.ask(f"/api/models/{town.repo}?" + "&".join(f"a{number}=1" for number in range(100)))
    assert (answer.status, answer.headers["x-error-message"]) == (400, "too many parameters")


def test_a_directory_is_listed_by_itself_and_page_by_page(town):
    tree = f"/api/models/{town.repo}/tree/main"
    root = town.hub.ask(f"{tree}?recursive=false").json
    assert [entry["path"] for entry in root if entry["type"] == "directory"] == ["sub dir"]
    inside = town.hub.ask(f"{tree}/sub%20dir").json
    assert [entry["path"] for entry in inside] == ["sub dir/notes é.txt"]
    paths, page = [], town.hub.ask(f"{tree}?recursive=true&limit=2")
    while True:
        paths += [entry["path"] for entry in page.json]
        if "link" not in page.headers:
            break
        assert page.headers["link"].endswith('; rel="next"')
        page = town.hub.ask(page.headers["link"][1:].partition(">")[0].removeprefix(town.hub.endpoint))
    assert paths == sorted([*town.files, "sub dir"])
    missing = town.hub.ask(f"{tree}/additional_chat_templates")
    assert (missing.status, missing.headers["x-error-code"]) == (404, "EntryNotFound")


def test_paths_are_looked_up_from_a_form_and_from_json(town):
    url = f"/api/models/{town.repo}/paths-info/main"
    kinds = [("config.json", "file"), ("sub dir", "directory")]
    form = town.hub.ask(
        url, "POST", b"paths=config.json&paths=sub+dir&paths=nope&expand=False",
        Content_Type="application/x-www-form-urlencoded",
    )  # fmt: skip
    assert [(entry["path"], entry["type"]) for entry in form.json] == kinds
    body = json.dumps({"paths": ["config.json", "sub dir", "nope"], "expand": True}).encode()
    told = town.hub.ask(url, "POST", body, Content_Type="application/json").json
    assert [(entry["path"], entry["type"]) for entry in told] == kinds
    assert told[0]["lastCommit"]["id"] == town.model_id[:40]
    assert town.hub.ask(url, "POST", b"\xff{", Content_Type="application/json").status == 400


def test_datasets_and_spaces_are_found_at_their_own_addresses(town):
    for kind in ("datasets", "spaces"):
        assert town.hub.ask(f"/{kind}/{town.repo}/resolve/main/config.json").body == town.files["config.json"]
        assert town.hub.ask(f"/api/{kind}/{town.repo}").json["id"] == town.repo


@pytest.mark.parametrize(
    ("path", "code", "message"),
    [
        ("/{repo}/resolve/main/nope.txt", "EntryNotFound", "nope.txt"),
        ("/{repo}/resolve/v9/config.json", "RevisionNotFound", "v9"),
        ("/{repo}/resolve/refs%2Fpr%2F1/config.json", "RevisionNotFound", "refs/pr/1"),
        ("/api/models/{repo}/revision/v9", "RevisionNotFound", "v9"),
        ("/api/models/nobody/x", "RepoNotFound", "trust add"),
        ("/nothing/resolve/main/x", "RepoNotFound", "nothing is published"),
        ("/api/models/p2pmodel/x", "RepoNotFound", "64 hex digits"),
        ("/api/models/a--b/c", "RepoNotFound", "a--b"),
    ],
)
def test_what_is_not_there_is_said_with_the_code_that_clients_know_and_the_reason(town, path, code, message):
    answer = town.hub.ask(path.format(repo=town.repo))
    assert (answer.status, answer.headers["x-error-code"]) == (404, code)
    assert message in answer.headers["x-error-message"]
    assert ("x-repo-commit" in answer.headers) == (code == "EntryNotFound")


def test_a_model_that_nobody_has_is_no_repository(town):
    answer = town.hub.ask(f"/api/models/p2pmodel/{'0' * 64}")
    assert (answer.status, answer.headers["x-error-code"]) == (404, "RepoNotFound")
    assert "no peer has the model" in answer.headers["x-error-message"]


def test_what_it_cannot_do_it_says(town):
    for method, path in [("POST", f"/api/models/{town.repo}/preupload/main"), ("POST", "/api/repos/create"),
                         ("POST", f"/{town.repo}.git/info/lfs/objects/batch"),
                         ("DELETE", f"/api/models/{town.repo}")]:  # fmt: skip
        answer = town.hub.ask(path, method, b"{}")
        assert (answer.status, "p2pmodel publish" in answer.headers["x-error-message"]) == (501, True), path
    xet = town.hub.ask(f"/api/models/{town.repo}/xet-read-token/main")
    assert (xet.status, "HF_HUB_DISABLE_XET=1" in xet.headers["x-error-message"]) == (404, True)
    assert town.hub.ask("/api/agent-harnesses").status == 404
    assert town.hub.ask("/api/whoami-v2", Authorization="Bearer hf_x").status == 401


def test_nothing_that_leaves_speaks_of_xet(town):
    for path in (f"/api/models/{town.repo}?blobs=true", f"/api/models/{town.repo}/tree/main?expand=true",
                 f"/{town.repo}/resolve/main/model.safetensors"):  # fmt: skip
        answer = town.hub.ask(path, "HEAD" if "resolve" in path else "GET")
        assert "xet" not in (str(answer.headers) + answer.body.decode()).lower()


def test_a_page_in_a_browser_cannot_use_it(town):
    path = f"/{town.repo}/resolve/main/config.json"
    assert town.hub.ask(path, Host="evil.example:80").status == 403
    assert town.hub.ask(path, Origin="http://evil.example").status == 403
    assert town.hub.ask(path, Sec_Fetch_Site="cross-site").status == 403
    answer = town.hub.ask(path)
    assert answer.headers["content-security-policy"].startswith("sandbox")
    assert answer.headers["content-disposition"] == "attachment"


def test_a_token_is_kept_nowhere(town):
    for path in (f"/api/models/{town.repo}", f"/{town.repo}/resolve/main/nope", "/api/models/nobody/y"):
        town.hub.ask(path, Authorization="Bearer hf_verysecret")
    kept = [path for path in town.net.root.rglob("*") if path.is_file() and b"hf_verysecret" in path.read_bytes()]
    assert not kept


def test_what_a_client_began_comes_to_its_end_when_it_has_gone(town):
    content = random.Random(8).randbytes(12 * MIB)
    path = write_model(town.net.root / "left", {"weights.bin": content})
    model_id = town.net.publish(path, on=town.owner)["model_id"]

    def here() -> int:
        models = town.hub.ask("/api/v1/models", prefix="").json["models"]
        return next((model["bytes_held"] for model in models if model["model_id"] == model_id), 0)

    assert town.net.run("limits", "--download", "4MiB", on=town.reader).code == 0
    connection = http.client.HTTPConnection(town.hub.address, timeout=60)
    connection.request("GET", f"/hf/p2pmodel/{model_id}/resolve/main/weights.bin")
    assert connection.getresponse().read(100) == content[:100]
    connection.close()
    assert here() < len(content)
    assert town.net.run("limits", "--download", "unlimited", on=town.reader).code == 0
    deadline = time.monotonic() + 60
    while here() < len(content):
        assert time.monotonic() < deadline
    answer = town.hub.ask(f"/p2pmodel/{model_id}/resolve/main/weights.bin")
    assert answer.body == content


def test_a_publishers_name_is_a_repository_and_so_is_ones_own(town):
    key = town.publisher
    named = town.hub.ask(f"/api/models/{key}/tiny")
    assert (named.status, named.json["sha"]) == (200, town.model_id[:40])
    assert named.json["lastModified"] > "2025"
    assert town.hub.ask(f"/api/models/{key}/tiny/revision/{town.model_id[:40]}").status == 200
    for missing in ("v2", "refs%2Fpr%2F1", "0" * 40):
        answer = town.hub.ask(f"/api/models/{key}/tiny/revision/{missing}")
        assert (answer.status, answer.headers["x-error-code"]) == (404, "RevisionNotFound")
    town.net.run("trust", "add", key, "lab", on=town.reader)
    assert town.hub.ask("/lab/tiny/resolve/main/config.json").body == town.files["config.json"]
    assert town.owners_hub.ask("/tiny/resolve/main/config.json").body == town.files["config.json"]
    assert town.hub.ask("/tiny/resolve/main/config.json").headers["x-error-code"] == "RepoNotFound"


def test_the_library_downloads_a_repository_and_its_own_check_passes(town, tmp_path):
    api = HfApi(endpoint=town.hub.endpoint, token=False)
    path = Path(api.snapshot_download(town.repo, cache_dir=tmp_path))
    assert {name: (path / name).read_bytes() for name in town.files} == town.files
    with pytest.raises(EntryNotFoundError):
        api.hf_hub_download(town.repo, "nope", cache_dir=tmp_path)
    with pytest.raises(RevisionNotFoundError):
        api.hf_hub_download(town.repo, "config.json", revision="v9", cache_dir=tmp_path)
    with pytest.raises(RepositoryNotFoundError, match="trust add"):
        api.hf_hub_download("nobody/x", "config.json", cache_dir=tmp_path)
    checked = api.verify_repo_checksums(town.repo, cache_dir=tmp_path)
    assert (checked.checked_count, checked.mismatches, checked.missing_paths) == (len(town.files), [], [])
