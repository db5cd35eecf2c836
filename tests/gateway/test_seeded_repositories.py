"""A Hugging Face cache that is seeded: its repositories under their own names and commits, with a hub or without."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from huggingface_hub import HfApi, snapshot_download

from p2pmodel.cli.hub_cache import put_into_hub_cache
from p2pmodel.errors import NetworkError, NotFoundError, RepositoryNotFoundError, RevisionNotFoundError
from p2pmodel.gateway import Chain, RepoAddress, SeededRepositories, SwarmRepositories, hub_of
from p2pmodel.peer import NetworkConfig, Peer, PeerConfig
from p2pmodel.peer.hub_snapshots import seeded_snapshot
from p2pmodel.peer.requests import SeedRequest
from p2pmodel.peer.service import LocalService
from tests.e2e.hub import REPO, running
from tests.e2e.processes import Network, network
from tests.gateway.conftest import MIB, Hub, git_oid

FILES = {
    "config.json": b'{"a": 1}',
    "sub dir/notes \u00e9.txt": b"notes",
    "tokenizer.model": b"small, and the hub has it in LFS all the same" * 9,
    "weights.bin": bytes(range(256)) * 4 * 1024 * 3,
}


@dataclass
class Seeded:
    net: Network
    hub: Hub
    cache: Path
    commit: str
    etags: dict[str, str]
    """What the hub itself calls the files."""

    def ask(self, path: str, method: str = "GET"):
        return self.hub.ask(path, method)


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seeded]:
    """A cache that the library filled from a hub, which then goes away."""
    root = tmp_path_factory.mktemp("seeded")
    with running(FILES) as (endpoint, commit):
        snapshot_download(REPO, cache_dir=root / "hub", endpoint=endpoint, token=False)
        told = Hub(endpoint.removeprefix("http://"))
        tree = told.ask(f"/api/models/{REPO}/tree/main?recursive=true", prefix="").json
        etags = {one["path"]: (one.get("lfs") or one)["oid"] for one in tree if one["type"] == "file"}
        with network(root, entry=False) as net:
            node = net.daemon("off", "--http", "127.0.0.1:0", "--origin", "off")
            done = net.run("seed", root, "--json", on=node)
            assert done.code == 0 and len(done.json["models"]) == 1, done.err
            yield Seeded(net, Hub(node.ready["http"]), root / "hub", commit, etags)


@pytest.mark.slow
def test_a_seeded_cache_is_downloaded_by_its_own_name_and_commit_without_any_hub(seeded, tmp_path):
    api = HfApi(endpoint=seeded.hub.endpoint, token=False)
    path = Path(api.snapshot_download(REPO, cache_dir=tmp_path))
    assert path.name == seeded.commit
    assert {name: (path / name).read_bytes() for name in FILES} == FILES
    assert api.verify_repo_checksums(REPO, cache_dir=tmp_path).mismatches == []
    held = sum(file.stat().st_size for file in (seeded.net.root / "off").rglob("*") if file.is_file())
    assert held < MIB < sum(map(len, FILES.values()))  # and nothing was copied


@pytest.mark.slow
def test_files_are_called_what_the_hub_calls_them_and_not_by_our_rule(seeded):
    tree = seeded.ask(f"/api/models/{REPO}/tree/{seeded.commit}?recursive=true").json
    assert {one["path"]: (one.get("lfs") or one)["oid"] for one in tree if one["type"] == "file"} == seeded.etags
    etag = seeded.ask(f"/{REPO}/resolve/main/config.json", "HEAD").headers["etag"]
    assert etag == f'"{git_oid(FILES["config.json"])}"'


@pytest.mark.slow
def test_a_client_that_has_the_same_cache_finds_that_nothing_is_new(seeded):
    before = sorted(seeded.cache.rglob("*"))
    snapshot_download(REPO, cache_dir=seeded.cache, endpoint=seeded.hub.endpoint, token=False)
    assert [path for path in sorted(seeded.cache.rglob("*")) if ".locks" not in path.parts] == [
        path for path in before if ".locks" not in path.parts
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/api/models/org/tiny/revision/v3", "RevisionNotFound"),
        ("/api/models/org/tiny/revision/..%2F..%2Frefs%2Fmain", "RevisionNotFound"),
        ("/org/tiny/resolve/main/nope", "EntryNotFound"),
        ("/api/models/org/other", "RepoNotFound"),
        ("/api/datasets/org/tiny", "RepoNotFound"),
        ("/api/models/tiny2", "RepoNotFound"),
    ],
)
def test_what_the_cache_does_not_have_is_not_there(seeded, path, code):
    answer = seeded.ask(path)
    assert (answer.status, answer.headers["x-error-code"]) == (404, code)


@pytest.fixture
async def owner(seeded, tmp_path):
    """A peer in this process that has seeded the cache, and whose hub is gone."""
    config = PeerConfig(
        data_dir=tmp_path / "peer",
        listen="127.0.0.1:0",
        http=None,
        network=NetworkConfig(name="test", profile="cluster"),
        origin="http://127.0.0.1:9",
    )
    async with Peer(config) as peer:
        await LocalService(peer).seed(SeedRequest(paths=[str(seeded.cache)]))
        yield peer


@pytest.mark.slow
async def test_a_hub_that_is_gone_is_done_without(seeded, owner):
    front = hub_of(owner)
    try:
        for revision in ("main", seeded.commit):
            repository = await front._repositories.find(RepoAddress("model", REPO, revision))
            file = await repository.file("weights.bin")
            content = b"".join([bytes(part) async for part in repository.read(file, 0, file.size)])
            assert (repository.commit, content) == (seeded.commit, FILES["weights.bin"])
        with pytest.raises(NetworkError):
            await front._repositories.find(RepoAddress("model", "org/other"))
    finally:
        await front.close()


@pytest.mark.slow
async def test_commands_know_what_is_seeded_by_the_name_that_the_hub_has_for_it(owner, tmp_path):
    report = await owner.fetch(f"{REPO}@main", to=tmp_path / "out")
    assert (report.bytes_fetched, report.files) == (0, len(FILES))
    assert {name: (tmp_path / "out" / name).read_bytes() for name in FILES} == FILES
    with pytest.raises(RevisionNotFoundError):
        await owner.fetch(f"{REPO}@v3")
    with pytest.raises(NotFoundError, match="run -- hf download org/other"):
        await owner.fetch("org/other")


@pytest.mark.slow
async def test_what_is_seeded_goes_into_a_cache_as_the_commit_that_the_hub_has(owner, seeded, tmp_path, monkeypatch):
    report, before = await owner.fetch(REPO), sorted(seeded.cache.rglob("*"))
    monkeypatch.setenv("HF_HUB_CACHE", str(seeded.cache))
    told = await put_into_hub_cache(LocalService(owner), REPO, report)
    assert Path(told.path).name == seeded.commit and Path(told.path).is_relative_to(seeded.cache.resolve())
    assert sorted(seeded.cache.rglob("*")) == before
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "other"))
    told = await put_into_hub_cache(LocalService(owner), REPO, report)
    assert (tmp_path / "other" / "models--org--tiny" / "refs" / "main").read_text() == seeded.commit
    assert {name: (Path(told.path) / name).read_bytes() for name in FILES} == FILES


@pytest.mark.slow
async def test_a_part_of_a_commit_goes_into_a_cache_without_saying_that_it_is_all(owner, seeded, tmp_path, monkeypatch):
    report = await owner.fetch(REPO)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "other"))
    told = Path((await put_into_hub_cache(LocalService(owner), REPO, report)).path)
    assert {name: (told / name).readlink().name for name in FILES} == seeded.etags
    ours, theirs = (
        cache / "models--org--tiny" / "trees" / f"{seeded.commit}.json" for cache in (tmp_path / "other", seeded.cache)
    )
    said = theirs.read_text()
    listed = {
        path: file["lfs_sha256"] or file["blob_id"] for path, file in json.loads(ours.read_text())["files"].items()
    }
    assert listed == seeded.etags
    ours.unlink()
    try:
        theirs.write_text(said.replace('"files": {', '"files": {"not fetched": {"blob_id": "%s"}, ' % ("a" * 40)))
        await put_into_hub_cache(LocalService(owner), REPO, report)
        assert not ours.exists()
    finally:
        theirs.write_text(said)


@pytest.mark.slow
async def test_what_of_a_commit_was_never_downloaded_is_listed_all_the_same_and_is_not_to_be_had(owner, seeded):
    tree = seeded.cache / "models--org--tiny" / "trees" / f"{seeded.commit}.json"
    said, swarm = tree.read_text(), SwarmRepositories(owner)
    try:
        more = json.dumps({"never.bin": {"size": 5, "blob_id": "a" * 40, "lfs_sha256": "b" * 64}})[1:-1]
        tree.write_text(said.replace('"files": {', f'"files": {{{more}, '))
        address = RepoAddress("model", REPO, seeded.commit)
        repository = await SeededRepositories(owner, swarm, beyond_doubt=False).find(address)
        assert {file.path: file.etag for file in await repository.files()} == {**seeded.etags, "never.bin": "b" * 64}
        assert list(await repository.paths()) == sorted([*FILES, "never.bin"])
        with pytest.raises(NetworkError, match="was not downloaded here"):
            await repository.file("never.bin")
        with pytest.raises(RepositoryNotFoundError):
            await SeededRepositories(owner, swarm, beyond_doubt=True).find(address)
    finally:
        tree.write_text(said)
        await swarm.close()


@pytest.mark.slow
async def test_to_ask_for_a_name_that_no_cache_has_no_model_is_looked_at(owner, monkeypatch):
    looked_at, stored, front = [], owner.store.model, SwarmRepositories(owner)
    monkeypatch.setattr(owner.store, "model", lambda model_id: looked_at.append(model_id) or stored(model_id))
    for name in "gpt2", "org/other":
        with pytest.raises(RepositoryNotFoundError):
            await front.find(RepoAddress("model", name))
    assert not looked_at
    await front.close()
    assert await seeded_snapshot(owner, "org/other", "main") is None and not looked_at
    assert await seeded_snapshot(owner, REPO, "main") is not None and len(looked_at) == 1


@pytest.mark.slow
async def test_what_is_not_what_the_hub_says_of_that_commit_does_not_go_by_its_name(owner, seeded):
    tree = seeded.cache / "models--org--tiny" / "trees" / f"{seeded.commit}.json"
    said = tree.read_text()
    assert (await seeded_snapshot(owner, REPO, "main")).said.whole
    try:
        tree.write_text(said.replace(seeded.etags["weights.bin"], "0" * 64))
        with pytest.raises(RevisionNotFoundError):
            await seeded_snapshot(owner, REPO, "main")
    finally:
        tree.write_text(said)


class Source:
    """Knows one repository, or cannot be reached."""

    def __init__(self, known: str = "", *, down: bool = False) -> None:
        self.known, self.down, self.asked = known, down, 0

    async def find(self, address, token=None):
        self.asked += 1
        if self.down:
            raise NetworkError("it cannot be reached")
        if address.repo_id != self.known:
            raise RepositoryNotFoundError(f"not {self.known}")
        return self


async def test_a_source_that_could_not_be_reached_is_asked_last_for_a_while():
    clock = [100.0]
    hub, cache = Source("org/tiny", down=True), Source("org/tiny")
    chain = Chain(hub, cache, now=lambda: clock[0])
    address = RepoAddress("model", "org/tiny")
    for _ in range(5):
        assert await chain.find(address) is cache
    assert hub.asked == 1
    hub.down = False
    clock[0] += 11
    assert await chain.find(address) is hub
    hub.down = True
    with pytest.raises(NetworkError):
        await chain.find(RepoAddress("model", "org/other"))
    with pytest.raises(NetworkError):  # whoever else does not have it has asked it again
        await chain.find(RepoAddress("model", "org/other"))
    assert hub.asked == 4
