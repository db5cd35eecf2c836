"""Bad chunks are put right where they stand: only they are written, and no crash on the way makes anything worse."""

from __future__ import annotations

import errno
import threading

import pytest

from p2pmodel.errors import CorruptChunkError, P2PModelError, VerificationError
from p2pmodel.limits import CHUNK_BYTES
from p2pmodel.store import ScrubPosition, Store

STOP = threading.Event()


@pytest.fixture
def damaged(shop, moves):
    """A source, a peer that fetched its model, and damage to two of the three chunks of one file there."""
    seed, published = shop.published({"a.bin": shop.dice.randbytes(3 * CHUNK_BYTES), "b.bin": b"b"})
    store = shop.store("peer")
    out = shop.base / "out"
    moves.fetch(seed, store, published.layout, out)
    for chunk in (0, 2):
        moves.damage(out / "a.bin", chunk * CHUNK_BYTES + 7)
    assert [(bad.offset, bad.length) for bad in store.verify(published.model_id)] == [
        (0, CHUNK_BYTES),
        (2 * CHUNK_BYTES, CHUNK_BYTES),
    ]
    return seed, published, store, out


def put_right(seed, repair, moves, chunks=None):
    """As a download does; the bytes that came from the other peer."""
    fetched = 0
    for index in list(repair.missing) if chunks is None else chunks:
        data = moves.read_chunk(seed, repair.layout[index].digest)
        if repair.write(index, memoryview(bytearray(data))):
            fetched += len(data)
    return fetched


def test_only_the_bad_chunks_are_written_and_the_file_keeps_its_name(damaged, moves):
    seed, published, store, out = damaged
    inode = (out / "a.bin").stat().st_ino
    repair = store.open_repair(published.model_id)
    assert list(repair.wanted) == list(repair.missing) == [0, 2]
    repair.begin()
    assert put_right(seed, repair, moves) == 2 * CHUNK_BYTES
    assert moves.read_chunk(store, published.layout[1].digest), "what is good is served while the file is written to"
    assert store.check_files() == [] and store.have_map(published.model_id).whole
    repair.close()
    assert moves.contents(out) == moves.contents(published.path)
    assert (out / "a.bin").stat().st_ino == inode
    assert store.verify(published.model_id) == [] and store.model(published.model_id).state == "fetched"
    assert store.check_files() == []


def test_a_repair_that_did_not_get_everything_keeps_what_it_got(damaged, moves, shop):
    seed, published, store, _out = damaged
    repair = store.open_repair(published.model_id)
    repair.begin()
    put_right(seed, repair, moves, [2])
    repair.close()
    assert list(store.have_map(published.model_id)) == [1, 2, 3]
    store.close()
    again = shop.store("peer")
    assert list(again.have_map(published.model_id)) == [1, 2, 3]
    assert again.model(published.model_id).state == "broken"
    assert [(bad.offset, bad.length) for bad in again.verify(published.model_id)] == [(0, CHUNK_BYTES)]


def test_a_wrong_chunk_is_not_written(damaged):
    _seed, published, store, out = damaged
    before = (out / "a.bin").read_bytes()
    repair = store.open_repair(published.model_id)
    repair.begin()
    with pytest.raises(CorruptChunkError):
        repair.write(0, memoryview(bytearray(CHUNK_BYTES)))
    repair.close()
    assert (out / "a.bin").read_bytes() == before


def test_what_is_on_this_disk_elsewhere_is_not_asked_for(damaged, shop):
    _seed, published, store, out = damaged
    store.publish(published.path)
    repair = store.open_repair(published.model_id, path=out)
    repair.begin()
    assert repair.missing.held == 0 and repair.bytes_reused == 2 * CHUNK_BYTES
    repair.close()
    assert store.verify(published.model_id, path=out) == []


def test_files_that_are_short_or_gone_are_named_and_not_touched(damaged, moves):
    _seed, published, store, out = damaged
    moves.truncate(out / "a.bin", 100)
    (out / "b.bin").unlink()
    store.verify(published.model_id)
    repair = store.open_repair(published.model_id)
    assert [(bad.file, bad.reason) for bad in repair.beyond] == [
        ("a.bin", "the file has 100 bytes"),
        ("b.bin", "the file is missing"),
    ]
    assert repair.wanted.held == 0
    repair.begin()
    repair.close()
    assert (out / "a.bin").stat().st_size == 100 and not (out / "b.bin").exists()


def test_a_file_that_became_shorter_between_check_and_repair_is_left_alone(damaged, moves):
    _, published, store, out = damaged
    repair = store.open_repair(published.model_id)
    moves.truncate(out / "a.bin", 100)
    with pytest.raises(VerificationError, match="changed while it was being checked"):
        repair.begin()
    repair.close()


def test_a_file_that_its_owner_changed_stays_his_where_not_all_of_it_could_be_had(shop, moves):
    seed, published = shop.published({"a.bin": shop.dice.randbytes(2 * CHUNK_BYTES)})
    with (published.path / "a.bin").open("r+b") as file:
        file.write(b"his own words")
    seed.check_files()
    assert len(seed.verify(published.model_id)) == 1
    repair = seed.open_repair(published.model_id)
    repair.begin()
    repair.close()
    assert (published.path / "a.bin").read_bytes().startswith(b"his own words")
    assert "changed since" in seed.model(published.model_id).fault
    assert seed.have_map(published.model_id).held == 0


def test_a_fetched_file_that_somebody_changed_is_not_put_right_unless_he_asks(damaged, moves):
    _seed, published, store, out = damaged
    with (out / "a.bin").open("r+b") as file:
        file.write(b"his own words")
    store.check_files()
    store.verify(published.model_id)
    assert store.health.damaged() == []
    repair = store.open_repair(published.model_id, unasked=True)
    assert repair.wanted.held == 0
    repair.close()
    assert store.open_repair(published.model_id).wanted.held


def test_a_file_that_somebody_changed_between_check_and_repair_is_left_alone(damaged, moves):
    _seed, published, store, out = damaged
    assert store.health.damaged() == [(published.model_id, store.model(published.model_id).path)]
    with (out / "a.bin").open("r+b") as file:
        file.write(b"his own words")
    repair = store.open_repair(published.model_id, unasked=True)
    with pytest.raises(VerificationError, match="changed while it was being checked"):
        repair.begin()
    repair.close()
    assert (out / "a.bin").read_bytes().startswith(b"his own words")
    assert store.check_files() and "changed since" in store.model(published.model_id).fault


def test_what_was_written_during_a_repair_is_read_again_before_it_is_believed(damaged, moves):
    seed, published, store, _out = damaged
    repair = store.open_repair(published.model_id)
    repair.begin()
    put_right(seed, repair, moves)
    repair.close()
    assert store.scrubber.in_doubt


@pytest.mark.simulated_disk
@pytest.mark.slow
def test_whatever_call_it_dies_in_nothing_good_is_lost_and_nothing_bad_is_claimed(shop, moves, tmp_path):
    """Every call of a repair, with several outcomes of a power cut at it."""
    files = {"a.bin": shop.dice.randbytes(30_000), "b.bin": shop.dice.randbytes(5_000)}
    seed, published = shop.published(files)
    store = shop.store("peer")
    moves.fetch(seed, store, published.layout, tmp_path / "out")
    store.close()
    moves.damage(tmp_path / "out/a.bin")
    tmp_path.disk.sync_all()
    right = bytearray(files["a.bin"])
    ended = False
    calls = 0
    while not ended:
        disk = tmp_path.disk.fork()
        process = disk.process()
        peer = Store.open(tmp_path / "peer", files=process)
        peer.verify(published.model_id)
        disk.stop_after(calls)
        calls += 1
        try:
            repair = peer.open_repair(published.model_id)
            try:
                repair.begin()
                repair.write(0, memoryview(right))
            finally:
                repair.close()
            ended = not disk.faults.stopped
        except P2PModelError:
            pass
        for outcome in disk.outcomes(6):
            after = Store.open(tmp_path / "peer", files=outcome.process())
            after.check_files()
            held = after.have_map(published.model_id)
            for index in held:
                place = published.layout[index]
                path = tmp_path / "out" / published.layout.files[place.file_index].path.text
                assert (
                    outcome.read_file(path)[place.offset : place.offset + place.length]
                    == (files[published.layout.files[place.file_index].path.text])
                ), calls
            after.prove()
            assert 1 in after.have_map(published.model_id), "the other file was never touched"
            assert after.model(published.model_id).fault == "" or "damaged" in after.model(published.model_id).fault
            again = after.open_repair(published.model_id)
            again.begin()
            if again.missing.held:
                again.write(0, memoryview(right))
            again.close()
            assert after.have_map(published.model_id).whole
            assert outcome.read_file(tmp_path / "out/a.bin") == files["a.bin"]
            after.close()
            outcome.close()
        disk.close()
    assert calls > 5


# --- the scrub


def test_a_scrub_reads_everything_once_and_finds_what_is_bad(damaged, moves):
    _seed, published, store, out = damaged
    moves.damage(out / "b.bin", data=b"c")
    position, read, bad = ScrubPosition(), 0, {}
    for _ in range(10):
        done = store.scrubber.step(position, CHUNK_BYTES, STOP)
        read += done.bytes_read
        bad |= done.bad
        position = done.position
        if done.around:
            break
    assert done.around and position == ScrubPosition()
    assert read == 3 * CHUNK_BYTES + 2, "the small one twice: a wrong read may be the way's fault"
    assert list(bad) == [published.model_id]
    assert list(store.have_map(published.model_id)) == [1]
    assert [(model_id, str(root)) for model_id, root in store.health.damaged()] == [(published.model_id, str(out))]


def test_a_scrub_goes_on_where_it_stopped_and_gives_back_what_is_good_again(shop, moves):
    data = shop.dice.randbytes(3 * CHUNK_BYTES)
    seed, published = shop.published({"a.bin": data})
    copy = seed._catalogue.copies(published.model_id)[0]
    seed._catalogue.lose(copy, 0b101)
    done = seed.scrubber.step(ScrubPosition(copy.number, 1), CHUNK_BYTES, STOP)
    assert (done.position, done.bytes_read) == (ScrubPosition(copy.number, 2), CHUNK_BYTES)
    done = seed.scrubber.step(done.position, CHUNK_BYTES, STOP)
    assert list(done.back) == [published.model_id]
    seed.close()
    assert list(shop.store("source-data").have_map(published.model_id)) == [1, 2]


def test_a_scrub_notices_files_that_changed_and_leaves_those_alone_that_a_fetch_writes(shop, moves):
    seed, published = shop.published({"a.bin": shop.dice.randbytes(100)})
    with (published.path / "a.bin").open("r+b") as file:
        file.write(b"new")
    done = seed.scrubber.step(ScrubPosition(), CHUNK_BYTES, STOP)
    assert list(done.bad) == [published.model_id] and done.bytes_read == 0
    (copy,) = seed._catalogue.copies(published.model_id)
    copy.busy.acquire()
    assert seed.scrubber.step(ScrubPosition(), CHUNK_BYTES, STOP).bytes_read == 0
    copy.busy.release()


def test_a_file_in_doubt_is_read_from_beginning_to_end_and_is_out_of_it(shop, moves):
    seed, published = shop.published({"a.bin": shop.dice.randbytes(2 * CHUNK_BYTES)})
    path = published.path / "a.bin"
    path.rename(published.path / "other")
    (published.path / "other").rename(path)
    seed.check_files()
    assert seed.scrubber.in_doubt
    assert seed.scrubber.recheck(CHUNK_BYTES, STOP).bytes_read == CHUNK_BYTES and seed.scrubber.in_doubt
    while seed.scrubber.in_doubt:
        seed.scrubber.recheck(CHUNK_BYTES, STOP)
    (copy,) = seed._catalogue.copies(published.model_id)
    assert copy.file(0).identity.ctime_ns and copy.bits == 0b11


def test_a_file_to_which_something_was_done_while_it_was_read_again_stays_in_doubt(shop):
    seed, published = shop.published({"a.bin": shop.dice.randbytes(2 * CHUNK_BYTES)})

    def move():
        (published.path / "a.bin").rename(published.path / "other")
        (published.path / "other").rename(published.path / "a.bin")

    move()
    seed.check_files()
    seed.scrubber.recheck(CHUNK_BYTES, STOP)
    move()
    seed.scrubber.recheck(CHUNK_BYTES, STOP)
    (copy,) = seed._catalogue.copies(published.model_id)
    assert copy.file(0).identity.ctime_ns == 0 and seed.scrubber.in_doubt


@pytest.mark.simulated_disk
def test_a_sector_that_cannot_be_read_is_a_bad_chunk(shop, tmp_path):
    seed, published = shop.published({"a.bin": shop.dice.randbytes(100)})
    tmp_path.disk.fail_after(1, errno.EIO, only={"read"}, times=None)
    done = seed.scrubber.step(ScrubPosition(), CHUNK_BYTES, STOP)
    assert list(done.bad) == [published.model_id]
    tmp_path.disk.heal()
    assert list(seed.scrubber.step(ScrubPosition(), CHUNK_BYTES, STOP).back) == [published.model_id]
