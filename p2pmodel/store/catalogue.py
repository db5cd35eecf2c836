"""What is claimed to be where: copies of models, their files and bitmaps, and the index from a chunk's hash to both.

A *copy* is a place on this disk where a model lies, whole or in part. Its bits in memory say what can be read now; the
bits in the database say what is proven, and grow only through `intake.py` after a barrier. The two differ by what has
arrived since the last claim, and by files that were placed and not proven when an earlier run ended: those stay hidden
until they have been hashed again.
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Literal

from p2pmodel.errors import InterruptedFetchError
from p2pmodel.model import Digest, HaveMap, Layout, ModelId
from p2pmodel.model.chunk_list import ENTRY_BYTES
from p2pmodel.store.database import Database, Row, Writer
from p2pmodel.store.values import FileIdentity, FileState

Kind = Literal["published", "fetched"]
_STOP_POLL_S = 0.05
_PREFIX = struct.Struct(">q")
_SAVE_FILE = (
    "INSERT INTO files SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8 WHERE EXISTS (SELECT 1 FROM copies WHERE number = ?1) "
    "ON CONFLICT DO UPDATE SET location = excluded.location, state = excluded.state, identity = excluded.identity, "
    "fault = excluded.fault"
)
"""Nothing for a copy that was let go of while somebody looked at it."""


@dataclass(frozen=True, slots=True)
class KeptFile:
    """File number `index` of a copy, which holds the chunks of `span` as far as the copy's bits say."""

    index: int
    span: range
    location: Path
    state: FileState
    identity: FileIdentity
    fault: str = ""
    trusted: bool = True
    """False for a file that an earlier run placed and did not prove."""
    repairing: bool = False
    """Bad chunks of it are being written over."""

    @property
    def mask(self) -> int:
        return ((1 << len(self.span)) - 1) << self.span.start

    @property
    def readable(self) -> bool:
        return self.trusted and not self.fault

    def could_be(self, identity: FileIdentity) -> bool:
        """Whether this is what we put there. A power cut may change or shorten what we never proved."""
        if self.identity == identity or self.trusted:
            return self.identity == identity
        return self.identity.same_place(identity) or self.identity.could_have_been(identity)

    def is_same(self, identity: FileIdentity) -> bool:
        """Whether what was just found on disk is this file, unchanged by others.

        We write to some all the time; a clock that was set back gives them an earlier time.
        """
        if self.state is FileState.PARTIAL or self.repairing:
            return self.identity.same_place(identity)
        return self.identity == identity

    def has_grown_into(self, identity: FileIdentity) -> bool:
        """Whether a partial file of an earlier run is still that one; where a clock was set back, it is hashed."""
        return self.is_same(identity) and self.identity.mtime_ns <= identity.mtime_ns


class Copy:
    """One place where a model lies. Thread-safe; `bits` counts only chunks in files that are readable."""

    def __init__(self, number: int, model_id: ModelId, root: Path, kind: Kind, count: int, clean: bool) -> None:
        self.number, self.model_id, self.root, self.kind = number, model_id, root, kind
        self.count = count
        """How many chunks the model has."""
        self.clean = clean
        """Whether nothing was written since the last claim when an earlier run ended."""
        self.moving = threading.Lock()
        """Held while a file gets its final name, so that nobody takes it for vanished."""
        self.busy = threading.Lock()
        """Held by a fetch into the copy, or a check of it, for all its time: each records what the other changes."""
        self.wanted = 0
        """How many wait for `busy`."""
        self._lock = threading.Lock()
        self._files: dict[int, KeptFile] = {}
        self._bits = 0
        self._hidden = 0

    @property
    def bits(self) -> int:
        with self._lock:
            return self._bits & ~self._hidden

    @property
    def hidden(self) -> int:
        """Chunks noted for files that cannot be read as they are now, but may be again."""
        with self._lock:
            return self._bits & self._hidden

    @property
    def proven(self) -> int:
        """What the database may say of a copy to which no fetch writes: what is here, and what is hidden."""
        with self._lock:
            return self._bits

    def lost(self, file: KeptFile) -> int:
        """The chunks of a file that are not what they should be."""
        with self._lock:
            return file.mask & ~self._bits

    @property
    def files(self) -> list[KeptFile]:
        with self._lock:
            return list(self._files.values())

    @property
    def fault(self) -> str:
        """What is wrong with the first file that has something: it changed or vanished, or chunks of it are damaged."""
        return next((file.fault for file in self.files if file.fault), "") or self._damage()

    @property
    def damaged(self) -> list[tuple[KeptFile, int]]:
        """Files under their final names of which chunks are not what they should be, and those chunks."""
        with self._lock:
            if self._bits.bit_count() == self.count:
                return []
            named = (file for file in self._files.values() if file.state is not FileState.PARTIAL)
            return [(file, lost) for file in named if (lost := file.mask & ~self._bits)]

    def _damage(self) -> str:
        for file, lost in self.damaged:
            chunks = f"{lost.bit_count()} damaged chunk{'s' if lost.bit_count() != 1 else ''}"
            return f"{str(file.location)!r} has {chunks}; `p2pmodel verify --repair` fetches what is bad"
        return ""

    def fault_of(self, indices: Iterable[int]) -> str:
        return next((file.fault for index in indices if (file := self.file(index)) is not None and file.fault), "")

    def file(self, index: int) -> KeptFile | None:
        with self._lock:
            return self._files.get(index)

    def add(self, bits: int) -> int:
        """Note chunks as held and return those that were not before."""
        with self._lock:
            new = bits & ~self._bits
            self._bits |= bits
            return new

    def drop(self, bits: int) -> None:
        with self._lock:
            self._bits &= ~bits

    def put(self, *files: KeptFile) -> None:
        with self._lock:
            self._files.update((file.index, file) for file in files)
            if self._hidden or not all(file.readable for file in files):
                self._hide()

    def forget(self, index: int) -> None:
        """The file is gone, and its chunks with it."""
        with self._lock:
            if file := self._files.pop(index, None):
                self._bits &= ~file.mask
            self._hide()

    def _hide(self) -> None:
        self._hidden = 0
        for file in self._files.values():
            if not file.readable:
                self._hidden |= file.mask


def hold(copy: Copy, stop: threading.Event) -> None:
    """Take `busy`. Raises `InterruptedFetchError` where `stop` is set before the copy is free."""
    copy.wanted += 1  # not exact where two come at once, which costs whoever proves the copy nothing but a look
    try:
        while not copy.busy.acquire(timeout=_STOP_POLL_S):
            if stop.is_set():
                raise InterruptedFetchError("stopped while the model was being checked")
    finally:
        copy.wanted -= 1


class Catalogue:
    """All copies, in memory and in the database, and the chunk index. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self.entering = threading.Lock()
        """Held from the look whether a copy is there until it is entered, or its model and objects are forgotten: what
        two do at once must not be entered twice, nor forgotten under the hands of who enters it."""
        self._models: dict[ModelId, int] = {}
        self._model_ids: dict[int, ModelId] = {}
        self._copies: dict[ModelId, list[Copy]] = {}
        self._last_number = 0
        """No number is given out twice in a process: somebody may still have a copy that was let go of in his hands."""
        self._load()

    def _load(self) -> None:
        counts, by_number = {}, {}
        for number, raw, chunk_count in self._database.query("SELECT number, model_id, chunk_count FROM models"):
            self._note_model(number, ModelId(Digest(raw)))
            counts[number] = chunk_count
        sql = "SELECT number, model, root, kind, have, clean FROM copies ORDER BY number"
        for number, model, root, kind, have, clean in self._database.query(sql):
            model_id = self._model_ids[model]
            copy = Copy(number, model_id, Path(os.fsdecode(root)), kind, counts[model], bool(clean))
            copy.add(int.from_bytes(have, "little"))
            by_number[number] = copy
            self._copies.setdefault(model_id, []).append(copy)
        self._last_number = max(by_number, default=0)
        rows = self._database.query("SELECT * FROM files ORDER BY copy")
        for number, group in groupby(rows, key=itemgetter(0)):
            by_number[number].put(*map(_loaded, group))

    def _note_model(self, number: int, model_id: ModelId) -> None:
        self._models[model_id], self._model_ids[number] = number, model_id

    def model_ids(self) -> list[ModelId]:
        with self._lock:
            return list(self._copies)

    def copies(self, model_id: ModelId) -> list[Copy]:
        with self._lock:
            return list(self._copies.get(model_id, ()))

    def all_copies(self) -> list[Copy]:
        with self._lock:
            return [copy for copies in self._copies.values() for copy in copies]

    def is_listed(self, copy: Copy) -> bool:
        """Whether it has not been let go of. Certain only for whoever holds it (`busy`)."""
        return any(listed is copy for listed in self.copies(copy.model_id))

    def copy_at(self, model_id: ModelId, root: Path) -> Copy | None:
        return next((copy for copy in self.copies(model_id) if copy.root == root), None)

    # --- the chunk index

    def places(self, digest: Digest) -> Iterator[tuple[ModelId, int]]:
        """Models and chunk numbers that may have this digest; the caller compares the whole of it."""
        sql = "SELECT model, chunk FROM chunks WHERE prefix = ? LIMIT 64"
        for model, chunk in self._database.query(sql, _PREFIX.unpack(digest.raw[:8])):
            with self._lock:
                model_id = self._model_ids.get(model)
            if model_id is not None:
                yield model_id, chunk

    def repeated(self) -> Iterator[list[tuple[ModelId, int]]]:
        """The places of each hash that stands at several, as far as eight bytes of it tell hashes apart."""
        sql = (
            "SELECT prefix, model, chunk FROM chunks "
            "WHERE prefix IN (SELECT prefix FROM chunks GROUP BY prefix HAVING COUNT(*) > 1) ORDER BY prefix"
        )
        for _, group in groupby(self._database.query(sql), key=itemgetter(0)):
            with self._lock:
                yield [(self._model_ids[model], chunk) for _, model, chunk in group if model in self._model_ids]

    # --- changes

    def create(self, writer: Writer, layout: Layout, root: Path, kind: Kind) -> Copy:
        """Add an empty copy, with the model and its chunks in the index. Call `publish_copy` after the commit."""
        model_id = layout.model_id
        rows = writer.execute("SELECT number FROM models WHERE model_id = ?", (model_id.raw,))
        if not rows:
            sql = "INSERT INTO models (model_id, chunk_count) VALUES (?, ?) RETURNING number"
            rows = writer.execute(sql, (model_id.raw, len(layout)))
            writer.execute_many("INSERT INTO chunks VALUES (?, ?, ?)", sorted(_index_rows(layout, rows[0][0])))
        with self._lock:
            self._last_number += 1
            number = self._last_number
        values = (number, rows[0][0], os.fsencode(root), kind, HaveMap(len(layout)).encode())
        writer.execute("INSERT INTO copies (number, model, root, kind, have, clean) VALUES (?, ?, ?, ?, ?, 1)", values)
        with self._lock:
            self._note_model(rows[0][0], model_id)
        return Copy(number, model_id, root, kind, len(layout), clean=True)

    def make_published(self, writer: Writer, copy: Copy, files: Iterable[KeptFile]) -> None:
        """What was fetched is its owner's from now on, who said so: never removed, nor replaced, without being asked.

        Nor does anything remain to be done to these files from when they were let go of before.
        """
        writer.execute("UPDATE copies SET kind = 'published' WHERE number = ?", (copy.number,))
        places = [(os.fsencode(file.location),) for file in files]
        writer.execute_many("DELETE FROM leaving WHERE location = ?", places)

    def publish_copy(self, copy: Copy) -> None:
        """Make a new copy known to look-ups."""
        with self._lock:
            self._copies.setdefault(copy.model_id, []).append(copy)

    def save_files(self, writer: Writer, copy: Copy, files: Iterable[KeptFile]) -> None:
        writer.execute_many(_SAVE_FILE, [_saved(copy, file) for file in files])

    def save_have(self, writer: Writer, copy: Copy, bits: int, *, clean: bool) -> None:
        have = HaveMap(copy.count, bits).encode()
        writer.execute("UPDATE copies SET have = ?, clean = ? WHERE number = ?", (have, clean, copy.number))

    def located(self, location: Path) -> list[tuple[Copy, KeptFile]]:
        """Every file of every copy that is said to be at this place."""
        return [(copy, file) for copy in self.all_copies() for file in copy.files if file.location == location]

    def mark(self, copy: Copy, index: int, fault: str) -> bool:
        """Note that a file changed or vanished, or with an empty text that it is back. Whether that is news."""
        file = copy.file(index)
        if file is None or file.fault == fault:
            return False
        changed = replace(file, fault=fault)
        copy.put(changed)
        with self._database.transaction() as writer:
            if writer.execute("SELECT 1 FROM copies WHERE number = ?", (copy.number,)):  # else it was let go of
                self.save_files(writer, copy, [changed])
        return True

    def regain(self, copy: Copy, bits: int) -> None:
        """These chunks of a proven file were read from the disk as they should be, after they had been lost."""
        copy.add(bits)
        with self._database.transaction() as writer:
            rows = writer.execute("SELECT have FROM copies WHERE number = ?", (copy.number,))
            if rows:
                self.save_have(writer, copy, int.from_bytes(rows[0][0], "little") | bits, clean=copy.clean)

    def lose(self, copy: Copy, bits: int) -> None:
        """These chunks are not on the disk as they should be: neither memory nor database says any more that they are.

        The index in the database may say less than memory does, because a fetch claims later what it has; never more.
        """
        copy.drop(bits)
        with self._database.transaction() as writer:
            rows = writer.execute("SELECT have FROM copies WHERE number = ?", (copy.number,))
            if rows:
                proven = int.from_bytes(rows[0][0], "little") & ~bits
                self.save_have(writer, copy, proven, clean=copy.clean)

    def known_file(self, identity: FileIdentity) -> tuple[ModelId, int] | None:
        """A model and file number under which a file with these marks was published, so hashed whole, before.

        A fetched file does not count: its chunks were checked, the two hashes of the whole are its publisher's word.
        """
        sql = (
            "SELECT model, file FROM files JOIN copies ON copies.number = files.copy "
            "WHERE identity = ? AND fault = '' AND kind = 'published' LIMIT 1"
        )
        for model, file in self._database.query(sql, (identity.pack(),)):
            with self._lock:
                return self._model_ids[model], file
        return None

    def unclaim(self, writer: Writer, copy: Copy, bits: int) -> None:
        """These chunks are about to go; the copy's identity on disk changes with them, so it is not clean any more."""
        ((have,),) = writer.execute("SELECT have FROM copies WHERE number = ?", (copy.number,))
        self.save_have(writer, copy, int.from_bytes(have, "little") & ~bits, clean=False)

    def forget_copy(self, writer: Writer, copy: Copy) -> None:
        """Take a copy out of the database. Call `unlist` when its bytes are gone."""
        writer.execute("DELETE FROM copies WHERE number = ?", (copy.number,))

    def remove_copy(self, copy: Copy) -> None:
        with self._database.transaction() as writer:
            self.forget_copy(writer, copy)
        self.unlist(copy)

    def unlist(self, copy: Copy) -> None:
        """Look-ups do not find it any more."""
        with self._lock:
            copies = self._copies.get(copy.model_id, [])
            copies[:] = [other for other in copies if other is not copy]
            if not copies:
                self._copies.pop(copy.model_id, None)

    def remove_model(self, model_id: ModelId, layout: Layout | None) -> None:
        """Take a model out of the index, unless a copy of it is left."""
        with self._lock:
            number = self._models.get(model_id)
        if number is None:
            return
        with self._database.transaction() as writer:
            if writer.execute("SELECT 1 FROM copies WHERE model = ?", (number,)):
                return
            if layout is not None:
                rows = sorted(_index_rows(layout, number))
                writer.execute_many("DELETE FROM chunks WHERE prefix = ? AND model = ? AND chunk = ?", rows)
            else:
                writer.execute("DELETE FROM chunks WHERE model = ?", (number,))
            writer.execute("DELETE FROM models WHERE number = ?", (number,))
            with self._lock:
                del self._models[model_id], self._model_ids[number]


def _index_rows(layout: Layout, model: int) -> Iterator[tuple[int, int, int]]:
    chunk = 0
    for chunks in layout.chunk_lists:
        for at in range(0, len(chunks.encoded), ENTRY_BYTES):
            yield _PREFIX.unpack_from(chunks.encoded, at)[0], model, chunk
            chunk += 1


def _saved(copy: Copy, file: KeptFile) -> Row:
    location = os.fsencode(file.location)
    span = (file.span.start, len(file.span))
    return (copy.number, file.index, *span, location, file.state.value, file.identity.pack(), file.fault)


def _loaded(row: Row) -> KeptFile:
    _, index, first, count, location, state_text, identity, fault = row
    state = FileState(state_text)
    return KeptFile(
        index=index,
        span=range(first, first + count),
        location=Path(os.fsdecode(location)),
        state=state,
        identity=FileIdentity.unpack(identity),
        fault=fault,
        trusted=state is not FileState.PLACED,
    )
