"""`fetch`: find a model's peers, pull from all of them, verify, place the files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from p2pmodel.cli.options import (
    Background,
    Bootstrap,
    DataDir,
    Debug,
    Invocation,
    Json,
    NoProgress,
    Peers,
    Quiet,
    Timeout,
    invocation_of,
)

if TYPE_CHECKING:
    from p2pmodel.peer.reports import FetchReport, Progress
    from p2pmodel.peer.requests import FetchRequest

_PEERS_SHOWN = 8


def fetch(
    ctx: typer.Context,
    ref: Annotated[
        str,
        typer.Argument(
            metavar="REF", help="A model id (64 hex digits), p2pmodel:ID/path, or NAMESPACE/MODEL[@REVISION]."
        ),
    ],
    files: Annotated[list[str] | None, typer.Argument(metavar="FILES", help="Only these files of it.")] = None,
    to: Annotated[
        Path | None, typer.Option("--to", metavar="DIR", help="Where the files go; in the data directory by default.")
    ] = None,
    to_hf_cache: Annotated[
        bool,
        typer.Option("--to-hf-cache", help="Into the Hugging Face cache, where from_pretrained finds it offline."),
    ] = False,
    include: Annotated[
        list[str] | None, typer.Option("--include", metavar="GLOB", help="Only files that match. Repeatable.")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option("--exclude", metavar="GLOB", help="No files that match. Repeatable.")
    ] = None,
    bootstrap: Bootstrap = None,
    peer: Peers = None,
    signed_by: Annotated[
        list[str] | None,
        typer.Option(
            "--signed-by", metavar="KEY", help="Refuse it unless this key or alias has signed it. Repeatable."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be fetched, and fetch nothing.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files at DIR that p2pmodel did not put there.")
    ] = False,
    link: Annotated[
        bool,
        typer.Option("--link", help="Hard links to equal files of other models here; then nobody may edit either."),
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say who gave what, what was wasted, and why it was not faster.")
    ] = False,
    background: Background = False,
    timeout: Timeout = None,
    data_dir: DataDir = None,
    as_json: Json = False,
    quiet: Quiet = False,
    no_progress: NoProgress = False,
    debug: Debug = False,
) -> None:
    """Fetch a model from all peers that hold it, verify it, and print where it is. Interrupted, it resumes."""
    from p2pmodel.cli.output import data, data_json
    from p2pmodel.cli.progress import may_draw
    from p2pmodel.cli.session import absolute_text, run
    from p2pmodel.errors import UsageError
    from p2pmodel.model import Reference
    from p2pmodel.peer.requests import FetchRequest

    if to is not None and to_hf_cache:
        raise UsageError("--to and --to-hf-cache are two places; give one of them")
    Reference.parse(ref)  # a malformed reference needs no peer to be found out
    request = FetchRequest(
        ref=ref,
        files=files or [],
        include=include or [],
        exclude=exclude or [],
        to=absolute_text(to) if to is not None else None,
        bootstrap=bootstrap or [],
        peers=peer or [],
        signed_by=signed_by or [],
        dry_run=dry_run,
        overwrite=overwrite,
        link=link,
        timeout_s=timeout,
        background=background,
    )
    draw = may_draw(wanted=not (as_json or quiet or no_progress))
    report = run(_fetch(invocation_of(ctx), request, draw=draw, to_hf_cache=to_hf_cache))
    if as_json:
        data_json(report)
        return
    data(report.model_id if quiet else report.path)
    if not quiet:
        _tell(report)
    if explain:
        _explain(report)
    elif not quiet:
        _tell_sources(report)


async def _fetch(invocation: Invocation, request: FetchRequest, *, draw: bool, to_hf_cache: bool) -> FetchReport:
    import asyncio

    from p2pmodel.cli.progress import ProgressView
    from p2pmodel.cli.session import open_service
    from p2pmodel.errors import InterruptedFetchError

    view = ProgressView(draw=draw)
    try:
        async with open_service(invocation, offline=False, flags={"background": request.background or None}) as service:
            with view:
                report = await service.fetch(request, view.update)
            if to_hf_cache and not report.dry_run:
                from p2pmodel.cli.hub_cache import put_into_hub_cache

                return await put_into_hub_cache(service, request.ref, report)
            return report
    except asyncio.CancelledError:
        raise InterruptedFetchError(_interrupted(view.last)) from None


def _interrupted(progress: Progress) -> str:
    from p2pmodel.peer.units import format_size

    if progress.phase != "transfer" or not progress.bytes_done:
        return "interrupted before this run fetched anything; what an earlier one brought is kept"
    # What came since the last report is kept as well.
    kept = f"{format_size(progress.bytes_done)} of {format_size(progress.bytes_total)}"
    return f"interrupted; at least {kept} are kept, run the same command to resume"


def _tell(report: FetchReport) -> None:
    from p2pmodel.cli.output import count, talk
    from p2pmodel.peer.units import format_duration, format_rate, format_size

    size = f"{count(report.files, 'file')}, {format_size(report.bytes_total)}"
    if report.dry_run:
        missing = report.bytes_total - report.bytes_reused
        talk(f"Would fetch {format_size(missing)} of {size}; {format_size(report.bytes_reused)} are here already.")
        return
    sources = sum(peer.bytes > 0 for peer in report.peers)
    if not report.bytes_fetched:
        talk(f"{size}: all of it was here already and is verified; nothing was fetched.")
        return
    reused = f"; {format_size(report.bytes_reused)} were here already" if report.bytes_reused else ""
    if borrowed := sum(report.reused.get(kind, 0) for kind in ("linked", "reflinked", "copied")):
        reused += f", {format_size(borrowed)} of them in other files"
    rate = format_rate(report.bytes_fetched / report.seconds) if report.seconds else ""
    talk(
        f"Fetched {format_size(report.bytes_fetched)} from {count(sources, 'peer')} "
        f"in {format_duration(report.seconds)} ({rate}){reused}. Every chunk was checked."
    )
    for peer in report.peers:
        if peer.rejected:
            talk(
                f"Peer {peer.peer_id} at {peer.address} sent {count(peer.rejected, 'chunk')} that "
                f"{'was' if peer.rejected == 1 else 'were'} not what was asked for; it was dropped."
            )
    if report.signed_by:
        talk(f"Signed by {', '.join(report.signed_by)}.")


def _tell_sources(report: FetchReport) -> None:
    from p2pmodel.cli.output import columns, count, talk
    from p2pmodel.peer.units import format_size

    sources = sorted((peer for peer in report.peers if peer.bytes), key=lambda peer: -peer.bytes)
    rows = [(peer.peer_id[:12], peer.address, format_size(peer.bytes)) for peer in sources[:_PEERS_SHOWN]]
    for line in columns(rows, right=[2], indent="  "):
        talk(line)
    if len(sources) > _PEERS_SHOWN:
        talk(f"  and {count(len(sources) - _PEERS_SHOWN, 'peer')} more")


def _explain(report: FetchReport) -> None:
    from p2pmodel.cli.explaining import explanation_lines
    from p2pmodel.cli.output import talk

    for line in explanation_lines(report):
        talk(line)
