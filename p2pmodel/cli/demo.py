"""`demo`: the main job on one machine, with no other set-up: publish on one peer, fetch by content hash on others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from p2pmodel.cli.options import Debug, Json, NoProgress

if TYPE_CHECKING:
    from p2pmodel.cli.demo_model import DemoModel
    from p2pmodel.cli.demo_peers import DemoPeer
    from p2pmodel.cli.demo_story import Story
    from p2pmodel.peer.reports import FetchReport, Progress

_SPARE_BYTES = 64 << 20
_SEVERAL_FROM_BYTES = 128 << 20
"""From here on a model has to come from several peers. A smaller one may be here before a second peer has shaken hands,
on a busy machine."""


def demo(
    size: Annotated[str, typer.Option("--size", metavar="SIZE", help="How large the model is.")] = "256MiB",
    peers: Annotated[int, typer.Option("--peers", min=2, max=16, metavar="N", help="How many peers.")] = 4,
    keep: Annotated[
        Path | None,
        typer.Option("--keep", metavar="DIR", help="Work in this new directory and leave everything there."),
    ] = None,
    as_json: Json = False,
    no_progress: NoProgress = False,
    debug: Debug = False,
) -> None:
    """See it work: peers on this machine publish a model and fetch it from each other. No set-up, no network."""
    from p2pmodel.cli.demo_story import Story
    from p2pmodel.cli.output import data_json
    from p2pmodel.cli.progress import may_draw
    from p2pmodel.cli.session import run
    from p2pmodel.errors import UsageError, VerificationError
    from p2pmodel.peer.units import parse_size

    size_bytes = parse_size(size)
    if size_bytes < 4096:
        raise UsageError("--size: a model has at least 4 KiB")
    story = Story(silent=as_json)
    result = run(
        _demo(
            size_bytes,
            peers,
            _working_directory(keep),
            keep is not None,
            story,
            draw=may_draw(wanted=not (as_json or no_progress)),
        )
    )
    if as_json:
        data_json(result)
    if result["faults"]:
        raise VerificationError(f"the demo found something wrong: {'; '.join(result['faults'])}")


def _working_directory(keep: Path | None) -> Path:
    import tempfile

    from p2pmodel.errors import UsageError
    from p2pmodel.peer.files import storage_errors

    with storage_errors("make a directory for the demo"):
        if keep is None:
            return Path(tempfile.mkdtemp(prefix="p2pmodel-demo-"))
        if keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
            raise UsageError(f"--keep: {keep} is there already and is not an empty directory")
        keep.mkdir(parents=True, exist_ok=True)
        return keep.absolute()


async def _demo(
    size_bytes: int, count: int, directory: Path, keep: bool, story: Story, *, draw: bool
) -> dict[str, Any]:
    import asyncio
    import shutil
    import time

    from p2pmodel.errors import InterruptedFetchError, NoSpaceError
    from p2pmodel.peer.units import format_size

    began = time.monotonic()
    try:
        needed, free = size_bytes * count + _SPARE_BYTES, shutil.disk_usage(directory).free
        if free < needed:
            raise NoSpaceError(
                f"the demo needs {format_size(needed)} in {directory.parent} and {format_size(free)} are free; "
                "take a smaller --size, or set TMPDIR to a larger disk"
            )
        result = await _act(size_bytes, count, directory, story, draw=draw)
    except asyncio.CancelledError:
        left = f"the files are left in {directory}" if keep else "all files are removed"
        raise InterruptedFetchError(f"interrupted; all peers of the demo are stopped and {left}") from None
    finally:
        if not keep:
            # Also after a cancellation: the person must not be left with gigabytes in the temporary directory.
            await asyncio.shield(asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True))
    result["seconds"] = round(time.monotonic() - began, 3)
    if not result["faults"]:
        story.closing(str(directory) if keep else "", result["seconds"])
    return result


async def _act(size_bytes: int, count: int, directory: Path, story: Story, *, draw: bool) -> dict[str, Any]:
    import asyncio
    import secrets

    from p2pmodel.cli.demo_peers import DemoNetwork
    from p2pmodel.peer.requests import PublishRequest

    story.opening(count, size_bytes)
    network = DemoNetwork(directory, f"demo-{secrets.token_hex(8)}")
    try:
        await network.start(count)
        peers = network.peers
        story.started(peers)
        model = await _make(directory / "model", size_bytes, draw=draw)
        story.made(model)
        with _view(draw, "peer 1 hashes the model") as view:
            published = await peers[0].client.publish(PublishRequest(path=str(model.path), name="demo"), view.update)
        story.published(published)
        fetches: list[tuple[DemoPeer, FetchReport]] = []
        numbers = {peer.peer_id: peer.number for peer in peers}
        # The second alone, then the others at once, so that these surely have more than one peer to draw on.
        for group in (peers[1:2], peers[2:]):
            if group:
                story.fetching(group, first=not fetches)
                done = await _fetch_at_once(group, published.model_id, draw=draw)
                story.fetched(done, lambda peer_id: numbers.get(peer_id, 0))
                fetches += done
        story.summary(peers, fetches, lambda peer_id: numbers.get(peer_id, 0), published.chunks)
        faults = await _faults(model, fetches)
        story.checked(len(model.sha256), len(fetches), faults)
    finally:
        await asyncio.shield(network.stop())
    return _result(model, peers, fetches, published, faults)


def _view(draw: bool, label: str) -> Any:
    from p2pmodel.cli.progress import ProgressView

    return ProgressView(draw=draw, label=label)


async def _make(path: Path, size_bytes: int, *, draw: bool) -> DemoModel:
    import asyncio
    import threading

    from p2pmodel.cli.demo_model import make_model
    from p2pmodel.peer.reports import Progress

    stop, done = threading.Event(), 0
    loop = asyncio.get_running_loop()

    with _view(draw, "making the model") as view:

        def on_bytes(number: int) -> None:
            nonlocal done
            done += number
            loop.call_soon_threadsafe(
                view.update, Progress(phase="making", bytes_done=done, bytes_total=max(done, size_bytes))
            )

        try:
            return await asyncio.to_thread(make_model, path, size_bytes, on_bytes, stop)
        finally:
            stop.set()


async def _fetch_at_once(peers: list[DemoPeer], model_id: str, *, draw: bool) -> list[tuple[DemoPeer, FetchReport]]:
    import asyncio

    from p2pmodel.cli.output import listed
    from p2pmodel.peer.requests import FetchRequest

    latest: dict[int, Progress] = {}
    label = f"peer{'s' if len(peers) > 1 else ''} {listed([str(peer.number) for peer in peers])}"
    with _view(draw, label) as view:

        async def fetch(peer: DemoPeer) -> FetchReport:
            def on_progress(progress: Progress) -> None:
                latest[peer.number] = progress
                view.update(_together(latest, len(peers)))

            return await peer.client.fetch(FetchRequest(ref=model_id, to=str(peer.directory / "model")), on_progress)

        tasks = [asyncio.ensure_future(fetch(peer)) for peer in peers]
        try:
            return list(zip(peers, await asyncio.gather(*tasks), strict=True))
        finally:
            for task in tasks:
                task.cancel()


def _together(latest: dict[int, Progress], count: int) -> Progress:
    """Several fetches of the same model as one bar."""
    from p2pmodel.peer.reports import Progress

    known = list(latest.values())
    left = [progress.eta_s for progress in known if progress.eta_s is not None]
    return Progress(
        phase="transfer",
        bytes_done=sum(progress.bytes_done for progress in known),
        bytes_total=max(progress.bytes_total for progress in known) * count,
        rate_bytes_per_s=sum(progress.rate_bytes_per_s for progress in known),
        eta_s=max(left) if left else None,
    )


async def _faults(model: DemoModel, fetches: list[tuple[DemoPeer, FetchReport]]) -> list[str]:
    """What is not as it must be, in words; nothing where all is right."""
    import asyncio

    from p2pmodel.cli.demo_model import sha256_of

    faults = []
    for peer, report in fetches:
        for name, expected in model.sha256.items():
            path = Path(report.path) / name
            if not path.is_file():
                faults.append(f"peer {peer.number} has no {name}")
            elif await asyncio.to_thread(sha256_of, path) != expected:
                faults.append(f"{name} of peer {peer.number} differs from the original")
        if not report.verified:
            faults.append(f"peer {peer.number} did not verify what it fetched")
        if report.bytes_fetched + report.bytes_reused < model.bytes_total:
            faults.append(f"peer {peer.number} counts fewer bytes than the model has")
    if model.bytes_total >= _SEVERAL_FROM_BYTES:
        lonely = [peer for peer, report in fetches[1:] if not _drew_on_several(report)]
        faults += [f"peer {peer.number} fetched everything from a single peer" for peer in lonely]
    return faults


def _drew_on_several(report: FetchReport) -> bool:
    return sum(1 for peer in report.peers if peer.bytes) > 1


def _result(
    model: DemoModel,
    peers: list[DemoPeer],
    fetches: list[tuple[DemoPeer, FetchReport]],
    published: Any,
    faults: list[str],
) -> dict[str, Any]:
    import msgspec

    fetched = sum(report.bytes_fetched for _, report in fetches)
    publisher = peers[0].peer_id
    from_publisher = sum(
        source.bytes for _, report in fetches for source in report.peers if source.peer_id == publisher
    )
    return {
        "ok": not faults,
        "faults": faults,
        "model_id": published.model_id,
        "bytes_total": model.bytes_total,
        "chunks": published.chunks,
        "peers": [{"number": peer.number, "peer_id": peer.peer_id, "listen": peer.listen} for peer in peers],
        "publish": msgspec.to_builtins(published),
        "fetches": [{"peer": peer.number, **msgspec.to_builtins(report)} for peer, report in fetches],
        "bytes_fetched": fetched,
        "bytes_from_several": sum(report.bytes_fetched for _, report in fetches if _drew_on_several(report)),
        "bytes_from_publisher": from_publisher,
        "sha256": model.sha256,
    }
