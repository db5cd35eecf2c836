"""The log of a simulation: every event goes into one hash, so that two runs can be compared byte for byte."""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from typing import TextIO

Field = int | float | str | bytes

_BATCH = 512


class EventLog:
    """`sha256` is that of all lines so far; the last `keep` lines are there to be read, and all go to `copy_to`."""

    def __init__(self, keep: int = 200, *, copy_to: TextIO | None = None) -> None:
        self.counts: Counter[str] = Counter()
        self._hash = hashlib.sha256()
        self._pending: list[str] = []
        self._tail: deque[str] = deque(maxlen=keep)
        self._copy_to = copy_to

    def add(self, at_s: float, kind: str, *fields: Field) -> None:
        """Something happened. Fields must be values that repeat: no addresses of objects, no real times."""
        self.counts[kind] += 1
        line = f"{at_s!r} {kind} {fields!r}\n"
        self._pending.append(line)
        if len(self._pending) >= _BATCH:
            self._flush()

    def _flush(self) -> None:
        if self._pending:
            lines = "".join(self._pending)
            self._hash.update(lines.encode())
            if self._copy_to is not None:
                self._copy_to.write(lines)
            self._tail.extend(self._pending)
            self._pending.clear()

    @property
    def count(self) -> int:
        return sum(self.counts.values())

    @property
    def sha256(self) -> str:
        self._flush()
        return self._hash.hexdigest()

    def tail(self, lines: int = 20) -> str:
        """The last lines, for the message of a failed test."""
        self._flush()
        return "".join(list(self._tail)[-lines:])
