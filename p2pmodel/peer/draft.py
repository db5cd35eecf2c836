"""A file on its way into this peer of which nobody knows the chunks yet: parts on disk, proven by the SHA-256 of all.

Each part is hashed as it comes and again whenever it is read, so that what leaves here is what came. Whether it is
right, only the hash of the whole says, which is computed along while the file arrives. Parts that were read from the
origin are believed; where the whole turns out wrong, all others are read from there again, and so it shows who lied.
Whoever reads along from the start is never given the last part before the whole has been proven.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from p2pmodel.errors import P2PModelError, VerificationError
from p2pmodel.limits import DRAFT_CLAIM_BYTES, DRAFT_CLAIM_S, DRAFT_HASH_BYTES, FILE_BYTES_MAX
from p2pmodel.model import Digest, HaveMap, PublicKey
from p2pmodel.model.have_map import iter_bits
from p2pmodel.model.parts import Parts
from p2pmodel.net import Network, cancelled
from p2pmodel.store import Files
from p2pmodel.store.files import Directory, OpenFile

log = logging.getLogger(__name__)

_STATE_BYTES_MAX = 256 * 1024 * 1024
Room = Callable[[Path, int, Callable[[], int]], AbstractContextManager[None]]


class _State(msgspec.Struct):
    """What was durable when it was written: the hash of each part, empty where it was not here."""

    size: Annotated[int, Meta(gt=0, le=FILE_BYTES_MAX)]
    digests: list[bytes]
    believed: bytes
    proven: bool = False


class Draft:
    """Made by `open`; `close` follows. `have` are the parts that are here, `believed` those that the origin gave."""

    def __init__(self, parts: Parts, directory: Path, files: Files, network: Network, room: Room) -> None:
        """`room` makes room in the directory for so many bytes, with so many free; raises `NoSpaceError`."""
        self.parts, self._room = parts, room
        self.have = 0
        self.believed = 0
        self.proven = False
        """The whole is here, and is what it should be."""
        self.distrusted = False
        """The whole was wrong once: nothing more is taken from peers."""
        self.path = directory / f"{parts.sha256.hex}.part"
        self.on_liar: Callable[[PublicKey], None] = lambda peer: None
        """Told of a peer that gave a wrong part."""
        self.on_part: Callable[[int], None] = lambda index: None
        self.failed: P2PModelError | None = None
        self._given_by: dict[int, PublicKey] = {}
        self._digests: dict[int, Digest] = {}
        self._suspected: dict[int, tuple[Digest, PublicKey | None]] = {}
        """Parts that peers gave of a whole that was wrong."""
        self.given_out = False
        """Somebody has been given bytes that are not proven, and that not the origin gave."""
        self._directory_path, self._files, self._network = directory, files, network
        self._directory: Directory | None = None
        self._file: OpenFile | None = None
        self._news = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._dirty_bytes = 0
        self._state_lock, self._bytes_lock = threading.Lock(), threading.Lock()

    # --- life

    async def open(self) -> None:
        """Go on from what an earlier run left. Raises `P2PModelError` where the disk cannot."""
        await self._network.offload(self._open)
        loop = asyncio.get_running_loop()
        if not self.proven:
            self._tasks = [loop.create_task(self._prove()), loop.create_task(self._claim_now_and_then())]

    def _open(self) -> None:
        directory = self._files.open_directory(self._directory_path, create=True, private=True)
        assert directory is not None
        self._directory = directory
        self._file = directory.open(self.path.name, write=True, create=True)
        assert self._file is not None
        state = self._read_state()
        if state is None or self._file.status().identity.size != self.parts.size:
            self._make_room(directory, self._file)
            return
        self._digests = {i: Digest(raw) for i, raw in enumerate(state.digests) if raw}
        self.have = HaveMap.of(self.parts.count, self._digests).bits
        self.believed = self.have & int.from_bytes(state.believed, "little")
        self.proven = state.proven

    def _make_room(self, directory: Directory, file: OpenFile) -> None:
        needed_bytes = max(0, self.parts.size - file.status().allocated_bytes)
        try:
            with self._room(self._directory_path, needed_bytes, directory.free_bytes):
                file.allocate(self.parts.size)
        except P2PModelError:
            self._close(True)
            raise

    def _read_state(self) -> _State | None:
        content = self._files.read_small(self._state_path, _STATE_BYTES_MAX)
        try:
            state = msgspec.msgpack.decode(content, type=_State) if content else None
        except (msgspec.MsgspecError, RecursionError):
            return None
        if state is None or state.size != self.parts.size or len(state.digests) != self.parts.count:
            return None
        return state if all(len(raw) in (0, 32) for raw in state.digests) else None

    @property
    def _state_path(self) -> Path:
        return self.path.with_suffix(".state")

    async def close(self, *, remove: bool = False) -> None:
        """What has arrived stays for the next time, unless it is to be removed, or has become a file elsewhere."""
        await cancelled(self._tasks)
        if self._file is None:
            return
        if not remove:
            try:
                await self._network.offload(self._claim)
            except P2PModelError as error:
                log.warning("%s", error)
        await self._network.offload(self._close, remove)

    def _close(self, remove: bool) -> None:
        file, directory, self._file, self._directory = self._file, self._directory, None, None
        if file is not None and directory is not None and remove:
            there = directory.status(self.path.name)
            # Where it has become a file elsewhere, somebody may have begun it anew here.
            if there is None or there.identity.inode == file.status().identity.inode:
                directory.remove(self.path.name)
                directory.remove(self._state_path.name)
        if file is not None:
            file.close()
        if directory is not None:
            directory.close()

    # --- what comes in

    @property
    def missing(self) -> int:
        """As bits."""
        return HaveMap.full(self.parts.count).bits & ~self.have

    @property
    def whole(self) -> bool:
        return not self.missing

    def is_missing(self, index: int) -> bool:
        return not self.have >> index & 1

    def write(self, index: int, data: memoryview, *, believed: bool = False) -> Digest:
        """Put the bytes of a part in their place, from any thread; `arrived` follows, on the loop.

        What the origin gives is `believed`, and replaces what a peer gave; otherwise the first bytes stay.
        """
        start, end = self.parts.span(index)
        if len(data) != end - start:
            raise P2PModelError(f"part {index} has {len(data)} bytes instead of {end - start}")
        digest = Digest.of(data)
        with self._bytes_lock:
            if self._file is None:
                raise P2PModelError("the file has been closed")
            known = self._digests.get(index)
            if known is not None and (not believed or known == digest or self.believed >> index & 1):
                return known
            self._file.write(data, start)
            self._digests[index] = digest
        return digest

    def arrived(self, index: int, digest: Digest, peer: PublicKey | None) -> None:
        """A part that was written is here; of no `peer`, it is the origin's."""
        if not self.is_missing(index) and peer is not None:
            return
        start, end = self.parts.span(index)
        if peer is None:
            self.believed |= 1 << index
            was, giver = self._suspected.pop(index, (digest, None))
            if was != digest and giver is not None:
                self.on_liar(giver)
            self._given_by.pop(index, None)
        else:
            self._given_by[index] = peer
        self.have |= 1 << index
        self._dirty_bytes += end - start
        self._tell()
        self.on_part(index)

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    def fail(self, error: P2PModelError) -> None:
        """Whoever waits for more is told this."""
        self.failed = error
        self._tell()

    async def changed(self) -> None:
        """Until something has happened."""
        await self._news.wait()

    # --- what goes out

    def read_part(self, index: int) -> bytes:
        """Blocks. Raises `VerificationError` where the disk has other bytes than came."""
        start, end = self.parts.span(index)
        data = bytearray(end - start)
        with self._bytes_lock:
            digest = self._digests.get(index)
            if self._file is None or digest is None:
                raise P2PModelError(f"part {index} is not here")
            count = self._file.read_into(memoryview(data), start)
        if count != len(data) or not digest.is_of(data):
            raise VerificationError(f"part {index} of {str(self.path)!r} is not what was written there")
        return bytes(data)

    async def stream(self, start: int, end: int, *, believed: bool = False) -> AsyncGenerator[memoryview, None]:
        """The bytes from `start` to `end` as they arrive; the last part of the file only when the whole is proven.

        `believed`: only what the origin gave, or a whole that is proven. Raises `VerificationError` where what was
        given out turns out to be wrong, and what `fail` was told.
        """
        at, distrusted = start, self.distrusted
        while at < end:
            index = self.parts.at(at)
            await self._available(index, believed)
            if self.distrusted and not (distrusted or believed):
                raise VerificationError("what peers gave of this file was wrong; it comes from the origin now")
            given = self.proven or self.believed >> index & 1
            part_start, part_end = self.parts.span(index)
            data = await self._network.offload(self.read_part, index)
            self.given_out |= not given
            until = min(end, part_end)
            yield memoryview(data)[at - part_start : until - part_start]
            at = until

    async def _available(self, index: int, believed: bool) -> None:
        held_back = index == self.parts.count - 1
        while True:
            if self.failed is not None:
                raise self.failed
            if self.proven or (not held_back and (self.believed if believed else self.have) >> index & 1):
                return
            await self.changed()

    # --- whether it is right

    @property
    def tainted(self) -> bool:
        """Somebody was given bytes of this file that may have been wrong."""
        return self.given_out and self.distrusted

    async def _prove(self) -> None:
        """Hash the parts in order as they come. Ends when the whole is proven, or has failed."""
        try:
            while not self.proven:
                if await self._hash_through():
                    self.proven = True
                    await self._network.offload(self._claim)
                elif not self._suspect():
                    self.fail(
                        VerificationError(
                            f"the origin's bytes do not have the SHA-256 that it names: {self.parts.sha256}"
                        )
                    )
                    return
                self._tell()
        except P2PModelError as error:
            self.fail(error)

    async def _hash_through(self) -> bool:
        hashed, done = hashlib.sha256(), 0
        at_once = max(1, DRAFT_HASH_BYTES // self.parts.part_bytes)
        while done < self.parts.count:
            ready = done
            while ready < min(done + at_once, self.parts.count) and not self.is_missing(ready):
                ready += 1
            if ready == done:
                await self.changed()
                continue
            await self._network.offload(self._hash, hashed, range(done, ready))
            done = ready
        return hashed.digest() == self.parts.sha256.raw

    def _hash(self, hashed: hashlib._Hash, indices: range) -> None:
        for index in indices:
            hashed.update(self.read_part(index))

    def _suspect(self) -> bool:
        """The whole is wrong: what the origin did not give has to come from there. False where it gave all."""
        suspects = self.have & ~self.believed
        if not suspects:
            return False
        for index in iter_bits(suspects):
            self._suspected[index] = self._digests.pop(index), self._given_by.pop(index, None)
        self.have &= self.believed
        self.distrusted = True
        log.warning("what peers gave of the file %s was wrong", self.parts.sha256)
        return True

    # --- bytes, barrier, claim

    async def _claim_now_and_then(self) -> None:
        while not self.proven:
            for _ in range(10):
                await asyncio.sleep(DRAFT_CLAIM_S / 10)
                if self._dirty_bytes >= DRAFT_CLAIM_BYTES:
                    break
            if self._dirty_bytes:
                try:
                    await self._network.offload(self._claim)
                except P2PModelError as error:
                    log.warning("%s", error)

    def _claim(self) -> None:
        with self._state_lock:
            if self._file is None:
                return
            have, believed, digests, proven = self.have, self.believed, dict(self._digests), self.proven
            self._dirty_bytes = 0
            self._file.sync()
            told = [digests[i].raw if have >> i & 1 else b"" for i in range(self.parts.count)]
            known = believed.to_bytes(-(-self.parts.count // 8), "little")
            state = _State(self.parts.size, told, known, proven)
            self._files.write_small(self._state_path, msgspec.msgpack.encode(state))
