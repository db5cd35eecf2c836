"""`pin`, `unpin`, `rm`, `gc`: what stays on this disk, what goes, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from p2pmodel.cli.options import DataDir, Debug, Invocation, Json, Quiet, invocation_of

if TYPE_CHECKING:
    from p2pmodel.peer.inventory import CollectReport, PinReport, ReleasedCopy, RemoveReport
    from p2pmodel.peer.requests import CollectRequest, RemoveRequest

Ref = Annotated[str, typer.Argument(metavar="REF", help="A model id, or NAMESPACE/MODEL[@REVISION].")]


def pin(
    ctx: typer.Context,
    ref: Ref,
    data_dir: DataDir = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Keep a model that is here: it is never let go of to make room for another."""
    _pin(ctx, ref, pinned=True, as_json=as_json, quiet=quiet)


def unpin(
    ctx: typer.Context,
    ref: Ref,
    data_dir: DataDir = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Let the cache decide about a model again. Nothing is removed by this."""
    _pin(ctx, ref, pinned=False, as_json=as_json, quiet=quiet)


def _pin(ctx: typer.Context, ref: str, *, pinned: bool, as_json: bool, quiet: bool) -> None:
    from p2pmodel.cli.output import data, data_json, talk
    from p2pmodel.cli.session import run
    from p2pmodel.model import Reference

    Reference.parse(ref)
    report = run(_change_pin(invocation_of(ctx), ref, pinned=pinned))
    if as_json:
        data_json(report)
        return
    data(report.model_id)
    if not (quiet or report.changed):
        talk("It was pinned already." if pinned else "It was not pinned.")


async def _change_pin(invocation: Invocation, ref: str, *, pinned: bool) -> PinReport:
    from p2pmodel.cli.session import open_service
    from p2pmodel.peer.requests import KeepRequest

    async with open_service(invocation, offline=True) as service:
        return await (service.pin if pinned else service.unpin)(KeepRequest(ref=ref))


def rm(
    ctx: typer.Context,
    ref: Ref,
    force: Annotated[bool, typer.Option("--force", "-f", help="Even if it is pinned.")] = False,
    data_dir: DataDir = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Let go of a model: stop serving it, and delete what the cache has of it.

    Files that you published, or fetched --to a directory of yours, stay where they are.
    """
    from p2pmodel.cli.output import data, data_json, talk
    from p2pmodel.cli.session import run
    from p2pmodel.model import Reference
    from p2pmodel.peer.requests import RemoveRequest

    Reference.parse(ref)
    report = run(_remove(invocation_of(ctx), RemoveRequest(ref=ref, pinned=force)))
    if as_json:
        data_json(report)
        return
    data(report.model_id)
    if not quiet:
        for copy in report.copies:
            talk(_what_became_of(copy))


async def _remove(invocation: Invocation, request: RemoveRequest) -> RemoveReport:
    from p2pmodel.cli.session import open_service

    async with open_service(invocation, offline=True) as service:
        return await service.remove(request)


def _what_became_of(copy: ReleasedCopy) -> str:
    from p2pmodel.cli.output import printable
    from p2pmodel.peer.units import format_size

    path, freed = printable(copy.path), format_size(copy.bytes_freed)
    if copy.content == "published":
        return f"{path}: not served any more; the files are yours and stay where they are."
    if copy.files_stay:
        return (
            f"{path}: not served any more; the files that were fetched there are yours and stay (delete them yourself)."
        )
    if copy.content == "fetched":
        return f"{path}: what an unfinished fetch had left is deleted, {freed} freed."
    return f"{path}: deleted from the cache, {freed} freed."


def gc(
    ctx: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go, and why.")] = False,
    keep: Annotated[
        str | None,
        typer.Option("--keep", metavar="SIZE", help="Let the cache take no more than this; 0 empties it but for pins."),
    ] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Bring the cache within its quota and the floor of free disk. Pins, and your own files, are not touched."""
    from p2pmodel.cli.output import data, data_json, printable, talk
    from p2pmodel.cli.session import run
    from p2pmodel.peer.requests import CollectRequest
    from p2pmodel.peer.units import format_size, parse_size

    keep_bytes = None if keep is None else parse_size(keep)
    report = run(_collect(invocation_of(ctx), CollectRequest(keep_bytes=keep_bytes, dry_run=dry_run)))
    if as_json:
        data_json(report)
        return
    for copy in report.released:
        data(copy.model_id if quiet else _line(copy))
    if not quiet:
        for left in report.leftovers:
            data(f"{printable(left.path)}  {format_size(left.bytes_freed)}  left by a reader: {printable(left.reason)}")
        talk(_outcome(report))


async def _collect(invocation: Invocation, request: CollectRequest) -> CollectReport:
    from p2pmodel.cli.session import open_service

    async with open_service(invocation, offline=True) as service:
        return await service.collect(request)


def _line(copy: ReleasedCopy) -> str:
    from p2pmodel.cli.output import count, printable
    from p2pmodel.peer.units import format_size

    what = "all of it" if copy.whole else count(copy.chunks, "chunk")
    return f"{copy.model_id}  {format_size(copy.bytes_freed)}  {what}: {printable(copy.reason)}"


def _outcome(report: CollectReport) -> str:
    from p2pmodel.peer.units import format_size

    quota = f" of {format_size(report.quota_bytes)}" if report.quota_bytes is not None else ""
    pinned = f", {format_size(report.bytes_pinned)} of that pinned" if report.bytes_pinned else ""
    takes = f"The cache takes {format_size(report.bytes_used)}{quota}{pinned}."
    if not report.released and not report.leftovers:
        return f"Nothing has to go. {takes}"
    freed = format_size(report.bytes_freed)
    return f"{freed} would be freed. {takes}" if report.dry_run else f"{freed} freed. {takes}"
