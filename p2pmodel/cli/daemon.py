"""`daemon`, `status`, `peers`: the peer that stays, what it does, whom it knows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from p2pmodel.cli.options import Background, Bootstrap, DataDir, Debug, Invocation, Json, Quiet, invocation_of

if TYPE_CHECKING:
    from p2pmodel.peer.runtime import RuntimeRecord
    from p2pmodel.peer.status import Neighbour, PeerStatus


def daemon(
    ctx: typer.Context,
    listen: Annotated[
        str | None,
        typer.Option(
            "--listen",
            metavar="HOST:PORT",
            help="UDP and TCP share the port; 0 takes a free one. [::] is IPv6 and IPv4, 0.0.0.0 IPv4 alone. "
            "[default: [::]:8764, or a free port if that is taken]",
        ),
    ] = None,
    bootstrap: Bootstrap = None,
    data_dir: DataDir = None,
    http: Annotated[
        str | None,
        typer.Option(
            "--http",
            metavar="HOST:PORT|off",
            help="Where the HTTP API listens. [default: 127.0.0.1:8765, or free if that is taken]",
        ),
    ] = None,
    network: Annotated[
        Path | None,
        typer.Option("--network", metavar="FILE", help="The network to join, as TOML; the public one by default."),
    ] = None,
    encryption: Annotated[
        str | None,
        typer.Option(
            "--encryption",
            metavar="required|off",
            help="'off' trusts the network with the bytes in the clear. [default: required]",
        ),
    ] = None,
    upload_limit: Annotated[
        str | None, typer.Option("--upload-limit", metavar="RATE", help="As 10MiB or 80Mbit, per second.")
    ] = None,
    download_limit: Annotated[
        str | None, typer.Option("--download-limit", metavar="RATE", help="As 10MiB or 80Mbit, per second.")
    ] = None,
    cache: Annotated[
        str | None,
        typer.Option(
            "--cache",
            metavar="SIZE",
            help="Be a cache for the neighbourhood: fetch what others ask this peer for, keep so much of it.",
        ),
    ] = None,
    cache_quota: Annotated[
        str | None,
        typer.Option(
            "--cache-quota",
            metavar="SIZE",
            help="What fetches without --to may take, as 200GiB; old ones go when more is needed. [default: unlimited]",
        ),
    ] = None,
    free_disk_floor: Annotated[
        str | None,
        typer.Option("--free-disk-floor", metavar="SIZE", help="What a fetch leaves free. [default: 256MiB]"),
    ] = None,
    upload_slots: Annotated[
        str | None,
        typer.Option(
            "--upload-slots", metavar="N", help="How many answers leave at once. [default: as many as fill the line]"
        ),
    ] = None,
    background: Background = False,
    no_lan: Annotated[
        bool,
        typer.Option(
            "--no-lan", help="Do not look for peers in the local network. (They are not looked for yet in any case.)"
        ),
    ] = False,
    client_only: Annotated[
        bool,
        typer.Option(
            "--client-only",
            help="Use the overlay without being a part of it. Without this, a peer finds out whether others reach it.",
        ),
    ] = False,
    origin: Annotated[
        str | None,
        typer.Option(
            "--origin",
            metavar="URL|off",
            help="The hub behind /hf, for what no peer has published. [default: https://huggingface.co]",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Say on stdout, as a line of JSON, when it serves.")] = False,
    debug: Debug = False,
) -> None:
    """Run a peer in the foreground: serve what is here, fetch what is asked for. Ctrl-C or SIGTERM stops it."""
    from p2pmodel.cli.session import run

    flags: dict[str, object] = {
        "listen": listen,
        "bootstrap": bootstrap or None,
        "http": http,
        "network": str(network) if network is not None else None,
        "encryption": encryption,
        "upload_limit": upload_limit,
        "download_limit": download_limit,
        "cache": cache,
        "cache_quota": cache_quota,
        "free_disk_floor": free_disk_floor,
        "upload_slots": upload_slots,
        "background": True if background else None,
        "lan": False if no_lan else None,
        "client_only": True if client_only else None,
        "origin": origin,
    }
    run(_serve(invocation_of(ctx), flags, as_json=as_json))


async def _serve(invocation: Invocation, flags: dict[str, object], *, as_json: bool) -> None:
    from p2pmodel.cli.output import data_json, talk
    from p2pmodel.cli.session import settings_of

    config = (await settings_of(invocation, flags)).peer_config()  # a wrong setting is told before anything is loaded
    from p2pmodel.peer.runtime import own_directory

    lock = own_directory(config.data_dir)  # that somebody else has it, too
    from p2pmodel.gateway import hub_of
    from p2pmodel.peer.daemon import run_daemon

    def on_ready(record: RuntimeRecord) -> None:
        if as_json:
            data_json(
                {
                    "event": "ready",
                    "peer_id": record.peer_id,
                    "listen": record.listen,
                    "http": record.http,
                    "data_dir": str(config.data_dir),
                    "pid": record.pid,
                }
            )
            return
        talk(f"Peer {record.peer_id} serves on {_where(record.listen)}.")
        talk(f"Data in {config.data_dir}; network {config.network.name!r}; HTTP {record.http or 'off'}.")
        talk("Ctrl-C stops it.")

    await run_daemon(config, on_ready=on_ready, lock=lock, fronts=[hub_of])
    if not as_json:
        talk("Stopped.")


def status(
    ctx: typer.Context, data_dir: DataDir = None, as_json: Json = False, quiet: Quiet = False, debug: Debug = False
) -> None:
    """Say how the running daemon is: its address, what it serves, its transfers."""
    from p2pmodel.cli.output import data, data_json
    from p2pmodel.cli.session import run

    report = run(_status(invocation_of(ctx)))
    if as_json:
        data_json(report)
    elif quiet:
        data(report.peer_id)
    else:
        for line in _describe(report):
            data(line)


async def _status(invocation: Invocation) -> PeerStatus:
    from p2pmodel.cli.session import open_daemon

    async with open_daemon(invocation) as service:
        return await service.status()


def peers(
    ctx: typer.Context, data_dir: DataDir = None, as_json: Json = False, quiet: Quiet = False, debug: Debug = False
) -> None:
    """List the running daemon's connections and the neighbours in its routing table."""
    from p2pmodel.cli.output import data, data_json, printable, talk
    from p2pmodel.cli.session import run

    neighbours, warnings = run(_neighbours(invocation_of(ctx)))
    if as_json:
        data_json({"peers": neighbours})
    elif quiet:
        for peer_id in dict.fromkeys(neighbour.peer_id for neighbour in neighbours):
            data(peer_id)
    elif not neighbours:
        talk("Nobody yet: start the daemon with --bootstrap HOST:PORT, naming a peer that runs.")
    else:
        for line in _table(neighbours):
            data(line)
    if not (as_json or quiet):
        for warning in warnings:
            talk(f"warning: {printable(warning)}")


async def _neighbours(invocation: Invocation) -> tuple[list[Neighbour], list[str]]:
    from p2pmodel.cli.session import open_daemon

    async with open_daemon(invocation) as service:
        return await service.neighbours(), (await service.status()).warnings


def _describe(status: PeerStatus) -> list[str]:
    from p2pmodel.cli.output import columns, count, printable
    from p2pmodel.peer.units import format_duration, format_rate, format_size

    lines = columns(
        [
            ("peer", status.peer_id),
            ("listens", _where(status.listen)),
            ("http", status.http or "off"),
            ("network", status.network),
            ("data", status.data_dir),
            ("process", f"{status.pid}, version {status.version}, for {format_duration(status.uptime_s)}"),
            ("knows", f"{count(status.neighbours, 'neighbour')}, {count(status.connections, 'connection')}"),
            ("overlay", _part(status)),
            ("holds", f"{count(status.models, 'model')}, {count(status.chunks_held, 'chunk')}"),
            (
                "announced",
                f"{_announced(status)}; keeps {count(status.records_held, 'record')} for others",
            ),
            ("cache", _cache(status)),
            ("limits", _limits(status)),
            ("moved", f"{format_size(status.bytes_sent)} sent, {format_size(status.bytes_received)} received"),
        ]
    )
    for transfer in status.transfers:
        at = transfer.progress
        lines.append(
            f"fetching {transfer.model_id[:12]}: {format_size(at.bytes_done)} of {format_size(at.bytes_total)}, "
            f"{format_rate(at.rate_bytes_per_s)} from {count(at.peers, 'peer')}"
        )
    lines += [f"warning: {printable(warning)}" for warning in status.warnings]
    return lines


def _cache(status: PeerStatus) -> str:
    from p2pmodel.peer.units import format_size

    quota = "" if status.cache_quota_bytes is None else f" of {format_size(status.cache_quota_bytes)}"
    whose = ", for the neighbourhood" if status.is_cache else ""
    return f"{format_size(status.cache_bytes)}{quota}{whose}"


def _limits(status: PeerStatus) -> str:
    from p2pmodel.cli.output import count
    from p2pmodel.peer.units import format_rate

    told = [("upload", status.limits.upload_bytes_per_s), ("download", status.limits.download_bytes_per_s)]
    rates = [f"{what} {format_rate(rate)}" for what, rate in told if rate is not None]
    background = ", in the background" if status.background else ""
    return f"{', '.join(rates) or 'none'}; {count(status.upload_slots, 'upload slot')}{background}"


def _announced(status: PeerStatus) -> str:
    from p2pmodel.cli.output import count

    if status.hidden:
        return "nothing, for others cannot reach it"
    pending = f", {status.keys_pending:,} of them not yet taken by others" if status.keys_pending else ""
    return f"{count(status.keys_announced, 'key')}{pending}"


def _part(status: PeerStatus) -> str:
    known = {
        None: "as it was told to be",
        "unknown": "not known yet whether others reach it",
        "reachable": "others reach it",
        "unreachable": "others cannot reach it",
    }
    return f"{'only a client of it' if status.client_only else 'a part of it'}, {known[status.reachability]}"


def _where(listen: str) -> str:
    """`[::]:8764` means little to most people."""
    families = {"[::]": ", IPv6 and IPv4", "0.0.0.0": ", IPv4 only"}
    return f"{listen} (UDP and TCP{families.get(listen.rpartition(':')[0], '')})"


def _table(neighbours: list[Neighbour]) -> list[str]:
    from p2pmodel.cli.output import columns
    from p2pmodel.peer.units import format_duration, format_size

    rows: list[tuple[str, ...]] = [
        ("PEER", "ADDRESS", "KIND", "SENT", "UP", "TO SEND", "RECEIVED", "DOWN", "TO COME", "SINCE", "AGENT")
    ]
    for each in sorted(neighbours, key=lambda each: (each.kind, each.peer_id)):
        if each.kind == "connection":
            kind = f"{each.direction} connection".strip() + ("" if each.encrypted else ", in the clear")
            moved = (
                format_size(each.bytes_sent),
                _rate(each.send_rate_bytes_per_s),
                f"{each.requests_in or ''}{' *' if each.in_upload_slot else ''}".strip(),
                format_size(each.bytes_received),
                _rate(each.receive_rate_bytes_per_s),
                str(each.requests_out or ""),
                format_duration(each.connected_s),
            )
        else:
            kind, moved = "overlay", ("",) * 7
        rows.append((each.peer_id[:12], each.address, kind, *moved, each.agent))
    return columns(rows, right=[3, 4, 5, 6, 7, 8, 9])


def _rate(bytes_per_s: int) -> str:
    from p2pmodel.peer.units import format_rate

    return format_rate(bytes_per_s) if bytes_per_s else ""
