"""The options that many commands share, and where those of them live that may stand before or after the command."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

import typer

T = TypeVar("T")


@dataclass
class Invocation:
    """What holds for one run of the program. Made by `main`, filled while the command line is parsed."""

    data_dir: Path | None = None
    debug: bool = False


def invocation_of(ctx: typer.Context) -> Invocation:
    found = ctx.find_root().obj
    if not isinstance(found, Invocation):
        raise TypeError("the command was started without an Invocation")
    return found


def _keep_data_dir(ctx: typer.Context, value: Path | None) -> Path | None:
    if value is not None and not ctx.resilient_parsing:
        invocation_of(ctx).data_dir = value
    return value


def _keep_debug(ctx: typer.Context, value: bool) -> bool:
    if value and not ctx.resilient_parsing:
        invocation_of(ctx).debug = True
    return value


DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        metavar="DIR",
        callback=_keep_data_dir,
        help="Everything of one peer: keys, index, models. A command talks to the daemon that runs on the same one. "
        "[env: P2PMODEL_DATA_DIR]",
    ),
]
Debug = Annotated[
    bool, typer.Option("--debug", callback=_keep_debug, help="Show the log, and a traceback where something fails.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Print ids alone, one a line.")]
NoProgress = Annotated[bool, typer.Option("--no-progress", help="Draw no progress bar.")]
Bootstrap = Annotated[
    list[str] | None,
    typer.Option("--bootstrap", metavar="HOST:PORT", help="A peer through which to enter the network. Repeatable."),
]
Peers = Annotated[
    list[str] | None,
    typer.Option("--peer", metavar="HOST:PORT", help="A peer to ask directly, without looking it up. Repeatable."),
]
Background = Annotated[
    bool, typer.Option("--background", help="Take only what others leave of the line, of CPU and of disk time.")
]
Timeout = Annotated[
    float | None, typer.Option("--timeout", metavar="SECONDS", help="Give up after this long (exit code 5).")
]
