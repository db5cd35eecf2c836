"""What the models on this disk take, what they have in common, and what it saves that files share inodes or blocks.

Two different things are counted. *By hash*: chunks that stand in several models, however often the disk holds them.
*On disk*: an inode counts once however many names it has, and so do blocks that the file system says are shared
(reflinks), where it can say so. The difference is what sharing saves, and what is left of the first what it could.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, field

from p2pmodel.model import HaveMap, Layout, ModelId
from p2pmodel.store.catalogue import Catalogue
from p2pmodel.store.copies import Copy
from p2pmodel.store.files import Files
from p2pmodel.store.values import ModelUsage, Usage

Inode = tuple[int, int]


@dataclass(slots=True)
class _File:
    """A file of the disk, with the models that have it, and its blocks that other files may have too."""

    allocated_bytes: int
    shared: list[tuple[int, int]] = field(default_factory=list)
    models: dict[ModelId, None] = field(default_factory=dict)


def usage(files: Files, catalogue: Catalogue, layout_of: Callable[[ModelId], Layout | None]) -> Usage:
    """Stats every file that is kept. Blocks; a second for a million chunks that several models have."""
    layouts = {model_id: layout for model_id in catalogue.model_ids() if (layout := layout_of(model_id)) is not None}
    held = {model_id: _union(catalogue.copies(model_id)) for model_id in layouts}
    apparent: Counter[ModelId] = Counter()
    distinct = 0
    for model_id, layout in layouts.items():
        apparent[model_id] = sum(_bytes(layout, copy.bits) for copy in catalogue.copies(model_id))
        distinct += _bytes(layout, held[model_id])
    shared: Counter[ModelId] = Counter()
    for group in catalogue.repeated():
        here = [(model_id, chunk) for model_id, chunk in group if held.get(model_id, 0) >> chunk & 1]
        if len(here) < 2:
            continue
        distinct -= sum(layouts[model_id].length(chunk) for model_id, chunk in here[1:])
        if len({model_id for model_id, _ in here}) > 1:
            for model_id, chunk in here:
                shared[model_id] += layouts[model_id].length(chunk)
    inodes = _inodes(files, catalogue.all_copies())
    on_disk, own, in_all = _on_disk(inodes)
    models = [
        ModelUsage(model_id, apparent[model_id], on_disk[model_id], own[model_id], shared[model_id])
        for model_id in layouts
    ]
    whole = sum(apparent.values())
    saved = sum(on_disk.values()) - in_all
    return Usage(tuple(models), whole, in_all, saved, max(0, whole - distinct - saved))


def _union(copies: Iterable[Copy]) -> int:
    bits = 0
    for copy in copies:
        bits |= copy.bits
    return bits


def _bytes(layout: Layout, bits: int) -> int:
    if bits.bit_count() == len(layout):
        return layout.manifest.bytes_total
    return sum(layout.length(index) for index in HaveMap(len(layout), bits))


def _inodes(files: Files, copies: Iterable[Copy]) -> dict[Inode, _File]:
    found: dict[Inode, _File] = {}
    for copy in copies:
        for kept in copy.files:
            file = files.open_file(kept.location)
            if file is None:
                continue
            with closing(file):
                status = file.status()
                key = status.identity.device, status.identity.inode
                if key not in found:
                    extents = files.sharing.extents(file) or []
                    blocks = [(one.physical, one.physical + one.length) for one in extents if one.shared]
                    found[key] = _File(status.allocated_bytes, blocks)
                found[key].models[copy.model_id] = None
    return found


def _on_disk(inodes: dict[Inode, _File]) -> tuple[Counter[ModelId], Counter[ModelId], int]:
    """For each model what its files take, and what they take that no other model has; and what all take together.

    A file that a model has under two names, or blocks that two files of it share, count once for it.
    """
    each: Counter[ModelId] = Counter()
    own: Counter[ModelId] = Counter()
    together = 0
    blocks: dict[int, list[tuple[int, int, ModelId]]] = {}
    for (device, _), file in inodes.items():
        unshared = max(0, file.allocated_bytes - sum(end - start for start, end in file.shared))
        together += unshared
        for model_id in file.models:
            each[model_id] += unshared
            if len(file.models) == 1:
                own[model_id] += unshared
            for start, end in file.shared:
                blocks.setdefault(device, []).extend(((start, 1, model_id), (end, -1, model_id)))
    for marks in blocks.values():
        here: Counter[ModelId] = Counter()
        before = 0
        for at, change, model_id in sorted(marks, key=lambda mark: mark[:2]):
            having = [model for model, count in here.items() if count]
            length = at - before if having else 0
            together += length
            for model in having:
                each[model] += length
                if len(having) == 1:
                    own[model] += length
            here[model_id] += change
            before = at
    return each, own, together
