"""Nothing that a model or a neighbour on this machine does makes a fetch write outside of its destination."""

from __future__ import annotations

import pytest

from p2pmodel.errors import P2PModelError, RefusedError
from p2pmodel.model import PortablePath
from p2pmodel.store.destination import Destination


def test_a_link_in_the_way_is_refused_and_nothing_is_written_behind_it(shop, moves, tmp_path):
    seed, published = shop.published({"deep/er/a.bin": b"data", "b.bin": b"more"})
    outside = shop.tree("outside", {"a.bin": b"untouched"})
    for name in ("deep", "deep/er"):
        out = shop.tree(f"out-{name.replace('/', '-')}", {})
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).symlink_to(outside)
        with pytest.raises(RefusedError, match="is a link or a file where a directory has to be"):
            moves.fetch(seed, shop.store(), published.layout, out, overwrite=True)
        assert moves.contents(outside) == {"a.bin": b"untouched"}


def test_a_link_swapped_in_before_the_final_name_is_refused(shop, moves, tmp_path):
    seed, published = shop.published({"deep/a.bin": b"data"})
    outside = shop.tree("outside", {})
    store = shop.store()
    intake = store.open_intake(published.layout, [0], tmp_path / "out")
    intake.adopt()
    moves.pull(seed, intake)
    (tmp_path / "out" / "deep").symlink_to(outside)
    with pytest.raises(RefusedError):
        intake.finish()
    intake.close()
    assert moves.contents(outside) == {}
    (tmp_path / "out" / "deep").unlink()
    assert moves.fetch(seed, store, published.layout, tmp_path / "out") == 0


def test_a_partial_directory_that_is_a_link_is_refused(shop, moves, tmp_path):
    _, published = shop.published({"a.bin": b"data"})
    outside = shop.tree("outside", {})
    out = shop.tree("out", {})
    (out / f".p2pmodel-{published.model_id.hex[:16]}").symlink_to(outside)
    with pytest.raises(RefusedError):
        shop.store().open_intake(published.layout, [0], out)
    assert moves.contents(outside) == {}


def test_a_partial_file_that_is_a_link_is_replaced_not_followed(shop, moves, tmp_path):
    seed, published = shop.published({"a.bin": b"data"})
    victim = shop.tree("outside", {"victim": b"keep"}) / "victim"
    partials = shop.tree(f"out/.p2pmodel-{published.model_id.hex[:16]}", {})
    (partials / "00000.part").symlink_to(victim)
    moves.fetch(seed, shop.store(), published.layout, tmp_path / "out")
    assert victim.read_bytes() == b"keep"
    assert moves.contents(tmp_path / "out") == {"a.bin": b"data"}


def test_a_final_name_that_is_a_link_is_refused_or_replaced_but_never_written_through(shop, moves, tmp_path):
    seed, published = shop.published({"a.bin": b"data"})
    victim = shop.tree("outside", {"victim": b"keep"}) / "victim"
    out = shop.tree("out", {})
    (out / "a.bin").symlink_to(victim)
    with pytest.raises(RefusedError):
        moves.fetch(seed, shop.store(), published.layout, out)
    moves.fetch(seed, shop.store(), published.layout, out, overwrite=True)
    assert victim.read_bytes() == b"keep" and not (out / "a.bin").is_symlink()
    assert (out / "a.bin").read_bytes() == b"data"


def test_a_directory_or_pipe_under_a_final_name_is_refused_even_when_overwriting(shop, moves, tmp_path):
    seed, published = shop.published({"a.bin": b"data"})
    out = shop.tree("out", {})
    (out / "a.bin").mkdir()
    with pytest.raises(RefusedError, match="is a directory"):
        moves.fetch(seed, shop.store(), published.layout, out, overwrite=True)
    assert (out / "a.bin").is_dir()


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_destination_that_is_a_file_is_refused(shop, tmp_path, place):
    _, published = shop.published({"a.bin": b"data"})
    shop.tree("x", {"file": b"1"})
    with pytest.raises(RefusedError, match="a file is in its way"):
        shop.store().open_intake(published.layout, [0], tmp_path / "x" / place)


def test_hostile_paths_cannot_even_be_made(shop, files, tmp_path):
    destination = Destination(files, tmp_path / "out", shop.published({"a": b""})[1].model_id)
    for text in ("../x", "/etc/passwd", "a/../../x"):
        with pytest.raises(P2PModelError):
            destination.place(0, PortablePath(text))
    destination.close()
