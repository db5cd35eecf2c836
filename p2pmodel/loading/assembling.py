"""One tensor out of what is on the disk: a view of the mapped file where that is whole, else memory of its own."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from math import prod
from typing import Any

from p2pmodel.errors import VerificationError
from p2pmodel.limits import MIB
from p2pmodel.loading.dtypes import ElementType
from p2pmodel.loading.frameworks import Framework
from p2pmodel.loading.opened import OpenedModel, map_file
from p2pmodel.loading.slices import Selection, gathered
from p2pmodel.loading.tables import TensorAt
from p2pmodel.peer.open_model import READ_TRIES, Located

_GAP_BYTES = 64 * 1024
"""Runs that are nearer than this are read as one: that costs no chunk more, and fewer calls."""
_GROUP_BYTES = 16 * MIB


class Assembler:
    """For one model, framework and device. Thread-safe."""

    def __init__(self, model: OpenedModel, framework: Framework, device: Any = "cpu", *, mapped: bool = True) -> None:
        """`mapped`: tensors of whole files may be views of them, which cost no memory of their own."""
        self._model, self._framework, self._device, self._mapped = model, framework, device, mapped
        self._lock = threading.Lock()
        self._maps: dict[tuple[str, int], memoryview] = {}

    def tensor(self, at: TensorAt) -> Any:
        """Wait for a tensor, and make it. Raises as `OpenedModel.read_into` does."""
        start = at.span.offset
        for _ in range(READ_TRIES):
            found = self.from_places(at, self._model.locate(at.path, start, start + ElementType(at.span).size_bytes))
            if found is not None:
                return found
        raise VerificationError(f"{at.path!r} cannot be read: it changes again and again")

    def from_places(self, at: TensorAt, places: Any) -> Any:
        """Make a tensor of what was located; None where that is not there any more. `places` may be a future of it."""
        kind, located = ElementType(at.span), places if isinstance(places, list) else places.result()
        array = self._view(located, at.span.offset, kind.size_bytes)
        if array is None:
            array, memory = self._framework.empty(kind.size_bytes)
            if not self._model.fill(located, at.span.offset, memory):
                return None
        return self._framework.to_device(self._framework.cast(array, kind, kind.shape), self._device)

    def into(self, at: TensorAt, located: Sequence[Located], memory: memoryview) -> bool:
        """Fill memory that is there already."""
        return self._model.fill(located, at.span.offset, memory)

    def _view(self, located: list[Located], start: int, count: int) -> Any:
        if not self._mapped or len(located) != 1 or not located[0].whole or not count:
            return None
        place = located[0]
        with self._lock:
            memory = self._maps.get((place.path, place.inode))
            if memory is None:
                memory = map_file(place)
                if memory is None:
                    return None
                self._maps[place.path, place.inode] = memory
        return self._framework.over(memory[start : start + count])

    def part(self, at: TensorAt, selection: Selection) -> Any:
        """Read what an index means of a tensor, and nothing else."""
        kind, base = ElementType(at.span), at.span.offset
        array, memory = self._framework.empty(kind.item_bytes * prod(selection.box))
        groups = list(gathered(selection.runs(kind.item_bytes), _GAP_BYTES, _GROUP_BYTES))
        for group in groups:
            self._model.want(at.path, base + group[0][0], base + group[-1][1])
        filled = 0
        for group in groups:
            first, last = group[0][0], group[-1][1]
            if len(group) == 1:
                self._model.read_into(at.path, base + first, memory[filled : filled + last - first])
                filled += last - first
                continue
            together = memoryview(bytearray(last - first))
            self._model.read_into(at.path, base + first, together)
            for start, end in group:
                memory[filled : filled + end - start] = together[start - first : end - first]
                filled += end - start
        tensor = self._framework.cast(array, kind, selection.box)
        if not selection.trivial:
            tensor = tensor[selection.after]
        return self._framework.to_device(tensor, self._device)
