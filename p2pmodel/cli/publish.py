"""`publish`: chunk, hash and sign files where they lie."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from p2pmodel.cli.options import DataDir, Debug, Invocation, Json, NoProgress, Quiet, invocation_of

if TYPE_CHECKING:
    from p2pmodel.peer.reports import PublishReport
    from p2pmodel.peer.requests import PublishRequest


def publish(
    ctx: typer.Context,
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="A model's directory, or one file. It stays where it is.")
    ],
    name: Annotated[
        str, typer.Option("--name", metavar="NAME", help="What to call it under your key: MODEL or MODEL@REVISION.")
    ] = "",
    key: Annotated[
        str | None,
        typer.Option("--key", metavar="FILE", help="The key to sign with: a PEM file, or the name of one of `key ls`."),
    ] = None,
    message: Annotated[
        str, typer.Option("--message", "-m", metavar="TEXT", help="A note that is signed with it.")
    ] = "",
    follow_symlinks: Annotated[
        bool, typer.Option("--follow-symlinks", help="Publish what symbolic links point to.")
    ] = False,
    data_dir: DataDir = None,
    as_json: Json = False,
    quiet: Quiet = False,
    no_progress: NoProgress = False,
    debug: Debug = False,
) -> None:
    """Publish a model: chunk, hash and sign it in place; print the model id."""
    from p2pmodel.cli.output import data, data_json
    from p2pmodel.cli.progress import may_draw
    from p2pmodel.cli.session import absolute_text, run, there_is
    from p2pmodel.errors import NotFoundError
    from p2pmodel.peer.requests import PublishRequest

    if not there_is(path):
        raise NotFoundError(f"there is no file or directory {path}")
    request = PublishRequest(path=absolute_text(path), name=name, message=message, follow_symlinks=follow_symlinks)
    draw = may_draw(wanted=not (as_json or quiet or no_progress))
    report = run(_publish(invocation_of(ctx), request, key, draw=draw))
    if as_json:
        data_json(report)
        return
    data(report.model_id)
    if not quiet:
        _tell(report)


async def _publish(invocation: Invocation, request: PublishRequest, key: str | None, *, draw: bool) -> PublishReport:
    import msgspec

    from p2pmodel.cli.progress import ProgressView
    from p2pmodel.cli.session import open_service

    if key is not None:
        request = msgspec.structs.replace(request, key_pem=await read_publisher_key(invocation, key))
    # Without a daemon nobody would answer for an announcement a second from now, so none is made.
    async with open_service(invocation, offline=True) as service:
        with ProgressView(draw=draw) as view:
            return await service.publish(request, view.update)


async def read_publisher_key(invocation: Invocation, text: str) -> str:
    from p2pmodel.cli.session import absolute_text, settings_of, there_is
    from p2pmodel.errors import NotFoundError
    from p2pmodel.peer.keyring import Keyring, read_key

    if there_is(Path(text)):
        return (await read_key(Path(absolute_text(Path(text))))).to_pem().decode()
    if "/" in text or text.endswith(".pem"):
        raise NotFoundError(f"there is no key file {text}")
    settings = await settings_of(invocation)
    return (await Keyring(settings.data_dir).publisher_key(text)).to_pem().decode()


def _tell(report: PublishReport) -> None:
    from p2pmodel.cli.output import count, listed, printable, talk
    from p2pmodel.peer.units import format_duration, format_size

    talk(
        f"Published {count(report.files, 'file')}, {format_size(report.bytes_total)}, "
        f"{count(report.chunks, 'chunk')}, in {format_duration(report.seconds)}, signed by {report.signed_by}."
    )
    if report.skipped:
        shown = [printable(path) for path in report.skipped[:5]]
        more = len(report.skipped) - len(shown)
        talk(f"Left out: {listed(shown + ([f'{more} more'] if more > 0 else []))}.")
    if report.announced:
        talk(f"The daemon serves it from where it lies. Elsewhere: p2pmodel fetch {report.model_id}")
    else:
        talk(
            "No other peer has been told of it. It can be fetched while a daemon serves it and others know that daemon."
        )
