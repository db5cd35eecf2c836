"""From the values of the rooms to the reports that a person or program gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from p2pmodel.model import HaveMap, Layout, Manifest, PublicKey, SignedStatement
from p2pmodel.model.have_map import iter_bits
from p2pmodel.peer.explaining import explain
from p2pmodel.peer.inventory import ModelDetail, ModelFile, ModelPlace, ModelSummary, Signer
from p2pmodel.peer.meter import Meter
from p2pmodel.peer.peer import Peer
from p2pmodel.peer.reports import FetchReport, PeerBytes
from p2pmodel.peer.status import Neighbour
from p2pmodel.peer.trust import Trust
from p2pmodel.store import Reuse, Store, StoredModel
from p2pmodel.swarm import Account, Link, Tally


def summary(model: StoredModel, signed: Sequence[SignedStatement]) -> ModelSummary:
    return ModelSummary(
        model_id=model.model_id.hex,
        name=_full_name(signed),
        path=str(model.path),
        state=model.state,
        files=model.files,
        bytes_total=model.bytes_total,
        bytes_held=model.bytes_held,
        chunks=model.chunks,
        chunks_held=model.chunks_held,
        pinned=model.pinned,
        cached=model.cached,
        fault=model.fault,
        places=[
            ModelPlace(
                path=str(place.path),
                state=place.state,
                content=place.content,
                bytes_held=place.bytes_held,
                fault=place.fault,
            )
            for place in model.places
        ],
    )


def _full_name(signed: Sequence[SignedStatement]) -> str:
    for one in signed:
        said = one.statement
        if said.name:
            return f"{one.signer.text}/{said.name}" + (f"@{said.revision}" if said.revision else "")
    return ""


def signers(signed: Sequence[SignedStatement], trust: Trust) -> list[Signer]:
    return [
        Signer(
            key=one.signer.text,
            alias=trust.alias(one.signer),
            trusted=one.signer in trust,
            name=one.statement.name,
            revision=one.statement.revision,
            message=one.statement.message,
            issued_at=one.statement.issued_at,
        )
        for one in signed
    ]


def detail(store: Store, manifest: Manifest, signed: list[Signer]) -> ModelDetail:
    """`show`, for a model that is here or not. Blocks on the index."""
    model_id = manifest.model_id
    stored, layout, held = store.model(model_id), store.layout(model_id), store.have_map(model_id)
    names = [f"{one.key}/{one.name}" + (f"@{one.revision}" if one.revision else "") for one in signed if one.name]
    if stored is not None:
        model = summary(stored, ())
    else:
        model = ModelSummary(
            model_id=model_id.hex,
            name="",
            path="",
            state="remote",
            files=len(manifest.files),
            bytes_total=manifest.bytes_total,
            bytes_held=0,
            chunks=manifest.chunk_count,
            chunks_held=0,
        )
    files = [
        ModelFile(
            path=file.path.text,
            size=file.size,
            blake3=file.blake3.hex,
            sha256=file.sha256.hex,
            chunks=file.chunk_count,
            bytes_held=_held_bytes(layout, held, number) if layout and held else 0,
        )
        for number, file in enumerate(manifest.files)
    ]
    return ModelDetail(
        model=msgspec.structs.replace(model, name=names[0] if names else ""),
        chunker=manifest.chunker,
        manifest_bytes=len(manifest.encode()),
        files=files,
        signers=signed,
    )


def _held_bytes(layout: Layout, held: HaveMap, file_index: int) -> int:
    span = layout.chunks_of(file_index)
    bits = held.bits >> span.start & ((1 << len(span)) - 1)
    if bits.bit_count() == len(span):
        return layout.files[file_index].size
    return sum(layout[span.start + at].length for at in iter_bits(bits))


def neighbours(peer: Peer, meter: Meter[Link]) -> list[Neighbour]:
    now = peer.network.clock.monotonic()
    connections = [
        Neighbour(
            peer_id=link.peer.text,
            address=str(link.channel.address),
            kind="connection",
            direction="out" if link.channel.outgoing else "in",
            agent=link.channel.hello.agent,
            encrypted=link.channel.encrypted,
            bytes_sent=link.channel.bytes_sent,
            bytes_received=link.channel.bytes_received,
            connected_s=round(now - link.connected_at, 3),
            send_rate_bytes_per_s=round(meter.rates(link)[0]),
            receive_rate_bytes_per_s=round(meter.rates(link)[1]),
            requests_out=link.requests_out,
            requests_in=link.requests_in,
            in_upload_slot=link.in_upload_slot,
        )
        for link in peer.swarm.links.values()
    ]
    table = [
        Neighbour(peer_id=key.text, address=str(address), kind="overlay") for key, address in peer.overlay.neighbours()
    ]
    return connections + table


def fetch_report(
    layout: Layout,
    indices: Sequence[int],
    path: Path,
    tally: Tally | None,
    reused: Mapping[Reuse, int],
    seconds: float,
    signed: Sequence[SignedStatement],
    account: Account[PublicKey] | None = None,
) -> FetchReport:
    """`tally` None is a dry run: `bytes_fetched` then is what a fetch would bring."""
    total = sum(layout.files[index].size for index in indices)
    here = sum(reused.values())
    repeated = tally.bytes_repeated if tally else 0
    served = sorted(tally.served.items(), key=lambda item: -item[1].bytes) if tally else []
    return FetchReport(
        model_id=layout.model_id.hex,
        path=str(path),
        files=len(indices),
        bytes_total=total,
        bytes_fetched=tally.bytes_fetched if tally else total - here,
        bytes_reused=here + repeated,
        reused={**{str(kind): size for kind, size in reused.items()}, "repeated": repeated},
        bytes_wasted=tally.bytes_wasted if tally else 0,
        seconds=round(seconds, 3),
        chunks_rejected=tally.chunks_rejected if tally else 0,
        peers=[
            PeerBytes(peer_id=key.text, address=one.address, bytes=one.bytes, rejected=one.rejected)
            for key, one in served
            if one.bytes or one.rejected
        ],
        verified=tally is not None,
        signed_by=[one.signer.text for one in signed],
        dry_run=tally is None,
        explain=explain(account, tally, seconds) if account and tally else None,
    )
