"""What can go wrong with a simulated disk: calls that fail, a machine that stops between two calls, rotten bits.

Also who decides what a power cut leaves: dice, or a script that tries every possibility in turn.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

OPERATIONS = frozenset(
    {
        "open", "make", "list", "status", "space", "read", "write", "allocate", "punch", "sync", "ranges", "rename",
        "remove", "link", "sync_directory", "lock", "connect", "commit",
    }
)  # fmt: skip
"""The kinds of calls that can fail. `commit` is SQLite's, as a whole."""
_POWER = "the machine has stopped"


@dataclass(slots=True)
class _Plan:
    """After `left` more matching calls, `times` calls fail (None: all) with `code`."""

    left: int
    times: int | None
    code: int
    only: frozenset[str]
    below: str


class Faults:
    """Counts calls and decides which of them fail."""

    def __init__(self) -> None:
        self.calls = 0
        self.stopped = False
        self.on_call: Callable[[str, Path], None] | None = None
        self._stop_in: int | None = None
        self._plans: list[_Plan] = []

    def plan(self, calls: int, code: int, only: Collection[str], below: str, times: int | None) -> None:
        unknown = sorted(set(only) - OPERATIONS)
        if unknown or calls < 1:
            raise ValueError(f"no such calls: {unknown or calls}; there are {sorted(OPERATIONS)}")
        self._plans.append(_Plan(calls - 1, times, code, frozenset(only), below))

    def stop_in(self, calls: int) -> None:
        self._stop_in = calls

    def heal(self) -> None:
        self._plans.clear()

    def start(self) -> None:
        """After a crash: the machine is up again."""
        self.stopped, self._stop_in = False, None

    def step(self, operation: str, path: Path) -> None:
        """Raises `OSError` where this call fails. A call on a machine that has stopped fails and does not count."""
        self.check_running()
        self.calls += 1
        if self.on_call is not None:
            self.on_call(operation, path)
        if self._stop_in is not None:
            self._stop_in -= 1
            if self._stop_in < 0:
                self.stopped = True
        self.check_running()
        for plan in self._plans:
            if (plan.only and operation not in plan.only) or not str(path).startswith(plan.below):
                continue
            if plan.left:
                plan.left -= 1
            elif plan.times is None or plan.times > 0:
                plan.times = None if plan.times is None else plan.times - 1
                raise OSError(plan.code, os.strerror(plan.code))

    def check_running(self) -> None:
        if self.stopped:
            raise OSError(errno.EIO, _POWER)


class Dice:
    """A power cut as it happens: sometimes nearly all is kept, sometimes nearly nothing, sometimes pages are torn."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._kept = rng.choice((0.0, 0.1, 0.5, 0.9, 1.0))
        self._names_kept = rng.choice((0.0, 0.5, 1.0))
        self._torn = rng.choice((0.0, 0.0, 0.3))

    def version(self, count: int) -> int:
        if self._rng.random() < self._torn:
            return count
        return count - 1 if self._rng.random() < self._kept else self._rng.randrange(count - 1)

    def sectors(self) -> int:
        return self._rng.getrandbits(8)

    def kept(self) -> bool:
        return self._rng.random() < self._names_kept


class Script:
    """Every possibility once: start with an empty script, run, `advance`, run again, until that says there are none."""

    def __init__(self) -> None:
        self._decisions: list[tuple[int, int]] = []
        self._at = 0

    def version(self, count: int) -> int:
        return self._decide(count + 1)

    def sectors(self) -> int:
        return 0b00001111

    def kept(self) -> bool:
        return bool(self._decide(2))

    def _decide(self, count: int) -> int:
        if self._at == len(self._decisions):
            self._decisions.append((0, count))
        chosen, known_count = self._decisions[self._at]
        assert known_count == count, "the same choices come in the same order"
        self._at += 1
        return chosen

    def advance(self) -> bool:
        """To the next possibility; False where this was the last."""
        self._at = 0
        while self._decisions:
            chosen, count = self._decisions.pop()
            if chosen + 1 < count:
                self._decisions.append((chosen + 1, count))
                return True
        return False
