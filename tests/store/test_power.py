"""Power cuts and crashes at any call: whatever was not synced may be lost, torn or reordered, and no claim is false.

A fetch runs on a simulated disk until the machine stops at some call. Then it is one of the disks that this may have
left: nothing that the store says to hold may be missing, nothing that a barrier proved may be lost, and the next fetch
brings exactly what is missing.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from p2pmodel.errors import P2PModelError
from p2pmodel.model import Digest
from p2pmodel.store import Store
from p2pmodel.testing.disk import SimDisk
from p2pmodel.testing.disk_faults import OPERATIONS

DATA, OUT = Path("/home/peer/data"), Path("/home/peer/models/out")


def safetensors(dice: random.Random, lengths: list[int]) -> bytes:
    """A file whose chunks begin where its tensors do, so in the middle of pages."""
    header, at = {}, 0
    for number, length in enumerate(lengths):
        header[f"t{number}"] = {"dtype": "U8", "shape": [length], "data_offsets": [at, at + length]}
        at += length
    encoded = json.dumps(header).encode()
    return len(encoded).to_bytes(8, "little") + encoded + dice.randbytes(at)


@pytest.fixture(scope="module")
def source():
    """A store with a model of several chunks to a file, equal chunks in two files, directories, and an empty file."""
    dice = random.Random(5)
    same = dice.randbytes(9000)
    files = {
        "a.safetensors": safetensors(dice, [70_000, 66_000, 90_001]),
        "b.safetensors": safetensors(dice, [65_537, 70_000]),
        "d/b": same,
        "d/e/c": same,
        "empty": b"",
    }
    yield from published(files)


@pytest.fixture(scope="module")
def tiny_source():
    """A model so small that every outcome of a power cut can be tried."""
    dice = random.Random(6)
    yield from published({"a": dice.randbytes(4500), "d/b": dice.randbytes(100)})


def published(files):
    with SimDisk() as disk:
        for name, data in files.items():
            disk.write_file(f"/model/{name}", data)
        seed = Store.open(Path("/data"), files=disk)
        layout = seed.publish(Path("/model")).layout
        yield {"files": files, "seed": seed, "layout": layout}
        seed.close()


class Run:
    """One process that fetches; `held` is what it had last, `proven` what the last barrier that held was about."""

    def __init__(self, disk, source, moves, dice=None, claims=0.4):
        self.proven = self.held = 0
        self._source, self._moves, self._claims = source, moves, claims
        self._dice = dice or random.Random(0)
        self._files = disk.process()

    def go(self) -> bool:
        """Whether it came to its end."""
        store = intake = None
        layout = self._source["layout"]
        try:
            store = Store.open(DATA, files=self._files)
            intake = store.open_intake(layout, range(len(layout.files)), OUT)
            intake.adopt()
            missing = list(intake.missing)
            self._dice.shuffle(missing)
            for index in missing:
                self._moves.pull(self._source["seed"], intake, [index])
                self.held = intake.have.bits
                if self._dice.random() < self._claims:
                    self._claim(intake)
            intake.finish()
            self._claim(intake)
            intake.close()
            store.close()
        except P2PModelError:
            self._files.crash()
            return False
        return True

    def _claim(self, intake):
        held = intake.have.bits
        intake.claim()
        self.proven = held


def check_haves(store, layout, moves) -> None:
    for index in store.have_map(layout.model_id) or ():
        data = moves.read_chunk(store, layout[index].digest)
        assert data is not None and Digest.of(data) == layout[index].digest, f"chunk {index} is not there"


def lying(disk, layout) -> int:
    """The chunks whose bytes are on the disk at their place, under a partial or a final name, as bits."""
    bits = 0
    partials = OUT / f".p2pmodel-{layout.model_id.hex[:16]}"
    for number, file in enumerate(layout.files):
        for path in (partials / f"{number:05d}.part", OUT / file.path.text):
            if disk.status(path) is None:
                continue
            data = disk.read_file(path)
            for index in layout.chunks_of(number):
                place = layout[index]
                if Digest.of(data[place.offset : place.offset + place.length]) == place.digest:
                    bits |= 1 << index
    return bits


def recover(disk, source, moves, proven, *, prove=False) -> int:
    """What the next start must find and do; the bytes that it fetched again."""
    layout = source["layout"]
    store = Store.open(DATA, files=disk.process())
    check_haves(store, layout, moves)
    if prove:
        store.prove()
        check_haves(store, layout, moves)
    there = lying(disk, layout)
    intake = store.open_intake(layout, range(len(layout.files)), OUT)
    intake.adopt()
    check_haves(store, layout, moves)
    assert not there & intake.missing.bits, f"fetched again though it is there: {there & intake.missing.bits:b}"
    assert not proven & ~intake.have.bits, f"what a barrier proved was lost: {proven & ~intake.have.bits:b}"
    fetched = moves.pull(source["seed"], intake)
    intake.finish()
    intake.claim()
    intake.close()
    assert disk.tree(OUT) == source["files"], "the files are whole, and nothing else is left"
    assert store.verify(layout.model_id) == []
    store.close()
    return fetched


def calls_of(source, moves) -> int:
    with SimDisk() as disk:
        assert Run(disk, source, moves).go()
        return disk.calls


def cut_and_recover(seed, source, moves, calls) -> None:
    dice = random.Random(seed)
    with SimDisk(dice) as disk:
        disk.stop_after(dice.randrange(calls))
        proven = there = 0
        for _ in range(dice.choice((1, 1, 2))):  # twice: the power goes again while the first loss is being repaired
            run = Run(disk, source, moves, dice)
            run.go()
            proven = run.proven or proven
            if dice.random() < 0.8:
                disk.cut_power()
                there = proven
            else:
                disk.crash()  # what was written is in the page cache: all of it is found again
                there = run.held or there
            disk.stop_after(dice.randrange(calls))
        disk.crash()
        recover(disk, source, moves, there, prove=dice.random() < 0.3)


def cut_many(seeds, source, moves) -> None:
    calls = calls_of(source, moves)
    for seed in seeds:
        try:
            cut_and_recover(seed, source, moves, calls)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise


@pytest.mark.slow
@pytest.mark.simulated_disk
@pytest.mark.parametrize("block", range(10))
def test_after_a_power_cut_all_that_was_proven_is_there_and_nothing_else_is_said_to_be(source, moves, block):
    cut_many(range(block * 100, block * 100 + 100), source, moves)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("block", range(1, 51))
def test_fifty_thousand_power_cuts(source, moves, block):
    cut_many(range(block * 1000, block * 1000 + 1000), source, moves)


@pytest.mark.slow
@pytest.mark.simulated_disk
def test_what_is_published_is_durable_before_it_is_claimed(moves):
    """Whoever wrote the files, and published them at once, did not wait for the disk."""
    model, data = Path("/model"), Path("/data")
    for seed in range(200):
        dice = random.Random(seed)
        with SimDisk(dice) as disk:
            for name in ("a", "d/b"):
                disk.write_file(model / name, dice.randbytes(20_000))
            disk.stop_after(dice.randrange(40))
            layout = None
            try:
                store = Store.open(data, files=disk.process())
                layout = store.publish(model).layout
            except P2PModelError:
                pass
            disk.cut_power()
            store = Store.open(data, files=disk.process())
            store.check_files()
            assert layout is None or store.models()
            for known in store.models():
                check_haves(store, store.layout(known.model_id), moves)
            store.close()


# --- every call, every outcome

CHANGING = {"make", "open", "write", "allocate", "sync", "sync_directory", "rename", "remove", "commit"}


def explore(disk, work, check, limit, before=OPERATIONS) -> int:
    """Before each call, if something has changed, and at the end: all that a power cut may leave is checked."""
    tried = 0
    changed = True

    def look(operation: str, path: Path) -> None:
        nonlocal changed
        if changed and operation in before:
            try_all()
            changed = False
        changed = changed or operation in CHANGING

    def try_all() -> None:
        nonlocal tried
        for left in disk.outcomes(limit):
            with left:
                check(left)
            tried += 1

    disk.on_call = look
    work()
    disk.on_call = None
    try_all()
    return tried


def explore_fetch(source, moves, limit) -> int:
    with SimDisk() as disk:
        run = Run(disk, source, moves, random.Random(3))
        return explore(disk, run.go, lambda left: recover(left, source, moves, run.proven), limit)


def explore_after_a_kill(source, moves, limit) -> int:
    """Found by the long run: killed between `mkdir` and the sync of the directory above, power cut in the next run."""
    with SimDisk() as disk:

        def kill(operation: str, path: Path) -> None:
            if operation == "sync_directory" and disk.status(OUT / "d") is not None:
                disk.stop_after(0)

        disk.on_call = kill
        first = Run(disk, source, moves, claims=1)
        assert not first.go() and first.proven
        disk.crash()
        run = Run(disk, source, moves)
        points = {"remove", "sync_directory"}
        proven = first.proven
        return explore(disk, run.go, lambda left: recover(left, source, moves, run.proven or proven), limit * 4, points)


def explore_repair(source, moves, limit) -> int:
    """The fetch after a power cut that emptied one placed file and moved another back."""
    with SimDisk(random.Random(11)) as disk:
        Run(disk, source, moves).go()
        broken = disk.fork()
    with broken as disk:
        for path in ("a", "d/b"):
            disk.rot(OUT / path, 7)
        files = disk.process()
        store = Store.open(DATA, files=files)
        layout = source["layout"]
        store.verify(layout.model_id)
        store.close()
        disk.sync_all()
        run = Run(disk, source, moves, random.Random(3))
        return explore(disk, run.go, lambda left: recover(left, source, moves, run.proven), limit)


def explore_small_file(source, moves, limit) -> int:
    path, old, new = Path("/data/trust.json"), b"o" * 9000, b"n" * 6000

    def check(left) -> None:
        assert left.process().read_small(path) in possible
        left.process().write_small(path, new)
        assert left.tree("/data") == {"trust.json": new}, "nothing is left over"

    tried = 0
    for before in (None, old):
        with SimDisk() as disk:
            files = disk.process()
            if before is not None:
                files.write_small(path, before)
            possible = [before, new]

            def work(files=files, possible=possible) -> None:
                files.write_small(path, new)
                possible[:] = [new]

            tried += explore(disk, work, check, limit)
    return tried


WORKLOADS = [explore_fetch, explore_after_a_kill, explore_repair, explore_small_file]


@pytest.mark.slow
@pytest.mark.parametrize("workload", WORKLOADS)
def test_every_call_is_survived_whichever_part_of_the_unsynced_is_lost(tiny_source, moves, workload):
    assert workload(tiny_source, moves, 5) > 50


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("workload", WORKLOADS)
def test_every_call_is_survived_with_all_of_its_outcomes(tiny_source, moves, workload):
    assert workload(tiny_source, moves, 5000) > 1000
