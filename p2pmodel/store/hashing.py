"""One pass over the bytes of a file: BLAKE3 of every chunk, BLAKE3 and SHA-256 of the whole, while they are hot.

SHA-256 is sequential and the slowest, so it sets the pace: a file has one thread, and as many files are hashed at once
as there are cores. A core without a file of its own takes the BLAKE3 half, and the reading ahead, off another's
hands. Both hashes release the interpreter lock; buffers are reused; nothing is mapped, because a mapped file that
shrinks kills the process.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from blake3 import blake3

from p2pmodel.errors import DecodeError, InterruptedFetchError, VerificationError
from p2pmodel.limits import HASH_BUFFER_BYTES, HASH_THREADS_MAX
from p2pmodel.model import ChunkList, Digest, FileEntry, PortablePath, Sha256
from p2pmodel.model.chunking import chunk_lengths, header_parser
from p2pmodel.model.tensors import NeedBytes, TensorHeader
from p2pmodel.store.files import OpenFile
from p2pmodel.store.values import FileIdentity

OnBytes = Callable[[int, str], None]
"""Told how many more bytes were hashed, and of which file."""
_BLOCK_BYTES = 2 * 1024 * 1024
"""Chunks are handed over in blocks of about this: long enough to pay for waking a thread, short enough for a cache."""


@dataclass(frozen=True, slots=True)
class HashedFile:
    entry: FileEntry
    chunks: ChunkList


class HashPool:
    """The cores of this machine, shared by the files that are hashed at once.

    With one thread all is done in the caller's, in the order in which it was given.
    """

    def __init__(self, threads: int | None = None) -> None:
        self.threads = threads or min(os.cpu_count() or 1, HASH_THREADS_MAX)
        self._executor = ThreadPoolExecutor(self.threads, "p2pmodel-hash")
        self._idle = threading.Semaphore(self.threads - 1)

    def both(self, here: Callable[[], None], there: Callable[[], None]) -> None:
        """Run the two at the same time where a core is free, else one after the other."""
        if self.threads == 1 or not self._idle.acquire(blocking=False):
            here()
            there()
            return
        try:
            other = self._executor.submit(there)
            try:
                here()
            finally:
                other.result()
        finally:
            self._idle.release()

    def each(self, tasks: Sequence[Callable[[], None]]) -> None:
        """Run every task, on as many cores as are free; the first error ends the rest and is raised."""
        if self.threads == 1:
            for task in tasks:
                task()
            return
        waiting = list(reversed(tasks))
        lock = threading.Lock()
        errors: list[BaseException] = []

        def work() -> None:
            while True:
                with lock:
                    if errors or not waiting:
                        return
                    task = waiting.pop()
                try:
                    task()
                except BaseException as error:  # noqa: BLE001  (handed to the caller's thread below)
                    with lock:
                        errors.append(error)
                    return

        def help_out() -> None:
            try:
                work()
            finally:
                self._idle.release()

        helpers: list[threading.Thread] = []
        while len(helpers) < len(tasks) - 1 and self._idle.acquire(blocking=False):
            thread = threading.Thread(target=help_out, name="p2pmodel-hash-file")
            thread.start()
            helpers.append(thread)
        work()
        self._idle.release()  # this thread waits from here on: its core is free for the others' second halves
        for thread in helpers:
            thread.join()
        self._idle.acquire()
        if errors:
            raise errors[0]

    def close(self) -> None:
        self._executor.shutdown()


def read_tensor_header(file: OpenFile, path: PortablePath, size: int) -> TensorHeader | None:
    """The tensor header of a file; None where it has none, or is not what its name says."""
    parse = header_parser(path)
    if parse is None:
        return None
    prefix = bytearray()
    try:
        while isinstance(answer := parse(bytes(prefix), size), NeedBytes):
            more = bytearray(answer.prefix_bytes - len(prefix))
            if file.read_into(memoryview(more), len(prefix)) != len(more):
                return None
            prefix += more
    except DecodeError:
        return None
    return answer


def hash_file(
    file: OpenFile, before: FileIdentity, path: PortablePath, pool: HashPool, on_bytes: OnBytes, stop: threading.Event
) -> HashedFile:
    """Hash a whole file, whose marks are those of `before`.

    Raises `VerificationError` where they are other ones in the end, `InterruptedFetchError` on `stop`.
    """
    lengths = chunk_lengths(before.size, read_tensor_header(file, path, before.size))
    whole_sha256, whole_blake3 = hashlib.sha256(), blake3()
    chunks: list[tuple[Digest, int]] = []
    buffers = [memoryview(bytearray(min(HASH_BUFFER_BYTES, before.size))) for _ in range(2)]
    blocks = _blocks(lengths)
    offset, block = 0, next(blocks, ())
    _fill(file, buffers[0][: sum(block)], 0)
    while block:
        size, following = sum(block), next(blocks, ())
        data, ahead = buffers[0][:size], buffers[1][: sum(following)]

        def rest(data: memoryview = data, block: Sequence[int] = block, ahead: memoryview = ahead) -> None:
            _hash_chunks(data, block, chunks, whole_blake3 if len(lengths) > 1 else None)
            _fill(file, ahead, offset + len(data))  # noqa: B023  (called before `offset` moves on)

        pool.both(partial(whole_sha256.update, data), rest)
        on_bytes(size, path.text)
        if stop.is_set():
            raise InterruptedFetchError("stopped")
        buffers.reverse()
        offset, block = offset + size, following
    if not file.status().identity.untouched(before):
        raise VerificationError(f"{str(file.path)!r} changed while it was being read")
    chunk_list = ChunkList.of(chunks)
    # The hash of a file of one chunk is that chunk's.
    blake3_digest = chunks[0][0] if len(chunks) == 1 else Digest(whole_blake3.digest())
    entry = FileEntry(
        path=path,
        size=before.size,
        blake3=blake3_digest,
        sha256=Sha256(whole_sha256.digest()),
        chunk_count=len(chunk_list),
        chunk_list=chunk_list.digest,
    )
    return HashedFile(entry, chunk_list)


def _blocks(lengths: Sequence[int]) -> Iterator[Sequence[int]]:
    """Runs of consecutive chunks of about `_BLOCK_BYTES` that fit a buffer."""
    start = size = 0
    for index, length in enumerate(lengths):
        if size and size + length > _BLOCK_BYTES:
            yield lengths[start:index]
            start, size = index, 0
        size += length
    if size:
        yield lengths[start:]


def _fill(file: OpenFile, buffer: memoryview, offset: int) -> None:
    if file.read_into(buffer, offset) != len(buffer):
        raise VerificationError(f"{str(file.path)!r} changed while it was being read: it became shorter")


def _hash_chunks(
    data: memoryview, block: Sequence[int], chunks: list[tuple[Digest, int]], whole: blake3 | None
) -> None:
    at = 0
    for length in block:
        piece = data[at : at + length]
        chunks.append((Digest.of(piece), length))
        if whole is not None:
            whole.update(piece)
        at += length
