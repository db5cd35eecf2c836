"""`python -m tests.benchmarks [NAME...]`: medians and ranges of every contender in one run, and the scorecard's ratios.

This machine only. Ctrl-C and SIGTERM end everything that was started and delete what was written.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

from tests.benchmarks import background, links, transfer
from tests.benchmarks.background import Background
from tests.benchmarks.cache.sweep import Sweep
from tests.benchmarks.contenders.contender import SHAPES
from tests.benchmarks.hostile.drippers import Drippers
from tests.benchmarks.hostile.flood import Flood
from tests.benchmarks.hostile.messages import Messages
from tests.benchmarks.index import Index
from tests.benchmarks.links import LINKS, LONGEST_S, Links
from tests.benchmarks.loading import Loading
from tests.benchmarks.measure import MIB, BenchmarkError
from tests.benchmarks.network import Link
from tests.benchmarks.publish import Publish
from tests.benchmarks.report import Line
from tests.benchmarks.transfer import Transfer

CACHE_REPEAT_MAX = 2
"""Traces of `cache`: they differ by a percentage point, and each takes minutes."""
DRIPPERS_SIZE_MAX = 2048 * MIB
"""The honest seed has all of it in memory."""
LINKS_REPEAT_MAX = 3
"""Of each contender on each link: there are many links, and they differ less from sample to sample."""


class Benchmark(Protocol):
    repeat: int

    def missing(self) -> str:
        """Why it cannot run here; empty where it can."""

    def run(self, work: Path) -> None: ...

    def tables(self) -> list[str]: ...

    def disturbance(self) -> str: ...

    def lines(self) -> list[Line]: ...

    def as_json(self) -> dict[str, Any]: ...


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _transfer(args: argparse.Namespace) -> Transfer:
    shapes = [shape for shape in SHAPES if not args.shape or str(shape) in args.shape]
    return Transfer(args.size, args.repeat, args.only, not args.cold, _say, shapes)


def _index(args: argparse.Namespace) -> Index:
    return Index(args.repeat, _say)


def _unclean(args: argparse.Namespace) -> Index:
    return Index(args.repeat, _say, unclean=True)


def _publish(args: argparse.Namespace) -> Publish:
    return Publish(args.size, args.repeat, _say)


def _links(args: argparse.Namespace) -> Links:
    repeat = min(args.repeat, LINKS_REPEAT_MAX)
    over = args.link or [Link.parse(text) for text in LINKS]
    return Links(args.size, repeat, args.only, not args.cold, _say, over, args.longest)


def _background(args: argparse.Namespace) -> Background:
    over = args.link or [Link.parse(text) for text in background.LINKS]
    return Background(min(args.repeat, LINKS_REPEAT_MAX), _say, over)


def _loading(args: argparse.Namespace) -> Loading:
    return Loading(args.size, args.repeat, _say, not args.cold)


def _flood(_: argparse.Namespace) -> Flood:
    return Flood(_say)


def _drippers(args: argparse.Namespace) -> Drippers:
    return Drippers(_say, args.repeat, max(1, min(args.size, DRIPPERS_SIZE_MAX) // MIB))


def _messages(_: argparse.Namespace) -> Messages:
    return Messages(_say)


def _cache(args: argparse.Namespace) -> Sweep:
    return Sweep(min(args.repeat, CACHE_REPEAT_MAX), _say, args.plot)


BENCHMARKS: dict[str, Callable[[argparse.Namespace], Benchmark]] = {
    "transfer": _transfer,
    "links": _links,
    "background": _background,
    "index": _index,
    "unclean": _unclean,
    "publish": _publish,
    "loading": _loading,
    "flood": _flood,
    "messages": _messages,
    "drippers": _drippers,
    "cache": _cache,
}
_UNITS = {"": 1, "B": 1, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def size_bytes(text: str) -> int:
    digits = text.rstrip("BbGgIiKkMm")
    try:
        size = round(float(digits) * _UNITS[text[len(digits) :].upper()])
    except (ValueError, KeyError):
        size = 0
    if size <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 512MiB or 2GiB")
    return size


def _link(text: str) -> Link:
    try:
        return Link.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; all by default")
    parser.add_argument("--size", type=size_bytes, default=size_bytes("2GiB"), help="of the model (default 2GiB)")
    parser.add_argument("--repeat", type=int, default=5, metavar="N", help="samples of each contender (default 5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample to this file")
    names = list(dict.fromkeys(one.name for one in [*transfer.contenders(), *links.contenders()]))
    parser.add_argument("--plot", type=Path, metavar="FILE", help="of `cache`: draw its figure, PNG or SVG")
    parser.add_argument("--only", action="append", default=[], choices=names, help="leave out the others; repeatable")
    parser.add_argument(
        "--shape",
        action="append",
        default=[],
        choices=[str(shape) for shape in SHAPES],
        help="of `transfer`; repeatable",
    )
    parser.add_argument(
        "--link",
        action="append",
        default=[],
        type=_link,
        metavar="RATE[,MS[,LOSS%]]",
        help="of `links` and `background`",
    )
    parser.add_argument(
        "--longest",
        type=float,
        default=LONGEST_S,
        metavar="S",
        help=f"of `links` (default {LONGEST_S:g}): leave out longer",
    )
    parser.add_argument("--work", type=Path, metavar="DIR", help="write below this directory (default: the system's)")
    parser.add_argument("--cold", action="store_true", help="do not keep pages warm for the writer (see the README)")
    args = parser.parse_args(argv)
    if unknown := sorted(set(args.names) - set(BENCHMARKS)):
        parser.error(f"there is no benchmark {unknown[0]!r}; there are: {', '.join(BENCHMARKS)}")
    if args.repeat < 1:
        parser.error("--repeat is at least 1")
    return args


def machine() -> dict[str, object]:
    congestion = Path("/proc/sys/net/ipv4/tcp_congestion_control")
    versions = {}
    for package in ("p2pmodel", "libtorrent", "blake3", "cryptography", "uvloop", "aiohttp"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "cpus": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "congestion_control": congestion.read_text().strip() if congestion.exists() else "",
        "load_average": os.getloadavg(),
        "versions": versions,
    }


def _end(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)


def main(argv: list[str] | None = None) -> int:
    args = _parse(argv)
    signal.signal(signal.SIGTERM, _end)
    results: dict[str, object] = {"machine": machine()}
    for name in args.names or BENCHMARKS:
        benchmark = BENCHMARKS[name](args)
        if reason := benchmark.missing():
            print(f"\n{name}: MISSING: {reason}")
            results[name] = {"missing": reason}
            continue
        with tempfile.TemporaryDirectory(
            prefix="p2pmodel-benchmark-", dir=args.work, ignore_cleanup_errors=True
        ) as work:
            benchmark.run(Path(work).resolve())
        print(f"\n{name}: n = {benchmark.repeat}, median [least..most]; GB = 1e9 bytes\n")
        print("\n".join(benchmark.tables()))
        print(benchmark.disturbance())
        print()
        print("\n".join(str(line) for line in benchmark.lines()))
        results[name] = benchmark.as_json()
    if args.json is not None:
        args.json.write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
