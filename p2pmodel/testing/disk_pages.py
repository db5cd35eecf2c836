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

    @property
    def allocated_bytes(self) -> int:
        whole = -(-self.size // PAGE_BYTES) * PAGE_BYTES
        return max(self.reserved, min(len(self.cache) * BLOCK_BYTES, whole))

    def allocated_with(self, offset: int, length: int) -> int:
        """What the file would take once so much was written there."""
        end = max(self.size, offset + length)
        blocks = range(offset // BLOCK_BYTES, -(-(offset + length) // BLOCK_BYTES))
        new = sum(number not in self.cache for number in blocks)
        whole = -(-end // PAGE_BYTES) * PAGE_BYTES
        return max(self.reserved, min((len(self.cache) + new) * BLOCK_BYTES, whole))

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

    def allocate(self, size: int) -> None:
        """Set the length, with the space for it."""
        for number in [number for number in self.cache if number * BLOCK_BYTES >= size]:
            self._change(number, 0, _PAGES[-1])
            del self.cache[number]
        last, rest = divmod(size, BLOCK_BYTES)
        if last in self.cache and len(self.cache[last].data) > rest:
            self._change(last, rest // PAGE_BYTES, _PAGES[-1])
            self.cache[last] = shared_block(self.cache[last].data[:rest])
        self.size, self.reserved = size, -(-size // PAGE_BYTES) * PAGE_BYTES

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
        self.durable_size, self.durable_reserved = self.size, self.reserved

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
        if (self.size, self.reserved) != (self.durable_size, self.durable_reserved) and not choices.kept():
            self.size, self.reserved = self.durable_size, self.durable_reserved
        reserved = self.reserved
        self.allocate(self.size)  # forget what lies past the end
        self.dirty.clear()
        self.lost.clear()
        self.reserved = reserved
        self.durable_size, self.durable_reserved = self.size, self.reserved

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

    def copy(self) -> Contents:
        dirty = {number: _Dirty(entry.pages, list(entry.versions)) for number, entry in self.dirty.items()}
        return Contents(
            self.size, self.reserved, self.durable_size, self.durable_reserved, dict(self.cache), dirty, dict(self.lost)
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
