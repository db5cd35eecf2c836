"""What is published, fetched, cached or pinned; what goes to make room, what never does, and what `rm` and `gc` do."""

from __future__ import annotations

import os
import threading

import pytest

from p2pmodel.errors import NoSpaceError, NotFoundError, RefusedError
from p2pmodel.limits import CHUNK_BYTES
from p2pmodel.store import CacheLimits

SIZE = 2 * CHUNK_BYTES


class Shelf:
    """A store with a cache, a store that seeds, and models of `SIZE` bytes in the latter."""

    def __init__(self, shop, moves):
        self.shop, self.moves = shop, moves
        self.seed, self.store = shop.store("seed"), shop.store()

    def limit(self, quota=None, floor=0):
        self.store.cache.limits = CacheLimits(quota, floor)

    def model(self, name):
        path = self.shop.tree(f"models/{name}", {"w.bin": self.shop.dice.randbytes(SIZE)})
        return self.seed.publish(path).layout

    def home(self, layout):
        return self.shop.base / "data" / "models" / layout.model_id.hex

    def fetch(self, layout, to=None):
        return self.moves.fetch(self.seed, self.store, layout, to or self.home(layout))

    def held(self):
        return {model.model_id for model in self.store.models()}


@pytest.fixture
def shelf(shop, moves):
    return Shelf(shop, moves)


def test_whose_a_model_is_says_where_it_came_from(shelf, tmp_path):
    cached, own, mine = shelf.model("a"), shelf.model("b"), shelf.shop.tree("mine", {"x": b"x"})
    shelf.fetch(cached)
    shelf.fetch(own, tmp_path / "out")
    published = shelf.store.publish(mine)
    about = {model.model_id: (model.state, model.cached, model.pinned) for model in shelf.store.models()}
    shelf.store.pin(cached.model_id)
    assert about[cached.model_id] == ("fetched", True, False)
    assert about[own.model_id] == ("fetched", False, False)
    assert about[published.model_id] == ("published", False, False)
    assert shelf.store.model(cached.model_id).pinned


def test_room_is_made_by_letting_go_of_what_was_not_used(shelf, tmp_path):
    shelf.limit(quota=2 * SIZE + CHUNK_BYTES)
    own = shelf.model("own")
    shelf.fetch(own, tmp_path / "out")
    used, unused, new = (shelf.model(name) for name in ("used", "unused", "new"))
    released = []
    shelf.store.cache.on_released = lambda model_id, bits: released.append((model_id, bits))
    for layout in (used, unused):
        shelf.fetch(layout)
    for _ in range(2):
        assert all(shelf.moves.read_chunk(shelf.store, chunk.digest) for chunk in used)
    shelf.fetch(new)
    assert shelf.held() == {own.model_id, used.model_id, new.model_id}
    assert released == [(unused.model_id, 0b11)]
    assert not shelf.home(unused).exists() and shelf.store.chunk(unused[0].digest) is None
    assert shelf.store.layout(unused.model_id) is None
    assert shelf.store.cache.use().used_bytes <= 2 * SIZE + CHUNK_BYTES


def test_what_does_not_fit_next_to_pins_is_refused_and_nothing_goes_for_it(shelf):
    shelf.limit(quota=2 * SIZE + CHUNK_BYTES)
    pinned, other, new = (shelf.model(name) for name in "abc")
    big = shelf.seed.publish(shelf.shop.tree("models/big", {"w": shelf.shop.dice.randbytes(SIZE + SIZE)})).layout
    for layout in (pinned, other):
        shelf.fetch(layout)
    assert shelf.store.pin(pinned.model_id) and not shelf.store.pin(pinned.model_id)
    with pytest.raises(NoSpaceError, match=r"quota .* pinned"):
        shelf.fetch(big)
    assert shelf.held() == {pinned.model_id, other.model_id} and not shelf.home(big).exists()
    shelf.fetch(new)
    assert shelf.held() == {pinned.model_id, new.model_id}
    assert shelf.store.unpin(pinned.model_id) and not shelf.store.unpin(pinned.model_id)
    shelf.fetch(big)
    assert shelf.held() == {big.model_id}


def test_a_pin_outlives_a_restart(shelf):
    layout = shelf.model("a")
    with pytest.raises(NotFoundError):
        shelf.store.pin(layout.model_id)
    shelf.fetch(layout)
    shelf.store.pin(layout.model_id)
    shelf.store.close()
    shelf.store = shelf.shop.store()
    assert shelf.store.model(layout.model_id).pinned
    assert shelf.store.cache.collect(keep_bytes=0).models == []


def test_what_was_asked_for_again_stays_longer_than_what_was_not_also_in_the_next_run(shelf):
    layouts = [shelf.model(name) for name in "abc"]
    for layout in layouts:
        shelf.fetch(layout)
    shelf.fetch(layouts[0])
    shelf.store.close()
    shelf.store = shelf.shop.store()
    gone = [one.model_id for one in shelf.store.cache.collect(keep_bytes=SIZE).models]
    assert gone == [layouts[1].model_id, layouts[2].model_id]


@pytest.mark.simulated_disk
def test_a_floor_of_free_disk_holds_for_every_fetch_and_the_cache_gives_way(shelf, tmp_path):
    disk = tmp_path.disk
    cached, own = shelf.model("a"), shelf.model("b")
    shelf.fetch(cached)
    disk.capacity_bytes = disk.used_bytes + SIZE
    shelf.limit(floor=2 * SIZE)
    with pytest.raises(NoSpaceError, match="free_disk_floor"):
        shelf.fetch(own, tmp_path / "out")
    assert shelf.held() == {cached.model_id}, "nothing goes where it would not be enough"
    shelf.limit(floor=SIZE - CHUNK_BYTES)
    shelf.fetch(own, tmp_path / "out")
    assert shelf.held() == {own.model_id}


def test_two_that_begin_at_once_do_not_count_on_the_same_free_bytes(shelf):
    cache, free, inside, looked = shelf.store.cache, [SIZE], threading.Event(), threading.Event()
    shelf.limit(floor=0)

    def first():
        with cache.room_beside(cache.directory, SIZE, lambda: free[0]):
            inside.set()
            looked.wait(0.1)  # in vain, for the other is not to look before this one has taken what it needs
            free[0] -= SIZE

    def look():
        looked.set()
        return free[0]

    thread = threading.Thread(target=first)
    thread.start()
    inside.wait()
    with pytest.raises(NoSpaceError), cache.room_beside(cache.directory, SIZE, look):
        pass
    thread.join()


def test_what_is_being_read_fetched_or_checked_stays(shelf):
    shelf.limit(quota=2 * SIZE + CHUNK_BYTES)
    read, fetched, new = (shelf.model(name) for name in "abc")
    shelf.fetch(read)
    source = shelf.store.chunk(read[0].digest)
    intake = shelf.store.open_intake(fetched, [0], shelf.home(fetched))
    intake.adopt()
    with pytest.raises(NoSpaceError):
        shelf.fetch(new)
    source.release()
    shelf.fetch(new)
    shelf.moves.pull(shelf.seed, intake)
    intake.finish()
    intake.close()
    assert shelf.held() == {fetched.model_id, new.model_id}
    with shelf.store._catalogue.copies(new.model_id)[0].busy:
        assert [one.model_id for one in shelf.store.cache.collect(keep_bytes=0).models] == [fetched.model_id]


@pytest.mark.real_disk
def test_a_program_that_has_a_file_open_keeps_it_when_its_model_goes(shelf):
    layout = shelf.model("a")
    shelf.fetch(layout)
    path = shelf.home(layout) / "w.bin"
    before = path.read_bytes()
    with path.open("rb") as file:
        (gone,) = shelf.store.cache.collect(keep_bytes=0).models
        assert gone.whole and not path.exists()
        assert file.read() == before
        assert os.fstat(file.fileno()).st_nlink == 0


def test_gc_says_what_would_go_and_why_and_then_lets_go_of_just_that(shelf):
    layouts = [shelf.model(name) for name in "abc"]
    for layout in layouts:
        shelf.fetch(layout)
    assert shelf.store.cache.collect().models == []
    shelf.limit(quota=SIZE)
    planned = shelf.store.cache.collect(dry_run=True).models
    assert [one.model_id for one in planned] == [layout.model_id for layout in layouts[:2]]
    assert all(one.whole and one.bytes_freed >= SIZE and "quota" in one.reason for one in planned)
    assert len(shelf.held()) == 3, "a dry run changes nothing"
    assert shelf.store.cache.collect().models == planned
    assert shelf.held() == {layouts[2].model_id}
    (last,) = shelf.store.cache.collect(keep_bytes=0).models
    assert "to be kept" in last.reason and shelf.held() == set()
    assert shelf.store.cache.use().used_bytes == 0
    assert list((shelf.shop.base / "data" / "models").iterdir()) == []


def test_rm_deletes_what_is_cached_and_leaves_what_is_the_users(shelf, tmp_path):
    layout = shelf.model("a")
    with pytest.raises(RefusedError, match="pinned"):
        shelf.fetch(layout)
        shelf.store.pin(layout.model_id)
        shelf.store.remove(layout.model_id)
    shelf.fetch(layout, tmp_path / "out")
    copies = {one.content: one for one in shelf.store.remove(layout.model_id, pinned=True)}
    assert copies["cached"].bytes_freed >= SIZE and not copies["cached"].files_stay
    assert copies["fetched"].bytes_freed == 0 and copies["fetched"].files_stay
    assert (tmp_path / "out" / "w.bin").is_file() and not shelf.home(layout).exists()
    assert shelf.held() == set() and shelf.store.remove(layout.model_id) == []
    shelf.fetch(layout)
    assert not shelf.store.model(layout.model_id).pinned, "a pin goes with what it was for"


def test_a_file_that_somebody_else_put_there_is_not_deleted(shelf):
    layout = shelf.model("a")
    shelf.fetch(layout)
    path = shelf.home(layout) / "w.bin"
    path.rename(shelf.home(layout) / "moved")
    path.write_bytes(b"mine")
    shelf.store.remove(layout.model_id)
    assert path.read_bytes() == b"mine"


def test_a_file_that_somebody_has_written_to_is_his_and_stays_whatever_lets_go_of_its_model(shelf):
    for let_go in (shelf.store.remove, lambda _: shelf.store.cache.collect(keep_bytes=0)):
        layout = shelf.model("a")
        shelf.fetch(layout)
        path = shelf.home(layout) / "w.bin"
        with path.open("r+b") as file:
            file.write(b"his own words")
        let_go(layout.model_id)
        assert path.read_bytes().startswith(b"his own words") and shelf.held() == set()
        path.unlink()


def test_files_of_the_cache_that_were_published_as_another_model_are_their_owners(shelf):
    layout = shelf.model("a")
    shelf.fetch(layout)
    (shelf.home(layout) / "README.md").write_bytes(b"what I made of it")
    published = shelf.store.publish(shelf.home(layout))
    assert published.model_id != layout.model_id
    shelf.store.cache.collect(keep_bytes=0)
    assert shelf.held() == {published.model_id} and shelf.store.check_files() == []
    assert shelf.store.verify(published.model_id) == []


def test_a_model_of_the_cache_that_was_published_where_it_lies_is_its_owners(shelf):
    layout = shelf.model("a")
    shelf.fetch(layout)
    assert shelf.store.publish(shelf.home(layout)).model_id == layout.model_id
    for _ in range(2):
        assert shelf.store.model(layout.model_id).state == "published"
        assert shelf.store.cache.use().used_bytes == 0 and shelf.store.cache.collect(keep_bytes=0).models == []
        shelf.store.close()
        shelf.store = shelf.shop.store()
    (gone,) = shelf.store.remove(layout.model_id)
    assert gone.files_stay and (shelf.home(layout) / "w.bin").exists()


def test_what_could_not_be_deleted_and_was_published_since_is_not_deleted_any_more(shelf, monkeypatch):
    layout = shelf.model("a")
    shelf.fetch(layout)
    with monkeypatch.context() as patch:
        patch.setattr(type(shelf.store._releaser._leaving), "_remove", _refuse)
        with pytest.raises(RefusedError):
            shelf.store.remove(layout.model_id)
    shelf.store.publish(shelf.home(layout))
    shelf.store.cache.collect(keep_bytes=0)
    shelf.store.close()
    again = shelf.shop.store()
    assert (shelf.home(layout) / "w.bin").exists() and again.verify(layout.model_id) == []


@pytest.mark.real_disk
def test_a_fetch_that_begins_while_strays_are_removed_keeps_what_it_has_made(shelf, monkeypatch):
    layout = shelf.model("a")
    tidier, look = type(shelf.store._tidier), type(shelf.store._tidier)._entries
    shelf.home(layout).mkdir(parents=True)
    opened, ready = [], threading.Event()

    def begin():
        intake = shelf.store.open_intake(layout, range(len(layout.files)), shelf.home(layout))
        intake.adopt()
        opened.append(intake)
        ready.set()

    fetch = threading.Thread(target=begin)

    def entries(self, path):
        if path == shelf.home(layout) and not fetch.ident:
            fetch.start()
            ready.wait(0.2)  # it is not let in
        return look(self, path)

    monkeypatch.setattr(tidier, "_entries", entries)
    shelf.store.prove()
    fetch.join()
    assert shelf.moves.pull(shelf.seed, opened[0]) == SIZE
    opened[0].finish()
    opened[0].close()
    assert shelf.store.verify(layout.model_id) == []


def test_what_could_not_be_let_go_of_may_go_another_time(shelf, monkeypatch):
    layouts = [shelf.model(name) for name in "ab"]
    for layout in layouts:
        shelf.fetch(layout)
    with monkeypatch.context() as patch:
        patch.setattr(type(shelf.store.cache._releaser), "whole", _refuse)
        with pytest.raises(RefusedError):
            shelf.store.cache.collect(keep_bytes=0)
    assert {one.model_id for one in shelf.store.cache.collect(keep_bytes=0).models} == shelf.held() | {
        layout.model_id for layout in layouts
    }


def _refuse(*_, **__):
    raise RefusedError("the disk does not want to")


def test_what_somebody_else_lets_go_of_while_it_is_chosen_is_passed_over(shelf):
    one, other = (shelf.model(name) for name in "ab")
    shelf.fetch(one)
    shelf.fetch(other)
    cache = shelf.store.cache
    chosen = cache.expendables.choose(2 * SIZE)
    shelf.store.remove(one.model_id)
    assert [gone.model_id for gone in cache._released(chosen, "")] == [other.model_id]


def test_a_model_that_went_is_fetched_again_like_any_other(shelf):
    layout = shelf.model("a")
    assert shelf.fetch(layout) == SIZE
    shelf.store.cache.collect(keep_bytes=0)
    assert shelf.fetch(layout) == SIZE
    assert shelf.fetch(layout) == 0
    assert shelf.store.verify(layout.model_id) == []


# --- chunks of what has no names


def keep(shelf, layout, indices):
    """As a cache does: some chunks, no names, no reserved space."""
    intake = shelf.store.open_intake(layout, range(len(layout.files)), shelf.home(layout), sparse=True)
    try:
        intake.adopt()
        shelf.moves.pull(shelf.seed, intake, indices)
    finally:
        intake.close()


def many(shelf, name, chunks=8):
    path = shelf.shop.tree(f"models/{name}", {"w.bin": shelf.shop.dice.randbytes(chunks * CHUNK_BYTES)})
    return shelf.seed.publish(path).layout


def test_a_cache_takes_only_the_space_of_the_chunks_that_it_has(shelf):
    layout = many(shelf, "a")
    keep(shelf, layout, [1, 5])
    assert list(shelf.store.have_map(layout.model_id)) == [1, 5]
    assert 2 * CHUNK_BYTES <= shelf.store.cache.use().used_bytes < 3 * CHUNK_BYTES
    assert shelf.store.model(layout.model_id).cached and shelf.store.model(layout.model_id).state == "partial"


def test_single_chunks_go_by_holes_and_the_others_stay_as_they_are(shelf):
    layout = many(shelf, "a")
    keep(shelf, layout, range(8))
    for _ in range(3):
        assert shelf.moves.read_chunk(shelf.store, layout[2].digest)
    (gone,) = shelf.store.cache.collect(keep_bytes=3 * CHUNK_BYTES).models
    assert not gone.whole and gone.chunks == 5 and gone.bytes_freed == 5 * CHUNK_BYTES
    held = shelf.store.have_map(layout.model_id)
    assert held.held == 3 and 2 in held
    assert shelf.store.cache.use().used_bytes == 3 * CHUNK_BYTES
    for chunk in layout:
        assert (shelf.moves.read_chunk(shelf.store, chunk.digest) is not None) == (chunk.index in held)
    assert shelf.store.verify(layout.model_id) == []
    assert shelf.fetch(layout) == 5 * CHUNK_BYTES, "a fetch brings what is missing and gives the files their names"
    assert shelf.store.verify(layout.model_id) == []


def test_a_chunk_that_is_being_read_does_not_go(shelf):
    layout = many(shelf, "a")
    keep(shelf, layout, range(4))
    source = shelf.store.chunk(layout[3].digest)
    shelf.store.cache.collect(keep_bytes=0)
    assert list(shelf.store.have_map(layout.model_id)) == [3]
    buffer = bytearray(source.length)
    source.read_into(memoryview(buffer), 0)
    source.release()
    assert bytes(buffer) == shelf.moves.read_chunk(shelf.seed, layout[3].digest)
    shelf.store.cache.collect(keep_bytes=0)
    assert shelf.held() == set()


def test_chunks_that_nobody_else_has_stay_longest(shelf):
    layout = many(shelf, "a")
    keep(shelf, layout, range(8))
    shelf.store.cache.expendables.known_elsewhere = lambda model_id: 0b11110011
    shelf.store.cache.collect(keep_bytes=2 * CHUNK_BYTES)
    assert list(shelf.store.have_map(layout.model_id)) == [2, 3]


def test_chunks_that_arrive_make_room_as_they_come(shelf):
    old, new = many(shelf, "a"), many(shelf, "b")
    shelf.limit(quota=10 * CHUNK_BYTES)
    keep(shelf, old, range(8))
    keep(shelf, new, range(8))
    assert shelf.store.have_map(new.model_id).held == 8
    assert shelf.store.have_map(old.model_id).held == 2
    assert shelf.store.cache.use().used_bytes <= 10 * CHUNK_BYTES
    shelf.store.pin(old.model_id)
    shelf.store.pin(new.model_id)
    with pytest.raises(NoSpaceError):
        keep(shelf, old, range(8))
