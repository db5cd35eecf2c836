"""Goal: what runs in the background gives way to everything else on the machine, in every one of its threads.

Method: real processes, looked at from outside.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from p2pmodel.peer.settings import load_settings

linux = pytest.mark.skipif(sys.platform != "linux", reason="priorities of threads are read from /proc")


def niceness(pid: int) -> set[int]:
    """But for the thread that proves what an earlier run left: that is lower than all others, while there is one."""
    each = {os.getpriority(os.PRIO_PROCESS, int(task.name)) for task in Path(f"/proc/{pid}/task").iterdir()}
    return each - {19}


@linux
@pytest.mark.slow
@pytest.mark.parametrize("options", [["--background"], []])
async def test_a_daemon_in_the_background_has_a_low_priority_in_all_its_threads(p2pmodel, options):
    daemon = await p2pmodel.start("daemon", "--json", "--listen", "127.0.0.1:0", "--http", "off", *options)
    assert daemon.stdout is not None
    ready = json.loads(await asyncio.wait_for(daemon.stdout.readline(), 30))
    usual = os.getpriority(os.PRIO_PROCESS, 0)
    try:
        assert ready["event"] == "ready"
        assert niceness(daemon.pid) == ({10} if options else {usual})
        status = await p2pmodel("status")
        assert ("in the background" in status.out) == bool(options)
        assert niceness(daemon.pid) == ({10} if options else {usual})
    finally:
        daemon.terminate()
        await daemon.communicate()


async def test_background_is_a_setting_like_any_other(tmp_path):
    for flags, environ, wanted in (
        ({}, {}, False),
        ({"background": True}, {}, True),
        ({}, {"P2PMODEL_BACKGROUND": "yes"}, True),
    ):
        settings = await load_settings({"data_dir": tmp_path, **flags}, environ=environ)
        assert settings.peer_config().background is wanted
