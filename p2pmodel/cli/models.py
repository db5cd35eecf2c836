"""`show`, `ls`, `verify`: the models that are here, or that other peers have."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from p2pmodel.cli.options import (
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
    from p2pmodel.peer.inventory import ModelDetail, ModelPlace, ModelSummary
    from p2pmodel.peer.reports import VerifyReport
    from p2pmodel.peer.requests import ShowRequest, VerifyRequest


def show(
    ctx: typer.Context,
    ref: Annotated[str, typer.Argument(metavar="REF", help="A model id, or NAMESPACE/MODEL[@REVISION].")],
    bootstrap: Bootstrap = None,
    peer: Peers = None,
    timeout: Timeout = None,
    data_dir: DataDir = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Show a model's manifest, its files and who signed it. What is not here is asked of other peers."""
    from p2pmodel.cli.output import data, data_json
    from p2pmodel.cli.session import run
    from p2pmodel.model import Reference
    from p2pmodel.peer.requests import ShowRequest

    Reference.parse(ref)
    request = ShowRequest(ref=ref, bootstrap=bootstrap or [], peers=peer or [], timeout_s=timeout)
    detail = run(_show(invocation_of(ctx), request))
    if as_json:
        data_json(detail)
    elif quiet:
        data(detail.model.model_id)
    else:
        for line in _describe(detail):
            data(line)


async def _show(invocation: Invocation, request: ShowRequest) -> ModelDetail:
    from p2pmodel.cli.session import open_service

    async with open_service(invocation, offline=False) as service:
        return await service.show(request)


def ls(
    ctx: typer.Context, data_dir: DataDir = None, as_json: Json = False, quiet: Quiet = False, debug: Debug = False
) -> None:
    """List the models that are here, and how whole each is."""
    from p2pmodel.cli.output import data, data_json, talk
    from p2pmodel.cli.session import run

    models = run(_models(invocation_of(ctx)))
    if as_json:
        data_json({"models": models})
        return
    if not models and not quiet:
        talk("No models here yet: `p2pmodel publish PATH` or `p2pmodel fetch REF` brings the first.")
    for model in models:
        data(model.model_id)
        if not quiet:
            for line in _about(model):
                data(f"  {line}")


async def _models(invocation: Invocation) -> list[ModelSummary]:
    from p2pmodel.cli.session import open_service

    async with open_service(invocation, offline=True) as service:
        return await service.models()


def verify(
    ctx: typer.Context,
    target: Annotated[str, typer.Argument(metavar="PATH|REF", help="What was published or fetched here.")],
    repair: Annotated[
        bool, typer.Option("--repair", help="Fetch the chunks that are bad, and only those, from other peers.")
    ] = False,
    bootstrap: Bootstrap = None,
    peer: Peers = None,
    timeout: Timeout = None,
    data_dir: DataDir = None,
    as_json: Json = False,
    quiet: Quiet = False,
    no_progress: NoProgress = False,
    debug: Debug = False,
) -> None:
    """Hash a model's files again; name each bad file and range. Exit code 6 where any is (still) bad."""
    from p2pmodel.cli.output import count, data, data_json, printable, talk
    from p2pmodel.cli.progress import may_draw
    from p2pmodel.cli.session import run
    from p2pmodel.errors import VerificationError
    from p2pmodel.peer.requests import VerifyRequest
    from p2pmodel.peer.units import format_duration, format_size

    request = VerifyRequest(
        target=_target(target), repair=repair, bootstrap=bootstrap or [], peers=peer or [], timeout_s=timeout
    )
    draw = may_draw(wanted=not (as_json or quiet or no_progress))
    report = run(_verify(invocation_of(ctx), request, draw=draw))
    if as_json:
        data_json(report)
    elif quiet:
        data(report.model_id)
    else:
        for bad in report.bad:
            data(f"{printable(bad.file)}: {_range(bad.offset, bad.length)}: {printable(bad.reason)}")
    if not report.ok:
        files = len({bad.file for bad in report.left or report.bad})
        hint = "" if repair else "; --repair fetches what is bad"
        raise VerificationError(
            f"{files} of {count(report.files, 'file')} in {report.path} {'is' if files == 1 else 'are'} "
            f"not what the manifest says{hint}"
        )
    if report.repaired and not (quiet or as_json):
        reused = f", {format_size(report.bytes_reused)} from elsewhere on this disk" if report.bytes_reused else ""
        talk(f"Repaired: {format_size(report.bytes_fetched)} fetched{reused}.")
    if not (quiet or as_json):
        talk(
            f"{count(report.files, 'file')}, {format_size(report.bytes_checked)}: every byte is what the manifest says "
            f"({format_duration(report.seconds)})."
        )


async def _verify(invocation: Invocation, request: VerifyRequest, *, draw: bool) -> VerifyReport:
    from p2pmodel.cli.progress import ProgressView
    from p2pmodel.cli.session import open_service

    async with open_service(invocation, offline=not request.repair) as service:
        with ProgressView(draw=draw) as view:
            return await service.verify(request, view.update)


def _target(text: str) -> str:
    """An absolute path where something is there, else the text as a reference. Raises `NotFoundError`, `UsageError`."""
    from p2pmodel.cli.session import absolute_text, there_is
    from p2pmodel.errors import NotFoundError, UsageError
    from p2pmodel.model import Reference

    if there_is(Path(text)):
        return absolute_text(Path(text))
    try:
        Reference.parse(text)
    except UsageError:
        looks_like_id = text.startswith("p2pmodel:") or (len(text) > 8 and set(text.lower()) <= set("0123456789abcdef"))
        if looks_like_id:
            raise
        raise NotFoundError(f"there is no file or directory {text}, and it is no model id or name") from None
    return text


def _about(model: ModelSummary) -> list[str]:
    from p2pmodel.cli.output import count, printable
    from p2pmodel.peer.units import format_size

    held = "" if model.bytes_held == model.bytes_total else f" ({_percent(model.bytes_held, model.bytes_total)} here)"
    parts = [model.state, f"{format_size(model.bytes_total)}{held}", count(model.files, "file")]
    if model.cached:
        parts.append("cached")
    if model.pinned:
        parts.append("pinned")
    about = [", ".join(parts), model.name, model.path, model.fault if model.state == "broken" else ""]
    about += [f"also {_at(place, model)}" for place in model.places[1:]]
    return [printable(line) for line in about if line]


def _at(place: ModelPlace, model: ModelSummary) -> str:
    """One more place: what it is, and how much of the model it has."""
    held = "" if place.bytes_held == model.bytes_total else f", {_percent(place.bytes_held, model.bytes_total)} here"
    kind = ", cached" if place.content == "cached" else ""
    return f"{place.path} ({place.state}{held}{kind})"


def _percent(held: int, total: int) -> str:
    # Rounded down: "100 %" is only ever said of a whole model.
    return f"{held * 100 // max(1, total)} %"


def _describe(detail: ModelDetail) -> list[str]:
    from datetime import UTC, datetime

    from p2pmodel.cli.output import columns, count, printable
    from p2pmodel.peer.units import format_size

    model = detail.model
    lines = columns(
        [
            ("model", model.model_id),
            ("name", model.name or "(none)"),
            ("state", f"{model.state}, {_percent(model.bytes_held, model.bytes_total)} here"),
            ("path", model.path or "(not here)"),
            *(("also at", _at(place, model)) for place in model.places[1:]),
            (
                "size",
                f"{format_size(model.bytes_total)} in {count(model.files, 'file')}, {count(model.chunks, 'chunk')}",
            ),
            ("manifest", f"{format_size(detail.manifest_bytes)}, chunks cut by the rule {detail.chunker!r}"),
        ]
    )
    lines.append("")
    rows = [("FILE", "SIZE", "HERE", "CHUNKS", "SHA-256")]
    for file in detail.files:
        here = f"{file.bytes_held * 100 // file.size} %" if file.size else "100 %"
        rows.append((file.path, format_size(file.size), here, str(file.chunks), file.sha256))
    lines += columns(rows, right=[1, 2, 3])
    lines.append("")
    if not detail.signers:
        lines.append("Nobody has signed it; its id alone proves that the bytes are right.")
    for signer in detail.signers:
        who = f"{signer.alias} ({signer.key})" if signer.alias else signer.key
        named = f" as {signer.name}{'@' + signer.revision if signer.revision else ''}" if signer.name else ""
        day = datetime.fromtimestamp(signer.issued_at, UTC).strftime("%Y-%m-%d") if signer.issued_at else "(no date)"
        lines.append(f"signed by {printable(who)}{printable(named)}, {day}{', trusted' if signer.trusted else ''}")
        lines += [f"  {printable(text)}" for text in signer.message.splitlines()]
    return lines


def _range(offset: int, length: int) -> str:
    return f"bytes {offset}-{offset + length - 1}" if length else "the whole file"
