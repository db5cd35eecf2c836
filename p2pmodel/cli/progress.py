"""The progress bar: phase, bar, bytes, rate, peers and time left, on stderr and only where stderr is a terminal."""

from __future__ import annotations

import os
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

from p2pmodel.cli.output import count, printable
from p2pmodel.peer.reports import Progress
from p2pmodel.peer.units import format_duration, format_rate, format_size

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

_PHASES = {
    "lookup": "looking for peers",
    "manifest": "reading the manifest",
    "transfer": "fetching",
    "hashing": "hashing",
    "placing": "checking what is here",
    "announcing": "announcing",
}


def may_draw(*, wanted: bool) -> bool:
    """Whether a bar may be drawn: on a terminal that can move its cursor, and nobody said no."""
    return wanted and sys.stderr.isatty() and os.environ.get("TERM", "") not in ("", "dumb")


_STEADY_S = 1.0
"""A time left is told only after this long: before, it is a guess from the first few bytes."""


class ProgressView:
    """A context manager; `update` takes each report. `last` keeps the newest, also where nothing is drawn."""

    def __init__(self, *, draw: bool, label: str = "") -> None:
        self.last = Progress(phase="lookup")
        self._label = label
        self._bars = _bars() if draw else None
        self._task: TaskID | None = None
        self._phase, self._phase_began = "", 0.0

    def __enter__(self) -> ProgressView:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def update(self, progress: Progress) -> None:
        self.last = progress
        if self._bars is None:
            return
        now = time.monotonic()
        if progress.phase != self._phase:
            self._phase, self._phase_began = progress.phase, now
        steady = now - self._phase_began > _STEADY_S
        fields: dict[str, Any] = {
            "amount": _amount(progress),
            "rate": _rate(progress),
            "side": _side(progress, steady=steady),
        }
        description = self._label or _PHASES.get(progress.phase, printable(progress.phase))
        total = progress.bytes_total or None
        if self._task is None:
            self._task = self._bars.add_task(description, total=total, **fields)
        self._bars.update(self._task, description=description, completed=progress.bytes_done, total=total, **fields)


def _bars() -> Bars:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bars
    from rich.table import Column

    def text(field: str) -> TextColumn:
        return TextColumn("{task." + field + "}", markup=False, table_column=Column(no_wrap=True))

    console = Console(file=sys.stderr, highlight=False)
    bar = BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=8, max_width=40))
    return Bars(
        text("description"),
        bar,
        text("fields[amount]"),
        text("fields[rate]"),
        text("fields[side]"),
        console=console,
        transient=True,
        expand=True,
    )


def _amount(progress: Progress) -> str:
    if not progress.bytes_total:
        return ""
    done, total = format_size(progress.bytes_done), format_size(progress.bytes_total)
    unit = total.partition(" ")[2]
    return f"{done.removesuffix(' ' + unit)} of {total}"  # 36.0 of 300.0 MiB


def _rate(progress: Progress) -> str:
    return format_rate(progress.rate_bytes_per_s) if progress.rate_bytes_per_s else ""


def _side(progress: Progress, *, steady: bool) -> str:
    """What is left for the end of the line: a note is worth more than the numbers it explains."""
    if progress.note:
        return printable(progress.note)
    parts = []
    if progress.peers:
        parts.append(count(progress.peers, "peer"))
    if progress.eta_s is not None and steady:
        parts.append(f"{format_duration(progress.eta_s)} left")
    return ", ".join(parts)
