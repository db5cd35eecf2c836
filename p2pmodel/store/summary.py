"""What is said about a model, out of all the places where it lies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from p2pmodel.model import Layout, Manifest, ModelId
from p2pmodel.model.have_map import iter_bits
from p2pmodel.store.copies import Copy
from p2pmodel.store.values import Content, FileState, StoredModel, StoredPlace

State = Literal["published", "fetched", "partial", "broken"]


def stored_model(
    manifest: Manifest,
    copies: Sequence[Copy],
    layout: Callable[[ModelId], Layout | None],
    *,
    pinned: bool,
    content: Callable[[Copy], Content],
) -> StoredModel:
    """The place with most chunks speaks for the model, the latest where several have as many."""
    best_first = sorted(copies, key=lambda copy: (copy.bits.bit_count(), copy.number), reverse=True)
    places = tuple(_place(copy, manifest, layout, content(copy)) for copy in best_first)
    best = places[0]
    return StoredModel(
        model_id=manifest.model_id,
        path=best.path,
        state=best.state,
        files=len(manifest.files),
        bytes_total=manifest.bytes_total,
        bytes_held=best.bytes_held,
        chunks=best_first[0].count,
        chunks_held=best.chunks_held,
        fault=best.fault,
        pinned=pinned,
        cached=best.content == "cached",
        places=places,
    )


def _place(copy: Copy, manifest: Manifest, layout: Callable[[ModelId], Layout | None], content: Content) -> StoredPlace:
    bits = copy.bits
    finished = [kept for kept in copy.files if kept.state is not FileState.PARTIAL]
    whole = bits.bit_count() == copy.count and len(finished) == len(manifest.files)
    state: State = copy.kind
    if copy.fault:
        state = "broken"
    elif not whole:
        state = "partial"
    return StoredPlace(
        path=copy.root,
        state=state,
        content=content,
        chunks_held=bits.bit_count(),
        bytes_held=manifest.bytes_total if whole else bytes_held(bits, layout(manifest.model_id)),
        fault=copy.fault,
    )


def bytes_held(bits: int, layout: Layout | None) -> int:
    return sum(layout[index].length for index in iter_bits(bits)) if layout is not None else 0
