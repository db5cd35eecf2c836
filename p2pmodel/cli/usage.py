"""`du`: what the models take on this disk, what they have in common, what sharing saves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from p2pmodel.cli.options import DataDir, Debug, Invocation, Json, Quiet, invocation_of

if TYPE_CHECKING:
    from p2pmodel.peer.inventory import DiskUsage, ModelUsage


def du(
    ctx: typer.Context, data_dir: DataDir = None, as_json: Json = False, quiet: Quiet = False, debug: Debug = False
) -> None:
    """Say what each model takes on this disk, what of it stands in other models too, and what sharing saves."""
    from p2pmodel.cli.output import columns, data, data_json, talk
    from p2pmodel.cli.session import run
    from p2pmodel.peer.units import format_size

    usage = run(_usage(invocation_of(ctx)))
    if as_json:
        data_json(usage)
        return
    if quiet:
        for model in usage.models:
            data(model.model_id)
        return
    if not usage.models:
        talk("No models here yet.")
        return
    rows = [("ON DISK", "ITS OWN", "SHARED", "CONTENT", "", "MODEL"), *(_line(model) for model in usage.models)]
    for line in columns(rows, right=[0, 1, 2, 3]):
        data(line)
    data(f"{format_size(usage.bytes_on_disk)} in all for {format_size(usage.bytes_apparent)} of content.")
    if usage.bytes_saved:
        data(f"{format_size(usage.bytes_saved)} are saved because files or blocks are shared.")
    if usage.bytes_repeated:
        data(f"{format_size(usage.bytes_repeated)} are here more than once.")


def _line(model: ModelUsage) -> tuple[str, ...]:
    from p2pmodel.cli.output import printable
    from p2pmodel.peer.units import format_size

    kind = "pinned" if model.pinned else "cached" if model.cached else ""
    sizes = (model.bytes_on_disk, model.bytes_own, model.bytes_shared, model.bytes_apparent)
    return (*map(format_size, sizes), kind, f"{model.model_id}  {printable(model.name or model.path)}")


async def _usage(invocation: Invocation) -> DiskUsage:
    from p2pmodel.cli.session import open_service

    async with open_service(invocation, offline=True) as service:
        return await service.usage()
