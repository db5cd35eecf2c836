"""`fetch --explain`: who gave what, where the time went, what was wasted, and the sentence that sums it up."""

from __future__ import annotations

from collections.abc import Iterator

from p2pmodel.cli.output import columns, count, listed, printable
from p2pmodel.peer.reports import Explanation, FetchReport, SourcePart
from p2pmodel.peer.units import format_duration, format_rate, format_size

_CAUSES = {
    "discovery": "finding the first peer",
    "manifest": "manifest, chunk lists, signatures",
    "checking": "checking what was here",
    "no_source": "no peer known to hold what was missing",
    "sources": "waiting for the sources",
    "download_limit": "own download limit",
    "own_disk": "own hashing and writing",
    "end_game": "last chunks, with peers idle",
    "placing": "final names",
}
_WASTES = {"duplicate": "second copies in the end game", "cancelled": "called off too late", "corrupt": "corrupt"}
_REUSES = {
    "in_place": "stood at the destination",
    "resumed": "were there from an earlier run",
    "linked": "are one with a file of another model",
    "reflinked": "share blocks with another file",
    "copied": "were copied from other files",
    "repeated": "stand at several places",
}
_WHERE = {"host": "this machine", "network": "local network", "internet": "internet"}
_SOURCES_SHOWN = 20


def explanation_lines(report: FetchReport) -> Iterator[str]:
    """Nothing where the report has no explanation: a dry run, or a daemon of an older version."""
    if report.explain is None:
        return
    yield ""
    yield from _sources(report.explain)
    yield from _times(report.explain, report.seconds)
    if report.bytes_reused:
        yield _reused(report)
    yield _wasted(report.explain)
    yield printable(report.explain.summary)


def _sources(explain: Explanation) -> Iterator[str]:
    shown = [part for part in explain.sources if part.chunks or part.bytes_wasted or part.ended or part.refused]
    if not shown:
        return
    rows: list[tuple[str, ...]] = [("PEER", "ADDRESS", "WHERE", "WIRE", "GAVE", "SHARE", "RATE", "IN", "")]
    rows += [_source(part) for part in shown[:_SOURCES_SHOWN]]
    yield from columns(rows, right=[4, 5, 6, 7])
    if len(shown) > _SOURCES_SHOWN:
        yield f"and {count(len(shown) - _SOURCES_SHOWN, 'peer')} more"
    yield ""


def _source(part: SourcePart) -> tuple[str, ...]:
    remarks = [f"{part.rejected} corrupt"] if part.rejected else []
    if part.refused:
        remarks.append(f"{part.refused} refused")
    if part.bytes_wasted:
        remarks.append(f"{format_size(part.bytes_wasted)} wasted")
    if part.ended:
        remarks.append(part.ended)
    return (
        part.peer_id[:12],
        part.address,
        _WHERE[part.distance],
        "encrypted" if part.encrypted else "in the clear",
        format_size(part.bytes),
        f"{part.share * 100:.0f} %",
        format_rate(part.rate_bytes_per_s) if part.chunks else "",
        format_duration(part.seconds),
        "; ".join(remarks),
    )


def _times(explain: Explanation, seconds: float) -> Iterator[str]:
    rows = [
        (_CAUSES.get(cause, cause), format_duration(spent), f"{spent / max(seconds, 1e-3) * 100:.0f} %")
        for cause, spent in explain.seconds.items()
        if spent >= 0.0005
    ]
    yield f"Where the {format_duration(seconds)} went:"
    yield from columns(rows, right=[1, 2], indent="  ")


def _reused(report: FetchReport) -> str:
    parts = [f"{format_size(size)} {_REUSES.get(kind, kind)}" for kind, size in report.reused.items() if size]
    return f"Not fetched: {listed(parts)}."


def _wasted(explain: Explanation) -> str:
    parts = [f"{format_size(size)} {_WASTES.get(kind, kind)}" for kind, size in explain.wasted.items() if size]
    return f"Wasted: {listed(parts)}." if parts else "Nothing that came was wasted."
