"""What the cache may let go of, unit by unit, in the order in which it would; `eviction.py` has the policy.

A unit is all of a copy where files of it have their final names, and a single chunk where none has. What is pinned,
being fetched, checked or read, or was told to a reader who is not done, is not chosen.
"""

from __future__ import annotations

import copy as copying
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from p2pmodel.model import ModelId
from p2pmodel.model.have_map import iter_bits
from p2pmodel.store.catalogue import Catalogue
from p2pmodel.store.copies import Copy
from p2pmodel.store.database import Database
from p2pmodel.store.eviction import S3Fifo
from p2pmodel.store.objects import Objects
from p2pmodel.store.pins import Pins
from p2pmodel.store.releasing import Releaser
from p2pmodel.store.serving import Server
from p2pmodel.store.values import Content, FileState

WHOLE = -1
_UNIT_BITS = 22
"""A unit is a number: that of the copy, and in these lowest bits 0 for all of it, or 1 and the chunk's."""


class Expendables:
    """Thread-safe. Call `load` before anything else."""

    def __init__(
        self,
        *,
        database: Database,
        catalogue: Catalogue,
        objects: Objects,
        server: Server,
        releaser: Releaser,
        pins: Pins,
        content: Callable[[Copy], Content],
    ) -> None:
        self.known_elsewhere: Callable[[ModelId], int] = lambda model_id: -1
        """The chunks of a model that somebody else is known to hold, as bits; -1 where nothing is known of others."""
        self._database, self._catalogue, self._objects = database, catalogue, objects
        self._server, self._releaser, self._pins, self._content = server, releaser, pins, content
        self._lock = threading.Lock()
        self._policy: S3Fifo[int] = S3Fifo()
        self._units: dict[int, tuple[Copy, int]] = {}
        """By number, the copies in the policy, with those of their chunks that are; `WHOLE` for a copy as one."""
        self._served: dict[int, int] = {}
        """Chunks of a copy as one that were served since that counted as a use."""
        self._readers: Counter[ModelId] = Counter()
        """Models that a reader has open: what was told to be here stays until it has been read."""
        self._used = False
        """Whether anything was used since that was saved."""

    def load(self) -> None:
        """In the order of the last run, with the uses that were counted then; what it did not know goes last."""
        rows = self._database.query("SELECT copy, uses, place FROM uses")
        known = {copy: (uses, place) for copy, uses, place in rows}
        last = (0, len(known))
        for copy in sorted(self._catalogue.all_copies(), key=lambda copy: known.get(copy.number, last)[1]):
            self.settle(copy, known.get(copy.number, last)[0])

    def save(self) -> None:
        """Keep for the next run what was used; not durable, for it is only a hint."""
        with self._lock:
            if not self._used:
                return
            self._used = False
            rows: dict[int, tuple[int, int]] = {}
            for place, key in enumerate(self._policy.order()):
                uses, first = rows.get(key >> _UNIT_BITS, (0, place))
                rows[key >> _UNIT_BITS] = max(uses, self._policy.uses(key)), first
        with self._database.transaction(durable=False) as writer:
            writer.execute("DELETE FROM uses")
            writer.execute_many(
                "INSERT INTO uses SELECT ?, ?, ? WHERE EXISTS (SELECT 1 FROM copies WHERE number = ?)",
                [(number, *row, number) for number, row in sorted(rows.items())],
            )

    def settle(self, copy: Copy, uses: int = 0) -> None:
        """A copy has come, gone or changed, or its model was pinned or unpinned: what of it may go is counted anew.

        `uses` are those of the last run, for what is not known here yet.
        """
        chunks = self._chunk_units(copy)
        size = self._releaser.allocated_bytes(copy) if chunks == WHOLE else 0
        layout = self._objects.layout(copy.model_id) if chunks not in (0, WHOLE) else None
        with self._lock:
            _, before = self._units.pop(copy.number, (copy, 0))
            stay = chunks if WHOLE not in (before, chunks) else 0
            for key in _keys(copy, before & ~stay if before != chunks else 0):
                self._policy.drop(key)
            if not chunks:
                self._served.pop(copy.number, None)
                return
            self._units[copy.number] = copy, chunks
            for key in _keys(copy, chunks):
                if chunks == WHOLE:
                    self._policy.add(key, size, uses=uses)
                elif layout is not None and key not in self._policy:
                    self._policy.add(key, layout.length(_chunk_of(key)), uses=uses)

    def _chunk_units(self, copy: Copy) -> int:
        """The chunks of a copy that may go one by one; `WHOLE` where all of it goes at once, 0 where nothing does."""
        listed = self._catalogue.copy_at(copy.model_id, copy.root) is copy
        if not listed or self._content(copy) != "cached" or copy.model_id in self._pins:
            return 0
        nameless = all(kept.state is FileState.PARTIAL for kept in copy.files)
        return copy.bits if nameless and copy.bits else WHOLE

    def served(self, copy: Copy, index: int) -> None:
        """A chunk was read for somebody. As many chunks as a model has count as one use of it."""
        with self._lock:
            _, chunks = self._units.get(copy.number, (copy, 0))
            if chunks == WHOLE:
                self._served[copy.number] = self._served.get(copy.number, 0) + 1
                if self._served[copy.number] >= max(1, copy.count):
                    self._served[copy.number] = 0
                    self._policy.touch(_whole(copy))
                    self._used = True
            elif chunks:
                self._policy.touch(_chunk(copy, index))
                self._used = True

    def used(self, copy: Copy) -> None:
        """Its owner asked for a model that is here."""
        with self._lock:
            self._policy.touch(_whole(copy))
            self._used = True

    def reader_came(self, model_id: ModelId) -> None:
        """Nothing of this model is let go of to make room until the reader leaves (`reader_left`)."""
        with self._lock:
            self._readers[model_id] += 1

    def reader_left(self, model_id: ModelId) -> None:
        with self._lock:
            self._readers -= Counter([model_id])

    def releasable_bytes(self) -> int:
        """Models that go as one are looked at anew: what they take changes as files get, and lose, other names."""
        with self._lock:
            may_go = [
                (*self._units[key >> _UNIT_BITS], self._policy.size(key)) for key in self._policy if self._may_go(key)
            ]
        return sum(self._releaser.allocated_bytes(copy) if chunks == WHOLE else size for copy, chunks, size in may_go)

    # --- choosing and letting go

    def _may_go(self, key: int) -> bool:
        copy, chunks = self._units[key >> _UNIT_BITS]
        if copy.busy.locked() or copy.model_id in self._readers:
            return False
        reading = self._server.reading(copy)
        return not (reading if chunks == WHOLE else reading >> _chunk_of(key) & 1)

    def _rare(self) -> Callable[[int], bool]:
        known: dict[ModelId, int] = {}

        def is_rare(key: int) -> bool:
            copy, chunks = self._units[key >> _UNIT_BITS]
            if copy.model_id not in known:
                known[copy.model_id] = self.known_elsewhere(copy.model_id)
            alone = copy.bits & ~known[copy.model_id]
            return bool(alone if chunks == WHOLE else alone >> _chunk_of(key) & 1)

        return is_rare

    def choose(self, needed_bytes: int, *, imagined: bool = False) -> list[tuple[int, int]]:
        """Units to let go of, with their sizes, until so much is free; they are in the order no more.

        `imagined`: only to say what would go; they stay.
        """
        chosen, is_rare = [], self._rare()
        with self._lock:
            policy = copying.deepcopy(self._policy) if imagined else self._policy
            while needed_bytes > 0:
                key = policy.victim(self._may_go, is_rare)
                if key is None:
                    break
                copy, chunks = self._units[key >> _UNIT_BITS]
                size = self._releaser.allocated_bytes(copy) if chunks == WHOLE else policy.last_size_bytes
                chosen.append((key, size))
                needed_bytes -= size
        return chosen

    def grouped(self, chosen: Iterable[tuple[int, int]]) -> dict[int, tuple[Copy, int, int]]:
        """By copy: the chunks that go, or `WHOLE`, and their bytes."""
        groups: dict[int, tuple[Copy, int, int]] = {}
        with self._lock:
            for key, size in chosen:
                copy, chunks = self._units.get(key >> _UNIT_BITS, (None, 0))
                if copy is None:
                    continue  # somebody else has just let go of it
                _, bits, total = groups.get(copy.number, (copy, 0, 0))
                bits = WHOLE if chunks == WHOLE else bits | 1 << _chunk_of(key)
                groups[copy.number] = copy, bits, total + size
        return groups


def _whole(copy: Copy) -> int:
    return copy.number << _UNIT_BITS


def _chunk(copy: Copy, index: int) -> int:
    return copy.number << _UNIT_BITS | index + 1


def _chunk_of(key: int) -> int:
    return (key & (1 << _UNIT_BITS) - 1) - 1


def _keys(copy: Copy, chunks: int) -> Iterator[int]:
    if chunks == WHOLE:
        yield _whole(copy)
    else:
        yield from (_chunk(copy, index) for index in iter_bits(chunks))
