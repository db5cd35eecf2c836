"""Progress of a run for a person who waits: one line on a terminal's stderr, written over and over."""

from __future__ import annotations

import re
import sys
from types import TracebackType

from rich.console import Console
from rich.status import Status

from p2pmodel.testing.events import EventLog

_NUMBERS = re.compile(r"[0-9,.]+")


class Watcher:
    """The `Observer` of the command line. Where stderr is no terminal each change of subject is a line of its own."""

    def __init__(self, log: EventLog, *, quiet: bool = False) -> None:
        self.log = log
        self._console = Console(stderr=True, highlight=False)
        self._status: Status | None = None
        self._quiet = quiet
        self._subject = ""

    def progress(self, text: str) -> None:
        if self._status is not None:
            self._status.update(text)
        elif not self._quiet and (subject := _NUMBERS.sub("", text)) != self._subject:
            self._subject = subject
            print(text, file=sys.stderr, flush=True)

    def __enter__(self) -> Watcher:
        if self._console.is_terminal and not self._quiet:
            self._status = self._console.status("begins")
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status is not None:
            self._status.stop()
