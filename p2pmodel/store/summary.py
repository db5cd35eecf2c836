"""One line about a model out of all the places where it lies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from p2pmodel.model import Layout, Manifest, ModelId
from p2pmodel.model.have_map import iter_bits
from p2pmodel.store.catalogue import Copy
from p2pmodel.store.values import Content, FileState, StoredModel

State = Literal["published", "fetched", "partial", "broken"]


def stored_model(
    manifest: Manifest,
    copies: Sequence[Copy],
    layout: Callable[[ModelId], Layout | None],
    *,
    pinned: bool,
    content: Callable[[Copy], Content],
) -> StoredModel:
    """The copy with most chunks speaks for the model, the latest where several have as many."""
    copy = max(copies, key=lambda copy: (copy.bits.bit_count(), copy.number))
    bits = copy.bits
    finished = [kept for kept in copy.files if kept.state is not FileState.PARTIAL]
    whole = bits.bit_count() == copy.count and len(finished) == len(manifest.files)
    state: State = copy.kind
    if copy.fault:
        state = "broken"
    elif not whole:
        state = "partial"
    return StoredModel(
        model_id=manifest.model_id,
        path=copy.root,
        state=state,
        files=len(manifest.files),
        bytes_total=manifest.bytes_total,
        bytes_held=manifest.bytes_total if whole else bytes_held(bits, layout(manifest.model_id)),
        chunks=copy.count,
        chunks_held=bits.bit_count(),
        fault=copy.fault,
        pinned=pinned,
        cached=content(copy) == "cached",
    )


def bytes_held(bits: int, layout: Layout | None) -> int:
    return sum(layout[index].length for index in iter_bits(bits)) if layout is not None else 0
