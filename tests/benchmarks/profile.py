"""`python -m tests.benchmarks.profile [--shape 1->4] [--size 2GiB] [--plain] [--keep DIR]`: where our time goes.

One transfer of ours with `py-spy` (which must be allowed to look into processes) at every daemon: for each side the
functions that its samples ended in, and of which threads. Waiting for a queue is counted as work where the interpreter
does not say that it waits. `--keep` leaves the stacks there, for a flame graph.
"""

from __future__ import annotations

import argparse
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.benchmarks.__main__ import size_bytes
from tests.benchmarks.contenders.contender import SHAPES
from tests.benchmarks.contenders.ours import Ours
from tests.benchmarks.measure import BenchmarkError, Child
from tests.benchmarks.race import Race, prepare

_RATE_HZ = 250
_SHOWN = 25


@contextmanager
def _profiled(directory: Path, senders: Sequence[Child], receivers: Sequence[Child]) -> Iterator[None]:
    running = []
    for side, processes in (("sender", senders), ("receiver", receivers)):
        for number, process in enumerate(processes):
            out = directory / f"{side}-{number}.stacks"
            record = ["py-spy", "record", "--nonblocking", "--threads", "--format", "raw", "--rate", str(_RATE_HZ)]
            argv = [*record, "--duration", "600", "--pid", str(process.pid), "--output", str(out)]
            with (directory / "py-spy.log").open("ab") as log:
                running.append(subprocess.Popen(argv, stdout=log, stderr=log))
    try:
        yield
    finally:
        for profiler in running:
            profiler.send_signal(signal.SIGINT)
        for profiler in running:
            profiler.wait(60)


def _report(side: str, directory: Path) -> list[str]:
    threads: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    for stacks in sorted(directory.glob(f"{side}-*.stacks")):
        for line in stacks.read_text().splitlines():
            stack, _, count = line.rpartition(" ")
            frames = stack.split(";")
            thread = re.sub(r"^thread \(\w+\): |[-_]\d+$", "", frames[0])
            threads[thread] += int(count)
            ends[f"{thread[:20]:20}  {frames[-1]}"] += int(count)
    total = sum(ends.values()) or 1
    shares = ", ".join(f"{thread} {100 * count / total:.0f} %" for thread, count in threads.most_common())
    lines = [f"{side}: {total / _RATE_HZ:.2f} s of samples that were not idle: {shares}"]
    return lines + [f"{100 * count / total:5.1f} %  {what}" for what, count in ends.most_common(_SHOWN)]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.profile", description=__doc__)
    parser.add_argument("--shape", default="1->1", choices=[str(shape) for shape in SHAPES])
    parser.add_argument("--size", type=size_bytes, default=size_bytes("2GiB"))
    parser.add_argument("--plain", action="store_true", help="encryption off")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave the stacks there")
    args = parser.parse_args()
    if shutil.which("py-spy") is None:
        print("py-spy is not on the path (pip install py-spy)", file=sys.stderr)
        return 1
    (shape,) = (shape for shape in SHAPES if str(shape) == args.shape)
    ours = Ours("p2pmodel", encryption=not args.plain)
    with tempfile.TemporaryDirectory(prefix="p2pmodel-profile-") as work, ExitStack() as stack:
        size = args.size // shape.receivers
        race = Race(shape, prepare(Path(work), size), size, lambda text: print(text, flush=True))
        race.enter([ours], [], stack)
        race.sample(race.series[ours.name])  # the first starts cold
        directory = args.keep or Path(work)
        directory.mkdir(parents=True, exist_ok=True)
        ours.around = lambda senders, receivers: _profiled(directory, senders, receivers)
        race.sample(race.series[ours.name])
        print("\n".join(["", *_report("sender", directory), "", *_report("receiver", directory)]))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
