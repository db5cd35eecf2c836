"""The command line: options of each scenario, the table or JSON, the plot, the exit code.

0: every line holds; 1: one falls short; 2: the command cannot be carried out as written; 130: interrupted.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
import math
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console

from p2pmodel.errors import P2PModelError, UsageError
from p2pmodel.testing.events import EventLog
from p2pmodel.testing.report import Result, show_table
from simulations.figures import check_plot, draw
from simulations.registry import scenarios
from simulations.scenario import Scenario
from simulations.watching import Watcher

_USAGE = 2
_INTERRUPTED = 130
_WIDTH = 120
"""Of a table that goes to a file or a pipe."""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, without the list of all options around it."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see `{self.prog} --help`")


def main(arguments: Sequence[str] | None = None) -> int:
    try:
        return _main(list(sys.argv[1:] if arguments is None else arguments))
    except P2PModelError as error:
        print(f"simulations: error: {error}", file=sys.stderr)
        return _USAGE
    except KeyboardInterrupt:
        print("simulations: interrupted; nothing was measured", file=sys.stderr)
        return _INTERRUPTED


def _main(arguments: list[str]) -> int:
    known = scenarios()
    _check_name(arguments, list(known))
    asked = _parser(known).parse_args(arguments)
    scenario = known[asked.scenario]
    options = _read(scenario, asked)
    if asked.plot is not None:
        check_plot(asked.plot)
    with ExitStack() as files:
        log = EventLog(copy_to=files.enter_context(_open(asked.log)) if asked.log else None)
        with Watcher(log, quiet=asked.quiet) as watcher:
            began = time.perf_counter()
            result = scenario.run(options, watcher)
            wall_s = time.perf_counter() - began
    assert result.event_log_sha256 == log.sha256
    chosen = {**dataclasses.asdict(options), **result.options}
    if asked.json:
        print(json.dumps(_as_json(scenario, chosen, result, wall_s), ensure_ascii=False))
    else:
        _show(scenario, chosen, result, wall_s)
    if asked.plot is not None:
        draw(scenario, result, options, asked.plot)
    return 0 if result.ok else 1


# --- options ------------------------------------------------------------------------------------------------------


def _check_name(arguments: list[str], names: list[str]) -> None:
    """The scenario comes first, so that `--help` after it is that scenario's own."""
    if not arguments:
        raise UsageError(f"which scenario? There are: {', '.join(names)}; see `python -m simulations --help`")
    name = arguments[0]
    if name in names or name in ("-h", "--help"):
        return
    if name.startswith("-"):
        raise UsageError(f"the scenario comes first, then options such as {name}; there are: {', '.join(names)}")
    close = difflib.get_close_matches(name, names, 1)
    hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(names)}"
    raise UsageError(f"there is no scenario {name!r}; {hint}")


def _parser(known: dict[str, Scenario[Any]]) -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m simulations",
        description="Networks of simulated peers, in virtual time, held against the scorecard. "
        "The peers run the daemon's own code. `python -m simulations SCENARIO --help` explains each scenario.",
        epilog="Exit code: 0 where every line holds, 1 where one falls short, 2 where the command is wrong.",
    )
    chosen = parser.add_subparsers(dest="scenario", metavar="SCENARIO", required=True)
    for name, scenario in known.items():
        own = chosen.add_parser(
            name,
            help=scenario.summary.replace("%", "%%"),
            description=scenario.story,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        for field in _fields(scenario):
            _add_option(own, field)
        output = own.add_argument_group("output")
        output.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
        output.add_argument("--plot", type=Path, metavar="FILE", help="draw what was measured: .png or .svg")
        output.add_argument("--log", type=Path, metavar="FILE", help="write every event there, one a line")
        output.add_argument("--quiet", action="store_true", help="no progress on stderr")
    return parser


def _fields(scenario: Scenario[Any]) -> list[dataclasses.Field[Any]]:
    return [field for field in dataclasses.fields(scenario.options) if "help" in field.metadata]


def _add_option(parser: argparse.ArgumentParser, field: dataclasses.Field[Any]) -> None:
    name = "--" + field.name.replace("_", "-")
    help, metavar = field.metadata["help"].replace("%", "%%"), field.metadata["metavar"]
    if isinstance(field.default, bool):
        action: Any = argparse.BooleanOptionalAction if field.default else "store_true"
        parser.add_argument(name, action=action, help=help, default=field.default)
        return
    if field.default is not None:
        help = f"{help} (default {field.default})"
    choices = field.metadata["choices"]
    if choices is not None:
        parser.add_argument(name, choices=choices, default=field.default, help=help)
        return
    kind = str if isinstance(field.default, str) else int if isinstance(field.default, int) else float
    parser.add_argument(name, type=_number(kind), default=field.default, metavar=metavar or "X", help=help)


def _number(kind: type) -> Any:
    def read(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if isinstance(value, float) and not math.isfinite(value):
            expected = "whole number" if kind is int else "number"
            raise argparse.ArgumentTypeError(f"{text!r} is no {expected}")
        return value

    return read


def _read(scenario: Scenario[Any], asked: argparse.Namespace) -> Any:
    """The scenario's options, within their bounds."""
    values = {}
    for field in _fields(scenario):
        value = getattr(asked, field.name)
        low, high = field.metadata["low"], field.metadata["high"]
        if value is not None and ((low is not None and value < low) or (high is not None and value > high)):
            raise UsageError(f"--{field.name.replace('_', '-')} {value}: expected a number {_bounds(low, high)}")
        values[field.name] = value
    return scenario.options(**values)


def _bounds(low: float | None, high: float | None) -> str:
    if low is None:
        return f"up to {high:,}"
    return f"at least {low:,}" if high is None else f"from {low:,} to {high:,}"


# --- output -------------------------------------------------------------------------------------------------------


def _as_json(scenario: Scenario[Any], chosen: dict[str, Any], result: Result, wall_s: float) -> dict[str, object]:
    return {
        "scenario": scenario.name,
        "seed": chosen["seed"],
        "peers": chosen["peers"],
        "options": {name: value for name, value in chosen.items() if name not in ("seed", "peers")},
        "virtual_seconds": round(result.virtual_seconds, 3),
        "wall_seconds": round(wall_s, 3),
        "event_log_sha256": result.event_log_sha256,
        "lines": [line.to_json() for line in result.lines],
    }


def _show(scenario: Scenario[Any], chosen: dict[str, Any], result: Result, wall_s: float) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDTH)
    show_table(result, f"{scenario.name}: {chosen['peers']:,} peers, seed {chosen['seed']}", console)
    speed = f", {result.virtual_seconds / wall_s:,.0f} times as fast as real time" if wall_s else ""
    console.print(f"{result.virtual_seconds:,.0f} s of virtual time in {wall_s:,.1f} s{speed}", style="dim")
    console.print(f"event log {result.event_log_sha256}", style="dim", soft_wrap=True)


def _open(path: Path) -> Any:
    try:
        return path.open("w", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--log {path}: {error.strerror}") from error
