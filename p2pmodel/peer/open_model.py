"""A model that is open for reading, as other programs see it: the same calls on a peer in this process or a daemon.

The bytes themselves do not travel between the two: what is verified is on a disk that both see, so a reader is told
where (`Located`) and reads there, straight into the memory that it wants filled.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Literal, Protocol

import msgspec

from p2pmodel.limits import READ_FILES_OPEN_MAX
from p2pmodel.peer.envelope import ErrorInfo
from p2pmodel.peer.requests import ReadRequest

READ_PATH = "/api/v1/read"
READ_TRIES = 3
"""A file may be renamed, or found to have changed, between being told of and being read."""


class ReadFile(msgspec.Struct, frozen=True):
    """A file of the model."""

    path: str
    size: int
    blake3: str
    sha256: str


class Located(msgspec.Struct, frozen=True):
    """Bytes `start` to `end` of a file of the model, which lie at the same offsets of `path` on this machine's disk.

    Whole: the file has its final name, and its time of change is `mtime_ns` as long as it is what was verified. A part
    of a file is written to by its peer alone, which keeps it for as long as the reader is open.
    """

    start: int
    end: int
    path: str
    whole: bool
    device: int
    inode: int
    size: int
    mtime_ns: int

    def is_at(self, status: os.stat_result) -> bool:
        same = (status.st_dev, status.st_ino, status.st_size) == (self.device, self.inode, self.size)
        return same and (not self.whole or status.st_mtime_ns == self.mtime_ns)


class ReadAsk(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a program asks of the reader that it has open in a daemon. `id` is that of the answer."""

    id: int
    do: Literal["open", "want", "want_all", "ready", "whole"]
    open: ReadRequest | None = None
    path: str = ""
    start: int = 0
    end: int | None = None


class ReadAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """`files` after "open", `places` after "ready" and "whole"; nothing comes after "want" but an error."""

    id: int
    model_id: str = ""
    files: list[ReadFile] = []
    places: list[Located] = []
    bytes_fetched: int = 0
    error: ErrorInfo | None = None


class OpenModel(Protocol):
    """Filled by `Reader` and `RemoteReader`. Every range is checked against the size of its file."""

    @property
    def model_hex(self) -> str: ...

    @property
    def entries(self) -> Mapping[str, ReadFile]:
        """The files that it was opened for, by path."""

    @property
    def bytes_fetched(self) -> int:
        """What came over the network for this model's readers, as of the last answer."""

    def want(self, path: str, start: int = 0, end: int | None = None) -> None: ...

    def want_all(self) -> None: ...

    async def located(self, path: str, start: int = 0, end: int | None = None) -> list[Located]:
        """Wait until the bytes are verified and here; then where they are, in order."""

    async def whole_file(self, path: str) -> Located:
        """Wait until all of a file is here, under its final name."""

    def close(self) -> None: ...


class ReadingService(Protocol):
    """A peer whose models can be opened for reading. Raises as `Peer.open_reader` does."""

    async def open_reader(self, request: ReadRequest) -> OpenModel: ...


class Places:
    """Reads what was `Located`. Thread-safe; keeps a few files open."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: OrderedDict[tuple[str, int, int], _File] = OrderedDict()

    def read(self, located: Located, start: int, buffer: memoryview) -> bool:
        """Fill `buffer` from byte `start`. False where the file is not there any more, or not what it was."""
        file = self._acquire(located)
        if file is None:
            return False
        try:
            at = 0
            while at < len(buffer):
                count = os.preadv(file.fd, [buffer[at:]], start + at)
                if not count:
                    return False
                at += count
            return located.is_at(os.fstat(file.fd))
        finally:
            self._release(file)

    def close(self) -> None:
        with self._lock:
            for file in self._open.values():
                file.dropped = True
                file.close_if_unused()
            self._open.clear()

    def _acquire(self, located: Located) -> _File | None:
        key = (located.path, located.device, located.inode)
        with self._lock:
            if file := self._open.get(key):
                self._open.move_to_end(key)
                file.users += 1
                return file
        try:
            fd = os.open(located.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        if not located.is_at(os.fstat(fd)):
            os.close(fd)
            return None
        with self._lock:
            if (other := self._open.get(key)) is not None:
                os.close(fd)
                other.users += 1
                return other
            file = self._open[key] = _File(fd)
            while len(self._open) > READ_FILES_OPEN_MAX:
                _, oldest = self._open.popitem(last=False)
                oldest.dropped = True
                oldest.close_if_unused()
            return file

    def _release(self, file: _File) -> None:
        with self._lock:
            file.users -= 1
            file.close_if_unused()


class _File:
    def __init__(self, fd: int) -> None:
        self.fd, self.users, self.dropped = fd, 1, False

    def close_if_unused(self) -> None:
        if self.dropped and not self.users:
            os.close(self.fd)
