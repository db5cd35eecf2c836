"""Which tensors a model has and where they lie: headers of safetensors and GGUF files, the index of a sharded model.

Everything in a header is a stranger's word: sizes, offsets and counts were checked by the parsers of `model`, types and
shapes are checked against lengths when a tensor is asked for, and an index names only files that the model has.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import msgspec

from p2pmodel.errors import DecodeError, MalformedModelError, NotFoundError, UsageError
from p2pmodel.limits import TENSOR_INDEX_BYTES_MAX
from p2pmodel.loading.opened import OpenedModel
from p2pmodel.model.gguf import parse_gguf
from p2pmodel.model.safetensors import parse_safetensors
from p2pmodel.model.tensors import NeedBytes, TensorHeader, TensorSpan

INDEX_SUFFIX = ".safetensors.index.json"
_FIRST_BYTES = {".safetensors": 8, ".gguf": 64 * 1024}
Names = str | Sequence[str] | Callable[[str], bool] | None
"""Which tensors are meant: a shell pattern, names, a function; None for all."""


class _Index(msgspec.Struct):
    weight_map: dict[str, str]
    metadata: dict[str, Any] = {}


@dataclass(frozen=True, slots=True)
class TensorAt:
    """A tensor and the file that it is in."""

    path: str
    span: TensorSpan


class TensorTable:
    """Made by `read_table`. Headers are read when first needed, and kept. Thread-safe by doing it twice at worst."""

    def __init__(self, model: OpenedModel, paths: Sequence[str], index: _Index | None) -> None:
        self._model, self.paths = model, tuple(paths)
        self._index = index
        self._headers: dict[str, TensorHeader] = {}
        self._spans: dict[str, dict[str, TensorSpan]] = {}

    @property
    def sharded(self) -> bool:
        return self._index is not None

    @property
    def index_metadata(self) -> Mapping[str, Any]:
        return self._index.metadata if self._index is not None else {}

    def weight_map(self) -> dict[str, str]:
        """The file of each tensor, in the order of the files."""
        if self._index is not None:
            return self._index.weight_map
        return {span.name: path for path in self.paths for span in self.header(path).tensors}

    def keys(self) -> list[str]:
        return list(self.weight_map())

    def header(self, path: str) -> TensorHeader:
        """Raises `MalformedModelError`."""
        if path not in self._headers:
            self._headers[path] = header = _read_header(self._model, path)
            self._spans[path] = {span.name: span for span in header.tensors}
        return self._headers[path]

    def find(self, name: str) -> TensorAt:
        """Raises `NotFoundError`, with names that are like it."""
        for path in self._files_of(name):
            self.header(path)
            if (span := self._spans[path].get(name)) is not None:
                return TensorAt(path, span)
            if self._index is not None:
                raise MalformedModelError(f"the index says that {path!r} has the tensor {name!r}, which it has not")
        known = self.keys()
        like = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f"; there is {', '.join(map(repr, like))}" if like else f"; it has {len(known)} tensors"
        raise NotFoundError(f"the model has no tensor {name!r}{hint}")

    def _files_of(self, name: str) -> Iterable[str]:
        if self._index is None:
            return self.paths
        return [self._index.weight_map[name]] if name in self._index.weight_map else []

    def select(self, names: Names) -> list[TensorAt]:
        """The tensors meant, in the order in which they lie in the files.

        Raises `NotFoundError` for a name of none, and for a pattern that none has.
        """
        chosen = dict.fromkeys(chosen_names(self.keys(), names))
        if isinstance(names, str) and not chosen:
            self.find(names)
        for name in names if not isinstance(names, str) and isinstance(names, Sequence) else ():
            if name not in chosen:
                self.find(name)
        paths = dict.fromkeys(self.weight_map()[name] for name in chosen)
        for path in paths:
            self._model.want(path, 0, min(_FIRST_BYTES[_suffix(path)], self._model.size(path)))
        found = [
            TensorAt(path, span) for path in sorted(paths) for span in self.header(path).tensors if span.name in chosen
        ]
        if len(found) < len(chosen):
            lost = sorted(set(chosen) - {tensor.span.name for tensor in found})
            raise MalformedModelError(f"the index names tensors that no file has: {', '.join(lost[:3])}")
        return found


def chosen_names(keys: Iterable[str], names: Names) -> Iterator[str]:
    """Raises `UsageError` for what is none of the ways to say it."""
    if names is None:
        yield from keys
    elif isinstance(names, str):
        yield from (key for key in keys if fnmatchcase(key, names))
    elif callable(names):
        yield from (key for key in keys if names(key))
    elif isinstance(names, Iterable):
        wanted = set(names)
        yield from (key for key in keys if key in wanted)
    else:
        raise UsageError("names: expected a pattern, a list of names, or a function")


def read_table(model: OpenedModel, path: str = "") -> TensorTable:
    """The tensors of the file `path`, or of the model: by its index, or all of its safetensors files, or its GGUF file.

    Raises `NotFoundError` where there are none, `UsageError` where there are several GGUF files to choose from.
    """
    if path:
        if path.endswith(INDEX_SUFFIX):
            return _by_index(model, path)
        if path not in model.entries:
            model.size(path)
        _suffix(path)
        return TensorTable(model, [path], None)
    found = sorted(model.entries)
    if indexes := [name for name in found if name.endswith(INDEX_SUFFIX)]:
        default = f"model{INDEX_SUFFIX}"
        if len(indexes) > 1 and default not in indexes:
            raise UsageError(f"the model has several indexes, name one: {', '.join(indexes)}")
        return _by_index(model, default if default in indexes else indexes[0])
    if paths := [name for name in found if name.endswith(".safetensors")]:
        return _united(TensorTable(model, paths, None))
    paths = [name for name in found if name.endswith(".gguf")]
    if len(paths) > 1:
        raise UsageError(f"the model has several GGUF files, name one: {', '.join(paths[:5])}")
    if not paths:
        raise NotFoundError(f"the model {model.model_id[:12]} has no safetensors and no GGUF file")
    return TensorTable(model, paths, None)


def _united(table: TensorTable) -> TensorTable:
    if len(table.paths) > 1:
        seen: dict[str, str] = {}
        for path in table.paths:
            for span in table.header(path).tensors:
                if span.name in seen:
                    raise UsageError(
                        f"{seen[span.name]!r} and {path!r} both have the tensor {span.name!r}: name one of the files"
                    )
                seen[span.name] = path
    return table


def _by_index(model: OpenedModel, path: str) -> TensorTable:
    if model.size(path) > TENSOR_INDEX_BYTES_MAX:
        raise MalformedModelError(f"the index {path!r} is longer than {TENSOR_INDEX_BYTES_MAX} bytes")
    try:
        index = msgspec.json.decode(model.read(path), type=_Index)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedModelError(f"{path!r} is not the index of a sharded model: {error}") from error
    folder = path.rpartition("/")[0]
    files = {name: f"{folder}/{file}" if folder else file for name, file in index.weight_map.items()}
    for file in dict.fromkeys(files.values()):
        if file not in model.entries or not file.endswith(".safetensors"):
            raise MalformedModelError(f"the index {path!r} names {file[:200]!r}, which is no such file of the model")
    return TensorTable(model, sorted(set(files.values())), _Index(files, index.metadata))


def _suffix(path: str) -> str:
    suffix = "." + path.rpartition(".")[2].lower()
    if suffix not in _FIRST_BYTES:
        raise UsageError(f"{path!r} is neither a safetensors nor a GGUF file")
    return suffix


def _read_header(model: OpenedModel, path: str) -> TensorHeader:
    suffix, size = _suffix(path), model.size(path)
    parse = parse_safetensors if suffix == ".safetensors" else parse_gguf
    prefix = model.read(path, 0, min(_FIRST_BYTES[suffix], size))
    try:
        while isinstance(found := parse(prefix, size), NeedBytes):
            prefix += model.read(path, len(prefix), found.prefix_bytes)
    except DecodeError as error:
        raise MalformedModelError(f"{path!r}: {error}") from error
    return found
