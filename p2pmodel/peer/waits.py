"""Who waits for what of a model that is being read: for chunks, or for a file under its final name.

A plain object on the event loop; times are seconds, and sets of chunks are bits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice

from p2pmodel.errors import P2PModelError
from p2pmodel.model.have_map import iter_bits


class Wait:
    """Somebody waits for `missing`, from `began` on: to be here, or for the file that they are to have its name."""

    def __init__(self, missing: int, began: float) -> None:
        self.missing, self.began = missing, began
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def settle(self, error: P2PModelError | None = None) -> None:
        """Whoever waits goes on, or is told why not."""
        if self.done.done():
            return
        if error is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(error)


class Waits:
    """All of one model."""

    def __init__(self) -> None:
        self._chunks: dict[Wait, None] = {}
        self.names: dict[int, Wait] = {}
        """By the number of the file; those who wait for the same one share it."""

    @property
    def missing(self) -> int:
        """The chunks that somebody waits for."""
        bits = 0
        for wait in self._chunks:
            bits |= wait.missing
        return bits

    def next_chunks(self, count: int) -> list[int]:
        """Of each who waits so many of them, who came first first."""
        return [index for wait in self._chunks for index in islice(iter_bits(wait.missing), count)]

    @contextmanager
    def for_chunks(self, missing: int, now: float) -> Iterator[Wait]:
        """Await what is `done` of it within."""
        wait = Wait(missing, now)
        self._chunks[wait] = None
        try:
            yield wait
        finally:
            self._chunks.pop(wait, None)

    def for_name(self, file_index: int, chunks: int, now: float) -> Wait:
        """Await what is `done` of it, shielded: others may do so as well."""
        return self.names.setdefault(file_index, Wait(chunks, now))

    def arrived(self, bits: int) -> None:
        """These chunks are here."""
        for wait in list(self._chunks):
            wait.missing &= ~bits
            if not wait.missing:
                del self._chunks[wait]
                wait.settle()

    def named(self, file_index: int, error: P2PModelError | None = None) -> None:
        """A file has its final name, or has to be looked at again; or there is a reason why it cannot have it."""
        if (wait := self.names.pop(file_index, None)) is not None:
            wait.settle(error)

    def fail(self, error: P2PModelError, which: Callable[[Wait], bool] = lambda _: True) -> None:
        """Those who wait, or `which` of them, wait in vain."""
        for wait in [wait for wait in self._chunks if which(wait)]:
            del self._chunks[wait]
            wait.settle(error)
        for file_index in [index for index, wait in self.names.items() if which(wait)]:
            self.named(file_index, error)
