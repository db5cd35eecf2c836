"""Repositories of an origin, for a peer that has nobody else to ask: files as from the hub, kept and proven."""

import pytest

from p2pmodel.errors import (
    EntryNotFoundError,
    GatedError,
    NetworkError,
    NoSpaceError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    VerificationError,
)
from p2pmodel.gateway.repositories import Token
from tests.gateway.origin.origins import noise, sha256

pytestmark = pytest.mark.slow

WEIGHTS = noise(1_500_000)
FILES = {"config.json": b'{"a": 1}', "model.safetensors": WEIGHTS, "sub dir/notes \u00e9.txt": b"hello"}
REPO = "org/model"


async def test_a_repository_has_the_hubs_commit_files_and_hashes(hub, mirror):
    commit = hub.add(REPO, FILES)
    repo = await (await mirror()).repo(REPO)
    assert repo.commit == commit
    assert await repo.paths() == {path: len(data) for path, data in FILES.items()}
    assert (await repo.file("model.safetensors")).sha256 == sha256(WEIGHTS)
    assert (await repo.file("config.json")).sha256 is None
    with pytest.raises(EntryNotFoundError):
        await repo.file("nothing.txt")


async def test_every_file_comes_whole_and_is_read_from_the_origin_once(hub, mirror):
    hub.add(REPO, FILES)
    peer = await mirror()
    for _ in range(3):
        for path, data in FILES.items():
            assert await peer.read(REPO, path) == data
    assert hub.bytes_sent == peer.origin_bytes == sum(map(len, FILES.values()))
    assert hub.asked("tree") == hub.asked("info") == 1


async def test_ranges_are_those_of_the_file(hub, mirror):
    hub.add(REPO, FILES)
    peer = await mirror()
    for start, end in [(0, 8), (100_000, 100_001), (70_000, 900_000), (1_400_000, 1_500_000)]:
        assert await peer.read(REPO, "model.safetensors", start, end) == WEIGHTS[start:end]


async def test_after_a_restart_a_file_is_here_and_the_origin_is_asked_for_nothing_of_it(hub, mirror, tmp_path):
    hub.add(REPO, FILES)
    first = await mirror("same")
    assert await first.read(REPO, "model.safetensors") == WEIGHTS
    await first.repositories.close()
    await first.peer.__aexit__(None, None, None)
    hub.forget()
    again = await mirror("same")
    assert await again.read(REPO, "model.safetensors") == WEIGHTS
    assert hub.bytes_sent == 0


async def test_with_the_origin_dead_what_is_here_still_works_and_the_rest_says_why_not(hub, mirror):
    hub.add(REPO, FILES)
    peer = await mirror()
    await peer.read(REPO, "model.safetensors")
    await peer.read(REPO, "config.json")
    await hub.die()
    peer.repositories._trees._heads.clear()  # as after some seconds
    for path in ("model.safetensors", "config.json"):
        assert await peer.read(REPO, path) == FILES[path]
    with pytest.raises(NetworkError, match="cannot be asked"):
        await peer.read(REPO, "sub dir/notes \u00e9.txt")
    with pytest.raises(NetworkError, match="cannot be asked"):
        await peer.repo("org/other")


async def test_what_the_origin_does_not_know_is_told_in_its_words(hub, mirror):
    hub.add(REPO, FILES)
    peer = await mirror()
    with pytest.raises(RepositoryNotFoundError, match="Repository Not Found"):
        await peer.repo("org/nothing")
    with pytest.raises(RevisionNotFoundError, match="Invalid rev id"):
        await peer.repo(REPO, "v9")


async def test_a_commit_is_asked_for_once_and_a_branch_by_its_etag(hub, mirror):
    first = hub.add(REPO, FILES)
    peer = await mirror()
    await (await peer.repo(REPO)).files()
    peer.repositories._trees._heads.clear()
    assert (await peer.repo(REPO)).commit == first
    assert [one.etag != "" for one in hub.seen if one.what == "info"] == [False, True]
    second = hub.add(REPO, FILES | {"config.json": b"{}"})
    peer.repositories._trees._heads.clear()
    assert (await peer.repo(REPO)).commit == second
    assert await peer.read(REPO, "config.json") == b"{}"


async def test_a_tree_in_pages_is_one_tree(hub, mirror):
    hub.tree_page = 2
    hub.add(REPO, {f"{i}.txt": b"%d" % i for i in range(7)})
    assert len(await (await (await mirror()).repo(REPO)).files()) == 7


# --- tokens


async def test_what_needs_a_token_is_given_to_whoever_has_it_and_to_no_other(hub, mirror):
    hub.tokens.add("hf_good")
    hub.add(REPO, FILES, gated="auto")
    peer = await mirror()
    assert await peer.read(REPO, "model.safetensors", token=Token("hf_good")) == WEIGHTS
    for token in (None, Token("hf_bad")):
        with pytest.raises(GatedError, match="restricted"):
            await peer.read(REPO, "model.safetensors", token=token)
    hub.add("org/private", FILES, private=True)
    assert await peer.read("org/private", "config.json", token=Token("hf_good")) == FILES["config.json"]
    with pytest.raises(RepositoryNotFoundError):
        await peer.repo("org/private")


async def test_what_needed_a_token_is_neither_announced_nor_served_nor_told_of(hub, mirror):
    hub.tokens.add("hf_good")
    hub.add(REPO, FILES, private=True)
    peer = await mirror()
    for _ in range(2):
        assert await peer.read(REPO, "model.safetensors", token=Token("hf_good")) == WEIGHTS
    assert hub.bytes_sent == len(WEIGHTS)
    assert peer.peer.store.models() == []
    assert peer.peer.overlay.stats().keys_provided == 0
    assert not peer.peer.gatherings._by_id


async def test_a_token_goes_to_the_origin_alone_and_to_no_disk(hub, mirror, tmp_path, caplog):
    caplog.set_level("DEBUG")
    hub.tokens.add("hf_secret_of_mine")
    hub.add(REPO, FILES, gated="auto")
    await (await mirror()).read(REPO, "model.safetensors", token=Token("hf_secret_of_mine"))
    assert {one.authorization for one in hub.seen if one.what != "content"} == {"Bearer hf_secret_of_mine"}
    assert {one.authorization for one in hub.seen if one.what == "content"} == {""}
    assert "hf_secret" not in caplog.text
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"hf_secret" not in kept


async def test_a_repository_that_was_closed_is_not_given_out_from_memory(hub, mirror):
    hub.add(REPO, FILES)
    peer = await mirror()
    await peer.read(REPO, "config.json")
    hub.add(REPO, FILES, private=True)
    peer.repositories._trees._heads.clear()
    with pytest.raises(RepositoryNotFoundError):
        await peer.read(REPO, "config.json")


# --- an origin with trouble


async def test_content_that_breaks_off_is_gone_on_with_where_it_broke(hub, mirror):
    hub.add(REPO, FILES)
    hub.faults.cut["model.safetensors"] = 2
    assert await (await mirror()).read(REPO, "model.safetensors") == WEIGHTS
    assert hub.bytes_sent < 1.5 * len(WEIGHTS)


async def test_a_link_that_has_expired_is_asked_for_again(hub, mirror):
    hub._link_s = 0.0
    hub.add(REPO, FILES)
    peer = await mirror()
    with pytest.raises((NetworkError, GatedError)):
        await peer.read(REPO, "model.safetensors")
    hub._link_s = 60.0
    assert await peer.read(REPO, "model.safetensors") == WEIGHTS


async def test_wrong_bytes_of_the_origin_are_never_given_out_whole(hub, mirror):
    hub.add(REPO, FILES)
    hub.faults.wrong |= {"model.safetensors", "config.json"}
    peer = await mirror()
    with pytest.raises(VerificationError, match="do not have the SHA-256"):
        await peer.read(REPO, "model.safetensors")
    with pytest.raises(VerificationError, match="not the file that it names"):
        await peer.read(REPO, "config.json")
    hub.faults.wrong.clear()
    assert await peer.read(REPO, "model.safetensors") == WEIGHTS


async def test_too_many_requests_are_waited_for_a_little(hub, mirror):
    hub.add(REPO, FILES)
    hub.faults.rate_limited = 2
    assert (await (await mirror()).repo(REPO)).commit


@pytest.mark.parametrize("size", [10, 2_000_000_000_000])
async def test_a_size_that_is_not_the_files_is_an_error_and_no_memory(hub, mirror, size):
    hub.add(REPO, FILES)
    hub.faults.sizes["model.safetensors"] = size
    peer = await mirror()
    with pytest.raises((NetworkError, VerificationError, NoSpaceError)):
        await peer.read(REPO, "model.safetensors")
    assert sum(path.stat().st_size for path in peer.peer.config.data_dir.rglob("*.part")) < len(WEIGHTS)
