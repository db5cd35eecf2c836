"""What files of a simulated disk can have in common: the seam `store.files.Sharing` as one process sees it.

A copy, by reflink or not, is a write to the target of what the source has: durable, torn or lost as any other write. A
reflink takes the space of a copy here, so a disk that is full is full a little sooner than a real one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from p2pmodel.store.files import Directory, OpenFile, Sharing
from p2pmodel.store.values import Extent
from p2pmodel.testing.disk_pages import PAGE_BYTES

if TYPE_CHECKING:
    from p2pmodel.testing.disk_files import SimDirectory, SimFile

LinkHere = Callable[["SimFile", "SimDirectory", str], bool]


class SimSharing(Sharing):
    """`link_here` gives a file one more name on the disk; `can_reflink` says whether this disk can share blocks."""

    def __init__(self, link_here: LinkHere, can_reflink: Callable[[], bool]) -> None:
        self._link_here, self._can_reflink = link_here, can_reflink

    def copy(
        self, source: OpenFile, source_offset: int, target: OpenFile, offset: int, length: int
    ) -> Literal["reflinked", "copied"]:
        data = memoryview(bytearray(length))
        count = source.read_into(data, source_offset)
        target.write(data[:count], offset)
        aligned = (source_offset - offset) % PAGE_BYTES == 0 and length - -offset % PAGE_BYTES >= PAGE_BYTES
        return "reflinked" if aligned and self._can_reflink() else "copied"

    def link(self, source: OpenFile, directory: Directory, name: str) -> bool:
        return self._link_here(source, directory, name)  # type: ignore[arg-type]  # both are of this disk

    def extents(self, file: OpenFile) -> list[Extent] | None:
        return None
