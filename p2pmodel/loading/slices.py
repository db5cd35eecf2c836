"""Which bytes of a tensor an index means: `f.get_slice(name)[a:b, :, c:d]` reads what it needs and no more.

A plain object without IO. Rows of a tensor follow each other, so that an index has runs of bytes at regular distances.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

from p2pmodel.errors import UsageError


@dataclass(frozen=True, slots=True)
class Selection:
    """What an index means for a tensor of `shape`: in each dimension from `start` up to `stop`, then every `step`th."""

    shape: tuple[int, ...]
    starts: tuple[int, ...]
    stops: tuple[int, ...]
    steps: tuple[int, ...]
    dropped: tuple[int, ...]
    """Dimensions that a single number selected from, and that the result does not have."""

    @property
    def box(self) -> tuple[int, ...]:
        """The shape of what is read, before steps are taken and dimensions dropped."""
        return tuple(stop - start for start, stop in zip(self.starts, self.stops, strict=True))

    @property
    def after(self) -> tuple[Any, ...]:
        """The index that gives the result out of what was read."""
        return tuple(
            0 if dimension in self.dropped else slice(None, None, step) for dimension, step in enumerate(self.steps)
        )

    @property
    def trivial(self) -> bool:
        return not self.dropped and all(step == 1 for step in self.steps)

    def runs(self, item_bytes: int) -> Iterator[tuple[int, int]]:
        """The runs of bytes [start, end) within the tensor, in order, as long as they can be."""
        box = self.box
        if not prod(box):
            return
        inner = len(self.shape)
        while inner and box[inner - 1] == self.shape[inner - 1]:
            inner -= 1
        # Dimensions from `inner` on are taken whole; the one before is a stretch, those before it are walked.
        strides = [prod(self.shape[dimension + 1 :]) * item_bytes for dimension in range(len(self.shape))]
        if not inner:
            yield 0, prod(self.shape) * item_bytes
            return
        stretch = inner - 1
        length = box[stretch] * strides[stretch]
        first = self.starts[stretch] * strides[stretch]
        walked = [range(self.starts[dimension], self.stops[dimension]) for dimension in range(stretch)]
        for place in product(*walked):
            start = first + sum(at * stride for at, stride in zip(place, strides, strict=False))
            yield start, start + length


def select(shape: Sequence[int], index: Any) -> Selection:
    """Raises `UsageError` for an index that does not fit, or that is none of numbers, slices and `...`."""
    given = index if isinstance(index, tuple) else (index,)
    if sum(one is Ellipsis for one in given) > 1:
        raise UsageError("an index has one '...' at most")
    named = sum(one is not Ellipsis for one in given)
    if named > len(shape):
        raise UsageError(f"an index of {named} for a tensor of {len(shape)} dimensions")
    full = [slice(None)] * (len(shape) - named)
    at = next((place for place, one in enumerate(given) if one is Ellipsis), len(given))
    parts = [*given[:at], *full, *given[at + 1 :]]
    chosen = [_part(part, length) for part, length in zip(parts, shape, strict=True)]
    return Selection(
        tuple(shape),
        tuple(start for start, _, _ in chosen),
        tuple(stop for _, stop, _ in chosen),
        tuple(step for _, _, step in chosen),
        tuple(dimension for dimension, part in enumerate(parts) if not isinstance(part, slice)),
    )


def _part(part: Any, length: int) -> tuple[int, int, int]:
    if isinstance(part, slice):
        start, stop, step = part.indices(length)
        if step < 1:
            raise UsageError("a slice of a tensor goes forward")
        return start, max(start, stop), step
    try:
        number = part.__index__() if not isinstance(part, bool) else None
    except AttributeError:
        number = None
    if number is None:
        raise UsageError(f"an index is made of numbers, slices and '...', not of {type(part).__name__}")
    if not -length <= number < length:
        raise UsageError(f"index {number} is out of range for {length}")
    return number % length, number % length + 1, 1


def gathered(runs: Iterator[tuple[int, int]], gap_bytes: int, bytes_max: int) -> Iterator[list[tuple[int, int]]]:
    """Runs in groups that are read at once: closer than `gap_bytes`, and no longer together than `bytes_max`."""
    group: list[tuple[int, int]] = []
    for start, end in runs:
        if group and (start - group[-1][1] > gap_bytes or end - group[0][0] > bytes_max):
            yield group
            group = []
        group.append((start, end))
    if group:
        yield group
