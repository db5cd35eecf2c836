"""`doctor`: what is wrong with this peer, and the command that cures it."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from p2pmodel.cli.options import DataDir, Debug, Invocation, Json, NoProgress, Quiet, invocation_of

if TYPE_CHECKING:
    from p2pmodel.peer.reports import DoctorReport
    from p2pmodel.peer.requests import DoctorRequest


def doctor(
    ctx: typer.Context,
    deep: Annotated[bool, typer.Option("--deep", help="Hash everything that is here again, too.")] = False,
    data_dir: DataDir = None,
    as_json: Json = False,
    quiet: Quiet = False,
    no_progress: NoProgress = False,
    debug: Debug = False,
) -> None:
    """Say what is wrong, and what to do about it. Exit code 1 where anything is an error."""
    from p2pmodel.cli.output import count, data, data_json, printable, talk
    from p2pmodel.cli.progress import may_draw
    from p2pmodel.cli.session import run
    from p2pmodel.peer.requests import DoctorRequest
    from p2pmodel.peer.units import format_size

    draw = may_draw(wanted=not (as_json or quiet or no_progress))
    report = run(_doctor(invocation_of(ctx), DoctorRequest(deep=deep), draw=draw))
    if as_json:
        data_json(report)
    else:
        for finding in report.findings:
            if quiet:
                data(finding.about)
                continue
            data(f"{finding.severity}: {printable(finding.what)}")
            data(f"    {printable(finding.cure)}")
    if not (as_json or quiet):
        checked = f"{format_size(report.bytes_checked)} hashed again. " if deep else ""
        errors = sum(finding.severity == "error" for finding in report.findings)
        talk(f"{checked}{count(errors, 'error')}." if errors else f"{checked}Nothing is wrong.")
        if report.findings and (directory := invocation_of(ctx).data_dir) is not None:
            talk(f"Where a cure is a p2pmodel command, give it this peer: --data-dir {shlex.quote(str(directory))}")
    if not report.ok:
        raise typer.Exit(1)


async def _doctor(invocation: Invocation, request: DoctorRequest, *, draw: bool) -> DoctorReport:
    from p2pmodel.cli.progress import ProgressView
    from p2pmodel.cli.session import open_service, settings_of
    from p2pmodel.errors import P2PModelError
    from p2pmodel.peer.doctor import with_more
    from p2pmodel.peer.surroundings import directory_findings, port_findings, stale_findings

    settings = await settings_of(invocation)
    stale = await stale_findings(settings.data_dir)
    try:
        async with open_service(invocation, offline=True) as service:
            with ProgressView(draw=draw) as view:
                found = await service.doctor(request, view.update)
    except P2PModelError as error:
        # What keeps a peer from starting is what a doctor is for.
        from p2pmodel.peer.doctor import report, unopened

        return report([unopened(error), *stale, *directory_findings(settings.data_dir)])
    if any(finding.about == "daemon" for finding in found.findings):
        found = with_more(found, [*stale, *port_findings(settings.peer_config())])
    return found
