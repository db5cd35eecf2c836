"""From the account of a fetch to its explanation: who gave what, what was wasted, and what kept it from being faster.

Everything here was measured (`swarm/accounting.py`); the sentence at the end names the cause that had most of the time.
"""

from __future__ import annotations

from collections.abc import Sequence

from p2pmodel.model import PublicKey
from p2pmodel.peer.reports import Distance, Explanation, SourcePart
from p2pmodel.peer.units import format_duration, format_rate, format_size
from p2pmodel.swarm import Account, Cause, Tally

_DISTANCES: tuple[Distance, ...] = ("internet", "network", "host")
"""By `Address.scope`."""
_RATES_TOLD = 5
_SECOND_SHARE = 0.2
"""Of the time: what had as much and is not the first is told as well."""
_SECONDS: dict[Cause, str] = {
    "discovery": "went into finding the first peer",
    "manifest": "went into manifest, chunk lists and signatures",
    "checking": "went into checking what was on this disk",
    "no_source": "passed while nobody was known to hold what was missing",
    "sources": "passed in waiting for the sources",
    "download_limit": "was held back by its own download limit",
    "own_disk": "went into its own hashing and writing",
    "end_game": "passed in the end game, with peers idle",
    "placing": "went into final names",
}


def explain(account: Account[PublicKey], tally: Tally, seconds: float) -> Explanation:
    """`seconds` is how long the fetch took; what of it the account does not know is nobody's."""
    parts = [
        SourcePart(
            peer_id=peer.text,
            address=source.address,
            bytes=source.bytes,
            chunks=source.chunks,
            share=round(source.bytes / tally.bytes_fetched, 4) if tally.bytes_fetched else 0.0,
            seconds=round(source.busy_s, 3),
            rate_bytes_per_s=round(source.rate_bytes_per_s),
            encrypted=source.encrypted,
            distance=_DISTANCES[source.scope],
            rejected=tally.served[peer].rejected if peer in tally.served else 0,
            refused=source.refused,
            bytes_wasted=source.wasted_bytes,
            ended=source.ended,
        )
        for peer, source in account.sources.items()
    ]
    parts.sort(key=lambda part: -part.bytes)
    spent = {str(cause): round(value, 3) for cause, value in account.seconds.items()}
    limit, second = sorted(account.seconds, key=lambda cause: -account.seconds[cause])[:2]
    share = account.seconds[limit] / seconds if seconds > 0 else 0.0
    summary = _summary(limit, min(share, 1.0), parts, tally, account.seconds[limit])
    if account.seconds[second] >= _SECOND_SHARE * seconds > 0:
        part = f"{account.seconds[second] / seconds * 100:.0f} %"
        summary = f"{summary.removesuffix('.')}; {part} {_SECONDS[second]}."
    return Explanation(
        summary=summary,
        limit=limit,
        seconds=spent,
        wasted={str(kind): value for kind, value in account.wasted.items()},
        sources=parts,
    )


def _summary(limit: str, share: float, parts: Sequence[SourcePart], tally: Tally, limit_s: float) -> str:
    part = f"{share * 100:.0f} % of the time"
    rate = format_rate(tally.bytes_fetched / limit_s) if limit_s else ""
    match limit:
        case "sources":
            return f"{part} the sources were the limit: {_rates(parts)}."
        case "download_limit":
            return f"{part} this peer's own download limit held it back, to {rate}."
        case "own_disk":
            return f"{part} this machine was the limit: hashing and writing what had come."
        case "end_game":
            slow = [one for one in parts if one.chunks]
            last = f"the slowest gave {format_rate(slow[-1].rate_bytes_per_s)}" if slow else "they gave nothing"
            return f"{part} the last chunks were awaited while other peers stood idle: {last}."
        case "no_source":
            return f"{part} no connected peer was known to hold what was missing."
        case "manifest":
            return f"{part} went into the model's manifest, chunk lists and signatures."
        case "discovery":
            return f"{part} went into finding the first peer ({format_duration(limit_s)})."
        case "checking":
            return f"{part} went into checking what was on this disk already."
        case _:
            return f"{part} went into giving the files their final names."


def _rates(parts: Sequence[SourcePart]) -> str:
    """`3 peers gave 41.0, 30.2 and 2.1 MiB/s`: what each gave while it was asked for something."""
    rates = sorted((part.rate_bytes_per_s for part in parts if part.chunks), reverse=True)
    if not rates:
        return "nobody gave anything"
    told = [format_size(rate) for rate in rates[:_RATES_TOLD]]
    unit = told[0].partition(" ")[2]
    if all(text.endswith(f" {unit}") for text in told):
        told = [text.removesuffix(f" {unit}") for text in told]
        told[-1] += f" {unit}"
    more = f", and {len(rates) - len(told):,} more less than that" if len(rates) > len(told) else ""
    listed = f"{', '.join(told[:-1])} and {told[-1]}" if len(told) > 1 and not more else ", ".join(told)
    return f"{len(rates):,} peer{'s' if len(rates) != 1 else ''} gave {listed}/s{more}"
