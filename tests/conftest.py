"""For every room: what Python has compiled is kept, and what runs beside what where pytest runs with `-n 2`.

The tests start the program hundreds of times, as a process of its own. Where the environment forbids Python to keep
what it compiled (`PYTHONDONTWRITEBYTECODE`), each of these processes compiles the package again.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import pytest

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

PROCESSES = {"benchmarks", "cli", "e2e", "gateway", "loading"}
"""Rooms whose tests start programs and look at how long they take. One worker has them all: no two run side by side."""


def unit_of(test: str) -> str:
    """Tests with the same answer run one after the other; the rest of the rooms is handed out file by file."""
    path = test.partition("::")[0]
    return "processes" if path.split("/")[1] in PROCESSES else path


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler.loadscope import LoadScopeScheduling

    class ByRoom(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return unit_of(nodeid)

    config.option.loadscopereorder = False  # the programs first: they take the longest
    return ByRoom(config, log)
