"""A model open for reading, by path and range of bytes, whether it is here, comes, or is only known of."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from p2pmodel.errors import UsageError, VerificationError
from p2pmodel.limits import CHUNK_BYTES
from p2pmodel.model import FileEntry, Layout, Manifest, ModelId, PublicKey
from p2pmodel.model.have_map import bits_of_range, iter_bits
from p2pmodel.net import Address
from p2pmodel.peer.open_model import READ_TRIES, Located, ReadFile
from p2pmodel.peer.reading import Reading
from p2pmodel.peer.selection import select_files
from p2pmodel.store import FilePlace

if TYPE_CHECKING:
    from p2pmodel.peer.peer import Peer

_STREAM_BYTES = 4 * CHUNK_BYTES
"""At most so much of a stream is in memory, and goes out, at once."""


class Reader:
    """Made by `Peer.open_reader`. Everything that it gives has been verified; `close` it, or use `async with`.

    Paths are those of the manifest; `start` and `end` are bytes of the file, `end` None for its last. Nothing of the
    model is let go of to make room while a reader is open.
    """

    def __init__(self, peer: Peer, reading: Reading, files: Sequence[int]) -> None:
        self._peer, self._reading, self._files = peer, reading, dict.fromkeys(files)
        self._spans: deque[range] = deque()
        self.wanted = 0
        """What was wanted so far, as bits."""
        self.touched: dict[int, None] = {}
        """The files that this is in, by number."""
        reading.join(self)

    # --- what it is ----------------------------------------------------------------------------------------------

    @property
    def layout(self) -> Layout:
        """Files and chunks."""
        return self._reading.layout

    @property
    def manifest(self) -> Manifest:
        return self.layout.manifest

    @property
    def model_id(self) -> ModelId:
        return self._reading.model_id

    @property
    def model_hex(self) -> str:
        return self.model_id.hex

    @property
    def entries(self) -> Mapping[str, ReadFile]:
        """The files that it was opened for, by path."""
        files = (self.layout.files[index] for index in self._files)
        return {file.path.text: ReadFile(file.path.text, file.size, file.blake3.hex, file.sha256.hex) for file in files}

    @property
    def bytes_fetched(self) -> int:
        """What came over the network for the readers of this model that are open, this one among them."""
        return self._reading.bytes_fetched

    def file(self, path: str) -> FileEntry:
        """Raises `NotFoundError` for a path that is no file of the model, or none that this reader was opened for."""
        return self.layout.files[self._index(path)]

    def _index(self, path: str) -> int:
        found = select_files(self.manifest, files=[path])
        if len(found) != 1 or self.layout.files[found[0]].path.text != path:
            raise UsageError(f"{path!r} is a directory of the model, not a file")
        if found[0] not in self._files:
            raise UsageError(f"{path!r} is not among the files that this reader was opened for")
        return found[0]

    def _chunks(self, path: str, start: int, end: int | None) -> tuple[int, range, int]:
        index = self._index(path)
        size = self.layout.files[index].size
        end = size if end is None else end
        if not 0 <= start <= end <= size:
            raise UsageError(f"{path!r} has {size} bytes; {start} to {end} is no range of it")
        return index, self.layout.chunks_holding(index, start, end), end

    # --- what is wanted ------------------------------------------------------------------------------------------

    def want(self, path: str, start: int = 0, end: int | None = None) -> None:
        """Bring these bytes, after what was wanted before and ahead of what nobody has asked for. Returns at once."""
        index, chunks, _ = self._chunks(path, start, end)
        self._want(index, chunks)
        self._reading.go_on()

    def want_all(self) -> None:
        """Bring all files that the reader was opened for, after what was wanted before."""
        for index in self._files:
            self._want(index, self.layout.chunks_of(index))
        self._reading.go_on()

    def _want(self, index: int, chunks: range) -> None:
        self.touched[index] = None
        if chunks:
            self.wanted |= bits_of_range(chunks)
            self._spans.append(chunks)

    def next_chunks(self, have: int, count: int) -> list[int]:
        """So many of the chunks that it wants next and that are not in `have`, in its order."""
        while self._spans and not lacking_of(self._spans[0], have):
            self._spans.popleft()
        found: dict[int, None] = {}
        for span in self._spans:
            lacking = islice(iter_bits(lacking_of(span, have)), count)
            found.update((span.start + number, None) for number in lacking)
            if len(found) >= count:
                break
        return list(found)[:count]

    async def ready(self, path: str, start: int = 0, end: int | None = None) -> None:
        """Return when every chunk under these bytes is verified and on this disk; they come before all else.

        Raises what ends the search for them: `NoPeersError` after a long stall, `NoSpaceError` and others of the disk.
        A later call tries again.
        """
        index, chunks, _ = self._chunks(path, start, end)
        self.touched[index] = None
        await self._reading.ready(chunks)

    # --- reading -------------------------------------------------------------------------------------------------

    async def read_into(self, path: str, start: int, buffer: memoryview) -> None:
        """Fill `buffer` from byte `start`. Raises as `ready`, and `VerificationError` where this disk is at fault."""
        index, chunks, _ = self._chunks(path, start, start + len(buffer))
        self.touched[index] = None
        for _ in range(READ_TRIES):  # what is found to be bad meanwhile is fetched again
            await self._reading.ready(chunks)
            if await self._peer.network.offload(self._read, chunks, start, buffer):
                return
        raise _unreadable(path)

    def _read(self, chunks: range, start: int, buffer: memoryview) -> bool:
        end = start + len(buffer)
        for index in chunks:
            place = self.layout[index]
            source = self._peer.store.chunk(place.digest, (self.model_id, index))
            if source is None:
                return False
            try:
                if not source.open(afresh=True):
                    return False
                first, last = max(start, place.offset), min(end, place.offset + place.length)
                source.read_into(buffer[first - start : last - start], first - place.offset)
            except VerificationError:
                return False
            finally:
                source.release()
        return True

    async def read(self, path: str, start: int = 0, end: int | None = None) -> bytes:
        """Raises as `read_into` does."""
        _, _, end = self._chunks(path, start, end)
        data = bytearray(end - start)
        await self.read_into(path, start, memoryview(data))
        return bytes(data)

    async def stream(self, path: str, start: int = 0, end: int | None = None) -> AsyncGenerator[memoryview, None]:
        """The bytes in order, each part as soon as it is verified; all of them are wanted from the beginning.

        What has come is on the disk, so that whoever takes the parts slowly holds nothing up. Raises as `read_into`.
        """
        index, chunks, end = self._chunks(path, start, end)
        self._want(index, chunks)
        self._reading.go_on()
        while start < end:
            stop = min(self._here_until(index, start, end), end)
            part = memoryview(bytearray(stop - start))
            await self.read_into(path, start, part)
            yield part
            start = stop

    def _here_until(self, index: int, start: int, end: int) -> int:
        """The end of the chunk at `start`, or of the last of those after it that are here, but for the limit."""
        stop = start
        for chunk in self.layout.chunks_holding(index, start, min(end, start + _STREAM_BYTES)):
            if stop > start and self._reading.missing(range(chunk, chunk + 1)):
                break
            place = self.layout[chunk]
            stop = place.offset + place.length
        return min(stop, start + _STREAM_BYTES)

    async def place(self, path: str, start: int = 0, end: int | None = None) -> FilePlace | None:
        """Where these bytes lie on this disk at the same offsets, if all of them do; None where they do not.

        The place of a file that is not whole may be moved at any time, by the end of a fetch for one; opened, it stays.
        """
        index, chunks, _ = self._chunks(path, start, end)
        return await self._reading.place(index, chunks)

    async def located(self, path: str, start: int = 0, end: int | None = None) -> list[Located]:
        """Wait as `ready` does; then where the bytes are, in order. Raises as `read_into` does."""
        index, chunks, end = self._chunks(path, start, end)
        self.touched[index] = None
        for _ in range(READ_TRIES):
            await self._reading.ready(chunks)
            if (place := await self._reading.place(index, chunks)) is not None:
                return [_located(place, start, end)]
            parts = [(chunk, await self._reading.place(index, range(chunk, chunk + 1))) for chunk in chunks]
            if all(part is not None for _, part in parts):
                return [self._part(chunk, part, start, end) for chunk, part in parts if part is not None]
        raise _unreadable(path)

    def _part(self, chunk: int, part: FilePlace, start: int, end: int) -> Located:
        place = self.layout[chunk]
        return _located(part, max(start, place.offset), min(end, place.offset + place.length))

    async def whole_file(self, path: str) -> Located:
        """Wait until the file is whole and has its final name; then where that is. Raises as `read_into` does."""
        index, _, end = self._chunks(path, 0, None)
        self.touched[index] = None
        return _located(await self._reading.named(index), 0, end)

    async def local_path(self, path: str) -> Path | None:
        """The file on this disk, where it is whole and unchanged: to be sent by the kernel, or mapped; else None."""
        place = await self.place(path)
        return place.path if place is not None and place.whole else None

    # --- the end -------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """What this reader alone wanted is asked for no more; what has come stays. A second call does nothing."""
        self._reading.leave(self)

    async def __aenter__(self) -> Reader:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def lacking_of(chunks: range, have: int) -> int:
    """Those of a run of chunks that are not held, as bits counted from its start."""
    return ~(have >> chunks.start) & ((1 << len(chunks)) - 1)


def _unreadable(path: str) -> VerificationError:
    return VerificationError(f"{path!r} cannot be read: it changes, or the disk fails")


def _located(place: FilePlace, start: int, end: int) -> Located:
    mark = place.identity
    return Located(start, end, str(place.path), place.whole, mark.device, mark.inode, mark.size, mark.mtime_ns)


class Readings:
    """The models of a peer that are open for reading."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._of: dict[ModelId, Reading] = {}
        self._leaving: dict[Reading, None] = {}
        """Without readers, and not at their end yet."""

    async def open(
        self,
        model_id: ModelId,
        *,
        files: Sequence[str] = (),
        whole: bool = False,
        direct: Sequence[Address] = (),
        entry_peers: Sequence[str] = (),
        signers: Sequence[PublicKey] = (),
    ) -> Reader:
        """Raises as `Peer.open_reader` does."""
        reading = self._of.get(model_id)
        if reading is None:
            reading = self._of[model_id] = Reading(self._peer, model_id, partial(self._forget, model_id))
        await reading.open(direct, entry_peers, signers)
        try:
            chosen = select_files(reading.layout.manifest, files=files)
        except BaseException:
            reading.leave(None)
            raise
        reader = Reader(self._peer, reading, chosen)
        if whole:
            reader.want_all()
        return reader

    def _forget(self, model_id: ModelId) -> None:
        reading = self._of.pop(model_id)
        if (work := reading.work) is not None:
            self._leaving[reading] = None
            work.add_done_callback(lambda _: self._leaving.pop(reading))

    def arrived(self, model_id: ModelId, bits: int) -> None:
        """These chunks have just been written, whoever fetched them."""
        if reading := self._of.get(model_id):
            reading.arrived(bits)

    async def give_way(self, model_id: ModelId) -> None:
        """A fetch or a check of the model wants its place for itself."""
        if reading := self._of.get(model_id):
            await reading.give_way()

    def worker(self, model_id: ModelId) -> asyncio.Task[None] | None:
        """The task in which a reading brings chunks of the model at present."""
        reading = self._of.get(model_id)
        return None if reading is None else reading.session

    async def stop(self) -> None:
        await asyncio.gather(*(reading.stop() for reading in [*self._of.values(), *self._leaving]))
