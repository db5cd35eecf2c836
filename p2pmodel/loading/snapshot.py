"""`snapshot_download` with the arguments of huggingface_hub's, over the swarm."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from p2pmodel.errors import NotFoundError, UsageError
from p2pmodel.loading.engine import Engine, engine_for
from p2pmodel.loading.references import split_reference
from p2pmodel.peer.config import absolute
from p2pmodel.peer.inventory import ModelSummary
from p2pmodel.peer.reports import FetchReport, Progress
from p2pmodel.peer.requests import FetchRequest, ShowRequest


def snapshot_download(
    repo_id: str,
    *,
    repo_type: str | None = None,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_dir: str | os.PathLike[str] | None = None,
    allow_patterns: Sequence[str] | str | None = None,
    ignore_patterns: Sequence[str] | str | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
    dry_run: bool = False,
    tqdm_class: Callable[..., Any] | None = None,
    peers: Sequence[str] = (),
    signed_by: Sequence[str] = (),
    bootstrap: Sequence[str] = (),
    data_dir: str | os.PathLike[str] | None = None,
    timeout: float | None = None,
    **ignored: Any,
) -> Any:
    """Bring a model, or those of its files that the patterns leave, and return the directory that has them.

    Arguments mean what they mean to huggingface_hub: `local_dir` is the place, by default where the model is published
    or seeded on this machine, or else one in the data directory; below `cache_dir` it is a directory by the model's id.
    `force_download` replaces files at the place that are not the model's. With `dry_run` nothing is brought, and the
    report of what would be is returned. To find the model and to bring it may take `timeout` seconds each. `token`,
    `max_workers`, `etag_timeout` and others that are about HTTP have no meaning here. Raises as `Peer.fetch` does;
    `NotFoundError` where `local_files_only` is set and something is missing.
    """
    unknown = sorted(set(ignored) - _OF_THE_HUB)
    if unknown:
        raise UsageError(f"snapshot_download has no argument {unknown[0]!r}")
    if repo_type not in (None, "model", "dataset", "space"):
        raise UsageError(f"repo_type {repo_type!r}: expected 'model', 'dataset' or 'space'")
    reference, path = split_reference(repo_id, revision)
    if path:
        raise UsageError(f"{repo_id!r} names a file; the files are chosen with allow_patterns")
    engine = engine_for(data_dir, bootstrap)
    asked = ShowRequest(ref=reference, peers=list(peers), timeout_s=timeout)
    place = local_dir
    if place is None and cache_dir is not None:
        place = os.path.join(cache_dir, engine.run(_model(engine, asked)).model_id)  # noqa: PTH118
    as_it_is = place is None and not (force_download or dry_run or signed_by)
    if as_it_is and (published := engine.run(_published(engine, asked))):
        return published
    request = FetchRequest(
        ref=reference,
        include=_patterns(allow_patterns),
        exclude=_patterns(ignore_patterns),
        to=None if place is None else str(absolute(_as_path(place))),
        peers=list(peers),
        signed_by=list(signed_by),
        overwrite=force_download,
        timeout_s=timeout,
        dry_run=dry_run or local_files_only,
    )
    report = engine.run(_fetch(engine, request, tqdm_class))
    if local_files_only and report.bytes_reused < report.bytes_total:
        lacking = report.bytes_total - report.bytes_reused
        raise NotFoundError(f"{lacking:,} bytes of {reference} are not here, and local_files_only is set")
    if dry_run:
        return report
    if local_files_only:
        report = engine.run(_fetch(engine, _really(request), tqdm_class))
    return report.path


_OF_THE_HUB = {
    "library_name", "library_version", "user_agent", "proxies", "etag_timeout", "token", "max_workers", "headers",
    "endpoint", "local_dir_use_symlinks", "resume_download",
}  # fmt: skip


def _as_path(text: str | os.PathLike[str]) -> Any:
    from pathlib import Path

    return Path(text)


def _patterns(given: Sequence[str] | str | None) -> list[str]:
    if given is None:
        return []
    return [given] if isinstance(given, str) else list(given)


def _really(request: FetchRequest) -> FetchRequest:
    import msgspec

    return msgspec.structs.replace(request, dry_run=False)


async def _model(engine: Engine, request: ShowRequest) -> ModelSummary:
    async with engine.service() as service:
        return (await service.show(request)).model


async def _published(engine: Engine, request: ShowRequest) -> str:
    """The directory where the model lies and is served from, for nobody wants it twice; empty where there is none."""
    places = (await _model(engine, request)).places
    return next((one.path for one in places if one.state == "published" and _as_path(one.path).is_dir()), "")


async def _fetch(engine: Engine, request: FetchRequest, tqdm_class: Callable[..., Any] | None) -> FetchReport:
    async with engine.service() as service:
        if tqdm_class is None:
            return await service.fetch(request)
        bar = tqdm_class(unit="B", unit_scale=True, desc=request.ref[:24])
        try:
            return await service.fetch(request, lambda news: _show(bar, news))
        finally:
            bar.close()


def _show(bar: Any, news: Progress) -> None:
    if news.phase == "transfer":
        bar.total = news.bytes_total
        bar.update(news.bytes_done - bar.n)
