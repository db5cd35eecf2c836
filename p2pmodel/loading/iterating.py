"""Tensors as they come: each is given as soon as all of its chunks are verified, in a bounded amount of memory.

What is asked for is wanted in the order of the files, so that the first tensors are whole long before the last. What
waits costs nothing: memory is taken when a tensor is here and is read, and no more of it than `max_buffer` ahead of
whoever takes the tensors.
"""

from __future__ import annotations

import os
import queue
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, Literal

from p2pmodel.errors import UsageError, VerificationError
from p2pmodel.loading.assembling import Assembler
from p2pmodel.loading.dtypes import ElementType
from p2pmodel.loading.frameworks import framework_of
from p2pmodel.loading.opened import OpenedModel, open_model
from p2pmodel.loading.tables import Names, TensorAt, read_table
from p2pmodel.peer.open_model import READ_TRIES
from p2pmodel.peer.units import parse_size

Order = Literal["arrival", "file"]
_WAITING_MAX = 256
"""Tensors that are waited for at once: enough for those that are under way, few enough for the peer to answer."""
_THREADS = 2
DEFAULT_BUFFER = "2GiB"


def iter_tensors(
    reference: str,
    names: Names = None,
    *,
    framework: str = "pt",
    device: Any = "cpu",
    order: Order = "arrival",
    max_buffer: int | str = DEFAULT_BUFFER,
    mapped: bool = True,
    revision: str | None = None,
    peers: Sequence[str] = (),
    signed_by: Sequence[str] = (),
    bootstrap: Sequence[str] = (),
    data_dir: str | os.PathLike[str] | None = None,
) -> Iterator[tuple[str, Any]]:
    """Names and tensors of a model, or of one file of it, each once it is verified and here.

    `names`: a shell pattern, a list, or a function; all by default, and only these are fetched. `order`: as they come,
    or as they lie in the files. At most `max_buffer` bytes are read ahead (but always one tensor). `mapped`: tensors of
    files that are whole are views of them, private to this process, which take no memory until they are touched.
    Raises `NotFoundError`, `NoPeersError`, `MalformedModelError`, `NoSpaceError`, and as `Peer.open_reader` does.
    """
    if order not in ("arrival", "file"):
        raise UsageError(f"order {order!r}: expected 'arrival' or 'file'")
    buffer_bytes = parse_size(max_buffer) if isinstance(max_buffer, str) else max_buffer
    tools = framework_of(framework)
    model = open_model(
        reference, revision=revision, peers=peers, signed_by=signed_by, bootstrap=bootstrap, data_dir=data_dir
    )
    return _given(model, Assembler(model, tools, device, mapped=mapped), names, order, buffer_bytes)


def _given(
    model: OpenedModel, assembler: Assembler, names: Names, order: Order, buffer_bytes: int
) -> Iterator[tuple[str, Any]]:
    with model:
        tensors = read_table(model, model.path).select(names)
        with Stream(model, assembler, tensors, order, buffer_bytes) as stream:
            yield from stream


def want_all(model: OpenedModel, tensors: Sequence[TensorAt]) -> None:
    """In order, runs of neighbours as one."""
    path, start, end = "", 0, 0
    for at in tensors:
        if at.path == path and at.span.offset == end:
            end += at.span.length
            continue
        if path:
            model.want(path, start, end)
        path, start, end = at.path, at.span.offset, at.span.offset + at.span.length
    if path:
        model.want(path, start, end)


class Stream:
    """Waits for many tensors at once, reads those that are here in a few threads, and gives them."""

    def __init__(
        self, model: OpenedModel, assembler: Assembler, tensors: Sequence[TensorAt], order: Order, buffer_bytes: int
    ) -> None:
        self._model, self._assembler, self._order = model, assembler, order
        self._tensors = {at.span.name: at for at in tensors}
        self._to_ask, self._to_read, self._to_give = (deque(self._tensors) for _ in range(3))
        """Names, in the order of the files. Of the latter two only the first counts, and only in that order."""
        self._asked: dict[str, Future[Any]] = {}
        self._here: dict[str, Any] = {}
        """Located, and not being read yet."""
        self._buffer_bytes, self._buffered = buffer_bytes, 0
        self._events: queue.SimpleQueue[tuple[str, str, Future[Any]]] = queue.SimpleQueue()
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="p2pmodel-tensors")
        want_all(model, tensors)

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        for future in self._asked.values():
            future.cancel()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        ready: dict[str, Any] = {}
        left = len(self._tensors)
        while left:
            self._ask()
            self._read()
            kind, name, future = self._events.get()
            if kind == "located":
                del self._asked[name]
                self._here[name] = future.result()
                continue
            ready[name] = future.result()
            while (given := self._next(ready, self._to_give)) is not None:
                left -= 1
                yield given, ready.pop(given)
                self._buffered -= self._tensors[given].span.length

    def _next(self, among: Mapping[str, Any], turns: deque[str]) -> str | None:
        """The one whose turn it is, if it is there."""
        if self._order == "arrival":
            return next(iter(among), None)
        return turns.popleft() if turns and turns[0] in among else None

    def _ask(self) -> None:
        while self._to_ask and len(self._asked) + len(self._here) < _WAITING_MAX:
            name = self._to_ask.popleft()
            self._asked[name] = future = self._located(self._tensors[name])
            future.add_done_callback(partial(self._tell, "located", name))

    def _tell(self, kind: str, name: str, future: Future[Any]) -> None:
        self._events.put((kind, name, future))

    def _located(self, at: TensorAt) -> Future[Any]:
        return self._model.locate(at.path, at.span.offset, at.span.offset + ElementType(at.span).size_bytes)

    def _read(self) -> None:
        while self._here:
            waiting = self._to_read[0] if self._order == "file" else next(iter(self._here))
            if waiting not in self._here:
                return
            length = self._tensors[waiting].span.length
            if self._buffered and self._buffered + length > self._buffer_bytes:
                return
            if self._order == "file":
                self._to_read.popleft()
            self._buffered += length
            future = self._pool.submit(self._made, self._tensors[waiting], self._here.pop(waiting))
            future.add_done_callback(partial(self._tell, "read", waiting))

    def _made(self, at: TensorAt, located: Any) -> Any:
        for _ in range(READ_TRIES):
            if (tensor := self._assembler.from_places(at, located)) is not None:
                return tensor
            located = self._located(at).result()
        raise VerificationError(f"{at.path!r} cannot be read: it changes again and again")
