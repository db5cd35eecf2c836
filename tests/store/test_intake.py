"""A fetch as the store sees it: verified bytes in, whole files out, and nothing under a final name before that."""

from __future__ import annotations

import os
import threading

import pytest

from p2pmodel.errors import CorruptChunkError, InterruptedFetchError, P2PModelError, RefusedError, UsageError
from p2pmodel.limits import CHUNK_BYTES
from p2pmodel.model import Digest


def open_whole(store, layout, destination, **options):
    intake = store.open_intake(layout, range(len(layout.files)), destination, **options)
    intake.adopt()
    return intake


def test_a_fetched_model_is_equal_to_the_published_one(shop, moves, tmp_path):
    files = shop.model_files()
    seed, published = shop.published(files)
    store = shop.store()
    fetched = moves.fetch(seed, store, published.layout, tmp_path / "out")
    assert moves.contents(tmp_path / "out") == files
    assert fetched == published.bytes_total - 2 * CHUNK_BYTES, "a chunk that stands at three places comes once"
    (model,) = store.models()
    assert (model.state, model.bytes_held, model.path) == ("fetched", published.bytes_total, tmp_path / "out")
    assert store.verify(published.model_id) == [] and store.check_files() == []


def test_a_second_fetch_takes_nothing_from_the_network(shop, moves, tmp_path):
    seed, published = shop.published()
    store = shop.store()
    moves.fetch(seed, store, published.layout, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    for opened in (store, None):
        opened = opened or shop.store()
        assert moves.fetch(seed, opened, published.layout, tmp_path / "out") == 0
        opened.close()
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before


def test_no_final_name_appears_before_its_file_is_whole(shop, moves, tmp_path):
    seed, published = shop.published()
    store = shop.store()
    intake = open_whole(store, published.layout, tmp_path / "out")
    *most, last = list(intake.missing)
    moves.pull(seed, intake, most)
    with pytest.raises(P2PModelError, match="not whole"):
        intake.finish()
    names = {name.split("/")[0] for name in moves.contents(tmp_path / "out")}
    assert names == {f".p2pmodel-{published.model_id.hex[:16]}"}
    if last in intake.missing:
        moves.pull(seed, intake, [last])
    intake.finish()
    intake.close()
    assert not list((tmp_path / "out").glob(".p2pmodel*"))


def named(root):
    return {path.name for path in root.iterdir() if not path.name.startswith(".")}


def test_a_whole_file_can_have_its_name_before_the_others_come_and_the_fetch_goes_on(shop, moves, tmp_path):
    files = shop.model_files()
    seed, published = shop.published(files)
    store, layout = shop.store(), published.layout
    intake = open_whole(store, layout, tmp_path / "out")
    number = next(at for at, file in enumerate(layout.files) if file.path.text == "config.json")
    others = [at for at in range(len(layout.files)) if at != number]
    moves.pull(seed, intake, layout.chunks_of(number))
    assert intake.place_whole(others) == [] and named(tmp_path / "out") == {"empty"}, "an empty file is whole"
    assert intake.place_whole([number]) == [] and named(tmp_path / "out") == {"config.json", "empty"}
    intake.claim()
    intake.close()
    assert store.file_place(published.model_id, number, 1 << layout.chunks_of(number).start).whole
    intake = open_whole(store, layout, tmp_path / "out")
    assert intake.reused["in_place"] == len(files["config.json"])
    moves.pull(seed, intake)
    intake.finish()
    intake.close()
    assert moves.contents(tmp_path / "out") == files
    assert store.have_map(published.model_id).whole and store.verify(published.model_id) == []


def test_a_file_that_gets_its_name_while_its_bytes_are_made_durable_is_known_by_it_after_a_crash(
    shop, moves, monkeypatch, tmp_path
):
    seed, published = shop.published()
    store, layout = shop.store(), published.layout
    intake = open_whole(store, layout, tmp_path / "out")
    number = next(at for at, file in enumerate(layout.files) if file.path.text == "config.json")
    moves.pull(seed, intake, layout.chunks_of(number))
    monkeypatch.setattr(intake._destination, "sync_partial_names", lambda: intake.place_whole([number]))
    intake.claim()
    shop.abandon(store)
    store = shop.store()
    assert store.check_files() == [], "no partial file is looked for in vain"
    intake = open_whole(store, layout, tmp_path / "out")
    assert intake.reused["in_place"] == layout.files[number].size
    intake.close()


@pytest.mark.parametrize("claimed", [False, True], ids=["unclaimed", "claimed"])
def test_a_file_that_could_not_get_its_name_is_known_by_the_old_one_after_a_crash(
    shop, moves, monkeypatch, tmp_path, claimed
):
    seed, published = shop.published()
    store, layout = shop.store(), published.layout
    intake = open_whole(store, layout, tmp_path / "out")
    number = next(at for at, file in enumerate(layout.files) if file.path.text == "config.json")
    moves.pull(seed, intake, layout.chunks_of(number))
    if claimed:
        intake.claim()

    def fails(*_):
        raise P2PModelError("no more names")

    monkeypatch.setattr(intake._destination, "place", fails)
    with pytest.raises(P2PModelError, match="no more names"):
        intake.place_whole([number])
    intake.claim()
    shop.abandon(store)
    store = shop.store()
    assert store.check_files() == []
    intake = open_whole(store, layout, tmp_path / "out")
    assert intake.reused["resumed"] == layout.files[number].size
    intake.close()


def test_no_file_gets_its_name_after_the_end_of_a_fetch(shop, moves, tmp_path):
    seed, published = shop.published()
    intake = open_whole(shop.store(), published.layout, tmp_path / "out")
    moves.pull(seed, intake)
    intake.close()
    assert intake.place_whole() == [] and named(tmp_path / "out") == set()


def test_a_finished_fetch_leaves_only_the_files_before_it_is_closed(shop, moves, tmp_path):
    files = shop.model_files()
    seed, published = shop.published(files)
    intake = open_whole(shop.store(), published.layout, tmp_path / "out")
    moves.pull(seed, intake)
    intake.finish()
    first_level = {path.split("/")[0] for path in files}
    assert {path.name for path in (tmp_path / "out").iterdir()} == first_level
    intake.close()


def test_a_corrupt_chunk_is_refused_and_not_written(shop, moves, tmp_path):
    seed, published = shop.published()
    store = shop.store()
    intake = open_whole(store, published.layout, tmp_path / "out")
    good = moves.read_chunk(seed, published.layout[0].digest)
    for bad in (good[:-1] + bytes([good[-1] ^ 1]), good[:-1], good + b"x", b""):
        with pytest.raises(CorruptChunkError):
            intake.write(0, memoryview(bad))
    assert intake.have.held == 0 and store.chunk(published.layout[0].digest) is None
    intake.close()


def test_what_has_arrived_is_served_at_once(shop, moves, tmp_path):
    seed, published = shop.published()
    store = shop.store()
    intake = open_whole(store, published.layout, tmp_path / "out")
    for index in list(intake.missing):
        digest = published.layout[index].digest
        moves.pull(seed, intake, [index])
        assert index in store.have_map(published.model_id)
        assert Digest.of(moves.read_chunk(store, digest)) == digest
    intake.finish()
    assert all(moves.read_chunk(store, place.digest) for place in published.layout)
    intake.close()


def test_a_source_that_is_being_sent_survives_the_final_name_and_the_end_of_the_fetch(shop, moves, tmp_path):
    seed, published = shop.published()
    store = shop.store()
    intake = open_whole(store, published.layout, tmp_path / "out")
    moves.pull(seed, intake)
    source = store.chunk(published.layout[0].digest)
    intake.finish()
    intake.claim()
    intake.close()
    buffer = memoryview(bytearray(source.length))
    source.read_into(buffer, 0)
    assert Digest.of(buffer) == published.layout[0].digest
    if (found := source.file_range()) is not None:
        fd, offset = found
        assert os.pread(fd, source.length, offset) == bytes(buffer)
    source.release()


def test_a_subset_of_the_files_can_be_fetched_and_the_rest_later(shop, moves, tmp_path):
    files = shop.model_files()
    seed, published = shop.published(files)
    store = shop.store()
    layout = published.layout
    names = [file.path.text for file in layout.files]
    intake = store.open_intake(layout, [names.index("config.json")], tmp_path / "out")
    intake.adopt()
    assert intake.wanted.held == intake.missing.held == 1
    moves.pull(seed, intake)
    intake.finish()
    intake.close()
    assert moves.contents(tmp_path / "out") == {"config.json": files["config.json"]}
    assert store.model(published.model_id).state == "partial"
    moves.fetch(seed, store, layout, tmp_path / "out")
    assert moves.contents(tmp_path / "out") == files
    assert store.model(published.model_id).state == "fetched"


@pytest.mark.parametrize("indices", [[], [-1], [4], [0, 99]])
def test_files_that_the_model_does_not_have_are_a_usage_error(shop, tmp_path, indices):
    _, published = shop.published()
    with pytest.raises(UsageError):
        shop.store().open_intake(published.layout, indices, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_interrupted_fetch_goes_on_where_it_was(shop, moves, tmp_path):
    seed, published = shop.published()
    store = shop.store()
    intake = open_whole(store, published.layout, tmp_path / "out")
    moves.pull(seed, intake, [0, 1, 2])
    held = intake.have
    intake.close()
    store.close()
    store = shop.store()
    assert store.have_map(published.model_id) == held, "what was claimed is served after a restart"
    assert store.model(published.model_id).state == "partial"
    assert all(moves.read_chunk(store, published.layout[index].digest) for index in held)
    intake = open_whole(store, published.layout, tmp_path / "out")
    assert intake.have == held
    assert intake.bytes_reused == sum(published.layout[index].length for index in held)
    moves.pull(seed, intake)
    intake.finish()
    intake.close()
    assert store.verify(published.model_id) == []


def test_a_fetch_that_got_nothing_leaves_nothing(shop, tmp_path):
    _, published = shop.published()
    store = shop.store()
    open_whole(store, published.layout, tmp_path / "out").close()
    assert not (tmp_path / "out").exists() and store.models() == [] and store.have_map(published.model_id) is None


def test_claimed_chunks_whose_partial_file_is_gone_are_not_held(shop, moves, tmp_path):
    seed, published = shop.published()
    store = shop.store()
    intake = open_whole(store, published.layout, tmp_path / "out")
    moves.pull(seed, intake)
    intake.close()
    for path in (tmp_path / "out").rglob("*.part"):
        path.unlink()
    assert moves.read_chunk(store, published.layout[0].digest) is None
    intake = open_whole(store, published.layout, tmp_path / "out")
    assert intake.have.held == 0 and intake.bytes_reused == 0
    moves.pull(seed, intake)
    intake.finish()
    intake.close()
    assert store.verify(published.model_id) == []


def test_a_partial_file_swapped_for_another_is_hashed_not_believed(shop, moves, tmp_path):
    seed, published = shop.published()
    store = shop.store()
    intake = open_whole(store, published.layout, tmp_path / "out")
    moves.pull(seed, intake)
    intake.close()
    for path in (tmp_path / "out").rglob("*.part"):
        data = path.read_bytes()
        path.unlink()
        path.write_bytes(bytes(len(data)))
    intake = open_whole(store, published.layout, tmp_path / "out")
    assert intake.have.held == 0
    intake.close()


def test_chunks_of_another_model_on_this_disk_are_copied_not_fetched(shop, moves, tmp_path):
    files = shop.model_files()
    seed, published = shop.published(files)
    store = shop.store()
    moves.fetch(seed, store, published.layout, tmp_path / "out")
    tuned = {**files, "config.json": b'{"a": 2}', "new.bin": shop.dice.randbytes(100)}
    _, changed = shop.published(tuned, "tuned")
    intake = open_whole(store, changed.layout, tmp_path / "tuned-out")
    assert intake.missing.held == 2
    assert intake.bytes_reused == changed.bytes_total - 108
    moves.pull(shop.store("tuned-data"), intake)
    intake.finish()
    intake.close()
    assert moves.contents(tmp_path / "tuned-out") == tuned


def test_a_local_source_that_was_changed_is_never_copied(shop, moves, tmp_path):
    seed, published = shop.published()
    store = shop.store()
    moves.fetch(seed, store, published.layout, tmp_path / "out")
    moves.damage(tmp_path / "out" / "weights.bin")  # even where its marks do not tell
    intake = open_whole(store, published.layout, tmp_path / "copy")
    assert intake.missing.held == 1
    intake.close()


def test_the_same_content_in_place_is_adopted(shop, moves, tmp_path):
    files = shop.model_files()
    _, published = shop.published(files)
    shop.tree("out", files)
    store = shop.store()
    intake = open_whole(store, published.layout, tmp_path / "out")
    assert intake.missing.held == 0 and intake.bytes_reused == published.bytes_total
    intake.finish()
    intake.close()
    assert moves.contents(tmp_path / "out") == files and store.model(published.model_id).state == "fetched"
    store.close()
    assert shop.store().have_map(published.model_id).whole


@pytest.mark.parametrize("other", [b"mine", b"x" * 8])
def test_somebodys_file_is_not_replaced_unless_that_is_asked_for(shop, moves, tmp_path, other):
    files = shop.model_files()
    seed, published = shop.published(files)
    store = shop.store()
    shop.tree("out", {"config.json": other})
    with pytest.raises(RefusedError, match=r"config.json' exists and has other content"):
        moves.fetch(seed, store, published.layout, tmp_path / "out")
    assert moves.contents(tmp_path / "out") == {"config.json": other}
    moves.fetch(seed, store, published.layout, tmp_path / "out", overwrite=True)
    assert moves.contents(tmp_path / "out") == files


def test_what_fits_of_a_replaced_file_is_kept(shop, moves, tmp_path):
    files = shop.model_files()
    seed, published = shop.published(files)
    shop.tree("out", {**files, "weights.bin": b"?" * 10 + files["weights.bin"][10:]})
    store = shop.store()
    intake = open_whole(store, published.layout, tmp_path / "out", overwrite=True)
    assert intake.missing.held == 1
    assert (tmp_path / "out" / "weights.bin").read_bytes().startswith(b"?"), "replaced only when the new one is whole"
    moves.pull(seed, intake)
    intake.finish()
    intake.close()
    assert moves.contents(tmp_path / "out") == files


def test_a_new_revision_replaces_the_files_of_the_old_one(shop, moves, tmp_path):
    files = shop.model_files()
    seed, old = shop.published(files)
    store = shop.store()
    moves.fetch(seed, store, old.layout, tmp_path / "out")
    changed = {**files, "config.json": b'{"a": 2}'}
    seed2, new = shop.published(changed, "second")
    assert moves.fetch(seed2, store, new.layout, tmp_path / "out") == 8
    assert moves.contents(tmp_path / "out") == changed
    assert store.model(old.model_id).state == "broken" and "replaced" in store.model(old.model_id).fault
    assert store.model_at(tmp_path / "out") == new.model_id
    (tmp_path / "out" / "config.json").write_bytes(b'{"a": 3}')
    with pytest.raises(RefusedError):
        moves.fetch(seed, store, old.layout, tmp_path / "out")


def test_a_file_that_appears_during_the_fetch_is_not_replaced(shop, moves, tmp_path):
    seed, published = shop.published()
    store = shop.store()
    intake = open_whole(store, published.layout, tmp_path / "out")
    moves.pull(seed, intake)
    shop.tree("out", {"config.json": b"appeared"})
    with pytest.raises(RefusedError, match="appeared meanwhile"):
        intake.finish()
    intake.close()
    assert (tmp_path / "out" / "config.json").read_bytes() == b"appeared"


def test_a_model_is_fetched_into_a_directory_once_at_a_time(shop, tmp_path):
    _, published = shop.published()
    store = shop.store()
    intake = open_whole(store, published.layout, tmp_path / "out")
    for other in (store, shop.store("other")):
        with pytest.raises(RefusedError, match="another fetch"):
            other.open_intake(published.layout, [0], tmp_path / "out")
    with pytest.raises(RefusedError, match="is being fetched"):
        store.remove(published.model_id)
    intake.close()
    store.open_intake(published.layout, [0], tmp_path / "out").close()


def test_adopting_stops_when_asked(shop, tmp_path):
    files = shop.model_files()
    _, published = shop.published(files)
    shop.tree("out", files)
    stop = threading.Event()
    stop.set()
    intake = shop.store().open_intake(published.layout, range(4), tmp_path / "out")
    with pytest.raises(InterruptedFetchError):
        intake.adopt(stop=stop)
    intake.close()


@pytest.mark.slow
def test_many_threads_may_write_the_same_chunks_at_once(shop, moves, tmp_path):
    files = {f"{number}.bin": shop.dice.randbytes(3 * CHUNK_BYTES + number) for number in range(3)}
    seed, published = shop.published(files)
    store = shop.store()
    intake = open_whole(store, published.layout, tmp_path / "out")
    order = list(intake.missing)
    errors: list[P2PModelError] = []
    newly: list[int] = []

    def work(start: int) -> None:
        try:
            for index in order[start:] + order[:start]:
                data = moves.read_chunk(seed, published.layout[index].digest)
                newly.append(intake.write(index, memoryview(data)))
                intake.claim()
        except P2PModelError as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(start,)) for start in range(0, 12, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert sum(newly) == intake.wanted.bits and intake.missing.held == 0
    intake.finish()
    intake.close()
    assert moves.contents(tmp_path / "out") == files


def test_a_late_second_copy_of_a_chunk_does_not_touch_the_finished_file(shop, moves, tmp_path):
    seed, published = shop.published()
    store = shop.store()
    intake = open_whole(store, published.layout, tmp_path / "out")
    moves.pull(seed, intake)
    intake.finish()
    data = moves.read_chunk(seed, published.layout[0].digest)
    assert intake.write(0, memoryview(data)) == 0
    intake.claim()
    intake.close()
    assert store.check_files() == [] and store.have_map(published.model_id).whole
