"""One store on a simulated disk, on which operations race step by step; and what must hold after each step.

`Scene` knows what lies on the disk by whose doing, begins operations as virtual threads, and compares the claims
with the bytes. It draws no dice: the stateful machine in `test_races.py` and regression tests decide.
"""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

from p2pmodel.errors import NotFoundError, RefusedError, UsageError, VerificationError
from p2pmodel.model import Digest, Layout
from p2pmodel.store import Intake, Store
from p2pmodel.store.copies import Copy
from p2pmodel.store.scrubbing import ScrubPosition
from p2pmodel.store.values import FileState
from p2pmodel.testing.disk import SimDisk
from p2pmodel.testing.interleaving import Turns, VirtualThread

DATA = Path("/data")
PARTIAL = ".p2pmodel-"
REFUSALS = (RefusedError, NotFoundError, VerificationError)
"""How an operation may end that another one came before: docs/store.md has the table."""


def _safetensors(dice: random.Random, lengths: list[int]) -> bytes:
    header, at = {}, 0
    for number, length in enumerate(lengths):
        header[f"t{number}"] = {"dtype": "U8", "shape": [length], "data_offsets": [at, at + length]}
        at += length
    encoded = json.dumps(header).encode()
    return len(encoded).to_bytes(8, "little") + encoded + dice.randbytes(at)


@cache
def models() -> list[tuple[dict[str, bytes], Layout]]:
    """Two models with a file of the same name, and chunks and a whole file that stand in both."""
    dice = random.Random(3)
    shared, same = dice.randbytes(3000), dice.randbytes(900)
    trees: list[dict[str, bytes]] = [
        {"w.safetensors": _safetensors(dice, [70_000, 66_000]), "d/s": shared, "d/t": same, "t": same, "empty": b""},
        {"w.safetensors": dice.randbytes(5000), "s": shared},
    ]
    found = []
    for files in trees:
        with SimDisk() as disk:
            for name, data in files.items():
                disk.write_file(f"/m/{name}", data)
            store = Store.open(DATA, files=disk)
            found.append((files, store.publish(Path("/m")).layout))
            store.close()
    return found


class Scene:
    """`begin_...` starts an operation, `step` lets one go on, `check` compares."""

    def __init__(self) -> None:
        self.turns = Turns()
        self.disk = SimDisk(random.Random(1))
        self._threads = self.turns.instead_of_threads("p2pmodel.store")
        self._threads.__enter__()
        self.foreign: dict[Path, bytes] = {}
        """Files that the user made or changed, by path; what is in them is his."""
        self.meddled = False
        for number, (files, _) in enumerate(models()):
            for name, data in files.items():
                self.disk.write_file(self.source(number) / name, data)
        self._fetches: list[Intake] = []
        """That have adopted, the latest last."""
        self.store = self._open()

    def _open(self) -> Store:
        return Store.open(DATA, files=self.turns.files(self.disk.process()))

    @staticmethod
    def source(model: int) -> Path:
        return Path(f"/pub/{model}")

    @staticmethod
    def destination(place: int, model: int) -> Path:
        """Both models may go to the first; the second is in the data directory, one for each model."""
        layout = models()[model][1]
        return Path("/out") if place == 0 else DATA / "models" / layout.model_id.hex

    # --- operations

    def _spawn(self, name: str, work: Callable[[], object]) -> VirtualThread:
        return self.turns.spawn(name, work)

    def begin_fetch(self, model: int, place: int = 0, *, overwrite: bool = False, some: bool = False) -> VirtualThread:
        files, layout = models()[model]
        wanted = range(1) if some else range(len(layout.files))

        def work() -> object:
            intake = self.store.open_intake(layout, wanted, self.destination(place, model), overwrite=overwrite)
            try:
                intake.adopt()
                self._fetches.append(intake)
                for number, index in enumerate(intake.missing):
                    where = layout[index]
                    data = files[layout.files[where.file_index].path.text]
                    intake.write(index, memoryview(data)[where.offset : where.offset + where.length])
                    if number % 2:
                        intake.claim()
                intake.finish()
                intake.claim()
            finally:
                intake.close()
            return True

        return self._spawn(f"fetch {model}", work)

    def begin_naming(self, file: int) -> VirtualThread:
        """Somebody waits for a file of the latest fetch by its name; the fetch may have ended."""

        def work() -> object:
            return self._fetches and self._fetches[-1].place_whole([file % len(self._fetches[-1].layout.files)])

        return self._spawn("name", work)

    def begin_publish(self, model: int, place: int | None = None) -> VirtualThread:
        path = self.source(model) if place is None else self.destination(place, model)
        return self._spawn(f"publish {model}", partial(self.store.publish, path))

    def begin_verify(self, model: int) -> VirtualThread:
        return self._spawn(f"verify {model}", partial(self.store.verify, models()[model][1].model_id))

    def begin_repair(self, model: int) -> VirtualThread:
        files, layout = models()[model]

        def work() -> object:
            self.store.verify(layout.model_id)
            repair = self.store.open_repair(layout.model_id)
            try:
                repair.begin()
                for index in repair.missing:
                    where = layout[index]
                    data = files[layout.files[where.file_index].path.text]
                    repair.write(index, memoryview(data)[where.offset : where.offset + where.length])
            finally:
                repair.close()
            return True

        return self._spawn(f"repair {model}", work)

    def begin_remove(self, model: int) -> VirtualThread:
        return self._spawn(f"remove {model}", partial(self.store.remove, models()[model][1].model_id))

    def begin_gc(self) -> VirtualThread:
        """All that may go, goes."""
        return self._spawn("gc", partial(self.store.cache.collect, keep_bytes=0))

    def begin_pin(self, model: int, *, pinned: bool) -> VirtualThread:
        move = self.store.pin if pinned else self.store.unpin
        return self._spawn(f"pin {model}", partial(move, models()[model][1].model_id))

    def begin_scrub(self) -> VirtualThread:
        def work() -> object:
            return self.store.scrubber.step(ScrubPosition(), 1 << 30, threading.Event())

        return self._spawn("scrub", work)

    def begin_look(self) -> VirtualThread:
        return self._spawn("look", self.store.check_files)

    def begin_prove(self) -> VirtualThread:
        return self._spawn("prove", self.store.prove)

    def begin_read(self, model: int, index: int) -> VirtualThread:
        """What a peer does that serves: the right bytes, or none."""
        layout = models()[model][1]
        where = layout[index % len(layout)]

        def work() -> object:
            source = self.store.chunk(where.digest, (layout.model_id, index % len(layout)))
            if source is None:
                return None
            data = bytearray(source.length)
            try:
                source.read_into(memoryview(data), 0)
            except VerificationError:
                return None  # the file changed meanwhile
            finally:
                source.release()
            assert Digest.of(data) == where.digest, "wrong bytes were served"
            return True

        return self._spawn(f"read {model}", work)

    # --- the user and the machine

    def user_removes(self, number: int) -> None:
        if paths := self._finals():
            path = paths[number % len(paths)]
            self.disk.remove(path)
            self.meddled = True
            self.foreign.pop(path, None)

    def user_writes(self, number: int) -> None:
        if paths := self._finals():
            path = paths[number % len(paths)]
            self.foreign[path] = b"of the user " + str(number).encode()
            self.disk.write_file(path, self.foreign[path])

    def kill(self) -> None:
        """The process dies, and another one starts."""
        self.turns.kill()
        self.disk.crash()
        self._fetches.clear()
        self.store = self._open()

    # --- what must hold

    def _finals(self) -> list[Path]:
        return [
            Path("/") / name
            for root in ("/out", "/data/models", "/pub")
            for name in (f"{root}/{below}" for below in self.disk.tree(root))
            if PARTIAL not in name
        ]

    def check(self) -> None:
        """After each step, whoever is in the middle of what."""
        self._check_final_files()
        for copy in self.store._catalogue.all_copies():
            if not copy.moving.locked():
                self._check_haves(copy)

    def _check_final_files(self) -> None:
        """A file under a final name is a whole one of a model, or the user's own."""
        for path in self._finals():
            data = self.disk.read_file(path)
            if data == self.foreign.get(path):
                continue
            names = [name for files, _ in models() for name in files if str(path).endswith(f"/{name}")]
            whole = [files[name] for files, _ in models() for name in names if name in files]
            assert data in whole, f"{path} is not whole: {len(data)} bytes"
            self.foreign.pop(path, None)

    def _check_haves(self, copy: Copy) -> None:
        """What is said to be here is here; where the user had his hands in, it is seen by the file's marks."""
        layout = self.store.layout(copy.model_id)
        if layout is None:
            return  # it is being removed
        for index in range(len(layout)):
            if not copy.bits >> index & 1:
                continue
            where = layout[index]
            kept = copy.file(where.file_index)
            assert kept is not None, f"chunk {index} is held in a file that is not"
            status = self.disk.status(kept.location)
            if kept.location in self.foreign or status is None or not kept.is_same(status.identity):
                assert kept.state is not FileState.PARTIAL or kept.location not in self.foreign
                if kept.state is FileState.PARTIAL and not self._is_going(copy):
                    raise AssertionError(f"{kept.location} is claimed and gone")
                continue
            data = self.disk.read_file(kept.location)[where.offset : where.offset + where.length]
            assert Digest.of(data) == where.digest, f"chunk {index} of {copy.root} is not there"

    def _is_going(self, copy: Copy) -> bool:
        return any(thread.name.startswith(("remove", "gc")) for thread in self.turns.unfinished)

    def end(self) -> None:
        """Everybody comes to an end, in a way that is allowed; then nothing is left over, and all goes on as usual."""
        self.turns.finish()
        for thread in self.turns.threads:
            if thread.error is None or isinstance(thread.error, REFUSALS) or self._is_user_s(thread):
                continue
            raise AssertionError(
                f"{thread.name} ended with {type(thread.error).__name__}: {thread.error}"
            ) from thread.error
        self.check()
        self._check_left_over()
        self._check_index()
        self._check_next()
        self._check_removal()

    def _is_user_s(self, thread: VirtualThread) -> bool:
        """Nothing to publish at a place, or a file that the user took away under a fetch's hands."""
        if thread.name.startswith("publish"):
            return isinstance(thread.error, UsageError)
        return self.meddled and "has vanished" in str(thread.error)

    def _check_left_over(self) -> None:
        """Partial files are beside copies of their model, where the next fetch finds them and `remove` takes them."""
        known = {
            (copy.root, f"{PARTIAL}{copy.model_id.hex[:16]}")
            for copy in self.store._catalogue.all_copies()
            if copy.kind == "fetched"
        }
        for name in self.disk.tree("/"):
            if PARTIAL in name:
                path = Path("/") / name
                assert (path.parent.parent, path.parent.name) in known, f"{path} is left over"

    def _check_index(self) -> None:
        """The database says what the memory says."""
        catalogue, database = self.store._catalogue, self.store._database
        copies = {(copy.number, copy.root.as_posix()) for copy in catalogue.all_copies()}
        rows = database.query("SELECT number, root FROM copies")
        assert {(number, root.decode()) for number, root in rows} == copies
        numbers = {number for (number,) in database.query("SELECT number FROM models")}
        held = {catalogue._models[model_id] for model_id in catalogue.model_ids()}
        assert numbers == held, "models without a copy, or copies without a model"
        assert {number for (number,) in database.query("SELECT DISTINCT model FROM chunks")} <= numbers
        for copy in catalogue.all_copies():
            ((have,),) = database.query("SELECT have FROM copies WHERE number = ?", (copy.number,))
            placed = [file for file in copy.files if file.state is FileState.PLACED]
            proven = int.from_bytes(have, "little") & ~sum(file.mask for file in placed)  # of those it claims nothing
            assert not proven & ~copy.proven, f"{copy.root}: more is claimed than held"
            assert not copy.busy.locked(), f"{copy.root} is held by nobody"

    def _check_next(self) -> None:
        """A fetch to a new place brings everything, whatever was before."""
        for number, (files, layout) in enumerate(models()):
            assert self.store.layout(layout.model_id) is not None or not self.store._catalogue.copies(layout.model_id)
            place = Path(f"/new/{number}")
            intake = self.store.open_intake(layout, range(len(layout.files)), place)
            try:
                intake.adopt()
                for index in intake.missing:
                    where = layout[index]
                    data = files[layout.files[where.file_index].path.text]
                    intake.write(index, memoryview(data)[where.offset : where.offset + where.length])
                intake.finish()
            finally:
                intake.close()
            assert self.disk.tree(place) == files

    def _check_removal(self) -> None:
        """All models can be let go of, and nothing is left of them but whole files."""
        for model_id in self.store._catalogue.model_ids():
            self.store.remove(model_id, pinned=True)
        assert not [name for name in self.disk.tree("/") if PARTIAL in name]
        for table in ("copies", "files", "models", "chunks", "objects"):
            assert self.store._database.query(f"SELECT count(*) FROM {table}") == [(0,)], f"{table} are left"

    def close(self) -> None:
        try:
            self.turns.kill()
        finally:
            self._threads.__exit__(None, None, None)
            self.disk.close()
