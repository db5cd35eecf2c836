"""What the exhaustive search of crashes runs: a table of everything that a store does, and what must hold after each.

To add an operation, write a function that does it to a `Stage` and keeps the stage's `must` true, and put `@operation`
above it: every workload of up to three operations then has it in every place. Files are so small that a file has one
page and one chunk, so that all of what a power cut may leave can be tried.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from p2pmodel.errors import P2PModelError
from p2pmodel.model import Digest, Layout, ModelId, SecretKey, Statement, sign_statement
from p2pmodel.store import Store
from p2pmodel.testing.disk import SimDisk
from p2pmodel.testing.disk_pages import PAGE_BYTES
from p2pmodel.testing.disk_states import crash_states

DATA, PUBLISHED = Path("/data"), Path("/published")
OUT = DATA / "models" / "m"
_DICE = random.Random(8)
_SHARED = _DICE.randbytes(100)
FETCHED = {"a": _DICE.randbytes(2500), "d/b": _SHARED}
"""The first can be torn in the middle of its page; the second has a directory, and bytes of the published model."""
OWNED = {"p": _SHARED, "q": _DICE.randbytes(50)}
OBJECT = b"an object"
_SIGNER = SecretKey.from_seed(bytes(32))
_CHANGING = frozenset(
    {
        "make",
        "open",
        "write",
        "allocate",
        "punch",
        "sync",
        "sync_directory",
        "rename",
        "remove",
        "link",
        "commit",
        "lock",
        "connect",
    }
)


@dataclass(frozen=True, slots=True)
class Must:
    """What has to be found after a crash: what a call that returned has promised, and nothing has revoked since."""

    proven: int = 0
    """Chunks of the fetched model that a barrier has proven."""
    published: bool = False
    touched: bool = False
    """The owner of published files has written to one and not waited: a power cut may leave his bytes under the old
    time, which no look at the file can tell; whoever receives them can, and `verify`."""
    object: bool = False
    statement: bool = False
    rotten: bool = False
    """A proven byte has gone bad, and nobody has hashed it yet."""
    pinned: bool = False
    gone: bool = False
    """The fetched model was removed, and nothing of it may be left."""


class Stage:
    """One process that has a store open on a simulated disk."""

    def __init__(self, disk: SimDisk, layout: Layout, owned: ModelId) -> None:
        self.disk, self.layout, self.owned = disk, layout, owned
        self.must = Must()
        self.open()

    def open(self) -> None:
        self.files = self.disk.process()
        self.store = Store.open(DATA, files=self.files)

    def close(self) -> None:
        self.store.close()
        self.files.crash()

    def now(self, **changes: object) -> None:
        """Something has been promised, or is no more."""
        self.must = replace(self.must, **changes)

    def here(self) -> bool:
        return self.store.model(self.layout.model_id) is not None

    def named(self) -> bool:
        """Whether a file of the fetched model has its final name."""
        return any(self.disk.status(OUT / path) is not None for path in FETCHED)

    def fetch(
        self,
        *,
        chunks: int | None = None,
        claim: bool = True,
        finish: bool = True,
        place: bool = False,
        overwrite: bool = False,
    ) -> int:
        """Returns how many bytes had to be brought."""
        self.now(gone=False)
        intake = self.store.open_intake(self.layout, range(len(self.layout.files)), OUT, overwrite=overwrite)
        try:
            intake.adopt()
            brought = 0
            for index in list(intake.missing)[:chunks]:
                data = FETCHED[self.layout.files[self.layout[index].file_index].path.text]
                intake.write(index, memoryview(bytearray(data)))
                brought += len(data)
            if place:
                assert intake.place_whole() == []
            if claim:
                self.claim(intake)
            if finish:
                intake.finish()
                self.claim(intake)
        except P2PModelError:
            intake.close()
            raise
        held = intake.have.bits
        if not claim:  # the process dies with the fetch open
            self.files.crash()
            self.open()
            return brought
        intake.close()
        self.now(proven=held)
        return brought

    def claim(self, intake: object) -> None:
        held = intake.have.bits
        intake.claim()
        self.now(proven=held)


# --- operations


Operation = Callable[[Stage], object]
OPERATIONS: dict[str, Operation] = {}


def operation(work: Operation) -> Operation:
    OPERATIONS[work.__name__] = work
    return work


@operation
def publish(stage: Stage) -> None:
    """Its owner has just written a file, and did not wait for the disk."""
    stage.now(published=False, touched=True)
    stage.disk.write_file(PUBLISHED / "p", OWNED["p"])
    published = stage.store.publish(PUBLISHED)
    stage.now(published=published.model_id == stage.owned, touched=False)


@operation
def change_published(stage: Stage) -> None:
    """Its owner writes to a file, and the store notices; half a minute later the kernel has written it back."""
    stage.now(published=False, touched=True)
    stage.disk.write_file(PUBLISHED / "q", b"q" * 50)
    stage.store.check_files()
    stage.disk.sync_file(stage.disk.names.find(PUBLISHED / "q"))
    stage.now(touched=False)


@operation
def fetch(stage: Stage) -> None:
    stage.fetch(chunks=None)


@operation
def fetch_some(stage: Stage) -> None:
    """One chunk, claimed; the fetch is ended as by SIGINT."""
    stage.fetch(chunks=1, finish=False)


@operation
def fetch_killed(stage: Stage) -> None:
    """All chunks written and none claimed when the process dies, and a new one starts."""
    stage.fetch(claim=False, finish=False)


@operation
def fetch_killed_at_the_end(stage: Stage) -> None:
    """Every file has its final name, and nothing is claimed."""
    stage.fetch(claim=False)


@operation
def fetch_killed_with_one_named(stage: Stage) -> None:
    """One chunk, which is a whole file, and has its final name when the process dies, with the fetch open."""
    stage.fetch(chunks=1, claim=False, finish=False, place=True)


@operation
def verify(stage: Stage) -> None:
    if stage.here():
        stage.store.verify(stage.layout.model_id)


@operation
def repair(stage: Stage) -> None:
    """A sector of the first file goes bad; verify finds it, and a fetch brings it again."""
    partials = OUT / f".p2pmodel-{stage.layout.model_id.hex[:16]}"
    for path in (partials / "00000.part", OUT / "a"):
        if stage.disk.status(path) is not None:
            stage.now(proven=stage.must.proven & ~1, rotten=True)
            stage.disk.rot(path, 7)
    if stage.here():
        stage.store.verify(stage.layout.model_id)
        stage.now(rotten=False)
        stage.fetch()


@operation
def remove(stage: Stage) -> None:
    stage.now(proven=0, pinned=False)
    stage.store.remove(stage.layout.model_id, pinned=True)
    stage.now(gone=True)


@operation
def pin(stage: Stage) -> None:
    if stage.here():
        stage.store.pin(stage.layout.model_id)
        stage.now(pinned=True)


@operation
def unpin(stage: Stage) -> None:
    stage.now(pinned=False)
    stage.store.unpin(stage.layout.model_id)


@operation
def empty_cache(stage: Stage) -> None:
    """All that is not pinned is let go of, as one where it has final names, by chunks where not."""
    if not stage.must.pinned:
        stage.now(proven=0)
    stage.store.cache.collect(keep_bytes=0)
    stage.now(gone=not stage.must.pinned)


@operation
def keep_chunks(stage: Stage) -> None:
    """As a cache that nobody reads by name: no reserved space, no final names."""
    if stage.named():
        return
    stage.now(gone=False)
    intake = stage.store.open_intake(stage.layout, range(len(stage.layout.files)), OUT, sparse=True)
    with closing(intake):
        intake.adopt()
        for index in intake.missing:
            data = FETCHED[stage.layout.files[stage.layout[index].file_index].path.text]
            intake.write(index, memoryview(bytearray(data)))
        held = intake.have.bits
    stage.now(proven=held)


@operation
def let_a_chunk_go(stage: Stage) -> None:
    """What has no final names loses a chunk of two, and the page that it took; the policy says which, or both."""
    if stage.named() or stage.must.pinned:
        return
    held = stage.store.have_map(stage.layout.model_id)
    if held is not None and held.held == 2:
        proven = stage.must.proven
        stage.now(proven=0)
        stage.store.cache.expendables.known_elsewhere = lambda model_id: 1
        (gone,) = stage.store.cache.collect(keep_bytes=PAGE_BYTES).models
        assert gone.bytes_freed == gone.chunks * PAGE_BYTES
        left = stage.store.have_map(stage.layout.model_id)
        stage.now(proven=proven & (left.bits if left is not None else 0))


@operation
def remove_published(stage: Stage) -> None:
    stage.now(published=False)
    stage.store.remove(stage.owned)


@operation
def put_object(stage: Stage) -> None:
    """It becomes durable with the statement, or anything else that does."""
    stage.store.put_object(OBJECT)


@operation
def add_statement(stage: Stage) -> None:
    statement = Statement(model_id=stage.layout.model_id, name="m", revision="", message="", issued_at=1)
    stage.store.add_statement(sign_statement(statement, _SIGNER))
    stage.now(statement=True, object=stage.store.object(Digest.of(OBJECT)) is not None)


@operation
def restart(stage: Stage) -> None:
    stage.close()
    stage.open()
    stage.store.check_files()
    stage.store.prove()


def workloads(length: int) -> Iterator[tuple[str, ...]]:
    """All of so many operations."""
    return itertools.product(OPERATIONS, repeat=length)


# --- the search


@dataclass
class Search:
    """Runs workloads, stops each at every call of its last operation, and checks every disk that this may leave."""

    calls: int = 0
    """Calls before which something had changed: where the power was cut."""
    states: int = 0
    """Disks that this may have left, over all calls."""
    checked: int = 0
    """Different ones."""
    _seen: set[tuple[bytes, Must]] = field(default_factory=set)

    def run(self, workload: tuple[str, ...], *, then: Callable[[SimDisk, Must], None] | None = None) -> None:
        """What comes before the last operation is the last one of a shorter workload, and is not looked at again."""
        with start() as disk:
            stage = Stage(disk, MODEL, OWNED_ID)
            for name in workload[:-1]:
                OPERATIONS[name](stage)
            self.explore(stage, OPERATIONS[workload[-1]], workload, then or recover)
            stage.close()

    def explore(
        self, stage: Stage, work: Operation, workload: tuple[str, ...], check: Callable[[SimDisk, Must], None]
    ) -> None:
        changed = False

        def look(operation: str, path: Path) -> None:
            nonlocal changed
            if changed:
                self._try_all(stage, workload, check)
                changed = False
            changed = changed or operation in _CHANGING

        stage.disk.on_call = look
        work(stage)
        stage.disk.on_call = None
        self._try_all(stage, workload, check)

    def _try_all(self, stage: Stage, workload: tuple[str, ...], check: Callable[[SimDisk, Must], None]) -> None:
        self.calls += 1
        for state in crash_states(stage.disk):
            self.states += 1
            key = state.key, stage.must
            if key in self._seen:
                continue
            self._seen.add(key)
            self.checked += 1
            with state.disk() as left:
                try:
                    check(left, stage.must)
                except BaseException as error:
                    error.add_note(f"{' then '.join(workload)}, at call {stage.disk.calls}, {stage.must}")
                    raise


def start() -> SimDisk:
    """The files that will be published are there."""
    disk = SimDisk()
    for name, data in OWNED.items():
        disk.write_file(PUBLISHED / name, data)
    disk.sync_all()
    return disk


def _described() -> tuple[Layout, ModelId]:
    with start() as disk:
        for name, data in FETCHED.items():
            disk.write_file(OUT / name, data)
        store = Store.open(DATA, files=disk)
        found = store.publish(OUT).layout, store.publish(PUBLISHED).model_id
        store.close()
    return found


MODEL, OWNED_ID = _described()


# --- what must be true afterwards


def recover(disk: SimDisk, must: Must, *, remembers: bool = False) -> None:
    """No false "have", nothing promised lost; a fetch brings what is missing and no more; removing leaves nothing.

    `remembers`: memory may still have what the disk never got, so that more is brought than seems to be missing.
    """
    stage = Stage(disk, MODEL, OWNED_ID)
    store = stage.store
    check_haves(store, must)
    if must.gone:
        assert not stage.here() and disk.tree(OUT.parent) == {}, f"removed, and still there: {disk.tree(OUT.parent)}"
    if must.object:
        assert store.object(Digest.of(OBJECT)) == OBJECT
    if must.statement:
        assert [said.statement.name for said in store.statements(MODEL.model_id)] == ["m"]
    store.check_files()
    if must.published:
        have = store.have_map(OWNED_ID)
        assert have is not None and have.whole, "what was published is served after a power cut"
        assert store.verify(OWNED_ID) == []
    store.prove()
    assert store.cache.use().used_bytes == taken(disk), "all that lies in the cache is counted, and nothing else"
    if must.pinned:
        assert store.model(MODEL.model_id).pinned
    if must.rotten and stage.here():
        store.verify(MODEL.model_id)
        must = replace(must, rotten=False)
    check_haves(store, must)
    there = lying(disk)
    lost = must.proven & ~there
    assert not lost, f"a barrier has proven what is not there: {lost:b}"
    brought = stage.fetch()
    lacking = sum(MODEL[index].length for index in range(len(MODEL)) if not there >> index & 1)
    assert brought <= lacking or remembers, f"{brought} bytes were brought, and {lacking} were missing"
    assert disk.tree(OUT) == FETCHED, "the files are whole, and nothing else is left"
    assert store.verify(MODEL.model_id) == []
    if must.touched and store.model(OWNED_ID) is not None:
        store.verify(OWNED_ID)
    check_haves(store, replace(must, touched=False))
    store.publish(PUBLISHED)
    store.remove(MODEL.model_id, pinned=True)
    assert set(disk.tree(DATA)) == {"store.sqlite3"}, f"nothing is left over: {disk.tree(DATA).keys()}"
    stage.close()


def check_haves(store: Store, must: Must) -> None:
    for model in store.models():
        layout = store.layout(model.model_id)
        assert layout is not None
        others = model.path == PUBLISHED
        for index in store.have_map(model.model_id) or ():
            source = store.chunk(layout[index].digest, (model.model_id, index))
            if source is None and others:  # its owner's last words were lost, which is seen when a file is opened
                store.check_files()
                if index not in store.have_map(model.model_id):
                    continue
            assert source is not None, f"chunk {index} of {model.path} is not there"
            buffer = bytearray(source.length)
            source.read_into(memoryview(buffer), 0)
            source.release()
            right = Digest.of(buffer) == layout[index].digest
            assert right or (must.touched if others else must.rotten), f"chunk {index} of {model.path} is another"


def taken(disk: SimDisk) -> int:
    """What all files below `models/` take."""
    found = (disk.status(OUT.parent / path) for path in disk.tree(OUT.parent))
    return sum(status.allocated_bytes for status in found if status is not None)


def lying(disk: SimDisk) -> int:
    """The chunks of the fetched model that are on the disk at their place, under a partial or a final name."""
    bits = 0
    partials = OUT / f".p2pmodel-{MODEL.model_id.hex[:16]}"
    for number, file in enumerate(MODEL.files):
        for path in (partials / f"{number:05d}.part", OUT / file.path.text):
            if disk.status(path) is not None and disk.read_file(path) == FETCHED[file.path.text]:
                bits |= 1 << MODEL.chunks_of(number).start
    return bits
