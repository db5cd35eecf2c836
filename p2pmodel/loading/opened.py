"""A model that is open for reading, for synchronous code: bytes go from the disk straight into the caller's memory."""

from __future__ import annotations

import asyncio
import mmap
import os
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AsyncExitStack
from types import TracebackType
from typing import TypeVar

from p2pmodel.errors import NotFoundError, ServiceGoneError, UsageError, VerificationError
from p2pmodel.loading.engine import Engine, engine_for
from p2pmodel.loading.references import split_reference
from p2pmodel.peer.open_model import READ_TRIES, Located, OpenModel, Places, ReadFile
from p2pmodel.peer.requests import ReadRequest

T = TypeVar("T")
_REOPENED_MAX = 5
"""Times in a row that a model is opened again because the program whose peer served it has ended."""
_WANTS_KEPT = 1024
"""Of what was wanted, so much is said again to the next peer."""


class OpenedModel:
    """Close it, or use it in a `with`. Thread-safe. `path` is the file that the reference named, or empty."""

    def __init__(self, engine: Engine, request: ReadRequest, path: str = "") -> None:
        """Raises as `Peer.open_reader` does."""
        self._engine, self._request, self.path = engine, request, path
        self._places = Places()
        self._stack = AsyncExitStack()
        self._reopened = 0
        self._closed = False
        self._wants: deque[tuple[str, int, int | None]] = deque(maxlen=_WANTS_KEPT)
        self._model: OpenModel
        engine.run(self._open())
        self.entries: Mapping[str, ReadFile] = self._model.entries
        self.model_id: str = self._model.model_hex

    async def _open(self) -> None:
        self._turn = asyncio.Lock()
        await self._open_again()

    @property
    def bytes_fetched(self) -> int:
        """What came over the network for this model since it was opened here or by others."""
        return self._model.bytes_fetched

    def size(self, path: str) -> int:
        """Raises `NotFoundError`."""
        if path not in self.entries:
            raise NotFoundError(f"the model {self.model_id[:12]} has no file {path!r}")
        return self.entries[path].size

    # --- what is wanted ----------------------------------------------------------------------------------------------

    def want(self, path: str, start: int = 0, end: int | None = None) -> None:
        """Bring these bytes next, after what was wanted before. Returns at once."""
        self._engine.soon(self._want, path, start, end)

    def _want(self, path: str, start: int, end: int | None) -> None:
        self._wants.append((path, start, end))
        self._model.want(path, start, end)

    def locate(self, path: str, start: int = 0, end: int | None = None) -> Future[list[Located]]:
        """Where these bytes are, once they are verified and here. Fails as `Reader.located` does."""
        return self._engine.submit(self._steadily(lambda model: model.located(path, start, end)))

    def whole_file(self, path: str) -> Future[Located]:
        """Where the file is, once it is whole and has its name."""
        return self._engine.submit(self._steadily(lambda model: model.whole_file(path)))

    async def _steadily(self, ask: Callable[[OpenModel], Awaitable[T]]) -> T:
        """Ask again where the program whose peer served us has ended; another one, or this one, has it now."""
        while True:
            model = self._model
            if self._closed:
                raise UsageError("the model is closed")
            try:
                answer = await ask(model)
                self._reopened = 0
                return answer
            except ServiceGoneError:
                async with self._turn:
                    if self._closed or self._reopened >= _REOPENED_MAX:
                        raise
                    if self._model is model:
                        self._reopened += 1
                        await self._reopen(model)

    async def _reopen(self, model: OpenModel) -> None:
        model.close()
        await self._stack.aclose()
        await self._engine.renew(self._generation)
        await self._open_again()
        for path, start, end in self._wants:
            self._model.want(path, start, end)

    async def _open_again(self) -> None:
        service = await self._stack.enter_async_context(self._engine.service())
        self._generation = self._engine.generation
        try:
            self._model = await service.open_reader(self._request)
        except BaseException:
            await self._stack.aclose()
            raise

    # --- reading -----------------------------------------------------------------------------------------------------

    def read_into(self, path: str, start: int, buffer: memoryview) -> None:
        """Fill `buffer` with verified bytes from byte `start`. Raises as `Reader.read_into` does."""
        end = start + len(buffer)
        for _ in range(READ_TRIES):
            places = self._engine.run(self._steadily(lambda model: model.located(path, start, end)))
            if self.fill(places, start, buffer):
                return
        raise VerificationError(f"{path!r} cannot be read: it changes again and again")

    def fill(self, places: Sequence[Located], start: int, buffer: memoryview) -> bool:
        """Read what was located, by places in order. False where that is not all, or not there any more."""
        at, end = start, start + len(buffer)
        for place in places:
            stop = min(end, place.end)
            if at < stop and place.start <= at:
                if not self._places.read(place, at, buffer[at - start : stop - start]):
                    return False
                at = stop
        return at == end

    def read(self, path: str, start: int = 0, end: int | None = None) -> bytes:
        """Raises as `read_into` does."""
        data = bytearray((self.size(path) if end is None else end) - start)
        self.read_into(path, start, memoryview(data))
        return bytes(data)

    def close(self) -> None:
        """What only this one wanted is not fetched any more. A second call does nothing."""
        if not self._closed:
            self._closed = True
            self._places.close()
            self._engine.submit(self._end())

    async def _end(self) -> None:
        self._model.close()
        await self._stack.aclose()

    def __enter__(self) -> OpenedModel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_model(
    reference: str,
    *,
    revision: str | None = None,
    whole: bool = False,
    peers: Sequence[str] = (),
    signed_by: Sequence[str] = (),
    bootstrap: Sequence[str] = (),
    data_dir: str | os.PathLike[str] | None = None,
    timeout_s: float | None = None,
) -> OpenedModel:
    """Open a model, or one file of it, through the peer of this data directory. Raises as `Peer.open_reader` does."""
    model, path = split_reference(reference, revision)
    request = ReadRequest(
        ref=model,
        files=[path] if path else [],
        whole=whole,
        peers=list(peers),
        signed_by=list(signed_by),
        timeout_s=timeout_s,
    )
    return OpenedModel(engine_for(data_dir, bootstrap), request, path)


def map_file(place: Located) -> memoryview | None:
    """The whole file mapped, private to this process: what is written to it stays here. None where it has changed."""
    try:
        fd = os.open(place.path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if not place.is_at(os.fstat(fd)) or not place.size:
            return None
        return memoryview(mmap.mmap(fd, place.size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE))
    finally:
        os.close(fd)
