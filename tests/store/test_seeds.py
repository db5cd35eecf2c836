"""`seed` finds what other programs keep, takes what is whole, and says why it left out the rest. Nothing is copied."""

from __future__ import annotations

import hashlib
import json
import struct

import pytest

from p2pmodel.errors import NotFoundError, VerificationError
from p2pmodel.model.gguf import GGML_TYPES
from p2pmodel.store import OS_FILES, LeftOut
from p2pmodel.store.hugging_face import HubSnapshot
from p2pmodel.store.seeds import name_of

COMMIT, OTHER = "a" * 40, "b" * 40


def gguf(elements=64, kind=0, drop=0):
    """A file with one tensor of ggml type `kind`, `drop` bytes short."""
    block, size = GGML_TYPES[kind]
    info = struct.pack("<Q", 1) + b"w" + struct.pack("<IQIQ", 1, elements, kind, 0)
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + info
    head += bytes(-len(head) % 32)
    data = bytes(elements // block * size)
    return head + data[: len(data) - drop]


def safetensors(data=b"12345678", drop=0):
    header = json.dumps({"w": {"dtype": "U8", "shape": [len(data)], "data_offsets": [0, len(data)]}}).encode()
    return struct.pack("<Q", len(header)) + header + data[: len(data) - drop]


def git_oid(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def sha256(data):
    return hashlib.sha256(data).hexdigest()


class Hub:
    """A cache, laid out as huggingface_hub 2.4 lays it out. `test_seed_hub.py` has the client itself fill one."""

    def __init__(self, root):
        self.root = root

    def repo(self, repo_id="org/tiny"):
        return self.root / f"models--{repo_id.replace('/', '--')}"

    def add(self, files, repo_id="org/tiny", commit=COMMIT, refs=("main",), tree=True):
        repo = self.repo(repo_id)
        listed = {}
        for path, data in files.items():
            large = path.endswith((".safetensors", ".gguf"))
            etag = sha256(data) if large else git_oid(data)
            if not (repo / "blobs" / etag).exists():
                (repo / "blobs").mkdir(parents=True, exist_ok=True)
                (repo / "blobs" / etag).write_bytes(data)
            link = repo / "snapshots" / commit / path
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to("../" * (path.count("/") + 2) + f"blobs/{etag}")
            listed[path] = {"size": len(data), "blob_id": git_oid(data), "lfs_sha256": etag if large else None}
        for ref in refs:
            (repo / "refs").mkdir(parents=True, exist_ok=True)
            (repo / "refs" / ref).write_bytes(commit.encode())
        if tree:
            self.tree(listed, repo_id, commit)
        return repo / "snapshots" / commit

    def tree(self, listed, repo_id="org/tiny", commit=COMMIT):
        path = self.repo(repo_id) / "trees" / f"{commit}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(json.dumps({"format_version": 1, "files": listed}).encode())


@pytest.fixture
def hub(tmp_path):
    return Hub(tmp_path / "hub")


FILES = {"config.json": b'{"a": 1}', "model.safetensors": safetensors(), "sub/notes.txt": b"notes"}


def reasons(seeds):
    return [left.reason for left in seeds.left_out]


# --- a Hugging Face cache


@pytest.mark.parametrize("place", ["hub", "", "hub/models--org--tiny", f"hub/models--org--tiny/snapshots/{COMMIT}"])
def test_a_snapshot_is_taken_where_it_lies_from_wherever_one_points_to(shop, hub, tmp_path, place, moves):
    snapshot = hub.add(FILES)
    store = shop.store()
    before = moves.contents(tmp_path / "hub")
    seeds = store.find_seeds(tmp_path / place)
    (seed,) = seeds.found
    assert seeds.left_out == []
    assert (seed.title, seed.name, seed.qualified_name) == ("org/tiny@main", "tiny", "org.tiny")
    assert seed.revisions == (COMMIT, "main") and str(seed.root) == str(snapshot)
    published = store.seed(seed)
    assert [file.path.text for file in published.layout.files] == sorted(FILES)
    for place in published.layout:
        assert moves.read_chunk(store, place.digest)
    assert moves.contents(tmp_path / "hub") == before
    (copy,) = store._catalogue.copies(published.model_id)
    assert all("/blobs/" in str(kept.location) for kept in copy.files), "served from the cache's own files"


def test_a_file_that_is_not_what_its_name_says_is_not_taken(shop, hub):
    hub.add(FILES)
    store = shop.store()
    (seed,) = store.find_seeds(hub.root).found
    blob = hub.repo() / "blobs" / sha256(FILES["model.safetensors"])
    blob.write_bytes(safetensors(b"87654321"))
    with pytest.raises(VerificationError, match="is not what its name says: sha256"):
        store.seed(seed)
    blob.write_bytes(FILES["model.safetensors"])
    (hub.repo() / "blobs" / git_oid(FILES["config.json"])).write_bytes(b'{"a": 2}')
    with pytest.raises(VerificationError, match="is not what its name says: git"):
        store.seed(seed)
    assert store.models() == []


def test_what_is_still_being_downloaded_is_left_out(shop, hub):
    large = safetensors(b"x" * 100)
    hub.add({"config.json": b"{}"}, tree=False)
    hub.tree({"config.json": {"blob_id": git_oid(b"{}")}, "model.safetensors": {"lfs_sha256": sha256(large)}})
    (hub.repo() / "blobs" / f"{sha256(large)}.1a2b3c.incomplete").write_bytes(large[:10])
    seeds = shop.store().find_seeds(hub.root)
    assert seeds.found == [] and reasons(seeds) == ["org/tiny: a download is not finished: model.safetensors"]


def test_a_download_of_another_revision_does_not_matter_where_the_files_are_known(shop, hub):
    hub.add(FILES)
    (hub.repo() / "blobs" / f"{'c' * 64}.incomplete").write_bytes(b"x")
    assert len(shop.store().find_seeds(hub.root).found) == 1
    hub.add({"config.json": b"{}"}, repo_id="org/old", tree=False)
    (hub.repo("org/old") / "blobs" / f"{'c' * 64}.incomplete").write_bytes(b"x")
    seeds = shop.store("other").find_seeds(hub.root)
    assert [seed.title for seed in seeds.found] == ["org/tiny@main"], "without a list, any may be its"


def test_one_file_of_a_repository_that_was_fetched_on_purpose_is_taken_and_said_to_be_a_part(shop, hub):
    hub.add({"a.gguf": gguf()}, tree=False)
    hub.tree({f"{name}.gguf": {"lfs_sha256": sha256(name.encode())} for name in "abc"})
    (seed,) = shop.store().find_seeds(hub.root).found
    assert seed.note == "1 of the 3 files of the repository"


def test_a_dangling_link_a_cut_file_and_a_missing_shard_are_named(shop, hub):
    snapshot = hub.add(FILES, repo_id="org/dangling")
    (snapshot / "gone.txt").symlink_to("../../blobs/" + "0" * 40)
    hub.add({"model.safetensors": safetensors(drop=3)}, repo_id="org/cut")
    index = json.dumps({"metadata": {}, "weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}).encode()
    hub.add({"model.safetensors.index.json": index, "one.safetensors": safetensors()}, repo_id="org/sharded")
    seeds = shop.store().find_seeds(hub.root)
    assert seeds.found == []
    cut, dangling, sharded = reasons(seeds)
    assert cut.startswith("model.safetensors: it is not a whole safetensors file")
    assert "broken link" in dangling
    assert sharded == "1 files that its index names are missing: two.safetensors"


def test_data_sets_and_empty_repositories_are_left_out_and_each_revision_is_a_model(shop, hub):
    hub.add(FILES)
    hub.add({**FILES, "config.json": b'{"a": 2}'}, commit=OTHER, refs=())
    (hub.root / "datasets--org--data").mkdir()
    hub.repo("org/empty").mkdir()
    seeds = shop.store().find_seeds(hub.root)
    assert {seed.title for seed in seeds.found} == {"org/tiny@main", f"org/tiny@{OTHER[:12]}"}
    assert sorted(reasons(seeds)) == ["not a model but one of the datasets", "nothing of it has been downloaded"]


def test_what_was_seeded_before_is_not_read_again_and_a_changed_file_is_not_served(shop, hub, moves):
    hub.add(FILES)
    store = shop.store()
    (seed,) = store.find_seeds(hub.root).found
    published = store.seed(seed)
    assert store.seed(seed).bytes_hashed == 0
    blob = hub.repo() / "blobs" / sha256(FILES["model.safetensors"])
    blob.write_bytes(safetensors(b"87654321"))
    (broken,) = store.check_files()
    assert broken.state == "broken" and broken.model_id == published.model_id
    index = published.layout.chunks_of(1).start
    assert store.chunk(published.layout[index].digest) is None


# --- an Ollama store


def ollama(root, layers, model="llama3", tag="8b", namespace="library", config=b"{}"):
    described = []
    for kind, data in [*layers, ("config", config)]:
        (root / "blobs").mkdir(parents=True, exist_ok=True)
        (root / "blobs" / f"sha256-{sha256(data)}").write_bytes(data)
        described.append(
            {"mediaType": f"application/vnd.ollama.image.{kind}", "digest": f"sha256:{sha256(data)}", "size": len(data)}
        )
    path = root / "manifests/registry.ollama.ai" / namespace / model / tag
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(json.dumps({"schemaVersion": 2, "config": described.pop(), "layers": described}).encode())
    return path


LAYERS = [("model", gguf()), ("template", b"{{ .Prompt }}"), ("license", b"MIT"), ("license", b"and more")]


@pytest.mark.parametrize("place", ["", "models"])
def test_an_ollama_model_is_taken_under_names_that_say_what_its_layers_are(shop, tmp_path, place, moves):
    manifest = ollama(tmp_path / "o" / "models", LAYERS)
    store = shop.store()
    seeds = store.find_seeds(tmp_path / "o" / place)
    (seed,) = seeds.found
    assert (seed.title, seed.name, seed.revisions, str(seed.root)) == ("llama3:8b", "llama3", ("8b",), str(manifest))
    published = store.seed(seed)
    names = [file.path.text for file in published.layout.files]
    assert names == ["config.json", "license", "license-2", "manifest.json", "model.gguf", "template"]
    assert all(moves.read_chunk(store, place.digest) for place in published.layout)


def test_ollama_models_that_are_not_whole_are_left_out_with_the_layer(shop, tmp_path):
    ollama(tmp_path, LAYERS)
    ollama(tmp_path, [("template", b"alone")], model="nothing", namespace="me")
    ollama(tmp_path, [("model", gguf(drop=4))], model="cut")
    ollama(tmp_path, [("model", gguf(128))], model="gone")
    (tmp_path / "blobs" / f"sha256-{sha256(gguf(128))}").unlink()
    ollama(tmp_path, [("model", gguf(256))], model="short")
    (tmp_path / "blobs" / f"sha256-{sha256(gguf(256))}").write_bytes(gguf(256)[:-1])
    (tmp_path / "blobs" / f"sha256-{'0' * 64}-partial").write_bytes(b"x")
    seeds = shop.store().find_seeds(tmp_path)
    assert [seed.title for seed in seeds.found] == ["llama3:8b"]
    text = "\n".join(reasons(seeds))
    for reason in ("a download that is not finished", "no weights of its own", "is not here", "bytes", "4 bytes are"):
        assert reason in text


def test_an_ollama_blob_that_is_not_what_its_name_says_is_not_taken(shop, tmp_path):
    ollama(tmp_path, LAYERS)
    store = shop.store()
    (seed,) = store.find_seeds(tmp_path).found
    (tmp_path / "blobs" / f"sha256-{sha256(b'MIT')}").write_bytes(b"BSD")
    with pytest.raises(VerificationError, match="is not what its name says: sha256"):
        store.seed(seed)


# --- GGUF files, directories


def test_each_gguf_file_is_a_model_and_the_parts_of_a_split_one_are_one(shop, tmp_path):
    names = ["a.gguf", "b.gguf", "big-00001-of-00002.gguf", "big-00002-of-00002.gguf", "half-00001-of-00003.gguf"]
    shop.tree("g", {name: gguf(64 + 32 * at) for at, name in enumerate(names)})
    shop.tree("g", {"cut.gguf": gguf(drop=10), "late.gguf": gguf(), "late.gguf.part": b"", "README.md": b"read"})
    seeds = shop.store().find_seeds(tmp_path / "g")
    found = {seed.title: [file.path.text for file in seed.files] for seed in seeds.found}
    assert found == {"a.gguf": ["a.gguf"], "b.gguf": ["b.gguf"], "big.gguf": names[2:4]}
    text = "\n".join(sorted(reasons(seeds)))
    assert "10 bytes are missing at its end" in text
    assert "2 of 3 parts are missing, the first of them number 2" in text
    assert "its download is not finished" in text
    (one,) = shop.store("other").find_seeds(tmp_path / "g" / "a.gguf").found
    (split,) = shop.store("third").find_seeds(tmp_path / "g" / names[3]).found
    assert (one.title, split.title) == ("a.gguf", "big.gguf")


@pytest.mark.parametrize("kind", sorted(GGML_TYPES))
@pytest.mark.simulated_disk
def test_a_gguf_file_of_any_type_is_whole_or_known_to_be_cut(shop, tmp_path, kind):
    shop.tree("g", {"whole.gguf": gguf(512, kind), "cut.gguf": gguf(512, kind, drop=1)})
    seeds = shop.store().find_seeds(tmp_path / "g")
    assert [seed.title for seed in seeds.found] == ["whole.gguf"] and len(seeds.left_out) == 1


def test_the_sizes_of_ggml_types_are_those_of_the_gguf_package():
    constants = pytest.importorskip("gguf.constants")
    theirs = {int(kind): size for kind, size in constants.GGML_QUANT_SIZES.items()}
    assert {kind: size for kind, size in GGML_TYPES.items() if kind in theirs} == {
        kind: theirs[kind] for kind in GGML_TYPES if kind in theirs
    }
    assert len(GGML_TYPES.keys() & theirs.keys()) >= 28


def test_directories_with_weights_are_models_and_others_are_looked_through(shop, tmp_path):
    shop.tree("m/one", {"config.json": b"{}", "model.safetensors": safetensors()})
    shop.tree("m/deep/er/two", {"model_index.json": b"{}", "unet/x.safetensors": safetensors()})
    shop.tree("m/lmstudio/pub/repo", {"q4.gguf": gguf()})
    shop.tree("m/late", {"model.safetensors": safetensors(), "other.safetensors.part": b"x"})
    shop.tree("m/text", {"notes.txt": b"nothing"})
    seeds = shop.store().find_seeds(tmp_path / "m")
    assert {seed.title for seed in seeds.found} == {"one", "two", "q4.gguf"}
    assert reasons(seeds) == ["a download is not finished: other.safetensors.part"]


def test_nothing_there_is_said(shop, tmp_path):
    with pytest.raises(NotFoundError):
        shop.store().find_seeds(tmp_path / "nowhere")
    shop.tree("empty", {"notes.txt": b"x"})
    seeds = shop.store("other").find_seeds(tmp_path / "empty")
    assert (seeds.found, seeds.left_out) == ([], [])
    assert LeftOut(tmp_path, "x").reason == "x"


@pytest.mark.parametrize(
    ("text", "name"),
    [("Qwen2-0.5B", "Qwen2-0.5B"), ("a--b..c", "a-b.c"), ("my model (v2)", "my-model-v2"), ("--", ""), ("é", "")],
)
def test_names_are_made_of_what_there_is(text, name):
    assert name_of(text) == name


@pytest.mark.real_disk
def test_a_place_in_the_cache_says_which_revision_it_is_and_what_the_hub_calls_its_files(tmp_path):
    hub = Hub(tmp_path)
    weights = safetensors()
    path = hub.add({"model.safetensors": weights, "a/config.json": b"{}"}, refs=("main", "v1"))
    snapshot = HubSnapshot.at(path)
    assert (snapshot.repo_id, snapshot.commit) == ("org/tiny", COMMIT)
    assert HubSnapshot.at(hub.repo("gpt2") / "snapshots" / OTHER).repo_id == "gpt2"
    for other in (path.parent, path.parent / "main", tmp_path / "snapshots" / COMMIT):
        assert HubSnapshot.at(other) is None
    assert [
        name for name in ("main", "v1", "v2", "", "../refs/main", "x/../main") if snapshot.is_meant(OS_FILES, name)
    ] == [
        "main",
        "v1",
    ]


@pytest.fixture
def kept(tmp_path):
    """A snapshot, what the hub calls its files, and their hashes."""
    hub, weights = Hub(tmp_path), safetensors()
    path = hub.add({"model.safetensors": weights, "a/config.json": b"{}"})
    named = {"model.safetensors": sha256(weights), "a/config.json": git_oid(b"{}")}
    return HubSnapshot.at(path), named, {"model.safetensors": sha256(weights), "a/config.json": sha256(b"{}")}


@pytest.mark.real_disk
def test_the_cache_says_what_the_hub_calls_the_files_and_whether_these_are_all(kept):
    snapshot, named, hashes = kept
    assert snapshot.contents(OS_FILES, hashes) == (named, True, {})
    one = {"a/config.json": hashes["a/config.json"]}
    assert snapshot.contents(OS_FILES, one) == (
        {"a/config.json": git_oid(b"{}")},
        False,
        {"model.safetensors": (len(safetensors()), named["model.safetensors"])},
    )
    (snapshot.repository / "trees" / f"{COMMIT}.json").unlink()
    assert snapshot.contents(OS_FILES, hashes) == (named, False, {}), "by the names of the blobs"


@pytest.mark.real_disk
def test_a_file_that_is_another_than_the_list_says_is_not_the_commits(kept):
    snapshot, _, hashes = kept
    assert snapshot.contents(OS_FILES, {**hashes, "model.safetensors": "0" * 64}) is None
    config, blob = snapshot.path / "a" / "config.json", snapshot.repository / "blobs" / git_oid(b"[]")
    blob.write_bytes(b"[]")
    config.unlink()
    config.symlink_to(blob)
    assert snapshot.contents(OS_FILES, hashes) is None


@pytest.mark.real_disk
def test_a_file_in_place_of_a_link_may_have_been_edited_and_the_commit_is_not_beyond_doubt(kept):
    snapshot, named, hashes = kept
    config = snapshot.path / "a" / "config.json"
    config.unlink()
    config.write_bytes(b"[]")
    assert snapshot.contents(OS_FILES, {**hashes, "a/config.json": sha256(b"[]")}) == (named, False, {})
