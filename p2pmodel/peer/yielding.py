"""Background mode: this process takes little more than the CPU time and disk time that others leave.

Linux keeps both priorities by thread, and a new thread has those of the one that started it; so all that run are
changed, and whatever they start follows. Elsewhere the process has one CPU priority, and the disk's is left alone.
"""

from __future__ import annotations

import ctypes
import os
import platform
from pathlib import Path

_NICE = 10
"""A tenth of a core beside one program that wants all of it. At 19 it is a hundredth, and on a busy machine handshakes
miss their deadlines: nothing is fetched at all, and the work that they cost is done in vain."""
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30}
"""System call numbers (asm/unistd.h): libc has no function for ioprio_set(2)."""
_WHO_PROCESS = 1
_LOWEST = 2 << 13 | 7
"""The last level of the ordinary class: the idle one may wait for ever."""


def yield_to_others() -> None:
    """From now on, until the process ends: an ordinary user cannot take it back. What is refused is left as it is."""
    tasks = Path("/proc/self/task")
    threads = [int(entry.name) for entry in tasks.iterdir()] if tasks.is_dir() else [0]
    for thread in threads:
        try:
            os.setpriority(os.PRIO_PROCESS, thread, max(_NICE, os.getpriority(os.PRIO_PROCESS, thread)))
        except OSError:
            continue  # it has ended meanwhile, or the system does not want us to
        _yield_disk(thread)


def _yield_disk(thread: int) -> None:
    number = _IOPRIO_SET.get(platform.machine())
    if platform.system() == "Linux" and number is not None:
        ctypes.CDLL(None, use_errno=True).syscall(number, _WHO_PROCESS, thread, _LOWEST)
