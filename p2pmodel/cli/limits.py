"""`limits`: what the running daemon may use of its line, told and changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from p2pmodel.cli.options import DataDir, Debug, Invocation, Json, invocation_of

if TYPE_CHECKING:
    from p2pmodel.peer.requests import LimitsChange
    from p2pmodel.peer.status import Limits


def limits(
    ctx: typer.Context,
    upload: Annotated[
        str | None, typer.Option("--upload", metavar="RATE", help="As 10MiB or 80Mbit, per second, or 'unlimited'.")
    ] = None,
    download: Annotated[
        str | None, typer.Option("--download", metavar="RATE", help="As 10MiB or 80Mbit, per second, or 'unlimited'.")
    ] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show or change the running daemon's limits, at once and for its next starts too."""
    from p2pmodel.cli.output import columns, data, data_json
    from p2pmodel.cli.session import run
    from p2pmodel.peer.requests import LimitsChange

    given = [("--upload", "upload_bytes_per_s", upload), ("--download", "download_bytes_per_s", download)]
    rates = {key: _rate(option, text) for option, key, text in given if text is not None}
    found = run(_limits(invocation_of(ctx), LimitsChange(**rates) if rates else None))
    if as_json:
        data_json(found)
        return
    for line in columns([("upload", _told(found.upload_bytes_per_s)), ("download", _told(found.download_bytes_per_s))]):
        data(line)


async def _limits(invocation: Invocation, change: LimitsChange | None) -> Limits:
    from p2pmodel.cli.session import open_daemon

    async with open_daemon(invocation) as service:
        return await service.set_limits(change) if change is not None else await service.limits()


def _rate(option: str, text: str) -> int | None:
    from p2pmodel.errors import UsageError
    from p2pmodel.peer.units import parse_rate

    try:
        return parse_rate(text)
    except UsageError as error:
        raise UsageError(f"{option}: {error}") from error


def _told(rate: int | None) -> str:
    from p2pmodel.peer.units import format_rate

    return "unlimited" if rate is None else format_rate(rate)
