"""The progress bar: phase, bar, bytes, rate, peers and time left, on stderr and only where stderr is a terminal."""

from __future__ import annotations

import math
import os
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

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


_BAR_COLUMNS_MIN = 8


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
        description = self._label or _PHASES.get(progress.phase, printable(progress.phase))
        room = self._bars.console.width - len(description) - _BAR_COLUMNS_MIN - 2
        text = told(progress, room, steady=now - self._phase_began > _STEADY_S)
        total = progress.bytes_total or None
        if self._task is None:
            self._task = self._bars.add_task(description, total=total, told=text)
        self._bars.update(self._task, description=description, completed=progress.bytes_done, total=total, told=text)


def _bars() -> Bars:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bars
    from rich.table import Column

    def text(field: str) -> TextColumn:
        return TextColumn("{task." + field + "}", markup=False, table_column=Column(no_wrap=True))

    console = Console(file=sys.stderr, highlight=False)
    bar = BarColumn(bar_width=None, table_column=Column(ratio=1, max_width=40))
    return Bars(text("description"), bar, text("fields[told]"), console=console, transient=True, expand=True)


def told(progress: Progress, room: int, *, steady: bool) -> str:
    """What stands beside the bar, the most that fits into `room` columns; the least where nothing fits."""
    variants = _variants(progress, steady=steady)
    return next((text for text in variants if len(text) <= room), variants[-1][: max(room, 0)])


def _variants(progress: Progress, *, steady: bool) -> list[str]:
    """From everything to the least: how far, how fast, how long. A note is worth more than numbers it explains."""
    amount, part = _amount(progress), ""
    if progress.bytes_total:
        part = f"{progress.bytes_done * 100 // progress.bytes_total} %"
    if progress.note:
        note = printable(progress.note)
        return [_joined(amount, note), _joined(part, note), note]
    rate = format_rate(progress.rate_bytes_per_s) if progress.rate_bytes_per_s else ""
    peers = count(progress.peers, "peer") if progress.peers else ""
    left = f"{_left(progress.eta_s)} left" if progress.eta_s is not None and steady else ""
    resumed = ""
    if progress.phase == "transfer" and progress.bytes_reused and progress.bytes_total:
        resumed = f"resumed at {progress.bytes_reused * 100 // progress.bytes_total} %"
    return [
        _joined(amount, rate, peers, left, resumed),
        _joined(amount, rate, peers, left),
        _joined(amount, rate, left),
        _joined(part, rate, left),
        _joined(part, left),
        part or peers,
    ]


def _joined(*parts: str) -> str:
    return "  ".join(part for part in parts if part)


def _amount(progress: Progress) -> str:
    if not progress.bytes_total:
        return ""
    done, total = format_size(progress.bytes_done), format_size(progress.bytes_total)
    unit = total.partition(" ")[2]
    return f"{done.removesuffix(' ' + unit)} of {total}"  # 36.0 of 300.0 MiB


def _left(seconds: float) -> str:
    """Rounded up, the more the longer it is: a figure that changes all the time says less than one that stands."""
    for least, step in ((3600, 300), (600, 60), (60, 10), (15, 5)):
        if seconds >= least:
            return format_duration(math.ceil(seconds / step) * step)
    return f"{math.ceil(seconds)} s"
