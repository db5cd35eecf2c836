"""Models as a read-only directory of the system (FUSE): `p2pmodel mount DIR`. What is read comes, and nothing else.

A process of its own: whoever maps a file of a mount that his own process serves waits for himself. Below the mount,
each model is a directory by its id, also one that nobody has opened yet; models that were named are there by name too.
Whatever goes wrong with a file is EIO for whoever reads it, never a wait without an end.
"""

from __future__ import annotations

import errno
import itertools
import logging
import re
import stat
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import TimeoutError as WaitedTooLongError
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from p2pmodel.errors import NotFoundError, P2PModelError, UsageError
from p2pmodel.limits import MIB, MOUNT_READ_S
from p2pmodel.loading.engine import Engine
from p2pmodel.loading.opened import OpenedModel
from p2pmodel.loading.references import split_reference
from p2pmodel.peer.open_model import READ_TRIES, Located
from p2pmodel.peer.requests import ReadRequest

log = logging.getLogger(__name__)
_ID = re.compile(r"[0-9a-f]{64}")
_ENDED_BY_SIGNAL = 8
"""What `fuse_main` says then, after it has unmounted (libfuse 3)."""
_AHEAD_BYTES = 16 * MIB
"""Wanted ahead of whoever reads on where he stopped."""


@dataclass(slots=True)
class _Handle:
    """An open file. `here` is where it lies once it is whole."""

    model: OpenedModel
    path: str
    size: int
    read_to: int = 0
    ahead_to: int = 0
    here: Located | None = None


class Tree:
    """What is below the mount, and its bytes. Thread-safe; raises `OSError` alone."""

    def __init__(self, engine: Engine, names: Sequence[str], *, peers: Sequence[str] = ()) -> None:
        """`names` are references that are shown by name. Raises `UsageError`."""
        self._engine, self._peers = engine, list(peers)
        self._names: dict[str, str] = {}
        for name in names:
            reference, path = split_reference(name)
            if path:
                raise UsageError(f"{name!r} names a file; models are mounted whole")
            self._names[reference] = reference
        self._models: dict[str, OpenedModel] = {}
        self._lock = threading.Lock()
        self._handles: dict[int, _Handle] = {}
        self._numbers = itertools.count(1)

    # --- names -------------------------------------------------------------------------------------------------------

    def _split(self, path: str) -> tuple[str, str] | None:
        """The model and the path inside; None for a directory above models. Raises `FileNotFoundError`."""
        inside = path.strip("/")
        head, _, rest = inside.partition("/")
        if _ID.fullmatch(head):
            return head, rest
        for name in self._names:
            if inside == name or inside.startswith(f"{name}/"):
                return name, inside[len(name) + 1 :]
            if not inside or name.startswith(f"{inside}/"):
                return None
        if inside:
            raise FileNotFoundError(errno.ENOENT, "no such model", path)
        return None

    def _model(self, reference: str) -> OpenedModel:
        with self._lock:
            if reference not in self._models:
                request = ReadRequest(ref=reference, peers=self._peers, timeout_s=MOUNT_READ_S)
                self._models[reference] = _guarded(lambda: OpenedModel(self._engine, request))
            return self._models[reference]

    def size_of(self, path: str) -> int | None:
        """Of a file, in bytes; None for a directory."""
        found = self._split(path)
        if found is None or not found[1]:
            if found is not None:
                self._model(found[0])
            return None
        model = self._model(found[0])
        if found[1] in model.entries:
            return model.entries[found[1]].size
        if any(name.startswith(f"{found[1]}/") for name in model.entries):
            return None
        raise FileNotFoundError(errno.ENOENT, "no such file in the model", path)

    def names_in(self, path: str) -> list[str]:
        found = self._split(path)
        if found is not None:
            prefix = f"{found[1]}/" if found[1] else ""
            within = (name.removeprefix(prefix) for name in self._model(found[0]).entries if name.startswith(prefix))
            return list(dict.fromkeys(name.partition("/")[0] for name in within))
        above = path.strip("/")
        prefix = f"{above}/" if above else ""
        named = [name.removeprefix(prefix).partition("/")[0] for name in self._names if name.startswith(prefix)]
        return list(dict.fromkeys([*named, *([] if above or self._names else self._here())]))

    def _here(self) -> list[str]:
        async def ids() -> list[str]:
            async with self._engine.service() as service:
                return [model.model_id for model in await service.models()]

        found: list[str] = _guarded(lambda: self._engine.submit(ids()).result(MOUNT_READ_S))
        return found

    # --- files -------------------------------------------------------------------------------------------------------

    def open(self, path: str) -> int:
        size = self.size_of(path)
        found = self._split(path)
        if size is None or found is None:
            raise IsADirectoryError(errno.EISDIR, "a directory", path)
        number = next(self._numbers)
        self._handles[number] = _Handle(self._model(found[0]), found[1], size)
        return number

    def release(self, number: int) -> None:
        self._handles.pop(number, None)

    def read(self, number: int, offset: int, count: int) -> bytes:
        handle = self._handles[number]
        start, end = min(offset, handle.size), min(offset + count, handle.size)
        data = bytearray(end - start)
        if data:
            _guarded(lambda: self._fill(handle, start, memoryview(data)))
        return bytes(data)

    def _fill(self, handle: _Handle, start: int, buffer: memoryview) -> None:
        end = start + len(buffer)
        if handle.here is not None:
            if handle.model.fill([handle.here], start, buffer):
                return
            handle.here = None
        if start == handle.read_to and end + _AHEAD_BYTES // 2 > handle.ahead_to and end < handle.size:
            handle.ahead_to = min(end + _AHEAD_BYTES, handle.size)
            handle.model.want(handle.path, start, handle.ahead_to)
        for _ in range(READ_TRIES):
            located = handle.model.locate(handle.path, start, end).result(MOUNT_READ_S)
            if handle.model.fill(located, start, buffer):
                handle.read_to = end
                if len(located) == 1 and located[0].whole:
                    handle.here = msgspec.structs.replace(located[0], start=0, end=handle.size)
                return
        raise OSError(errno.EIO, "the file changes again and again", handle.path)

    def close(self) -> None:
        for model in self._models.values():
            model.close()


def _guarded(work: Any) -> Any:
    """Carry out, with every failure of ours as one that the system knows; the log has the words."""
    try:
        return work()
    except NotFoundError as error:
        raise FileNotFoundError(errno.ENOENT, str(error)) from error
    except WaitedTooLongError as error:
        log.warning("nothing came within %.0f s", MOUNT_READ_S)
        raise OSError(errno.EIO, "nothing came in time") from error
    except P2PModelError as error:
        log.warning("%s", error)
        raise OSError(errno.EIO, str(error)) from error


def mount(tree: Tree, where: Path, mounted: Callable[[], None] = lambda: None) -> None:
    """Serve until it is unmounted, or SIGINT or SIGTERM come; `mounted` is called once it does.

    Raises `UsageError` where FUSE is not to be had.
    """
    try:
        import mfusepy
    except (ImportError, OSError, AttributeError) as error:
        raise UsageError(
            f"mounting needs mfusepy (pip install 'p2pmodel[fuse]') and the system's libfuse 3: {error}"
        ) from error
    options = {"ro": True, "fsname": "p2pmodel", "subtype": "p2pmodel", "kernel_cache": True}
    try:
        mfusepy.FUSE(
            _operations(mfusepy, tree, mounted), str(where), foreground=True, default_permissions=True, **options
        )
    except RuntimeError as error:
        if error.args == (_ENDED_BY_SIGNAL,):
            return
        raise UsageError(
            f"{where} cannot be mounted on: FUSE says {error}; are there /dev/fuse and fusermount3?"
        ) from error


def _operations(mfusepy: Any, tree: Tree, mounted: Callable[[], None]) -> Any:
    began_ns = time.time_ns()

    class _Operations(mfusepy.Operations):  # type: ignore[misc]
        """What the kernel asks, as `Tree` answers it."""

        use_ns = True

        def init(self, path: str) -> None:
            mounted()

        def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
            size = tree.size_of(path)
            mode = stat.S_IFDIR | 0o555 if size is None else stat.S_IFREG | 0o444
            links = 2 if size is None else 1
            times = dict.fromkeys(("st_mtime", "st_ctime", "st_atime"), began_ns)
            blocks = -(-(size or 0) // 512)
            return {"st_mode": mode, "st_nlink": links, "st_size": size or 0, "st_blocks": blocks, **times}

        def readdir(self, path: str, fh: int) -> list[str]:
            return [".", "..", *tree.names_in(path)]

        def open(self, path: str, flags: int) -> int:
            return tree.open(path)

        def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
            return tree.read(fh, offset, size)

        def release(self, path: str, fh: int) -> int:
            tree.release(fh)
            return 0

    return _Operations()
