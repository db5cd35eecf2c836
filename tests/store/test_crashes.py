"""A process killed with SIGKILL while it writes: the next one knows exactly what is there, and fetches the rest."""

from __future__ import annotations

import random
import subprocess
import sys
import textwrap
import time

import pytest

from p2pmodel.limits import CHUNK_BYTES
from p2pmodel.model import Digest

pytestmark = pytest.mark.real_disk

CHILD = textwrap.dedent(
    """
    import random, sys, threading
    from pathlib import Path
    from p2pmodel.store import Store

    seed_directory, directory, destination, seed = sys.argv[1:]
    dice = random.Random(int(seed))
    source = Store.open(Path(seed_directory))
    store = Store.open(Path(directory))
    layout = source.layout(source.models()[0].model_id)
    intake = store.open_intake(layout, range(len(layout.files)), Path(destination))
    intake.adopt()
    print("ready", flush=True)
    missing = list(intake.missing)
    dice.shuffle(missing)
    lock = threading.Lock()

    def work():
        buffer = memoryview(bytearray(4 << 20))
        while True:
            with lock:
                if not missing:
                    return
                index = missing.pop()
            chunk = source.chunk(layout[index].digest)
            view = buffer[: chunk.length]
            chunk.read_into(view, 0)
            chunk.release()
            intake.write(index, view)
            sys.stdout.write(f"{index}\\n")
            sys.stdout.flush()
            if dice.random() < 0.1:
                intake.claim()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    intake.finish()
    print("finished", flush=True)
    intake.claim()
    intake.close()
    print("closed", flush=True)
    """
)


def false_haves(store, layout, moves) -> list[int]:
    """Chunks that the store says it holds, and does not."""
    have = store.have_map(layout.model_id)
    if have is None:
        return []
    return [
        index
        for index in have
        if (data := moves.read_chunk(store, layout[index].digest)) is None or Digest.of(data) != layout[index].digest
    ]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [*range(6), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(6, 200))])
def test_a_killed_fetch_resumes_with_no_false_have_and_loses_only_what_was_in_flight(shop, moves, tmp_path, seed):
    dice = random.Random(seed)
    files = {f"{number}/{number}.bin": dice.randbytes(dice.randrange(12 * CHUNK_BYTES)) for number in range(5)}
    _, published = shop.published(files)
    layout = published.layout
    acknowledged: set[int] = set()
    for attempt in range(3):
        command = [sys.executable, "-c", CHILD, *(str(tmp_path / name) for name in ("source-data", "data", "out"))]
        with subprocess.Popen([*command, str(seed * 10 + attempt)], stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            deadline = time.monotonic() + dice.random() * 0.08
            lines = []
            while time.monotonic() < deadline and (line := child.stdout.readline()):
                lines.append(line)
            child.kill()
            lines += child.stdout.readlines()
        acknowledged |= {int(line) for line in lines if line.strip().isdigit()}
        store = shop.store()
        assert false_haves(store, layout, moves) == []
        store.close()
    store = shop.store()
    intake = store.open_intake(layout, range(len(layout.files)), tmp_path / "out")
    intake.adopt()
    assert false_haves(store, layout, moves) == []
    lost = acknowledged - set(intake.have)
    assert not lost, "page cache outlives a process: every chunk that was written is found again"
    moves.pull(shop.store("source-data"), intake)
    intake.finish()
    intake.close()
    assert moves.contents(tmp_path / "out") == files
    assert store.verify(layout.model_id) == []


ENDING = textwrap.dedent(
    """
    import os, sys
    from pathlib import Path
    from p2pmodel.store import Store

    seed_directory, directory, destination, files_placed = sys.argv[1:]
    source = Store.open(Path(seed_directory))
    store = Store.open(Path(directory))
    layout = source.layout(source.models()[0].model_id)
    intake = store.open_intake(layout, range(len(layout.files)), Path(destination))
    intake.adopt()
    for index in intake.missing:
        chunk = source.chunk(layout[index].digest)
        buffer = memoryview(bytearray(chunk.length))
        chunk.read_into(buffer, 0)
        intake.write(index, buffer)
    left, place = int(files_placed), intake._place

    def place_some(file):
        global left
        if not left:
            os._exit(7)
        left -= 1
        place(file)

    intake._place = place_some
    intake.finish()
    os._exit(7)
    """
)


def crash(tmp_path, name: str, files_placed: int) -> None:
    """Fetch everything, give so many files their final names, and vanish without a barrier."""
    paths = [str(tmp_path / part) for part in ("source-data", f"data-{name}", f"out-{name}")]
    ended = subprocess.run([sys.executable, "-c", ENDING, *paths, str(files_placed)], check=False)
    assert ended.returncode == 7


@pytest.mark.slow
def test_a_file_placed_and_not_proven_is_hashed_before_it_counts_again(shop, moves, tmp_path):
    files = shop.model_files()
    seed, published = shop.published(files)
    layout = published.layout
    crash(tmp_path, "a", 4)
    # Then the power fails, too, and a page of one file never reached the disk.
    with (tmp_path / "out-a" / "weights.bin").open("r+b") as file:
        file.seek(CHUNK_BYTES)
        file.write(bytes(4096))
    store = shop.store("data-a")
    assert store.have_map(published.model_id).held == 0, "nothing unproven is said to be here"
    (model,) = store.prove()
    assert model.chunks_held == len(layout) - 1
    assert false_haves(store, layout, moves) == []
    intake = store.open_intake(layout, range(4), tmp_path / "out-a")
    intake.adopt()
    assert [(layout[at].file_index, layout[at].offset) for at in intake.missing] == [(3, CHUNK_BYTES)]
    assert not (tmp_path / "out-a" / "weights.bin").exists(), "a file that is not whole does not keep its name"
    moves.pull(seed, intake)
    intake.finish()
    intake.close()
    assert moves.contents(tmp_path / "out-a") == files


@pytest.mark.slow
def test_a_crash_between_the_record_and_the_final_names_loses_nothing(shop, moves, tmp_path):
    files = shop.model_files()
    seed, published = shop.published(files)
    for files_placed in range(5):
        crash(tmp_path, str(files_placed), files_placed)
        store = shop.store(f"data-{files_placed}")
        assert false_haves(store, published.layout, moves) == []
        if files_placed % 2:
            store.prove()
            assert false_haves(store, published.layout, moves) == []
        assert moves.fetch(seed, store, published.layout, tmp_path / f"out-{files_placed}") == 0
        assert moves.contents(tmp_path / f"out-{files_placed}") == files
