"""The index is lost or damaged: the next start says what to do, and no model file is lost nor fetched again."""

from __future__ import annotations

import gc
import random
import sqlite3
from contextlib import closing

import pytest

from p2pmodel.errors import P2PModelError

pytestmark = pytest.mark.real_disk


@pytest.fixture
def kept(shop, moves, tmp_path):
    """A model in the data directory and elsewhere, what its index says, and a way to start again on the files."""
    seed, published = shop.published()
    store = shop.store()
    places = [tmp_path / "data" / "models" / "m", tmp_path / "out"]
    for place in places:
        moves.fetch(seed, store, published.layout, place)
    store.close()
    return seed, published, places


def start_again(shop, moves, kept) -> int:
    """The bytes that are fetched again by whoever moved the index away."""
    seed, published, places = kept
    store = shop.store()
    fetched = sum(moves.fetch(seed, store, published.layout, place) for place in places)
    assert store.verify(published.model_id, path=places[0]) == []
    store.close()
    return fetched


@pytest.mark.parametrize("left", [None, b""], ids=["deleted", "empty"])
def test_an_index_that_is_lost_costs_hashing_and_no_byte_of_the_network(shop, moves, tmp_path, kept, left):
    path = tmp_path / "data" / "store.sqlite3"
    path.unlink()
    if left is not None:
        path.write_bytes(left)
    assert start_again(shop, moves, kept) == 0


@pytest.mark.parametrize(
    "nonsense",
    [
        "UPDATE models SET model_id = x'00'",
        "UPDATE files SET state = 'nowhere'",
        "UPDATE files SET identity = x'0102'",
        "UPDATE copies SET model = 999",
        "UPDATE files SET location = 7",
    ],
)
def test_rows_that_make_no_sense_are_told_in_words(shop, tmp_path, kept, nonsense):
    with closing(sqlite3.connect(tmp_path / "data" / "store.sqlite3", isolation_level=None)) as connection:
        connection.execute(nonsense)
    with pytest.raises(P2PModelError, match=r"is damaged .* move it away and publish or fetch again"):
        shop.store()


@pytest.mark.slow
def test_whatever_is_damaged_in_an_index_is_told_in_words_and_costs_no_model_file(shop, moves, tmp_path, kept):
    _, published, places = kept
    path = tmp_path / "data" / "store.sqlite3"
    image = path.read_bytes()
    before = [moves.contents(place) for place in places]
    dice = random.Random(3)
    refused = 0
    for number in range(30):
        damaged = bytearray(image)
        for _ in range(dice.choice((1, 5, 20))):
            at = dice.randrange(len(damaged))
            if number % 2:
                damaged[at] ^= 1 << dice.randrange(8)
            else:
                at -= at % 512
                damaged[at : at + 512] = dice.choice((bytes(512), dice.randbytes(512)))
        gc.collect()  # a connection of an attempt that failed lives as long as its traceback
        for old in tmp_path.glob("data/store.sqlite3*"):
            old.unlink()
        path.write_bytes(damaged)
        store = None
        try:
            store = shop.store()
            store.models()
            store.check_files()
            store.prove()
            store.verify(published.model_id)
        except P2PModelError as error:
            refused += 1
            assert "move it away and publish or fetch again" in str(error) or "is on this disk" in str(error)
        finally:
            if store is not None:
                store.close()
        assert [moves.contents(place) for place in places] == before, f"damage {number}"
    assert refused > 2
    gc.collect()
    for old in tmp_path.glob("data/store.sqlite3*"):
        old.unlink()
    assert start_again(shop, moves, kept) == 0
