"""What is claimed to be where, in the database: copies of models (`copies.py`), and where chunks with a hash stand."""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from p2pmodel.model import Digest, HaveMap, Layout, ModelId
from p2pmodel.model.chunk_list import ENTRY_BYTES
from p2pmodel.store.copies import Copy, KeptFile, Kind
from p2pmodel.store.database import Database, Row, Writer
from p2pmodel.store.values import FileIdentity, FileState

_PREFIX = struct.Struct(">q")
_SAVE_FILE = (
    "INSERT INTO files SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8 WHERE EXISTS (SELECT 1 FROM copies WHERE number = ?1) "
    "ON CONFLICT DO UPDATE SET location = excluded.location, state = excluded.state, identity = excluded.identity, "
    "fault = excluded.fault"
)
"""Nothing for a copy that was let go of while somebody looked at it."""


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

    def models_without_copies(self) -> list[ModelId]:
        with self._lock:
            return [model_id for model_id in self._models if model_id not in self._copies]

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
