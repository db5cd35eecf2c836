"""`p2pmodel://<id or name>/path` for everything that opens files through fsspec: pandas, pyarrow, datasets, dask.

Only what is read is fetched. Several ranges that are asked for together are wanted together, so that the swarm brings
each chunk once. A file's `ukey` is its hash: caches of fsspec over it are exact.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

from p2pmodel.errors import NotFoundError, P2PModelError, RefusedError
from p2pmodel.limits import CHUNK_BYTES
from p2pmodel.loading.opened import OpenedModel, open_model
from p2pmodel.loading.references import split_reference
from p2pmodel.peer.open_model import ReadFile

_OPEN_MAX = 8
"""Models that a file system keeps open: opening one again costs a look-up where it is not here."""


class P2PModelFileSystem(AbstractFileSystem):  # type: ignore[misc]
    """Read-only. Options: `data_dir`, `peers`, `signed_by`, `bootstrap`, as of `p2pmodel.safe_open`.

    What is not there is a `FileNotFoundError`; any other error of ours is an `OSError` with the same words.
    """

    protocol = "p2pmodel"
    root_marker = ""

    def __init__(
        self,
        *,
        data_dir: str | os.PathLike[str] | None = None,
        peers: Sequence[str] = (),
        signed_by: Sequence[str] = (),
        bootstrap: Sequence[str] = (),
        **storage_options: Any,
    ) -> None:
        super().__init__(**storage_options)
        self._options = {"data_dir": data_dir, "peers": peers, "signed_by": signed_by, "bootstrap": bootstrap}
        self._models: OrderedDict[str, OpenedModel] = OrderedDict()
        self._lock = threading.Lock()

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(one) for one in path]
        return str(path).removeprefix("p2pmodel:").strip("/")

    # --- models ------------------------------------------------------------------------------------------------------

    def _opened(self, path: str) -> tuple[OpenedModel, str, str]:
        """The model, how it was called, and the path inside."""
        stripped = self._strip_protocol(path)
        with _as_os_errors(stripped):
            reference, inner = split_reference(stripped)
            with self._lock:
                model = self._models.get(reference)
                if model is None:
                    model = self._models[reference] = open_model(reference, **self._options)  # type: ignore[arg-type]
                    while len(self._models) > _OPEN_MAX:
                        self._models.popitem(last=False)[1].close()
                self._models.move_to_end(reference)
        return model, reference, inner

    def close(self) -> None:
        """Let go of all models."""
        with self._lock:
            for model in self._models.values():
                model.close()
            self._models.clear()

    # --- names -------------------------------------------------------------------------------------------------------

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        model, reference, inner = self._opened(path)
        if inner in model.entries:
            found = [_file(reference, model.entries[inner])]
        else:
            found = list(_children(reference, model, inner))
            if inner and not found:
                raise FileNotFoundError(f"{reference} has no {inner!r}")
        return found if detail else [one["name"] for one in found]

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        model, reference, inner = self._opened(path)
        if inner in model.entries:
            return _file(reference, model.entries[inner])
        if inner and not any(name.startswith(f"{inner}/") for name in model.entries):
            raise FileNotFoundError(f"{reference} has no {inner!r}")
        return _directory(f"{reference}/{inner}".rstrip("/"))

    def ukey(self, path: str) -> str:
        """The hash of the file's content."""
        return str(self.info(path)["blake3"])

    def checksum(self, path: str) -> int:
        return int(self.ukey(path), 16)

    # --- bytes -------------------------------------------------------------------------------------------------------

    def _whole_range(self, path: str, start: int | None, end: int | None) -> tuple[OpenedModel, str, int, int]:
        model, reference, inner = self._opened(path)
        if inner not in model.entries:
            raise FileNotFoundError(f"{reference} has no file {inner!r}")
        first, last, _ = slice(start, end).indices(model.entries[inner].size)
        return model, inner, first, max(first, last)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        model, inner, first, last = self._whole_range(path, start, end)
        with _as_os_errors(path):
            return model.read(inner, first, last)

    def cat_ranges(
        self,
        paths: list[str],
        starts: Any,
        ends: Any,
        max_gap: int | None = None,
        on_error: str = "return",
        **kwargs: Any,
    ) -> list[Any]:
        """All that is wanted is said first, so that a chunk under several ranges comes once and none waits in turn."""
        count = len(paths)
        starts = starts if isinstance(starts, list) else [starts] * count
        ends = ends if isinstance(ends, list) else [ends] * count
        for path, start, end in zip(paths, starts, ends, strict=True):
            try:
                model, inner, first, last = self._whole_range(path, start, end)
            except OSError:
                continue  # it is told below
            model.want(inner, first, last)
        found: list[Any] = []
        for path, start, end in zip(paths, starts, ends, strict=True):
            try:
                found.append(self.cat_file(path, start, end))
            except OSError as error:
                if on_error == "raise":
                    raise
                found.append(error)
        return found

    def _open(
        self, path: str, mode: str = "rb", block_size: int | None = None, cache_options: Any = None, **kwargs: Any
    ) -> P2PModelFile:
        if mode != "rb":
            raise OSError("models are read-only: publish another")
        size = self.info(path)
        if size["type"] != "file":
            raise IsADirectoryError(path)
        return P2PModelFile(
            self,
            path,
            mode,
            block_size or CHUNK_BYTES,
            cache_options=cache_options,
            size=size["size"],
            **kwargs,
        )


class P2PModelFile(AbstractBufferedFile):  # type: ignore[misc]
    """A file that is read by blocks of a chunk, with fsspec's read-ahead."""

    def _fetch_range(self, start: int, end: int) -> bytes:
        data: bytes = self.fs.cat_file(self.path, start, end)
        return data


@contextmanager
def _as_os_errors(path: str) -> Iterator[None]:
    try:
        yield
    except NotFoundError as error:
        raise FileNotFoundError(f"{path}: {error}") from error
    except RefusedError as error:
        raise PermissionError(f"{path}: {error}") from error
    except P2PModelError as error:
        raise OSError(f"{path}: {error}") from error


def _file(reference: str, file: ReadFile) -> dict[str, Any]:
    return {
        "name": f"{reference}/{file.path}",
        "size": file.size,
        "type": "file",
        "blake3": file.blake3,
        "sha256": file.sha256,
        "ETag": file.sha256,
    }


def _directory(name: str) -> dict[str, Any]:
    return {"name": name, "size": 0, "type": "directory"}


def _children(reference: str, model: OpenedModel, inner: str) -> Iterator[dict[str, Any]]:
    prefix, seen = f"{inner}/" if inner else "", dict[str, None]()
    for path, file in model.entries.items():
        if not path.startswith(prefix):
            continue
        name, slash, _ = path.removeprefix(prefix).partition("/")
        if not slash:
            yield _file(reference, file)
        elif name not in seen:
            seen[name] = None
            yield _directory(f"{reference}/{prefix}{name}")
