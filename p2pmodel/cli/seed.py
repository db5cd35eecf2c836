"""`seed`: serve what other programs keep, from where they keep it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from p2pmodel.cli.options import DataDir, Debug, Invocation, Json, NoProgress, Quiet, invocation_of

if TYPE_CHECKING:
    from p2pmodel.peer.reports import SeededModel, SeedReport
    from p2pmodel.peer.requests import SeedRequest

_WATCH_S = 60.0
_LEFT_OUT_SHOWN = 20


def seed(
    ctx: typer.Context,
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH...", help="A Hugging Face cache, an Ollama store, GGUF files, or directories of models."
        ),
    ],
    include: Annotated[
        list[str] | None, typer.Option("--include", metavar="GLOB", help="Only models like org/name. Repeatable.")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option("--exclude", metavar="GLOB", help="No models like org/name. Repeatable.")
    ] = None,
    key: Annotated[
        str | None,
        typer.Option("--key", metavar="FILE", help="The key to sign with: a PEM file, or the name of one of `key ls`."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be served, and serve nothing.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Stay, and look once a minute for what is new. Needs a daemon.")
    ] = False,
    data_dir: DataDir = None,
    as_json: Json = False,
    quiet: Quiet = False,
    no_progress: NoProgress = False,
    debug: Debug = False,
) -> None:
    """Serve models of other programs from where they lie: nothing is copied, and nothing of theirs is changed.

    Takes what is whole, says what it left out and why. What is served anybody in the network can fetch: leave out what
    is not for others with --exclude.
    """
    from p2pmodel.cli.progress import may_draw
    from p2pmodel.cli.session import absolute_text, run, there_is
    from p2pmodel.errors import NotFoundError
    from p2pmodel.peer.requests import SeedRequest

    for path in paths:
        if not there_is(path):
            raise NotFoundError(f"there is no file or directory {path}")
    request = SeedRequest(
        paths=[absolute_text(path) for path in paths], include=include or [], exclude=exclude or [], dry_run=dry_run
    )
    draw = may_draw(wanted=not (as_json or quiet or no_progress))
    invocation = invocation_of(ctx)
    if watch:
        run(_watch(invocation, request, key, as_json=as_json, quiet=quiet))
    else:
        _show(run(_seed(invocation, request, key, draw=draw)), as_json=as_json, quiet=quiet)


async def _seed(invocation: Invocation, request: SeedRequest, key: str | None, *, draw: bool) -> SeedReport:
    from p2pmodel.cli.progress import ProgressView
    from p2pmodel.cli.session import open_service

    request = await _with_key(invocation, request, key)
    async with open_service(invocation, offline=True) as service:
        with ProgressView(draw=draw) as view:
            return await service.seed(request, view.update)


async def _watch(invocation: Invocation, request: SeedRequest, key: str | None, *, as_json: bool, quiet: bool) -> None:
    """Tell at first of everything, then of what is new."""
    import asyncio

    import msgspec

    from p2pmodel.cli.session import open_daemon

    request = await _with_key(invocation, request, key)
    told: set[str] = set()
    async with open_daemon(invocation) as service:
        while True:
            report = await service.seed(request)
            models = [model for model in report.models if model.model_id not in told]
            left_out = [left for left in report.left_out if f"{left.path} {left.reason}" not in told]
            if models or left_out or not told:
                news = msgspec.structs.replace(report, models=models, left_out=left_out)
                _show(news, as_json=as_json, quiet=quiet)
            told |= {model.model_id for model in models} | {f"{left.path} {left.reason}" for left in left_out} | {""}
            await asyncio.sleep(_WATCH_S)


async def _with_key(invocation: Invocation, request: SeedRequest, key: str | None) -> SeedRequest:
    import msgspec

    from p2pmodel.cli.publish import read_publisher_key

    if key is None:
        return request
    return msgspec.structs.replace(request, key_pem=await read_publisher_key(invocation, key))


def _show(report: SeedReport, *, as_json: bool, quiet: bool) -> None:
    from p2pmodel.cli.output import count, data, data_json, printable, talk
    from p2pmodel.peer.units import format_duration, format_size

    if as_json:
        data_json(report)
        return
    for model in report.models:
        if quiet:
            data(model.model_id or model.title)
            continue
        data(model.model_id or printable(model.title))
        for line in _about(model):
            data(f"  {printable(line)}")
    if quiet:
        return
    for left in report.left_out[:_LEFT_OUT_SHOWN]:
        talk(f"Left out {printable(left.path)}: {printable(left.reason)}")
    if len(report.left_out) > _LEFT_OUT_SHOWN:
        talk(f"and {count(len(report.left_out) - _LEFT_OUT_SHOWN, 'more place')}; --json has all of them")
    size = f"{count(len(report.models), 'model')}, {format_size(report.bytes_total)}"
    if report.dry_run:
        talk(f"Would serve {size}.")
        return
    hashed = f"{format_size(report.bytes_hashed)} hashed in {format_duration(report.seconds)}"
    talk(f"Served from where they lie: {size}; {hashed}, nothing copied.")
    if report.models and not report.announced:
        talk("No other peer has been told. They can be fetched while a daemon runs and others know that daemon.")


def _about(model: SeededModel) -> list[str]:
    from p2pmodel.cli.output import count
    from p2pmodel.peer.units import format_size

    parts = [model.title, format_size(model.bytes_total), count(model.files, "file")]
    lines = [", ".join([*parts, *([model.note] if model.note else [])])]
    if model.name:
        lines.append(model.name + (f"@{model.revisions[-1]}" if model.revisions else ""))
    return [*lines, model.path]
