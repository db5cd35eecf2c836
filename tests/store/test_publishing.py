"""Publishing in place: what goes into a model, what is left out, what is refused, and that the hashes are right."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
import unicodedata

import pytest
from blake3 import blake3

from p2pmodel.errors import InterruptedFetchError, NotFoundError, RefusedError, UsageError, VerificationError
from p2pmodel.limits import CHUNK_BYTES
from p2pmodel.store.hashing import HashPool


def test_a_published_directory_has_every_file_with_its_true_hashes(shop, moves):
    files = shop.model_files()
    _, published = shop.published(files)
    assert [file.path.text for file in published.layout.files] == sorted(files)
    for index, file in enumerate(published.layout.files):
        data = files[file.path.text]
        assert file.size == len(data)
        assert file.sha256.hex == hashlib.sha256(data).hexdigest()
        assert file.blake3.hex == blake3(data).hexdigest()
        for place in (published.layout[at] for at in published.layout.chunks_of(index)):
            assert place.digest.hex == blake3(data[place.offset : place.offset + place.length]).hexdigest()
    assert published.bytes_total == published.bytes_hashed == sum(map(len, files.values()))
    assert moves.contents(published.path) == files, "nothing was written into the directory"


def test_the_same_files_have_the_same_id_wherever_they_lie(shop):
    files = shop.model_files()
    _, one = shop.published(files, "one")
    _, two = shop.published(dict(reversed(files.items())), "two")
    assert one.model_id == two.model_id


def test_a_single_file_is_a_model_of_one_file(shop):
    root = shop.tree("source", {"a.bin": b"x" * 10})
    store = shop.store()
    published = store.publish(root / "a.bin")
    assert [file.path.text for file in published.layout.files] == ["a.bin"]
    assert published.path == root / "a.bin"
    assert store.model_at(root / "a.bin") == published.model_id and store.model_at(root) is None


def test_every_chunk_of_a_published_model_is_served(shop, moves):
    files = shop.model_files()
    seed, published = shop.published(files)
    assert seed.have_map(published.model_id).whole
    for place in published.layout:
        data = files[published.layout.files[place.file_index].path.text]
        assert moves.read_chunk(seed, place.digest) == data[place.offset : place.offset + place.length]
    assert list(seed.digests(published.model_id)) == [place.digest for place in published.layout]


def test_what_was_published_is_there_after_a_restart(shop, moves):
    seed, published = shop.published()
    seed.close()
    again = shop.store("source-data")
    (model,) = again.models()
    assert (model.model_id, model.state, model.path) == (published.model_id, "published", published.path)
    assert model.bytes_held == model.bytes_total == published.bytes_total
    assert moves.read_chunk(again, published.layout[0].digest) is not None
    assert again.layout(published.model_id).manifest == published.layout.manifest


def test_publishing_unchanged_files_again_reads_none_of_them(shop):
    seed, published = shop.published()
    again = seed.publish(published.path)
    assert again.model_id == published.model_id and again.bytes_hashed == 0
    (published.path / "config.json").write_bytes(b'{"a": 2}')
    changed = seed.publish(published.path)
    assert changed.model_id != published.model_id and changed.bytes_hashed == 8
    assert seed.model_at(published.path) == changed.model_id


def test_what_belongs_to_other_tools_is_left_out_and_said_to_be(shop):
    files = {
        "a": b"1", ".git/config": b"2", ".cache/huggingface/download/a.metadata": b"3", ".p2pmodel-00/00000.part": b"4",
        "sub/.git/x": b"5", ".gitattributes": b"6", ".cache/other": b"7",
    }  # fmt: skip
    _, published = shop.published(files)
    assert [file.path.text for file in published.layout.files] == [".cache/other", ".gitattributes", "a"]
    assert published.skipped == (".cache/huggingface", ".git", ".p2pmodel-00", "sub/.git")


def test_names_are_published_in_normal_form_c(shop):
    decomposed = unicodedata.normalize("NFD", "modèle.bin")
    seed, published = shop.published({decomposed: b"x"})
    assert published.layout.files[0].path.text == unicodedata.normalize("NFC", decomposed)
    assert seed.chunk(published.layout[0].digest) is not None


@pytest.mark.parametrize(
    "name", ["a:b", "nul.txt", "trailing.", "tab\tname", "back\\slash", "right\u202eleft", "GIT~1"]
)
def test_a_name_that_is_not_portable_is_refused_with_the_reason(shop, name):
    root = shop.tree("source", {"fine": b"1", name: b"2"})
    with pytest.raises(UsageError, match=r"cannot be published: .* not a portable path: "):
        shop.store().publish(root)


@pytest.mark.real_disk
def test_a_name_that_is_no_unicode_is_refused(shop):
    root = shop.tree("source", {"fine": b"1"})
    with open(os.fsencode(root) + b"/\xff\xfe", "wb"):  # noqa: PTH123  (a path of bytes)
        pass
    with pytest.raises(UsageError, match="cannot be published"):
        shop.store().publish(root)


def test_names_that_differ_by_case_alone_are_refused(shop):
    root = shop.tree("source", {"Model.bin": b"1", "model.bin": b"2"})
    with pytest.raises(UsageError, match="same name where case is ignored"):
        shop.store().publish(root)


def test_an_empty_directory_is_refused_as_such(shop):
    root = shop.tree("source", {})
    (root / "sub").mkdir()
    with pytest.raises(UsageError, match="empty directory"):
        shop.store().publish(root)
    shop.tree("source", {".git/config": b""})
    with pytest.raises(UsageError, match="never published"):
        shop.store().publish(root)


def test_a_missing_path_is_not_found(shop, tmp_path):
    store = shop.store()
    for path in (tmp_path / "nowhere", tmp_path / "data" / "store.sqlite3" / "x"):
        with pytest.raises(NotFoundError, match="does not exist"):
            store.publish(path)


@pytest.mark.real_disk
def test_sockets_and_pipes_are_refused_by_name(shop, tmp_path, monkeypatch):
    root = shop.tree("source", {"a": b"1"})
    os.mkfifo(root / "pipe")
    with pytest.raises(UsageError, match=r"pipe' is a named pipe"):
        shop.store().publish(root)
    (root / "pipe").unlink()
    monkeypatch.chdir(root)  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("plug")
        with pytest.raises(UsageError, match=r"plug' is a socket"):
            shop.store("other").publish(root)
        with pytest.raises(UsageError, match="a socket"):
            shop.store("other").publish(root / "plug")


def test_links_inside_are_followed(shop, moves):
    root = shop.tree("source", {"real/a.bin": b"data"})
    (root / "b.bin").symlink_to("real/a.bin")
    (root / "again").symlink_to("real")
    seed = shop.store()
    published = seed.publish(root)
    assert [file.path.text for file in published.layout.files] == ["again/a.bin", "b.bin", "real/a.bin"]
    assert moves.read_chunk(seed, published.layout[0].digest) == b"data"


def test_a_link_that_leads_outside_is_refused_unless_asked_for(shop, tmp_path, moves):
    outside = shop.tree("outside", {"secret": b"key", "more/x": b"y"})
    root = shop.tree("source", {"a": b"1"})
    store = shop.store()
    for name, target in (("link", outside / "secret"), ("folder", outside / "more")):
        (root / name).symlink_to(target)
        with pytest.raises(UsageError, match=rf"{name}' is a link to .*{target.name}.*--follow-symlinks"):
            store.publish(root)
        published = store.publish(root, follow_symlinks=True)
        assert len(published.layout.files) == 2
        (root / name).unlink()


def test_a_broken_link_and_a_loop_are_refused_by_name(shop):
    root = shop.tree("source", {"a": b"1", "sub/b": b"2"})
    store = shop.store()
    for name, target, reason in (
        ("broken", "nowhere", "a broken link to 'nowhere'"),
        ("self", "self", "a broken link to 'self'"),
        ("up", "..", "outside of what is published"),
        ("sub/loop", "../sub", "a link to a directory that contains it"),
    ):
        link = root / name
        link.symlink_to(target)
        for follow in (False, True):
            if name == "up" and follow:
                continue
            with pytest.raises(UsageError, match=reason):
                store.publish(root, follow_symlinks=follow)
        link.unlink()


def test_a_snapshot_of_the_hugging_face_cache_is_published_through_its_links(shop, moves):
    repository = shop.tree("hub/models--org--name", {"blobs/abc": b"weights", "refs/main": b"0" * 40})
    shared = shop.tree("hub/blobs", {".huggingface-shared-blobs": b"1\n", "ab/def": b"shared"})
    snapshot = repository / "snapshots" / ("0" * 40)
    (snapshot / "sub").mkdir(parents=True)
    (snapshot / "model.bin").symlink_to("../../blobs/abc")
    (snapshot / "sub" / "other.bin").symlink_to("../../../blobs/def")
    (repository / "blobs" / "def").symlink_to(shared / "ab" / "def")
    store = shop.store()
    published = store.publish(snapshot)
    assert {file.path.text: file.size for file in published.layout.files} == {"model.bin": 7, "sub/other.bin": 6}
    assert {moves.read_chunk(store, place.digest) for place in published.layout} == {b"weights", b"shared"}


@pytest.mark.real_disk
@pytest.mark.skipif(os.geteuid() != 0, reason="to become nobody takes root")
def test_what_may_not_be_read_is_refused(shop, tmp_path):
    root = shop.tree("source", {"a": b"1", "locked/b": b"2"})
    store = shop.store()
    for path, mode in ((root / "a", 0o000), (root / "locked", 0o000)):
        path.chmod(mode)
        for directory in (tmp_path, *tmp_path.parents[:3]):
            directory.chmod(directory.stat().st_mode | 0o055)
        os.seteuid(65534)
        try:
            with pytest.raises(RefusedError, match="Permission denied"):
                store.publish(root)
        finally:
            os.seteuid(0)
        path.chmod(0o755)


def test_a_file_that_changes_while_it_is_read_is_refused(shop):
    root = shop.tree("source", {"a.bin": bytes(8 * CHUNK_BYTES)})
    store = shop.store()

    def touch(done: int, total: int, name: str) -> None:
        with (root / "a.bin").open("r+b") as file:
            file.write(b"x")

    with pytest.raises(VerificationError, match="changed while it was being read"):
        store.publish(root, on_progress=touch)
    assert store.models() == []


def test_a_file_that_shrinks_while_it_is_read_is_refused(shop, moves):
    root = shop.tree("source", {"a.bin": bytes(16 * CHUNK_BYTES)})
    with pytest.raises(VerificationError, match="changed while it was being read"):
        shop.store().publish(root, on_progress=lambda *_: moves.truncate(root / "a.bin", 10))


def test_publishing_stops_when_asked(shop):
    root = shop.tree("source", {"a.bin": bytes(16 * CHUNK_BYTES), "b.bin": b"1"})
    stop = threading.Event()
    store = shop.store()
    with pytest.raises(InterruptedFetchError):
        store.publish(root, on_progress=lambda *_: stop.set(), stop=stop)
    assert store.models() == []


def test_progress_ends_at_the_total(shop):
    root = shop.tree("source", shop.model_files())
    seen: list[tuple[int, int, str]] = []
    published = shop.store().publish(root, on_progress=lambda *step: seen.append(step))
    assert seen[-1][:2] == (published.bytes_total, published.bytes_total)
    assert [done for done, _, _ in seen] == sorted(done for done, _, _ in seen)


def test_a_malformed_tensor_header_is_cut_like_any_other_file(shop, moves):
    files = {"a.safetensors": b"\xff" * (CHUNK_BYTES + 1), "b.gguf": b"GGUF" + bytes(10), "c.safetensors": b""}
    _, published = shop.published(files)
    lengths = [[chunk.length for chunk in chunks] for chunks in published.layout.chunk_lists]
    assert lengths == [[CHUNK_BYTES, 1], [14], []]


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_a_pool_runs_every_task_once_and_gives_its_cores_back(threads):
    pool = HashPool(threads)
    done: list[int] = []
    for _ in range(3):
        pool.each([lambda number=number: done.append(number) for number in range(10)])
        pool.both(lambda: done.append(10), lambda: done.append(11))
    assert sorted(done) == sorted([*range(12)] * 3)
    pool.close()


def test_the_first_error_of_a_pool_reaches_the_caller():
    pool = HashPool(2)

    def fail() -> None:
        raise VerificationError("changed")

    with pytest.raises(VerificationError):
        pool.each([fail] * 5)
    with pytest.raises(VerificationError):
        pool.both(lambda: None, fail)
    pool.close()
