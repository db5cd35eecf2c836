"""A place on this disk where a model lies, whole or in part, as memory has it; `catalogue.py` keeps the same on disk.

The bits in memory say what can be read now; the bits in the database say what is proven, and grow only through
`intake.py` after a barrier. The two differ by what has arrived since the last claim, and by files that were placed and
not proven when an earlier run ended: those stay hidden until they have been hashed again.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from p2pmodel.errors import InterruptedFetchError
from p2pmodel.model import ModelId
from p2pmodel.store.values import FileIdentity, FileState

Kind = Literal["published", "fetched"]
_STOP_POLL_S = 0.05


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
