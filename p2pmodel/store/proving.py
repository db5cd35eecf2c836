"""After an unclean stop: hashing what an earlier run placed and did not prove, while everything else goes on.

A start does not wait for it, and nothing of such a file is said to be here until all of it was hashed; what was proven
is served from the first moment. It takes one thread of the lowest priority, notes each file as soon as it is through,
so that the next kill costs one file at most, and lets go of a copy when a fetch or a check wants it: a fetch hashes
what it needs by itself.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable

from p2pmodel.errors import InterruptedFetchError
from p2pmodel.model import Layout, ModelId
from p2pmodel.store.catalogue import Catalogue
from p2pmodel.store.checking import Checker

_NICE = 19


class Prover:
    def __init__(self, catalogue: Catalogue, checker: Checker, layout: Callable[[ModelId], Layout | None]) -> None:
        self._catalogue, self._checker, self._layout = catalogue, checker, layout

    def run(self, stop: threading.Event) -> list[ModelId]:
        """Prove what can be proven now; returns the models of which that was true. Raises `InterruptedFetchError`."""
        proven: dict[ModelId, None] = {}
        for copy in self._catalogue.all_copies():
            layout = self._layout(copy.model_id)
            if layout is None or all(kept.trusted for kept in copy.files) or not copy.busy.acquire(blocking=False):
                continue  # nothing to prove, or a fetch is about to do it
            try:
                unproven = [kept for kept in copy.files if not kept.trusted]
                for kept in unproven if self._catalogue.is_listed(copy) else []:
                    self._checker.prove(copy, kept, layout, stop)
                    proven[copy.model_id] = None
            except InterruptedFetchError:
                if stop.is_set():
                    raise
            finally:
                copy.busy.release()
        return list(proven)


def run_behind(work: Callable[[], object]) -> None:
    """Run `work` in a thread that gets what processor time others leave (Linux), and wait for it."""
    errors: list[BaseException] = []

    def behind() -> None:
        if sys.platform == "linux":
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        try:
            work()
        except BaseException as error:  # noqa: BLE001  (raised in the caller's thread below)
            errors.append(error)

    thread = threading.Thread(target=behind, name="p2pmodel-prove", daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
