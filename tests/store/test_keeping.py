"""Objects, statements, verification, letting go, and the lock of a data directory."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing

import pytest

from p2pmodel.errors import DecodeError, InterruptedFetchError, NotFoundError, P2PModelError, RefusedError
from p2pmodel.limits import CHUNK_BYTES, OBJECT_BYTES_MAX, STATEMENTS_PER_MODEL_MAX
from p2pmodel.model import Digest, FileEntry, Layout, Manifest, SecretKey, Sha256, Statement, sign_statement
from p2pmodel.store import BadRange, DirectoryLock
from p2pmodel.store.database import _MIGRATIONS, SCHEMA_VERSION, Database


def test_an_object_comes_back_by_its_hash_or_not_at_all(shop):
    store = shop.store()
    digest = store.put_object(b"data")
    assert digest == Digest.of(b"data") == store.put_object(b"data")
    assert store.object(digest) == b"data"
    with store._database.transaction() as writer:
        writer.execute("UPDATE objects SET data = ?", (b"damaged",))
    assert store.object(digest) is None
    with pytest.raises(DecodeError):
        store.put_object(bytes(OBJECT_BYTES_MAX + 1))


def test_statements_are_found_by_model_and_name_newest_first(shop):
    store = shop.store()
    keys = [SecretKey.from_seed(bytes([number]) * 32) for number in range(3)]
    models = [Digest.of(bytes([number])) for number in range(3)]
    signed = [
        sign_statement(Statement(models[0], 10, "tiny", "v1"), keys[0]),
        sign_statement(Statement(models[1], 20, "tiny", "v2"), keys[0]),
        sign_statement(Statement(models[2], 30, "tiny", "v1"), keys[1]),
        sign_statement(Statement(models[0], 5), keys[2]),
    ]
    for one in signed:
        store.add_statement(one)
        store.add_statement(one)
    assert store.statements(models[0]) == [signed[0], signed[3]]
    assert store.find_name("tiny") == [signed[2], signed[1], signed[0]]
    assert store.find_name("tiny", namespace=keys[0].public) == [signed[1], signed[0]]
    assert store.find_name("tiny", namespace=keys[0].public, revision="v1") == [signed[0]]
    assert store.find_name("other") == []


def test_a_newer_statement_replaces_the_same_signers_older_one_and_never_the_other_way(shop):
    store = shop.store()
    key, model = SecretKey.from_seed(bytes(32)), Digest.of(b"m")
    older, newer = (sign_statement(Statement(model, at, "tiny", message=str(at)), key) for at in (1, 2))
    for one in (older, newer, older):
        store.add_statement(one)
    assert store.statements(model) == [newer]


@pytest.mark.slow
def test_strangers_cannot_push_out_the_statements_that_came_first(shop):
    store = shop.store()
    model = Digest.of(b"m")
    for number in range(STATEMENTS_PER_MODEL_MAX + 5):
        store.add_statement(sign_statement(Statement(model, number), SecretKey.from_seed(bytes([number]) * 32)))
    kept = store.statements(model)
    assert len(kept) == STATEMENTS_PER_MODEL_MAX and kept[-1].statement.issued_at == 0


def test_verify_names_each_bad_range_and_the_have_map_follows(shop, moves):
    seed, published = shop.published({"a.bin": shop.dice.randbytes(5 * CHUNK_BYTES), "b.bin": b"b", "c.bin": b"c"})
    for chunk in (1, 2, 4):
        moves.damage(published.path / "a.bin", chunk * CHUNK_BYTES + 7)
    assert seed.have_map(published.model_id).whole, "its marks do not tell"
    (published.path / "b.bin").unlink()
    reason = "the content is not what the manifest says"
    assert seed.verify(published.model_id) == [
        BadRange("a.bin", CHUNK_BYTES, 2 * CHUNK_BYTES, reason),
        BadRange("a.bin", 4 * CHUNK_BYTES, CHUNK_BYTES, reason),
        BadRange("b.bin", 0, 1, "the file is missing"),
    ]
    assert list(seed.have_map(published.model_id)) == [0, 3, 6]
    seed.close()
    assert list(shop.store("source-data").have_map(published.model_id)) == [0, 3, 6]


def test_a_file_that_may_not_be_looked_at_hides_no_other_that_changed(shop, moves, files, monkeypatch):
    store, kept = shop.published({"a.bin": b"a" * 9}, "one")
    place = shop.tree("other", {"b.bin": b"b" * 9})
    other = store.publish(place)
    look, locked = type(files).status, kept.path / "a.bin"

    def status(self, path):
        if path == locked:
            raise RefusedError(f"no permission to look at {path}")
        return look(self, path)

    monkeypatch.setattr(type(files), "status", status)
    (place / "b.bin").write_bytes(b"changed")
    assert {model.model_id for model in store.check_files()} == {kept.model_id, other.model_id}
    assert "no permission" in store.model(kept.model_id).fault and "changed" in store.model(other.model_id).fault
    monkeypatch.undo()
    store.check_files()
    assert store.have_map(kept.model_id).whole


def test_verify_names_what_is_longer_or_shorter(shop, moves):
    seed, published = shop.published({"a.bin": b"a" * 100, "b.bin": b"b" * 100})
    with (published.path / "a.bin").open("ab") as file:
        file.write(b"tail")
    moves.truncate(published.path / "b.bin", 50)
    assert [(bad.file, bad.offset, bad.length) for bad in seed.verify(published.model_id)] == [
        ("a.bin", 100, 4),
        ("b.bin", 0, 100),
    ]
    assert seed.model(published.model_id).state == "broken"


def test_verify_finds_a_manifest_whose_sha256_is_a_lie(shop, moves, tmp_path):
    seed, published = shop.published({"a.bin": b"a" * 100})
    true = published.layout.files[0]
    entry = FileEntry(true.path, true.size, true.blake3, Sha256(bytes(32)), true.chunk_count, true.chunk_list)
    layout = Layout(Manifest.of([entry]), published.layout.chunk_lists)
    store = shop.store()
    moves.fetch(seed, store, layout, tmp_path / "out")
    (bad,) = store.verify(layout.model_id)
    assert "another SHA-256" in bad.reason


def test_what_verify_found_is_fetched_again_and_nothing_else(shop, moves, tmp_path):
    files = shop.model_files()
    seed, published = shop.published(files)
    store = shop.store()
    moves.fetch(seed, store, published.layout, tmp_path / "out")
    with (tmp_path / "out" / "weights.bin").open("r+b") as file:
        file.write(b"rot")
    assert len(store.verify(published.model_id)) == 1
    with pytest.raises(RefusedError):
        moves.fetch(seed, store, published.layout, tmp_path / "out")
    assert moves.fetch(seed, store, published.layout, tmp_path / "out", overwrite=True) == CHUNK_BYTES
    assert moves.contents(tmp_path / "out") == files and store.verify(published.model_id) == []
    assert store.model(published.model_id).state == "fetched"


def test_bit_rot_in_a_fetched_file_is_repaired_without_asking(shop, moves, tmp_path):
    files = shop.model_files()
    seed, published = shop.published(files)
    store = shop.store()
    moves.fetch(seed, store, published.layout, tmp_path / "out")
    moves.damage(tmp_path / "out" / "weights.bin")
    assert len(store.verify(published.model_id)) == 1
    assert moves.fetch(seed, store, published.layout, tmp_path / "out") == CHUNK_BYTES
    assert moves.contents(tmp_path / "out") == files


def test_verify_of_what_is_not_here_is_not_found_and_stops_when_asked(shop, tmp_path):
    seed, published = shop.published()
    with pytest.raises(NotFoundError):
        seed.verify(Digest.of(b"nothing"))
    with pytest.raises(NotFoundError):
        seed.verify(published.model_id, path=tmp_path / "elsewhere")
    stop = threading.Event()
    stop.set()
    with pytest.raises(InterruptedFetchError):
        seed.verify(published.model_id, stop=stop)
    seen: list[int] = []
    assert seed.verify(published.model_id, path=published.path, on_progress=lambda done, *_: seen.append(done)) == []
    assert seen[-1] == published.bytes_total


def test_a_copy_is_not_checked_while_it_is_being_fetched(shop, moves, tmp_path):
    seed, published = shop.published()
    store = shop.store()
    intake = store.open_intake(published.layout, range(4), tmp_path / "out")
    intake.adopt()
    moves.pull(seed, intake, [0])
    with pytest.raises(RefusedError, match="is being fetched"):
        store.verify(published.model_id)
    assert store.prove() == []
    intake.close()
    assert store.verify(published.model_id) == []
    opened = threading.Event()

    def fetch_again() -> None:
        store.open_intake(published.layout, range(4), tmp_path / "out").close()
        opened.set()

    copy = store._catalogue.copies(published.model_id)[0]
    with copy.busy:
        waiting = threading.Thread(target=fetch_again)
        waiting.start()
        assert not opened.wait(0.02), "a fetch waits for the end of a check"
    waiting.join()
    assert opened.is_set()


def test_removing_a_published_model_leaves_its_files(shop, moves):
    files = shop.model_files()
    seed, published = shop.published(files)
    digest = published.layout[0].digest
    seed.remove(published.model_id)
    assert moves.contents(published.path) == files
    assert seed.models() == [] and seed.chunk(digest) is None and seed.layout(published.model_id) is None
    seed.remove(published.model_id)
    seed.close()
    again = shop.store("source-data")
    assert again.models() == [] and again.chunk(digest) is None
    assert again.publish(published.path).model_id == published.model_id
    assert again.chunk(digest) is not None


def test_removing_a_fetched_model_deletes_files_only_inside_the_data_directory(shop, moves, tmp_path):
    files = shop.model_files()
    seed, published = shop.published(files)
    store = shop.store()
    inside, outside = tmp_path / "data" / "models" / "m", tmp_path / "out"
    moves.fetch(seed, store, published.layout, outside)
    moves.fetch(seed, store, published.layout, inside)
    (inside / "mine").write_bytes(b"keep")
    store.remove(published.model_id)
    assert moves.contents(outside) == files
    assert moves.contents(inside) == {"mine": b"keep"}


def test_removing_an_unfinished_fetch_frees_its_space(shop, moves, tmp_path):
    seed, published = shop.published()
    store = shop.store()
    intake = store.open_intake(published.layout, range(4), tmp_path / "out")
    intake.adopt()
    moves.pull(seed, intake, [0])
    intake.close()
    store.remove(published.model_id)
    assert not (tmp_path / "out").exists() or moves.contents(tmp_path / "out") == {}


def test_the_directory_that_an_unfinished_fetch_was_sent_to_stays_when_it_is_let_go_of(shop, moves, tmp_path):
    seed, published = shop.published()
    store = shop.store()
    out = shop.tree("out", {})
    intake = store.open_intake(published.layout, range(4), out)
    intake.adopt()
    moves.pull(seed, intake, [0])
    intake.close()
    assert list(out.iterdir()) != []
    store.remove(published.model_id)
    assert out.is_dir() and list(out.iterdir()) == [], "somebody made it, and may have his reasons"


def test_every_place_of_a_model_is_told_the_fullest_first_and_whose_it_is(shop, moves, tmp_path):
    seed, published = shop.published({"a.bin": shop.dice.randbytes(2 * CHUNK_BYTES)})
    store = shop.store()
    cached = store.cache.directory / published.model_id.hex
    intake = store.open_intake(published.layout, [0], tmp_path / "mine")
    intake.adopt()
    moves.pull(seed, intake, [0])
    intake.close()
    moves.fetch(seed, store, published.layout, cached)
    model = store.model(published.model_id)
    assert [(place.content, place.state, place.chunks_held) for place in model.places] == [
        ("cached", "fetched", 2),
        ("fetched", "partial", 1),
    ]
    assert [place.bytes_held for place in model.places] == [2 * CHUNK_BYTES, CHUNK_BYTES]
    assert model.cached and str(model.path) == str(cached)


def test_removing_one_model_keeps_what_another_shares_with_it(shop, moves):
    files = shop.model_files()
    seed, one = shop.published(files)
    other = seed.publish(shop.tree("other", {**files, "config.json": b"{}"}))
    seed.remove(one.model_id)
    assert seed.layout(other.model_id) is not None
    assert all(moves.read_chunk(seed, place.digest) for place in other.layout)


def test_a_directory_lock_is_held_by_one_and_names_its_holder(files, tmp_path):
    with files.lock(tmp_path / "data"):
        with pytest.raises(RefusedError, match=r"in use by another peer .process \d+\)"):
            files.lock(tmp_path / "data")
        files.lock(tmp_path / "other").release()
    lock = files.lock(tmp_path / "data")
    lock.release()
    lock.release()


@pytest.mark.real_disk
def test_a_data_directory_that_the_lock_makes_is_private_and_the_owner_is_this_process(files, tmp_path):
    with files.lock(tmp_path / "data"), pytest.raises(RefusedError, match=f"process {os.getpid()}\\)"):
        files.lock(tmp_path / "data")
    assert (tmp_path / "data").stat().st_mode & 0o077 == 0


@pytest.mark.real_disk
@pytest.mark.slow
def test_the_lock_of_a_killed_process_is_free_at_once(tmp_path):
    script = (
        "import sys, time; from pathlib import Path; from p2pmodel.store import DirectoryLock;"
        "lock = DirectoryLock(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None and child.stdout.readline() == "held\n"
        with pytest.raises(RefusedError, match=f"process {child.pid}"):
            DirectoryLock(tmp_path)
        child.kill()
        child.wait()
        DirectoryLock(tmp_path).release()


def test_an_index_of_a_newer_version_or_a_damaged_one_is_refused_in_words(shop, files, tmp_path):
    shop.store().close()
    path = tmp_path / "data" / "store.sqlite3"
    with closing(files.connect(path)) as connection:
        connection.execute("PRAGMA user_version=99")
    with pytest.raises(RefusedError, match="newer version"):
        shop.store()
    path.write_bytes(b"this is not a database" * 1000)
    with pytest.raises(P2PModelError, match="move it away"):
        shop.store()


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION))
def test_an_index_of_an_older_version_is_brought_up_to_date_and_keeps_what_it_says(shop, files, moves, version):
    seed, published = shop.published()
    seed.close()
    path = shop.base / "source-data" / "store.sqlite3"
    tables = ("objects", "statements", "models", "chunks", "copies", "files")
    with closing(sqlite3.connect(":memory:")) as older:
        older.executescript("".join(_MIGRATIONS[:version]))
        columns = {t: ", ".join(row[1] for row in older.execute(f"PRAGMA table_info({t})")) for t in tables}
    with closing(files.connect(path)) as now:
        rows = {table: now.execute(f"SELECT {columns[table]} FROM {table}").fetchall() for table in tables}
    path.unlink()
    with closing(files.connect(path)) as old:
        old.executescript(f"BEGIN; {''.join(_MIGRATIONS[:version])} PRAGMA user_version={version}; COMMIT;")
        old.execute("BEGIN IMMEDIATE")
        for table, found in rows.items():
            for row in found:
                old.execute(f"INSERT INTO {table} ({columns[table]}) VALUES ({', '.join('?' * len(row))})", row)
        old.execute("COMMIT")
    again = shop.store("source-data")
    assert again.have_map(published.model_id).whole
    assert all(moves.read_chunk(again, place.digest) for place in published.layout)
    with closing(files.connect(path)) as now:
        assert now.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)


def test_a_closed_store_says_so(shop):
    store = shop.store()
    store.close()
    store.close()
    with pytest.raises(P2PModelError, match="has been closed"):
        store.put_object(b"x")


def test_after_what_may_be_lost_everything_is_durable_again(files, tmp_path):
    database = Database(tmp_path / "index", files)
    with database.transaction(durable=False) as writer:
        assert writer.execute("PRAGMA synchronous") == [(1,)]
    with pytest.raises(ValueError), database.transaction(durable=False):
        raise ValueError("what a caller did")
    with database.transaction() as writer:
        assert writer.execute("PRAGMA synchronous") == [(2,)]
    database.close()
