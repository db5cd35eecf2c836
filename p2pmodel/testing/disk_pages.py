"""The bytes of one simulated file, twice: as every process sees them, and as they would be found after a power cut.

Contents are kept in immutable blocks that all simulated disks of this process share by content, so that fifty peers
with the same model hold it once. What differs from the disk is noted by pages of 4 KiB, with the versions that each
has had since the last sync: the kernel may have written back any of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol
from weakref import WeakValueDictionary

from blake3 import blake3

BLOCK_BYTES = 64 * 1024
PAGE_BYTES = 4096
SECTOR_BYTES = 512
_PAGES = range(BLOCK_BYTES // PAGE_BYTES)
_ALL_PAGES = (1 << len(_PAGES)) - 1
_VERSIONS_MAX = 8
"""Versions of a block that are remembered between two syncs; past it the middle ones are forgotten."""


class Choices(Protocol):
    """What becomes of everything that was not synced."""

    def version(self, count: int) -> int:
        """Which of so many versions of a page is found, the durable one first; `count` itself stands for a torn one."""

    def sectors(self) -> int:
        """Which sectors of a torn page are new, as eight bits."""

    def kept(self) -> bool:
        """Whether a change of names, of a length or of a time has reached the disk."""


class Block:
    """At most 64 KiB; what is missing at its end is zero."""

    __slots__ = ("__weakref__", "data")

    def __init__(self, data: bytes) -> None:
        self.data = data

    def page(self, number: int) -> bytes:
        return self.data[number * PAGE_BYTES : (number + 1) * PAGE_BYTES].ljust(PAGE_BYTES, b"\0")


_shared: WeakValueDictionary[bytes, Block] = WeakValueDictionary()
_NOTHING = Block(b"")


def shared_block(data: bytes) -> Block:
    """The one block with these bytes."""
    digest = blake3(data).digest()
    found = _shared.get(digest)
    if found is None:
        found = _shared[digest] = Block(data)
    return found


@dataclass(slots=True)
class _Dirty:
    pages: int
    versions: list[Block]
    """Oldest first: what is on the disk, then what was there in between. What is there now stands in the cache."""


@dataclass(slots=True)
class Contents:
    """`cache` is what is read. `dirty` blocks were written since the last sync; `lost` ones were not, and yet differ
    from the disk, because a sync failed and the kernel called their pages clean."""

    size: int = 0
    reserved: int = 0
    durable_size: int = 0
    durable_reserved: int = 0
    cache: dict[int, Block] = field(default_factory=dict)
    dirty: dict[int, _Dirty] = field(default_factory=dict)
    lost: dict[int, Block] = field(default_factory=dict)
    holes: frozenset[int] = frozenset()
    """Pages of the reserved space that were punched out since."""
    durable_holes: frozenset[int] = frozenset()

    @property
    def allocated_bytes(self) -> int:
        whole = -(-self.size // PAGE_BYTES) * PAGE_BYTES
        return max(self._kept_reserved, min(len(self.cache) * BLOCK_BYTES, whole))

    @property
    def _kept_reserved(self) -> int:
        return max(0, self.reserved - len(self.holes) * PAGE_BYTES)

    def allocated_with(self, offset: int, length: int) -> int:
        """What the file would take once so much was written there."""
        end = max(self.size, offset + length)
        blocks = range(offset // BLOCK_BYTES, -(-(offset + length) // BLOCK_BYTES))
        new = sum(number not in self.cache for number in blocks)
        whole = -(-end // PAGE_BYTES) * PAGE_BYTES
        return max(self._kept_reserved, min((len(self.cache) + new) * BLOCK_BYTES, whole))

    def rot(self, offset: int, bit: int) -> None:
        """A stored bit is another one, and nothing tells."""
        number, at = divmod(offset, BLOCK_BYTES)
        data = bytearray(self.cache.get(number, _NOTHING).data.ljust(at + 1, b"\0"))
        data[at] ^= 1 << bit
        self.cache[number] = shared_block(bytes(data))

    def read_into(self, buffer: memoryview, offset: int) -> int:
        count = max(0, min(len(buffer), self.size - offset))
        done = 0
        while done < count:
            number, start = divmod(offset + done, BLOCK_BYTES)
            length = min(BLOCK_BYTES - start, count - done)
            data = self.cache.get(number, _NOTHING).data[start : start + length]
            buffer[done : done + len(data)] = data
            if len(data) < length:
                buffer[done + len(data) : done + length] = bytes(length - len(data))
            done += length
        return count

    def write(self, data: memoryview, offset: int) -> None:
        done = 0
        while done < len(data):
            number, start = divmod(offset + done, BLOCK_BYTES)
            piece = data[done : done + BLOCK_BYTES - start]
            end = start + len(piece)
            if len(piece) == BLOCK_BYTES:
                new = bytes(piece)
            else:
                former = bytearray(self.cache.get(number, _NOTHING).data.ljust(end, b"\0"))
                former[start:end] = piece
                new = bytes(former)
            self._change(number, start // PAGE_BYTES, (end - 1) // PAGE_BYTES)
            self.cache[number] = shared_block(new)
            done += len(piece)
        self.size = max(self.size, offset + len(data))
        if self.holes and len(data):
            self.holes -= set(range(offset // PAGE_BYTES, (offset + len(data) - 1) // PAGE_BYTES + 1))

    def punch(self, offset: int, length: int) -> None:
        """Zero a range and free the pages that lie in it."""
        end = min(offset + length, self.size)
        for number in [number for number in self.cache if offset < (number + 1) * BLOCK_BYTES]:
            start = max(offset - number * BLOCK_BYTES, 0)
            stop = min(end - number * BLOCK_BYTES, BLOCK_BYTES)
            if start >= stop:
                continue
            former = self.cache[number].data
            data = (former[:start] + bytes(max(0, min(stop, len(former)) - start)) + former[stop:]).rstrip(b"\0")
            self._change(number, start // PAGE_BYTES, (stop - 1) // PAGE_BYTES)
            if data:
                self.cache[number] = shared_block(data)
            else:
                del self.cache[number]
        last = -(-self.size // PAGE_BYTES) if end == self.size else end // PAGE_BYTES
        self.holes |= set(range(-(-offset // PAGE_BYTES), min(last, self.reserved // PAGE_BYTES)))

    def allocate(self, size: int, *, reserve: bool = True) -> None:
        """Set the length, with the space for it."""
        for number in [number for number in self.cache if number * BLOCK_BYTES >= size]:
            self._change(number, 0, _PAGES[-1])
            del self.cache[number]
        last, rest = divmod(size, BLOCK_BYTES)
        if last in self.cache and len(self.cache[last].data) > rest:
            self._change(last, rest // PAGE_BYTES, _PAGES[-1])
            self.cache[last] = shared_block(self.cache[last].data[:rest])
        whole = -(-size // PAGE_BYTES) * PAGE_BYTES
        self.size, self.reserved = size, whole if reserve else min(self.reserved, whole)
        self.holes = frozenset() if reserve else frozenset(page for page in self.holes if page * PAGE_BYTES < whole)

    def data_ranges(self, size: int) -> Iterator[tuple[int, int]]:
        start = end = 0
        for number in sorted(self.cache):
            if number * BLOCK_BYTES > end:
                if end > start:
                    yield start, min(end, size)
                start = number * BLOCK_BYTES
            end = (number + 1) * BLOCK_BYTES
            if start >= size:
                return
        if end > start:
            yield start, min(end, size)

    def _change(self, number: int, first_page: int, last_page: int) -> None:
        former = self.cache.get(number, _NOTHING)
        dirty = self.dirty.get(number)
        if dirty is None:
            dirty = self.dirty[number] = _Dirty(0, [self.lost.get(number, former)])
        elif len(dirty.versions) < _VERSIONS_MAX:
            dirty.versions.append(former)
        dirty.pages |= (1 << last_page + 1) - (1 << first_page)

    # --- the disk below

    def sync(self) -> None:
        """All that was written is durable. Pages that an earlier failed sync lost stay lost, unless written again."""
        for number in [number for number in self.dirty if number in self.lost]:
            pages, found = self.dirty[number].pages, self.cache.get(number, _NOTHING)
            old = self.lost.pop(number)
            if pages != _ALL_PAGES:
                merged = shared_block(b"".join((found if pages >> page & 1 else old).page(page) for page in _PAGES))
                if any(merged.page(page) != found.page(page) for page in _PAGES):
                    self.lost[number] = merged
        self.dirty.clear()
        self._space_is_durable()

    def _space_is_durable(self) -> None:
        self.durable_size, self.durable_reserved, self.durable_holes = self.size, self.reserved, self.holes

    def lose_sync(self, choices: Choices) -> None:
        """A sync that failed: whatever did not get through counts as clean from now on."""
        for number, dirty in self.dirty.items():
            self.lost[number] = self._survivor(number, dirty, choices)
        self.dirty.clear()

    def forget_cache(self) -> None:
        """Clean pages leave the memory: what a failed sync lost is seen as it is on the disk."""
        for number in [number for number in self.lost if number not in self.dirty]:
            self.cache[number] = self.lost.pop(number)

    def cut(self, choices: Choices) -> None:
        """Only what is on the disk is left."""
        for number, dirty in self.dirty.items():
            self.lost[number] = self._survivor(number, dirty, choices)
        for number, found in self.lost.items():
            if found.data:
                self.cache[number] = found
            else:
                self.cache.pop(number, None)
        now = (self.size, self.reserved, self.holes)
        if now != (self.durable_size, self.durable_reserved, self.durable_holes) and not choices.kept():
            self.size, self.reserved, self.holes = self.durable_size, self.durable_reserved, self.durable_holes
        self.allocate(self.size, reserve=False)  # forget what lies past the end
        self.dirty.clear()
        self.lost.clear()
        self._space_is_durable()

    def _survivor(self, number: int, dirty: _Dirty, choices: Choices) -> Block:
        versions = [*dirty.versions, self.cache.get(number, _NOTHING)]
        pages = []
        for page in _PAGES:
            if not dirty.pages >> page & 1:
                pages.append(versions[0].page(page))
                continue
            different = list(dict.fromkeys(version.page(page) for version in versions))
            pages.append(_one_of(different, choices))
        data = b"".join(pages).rstrip(b"\0")
        return shared_block(data) if data else _NOTHING

    def settled(self) -> Contents:
        """A copy whose disk has all that is seen."""
        return Contents(self.size, self.reserved, self.size, self.reserved, dict(self.cache))

    def copy(self) -> Contents:
        dirty = {number: _Dirty(entry.pages, list(entry.versions)) for number, entry in self.dirty.items()}
        return Contents(
            self.size,
            self.reserved,
            self.durable_size,
            self.durable_reserved,
            dict(self.cache),
            dirty,
            dict(self.lost),
            self.holes,
            self.durable_holes,
        )


def _one_of(versions: list[bytes], choices: Choices) -> bytes:
    if len(versions) == 1:
        return versions[0]
    chosen = choices.version(len(versions))
    if chosen < len(versions):
        return versions[chosen]
    new, old, sectors = versions[-1], versions[0], choices.sectors()
    return b"".join(
        (new if sectors >> at & 1 else old)[at * SECTOR_BYTES : (at + 1) * SECTOR_BYTES]
        for at in range(PAGE_BYTES // SECTOR_BYTES)
    )
