"""A whole model in memory, or in a module: what one calls instead of `safetensors.torch.load_file` after a download."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from p2pmodel.errors import UsageError
from p2pmodel.loading.assembling import Assembler
from p2pmodel.loading.dtypes import ElementType
from p2pmodel.loading.frameworks import framework_of, memory_of
from p2pmodel.loading.iterating import DEFAULT_BUFFER, Stream, want_all
from p2pmodel.loading.opened import OpenedModel, open_model
from p2pmodel.loading.tables import Names, TensorAt, TensorTable, read_table
from p2pmodel.peer.units import parse_size


def load_state_dict(
    reference: str,
    names: Names = None,
    *,
    framework: str = "pt",
    device: Any = "cpu",
    mapped: bool = True,
    revision: str | None = None,
    peers: Sequence[str] = (),
    signed_by: Sequence[str] = (),
    bootstrap: Sequence[str] = (),
    data_dir: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """All tensors of a model, or of one file of it, by name, in the order of its files.

    `names`: a shell pattern, a list, or a function; then only these are fetched. Files that are wanted whole and stay
    in memory on the CPU are mapped as soon as they are whole (unless `mapped` is off), all else is read as it comes.
    Raises as `iter_tensors` does.
    """
    tools = framework_of(framework)
    model = open_model(
        reference, revision=revision, peers=peers, signed_by=signed_by, bootstrap=bootstrap, data_dir=data_dir
    )
    with model:
        table = read_table(model, model.path)
        tensors = table.select(names)
        assembler = Assembler(model, tools, device, mapped=mapped)
        if mapped and str(device) == "cpu":
            return _mapped(model, assembler, table, tensors)
        with Stream(model, assembler, tensors, "arrival", parse_size(DEFAULT_BUFFER)) as stream:
            found = dict(stream)
        return {at.span.name: found[at.span.name] for at in tensors}


def _mapped(
    model: OpenedModel, assembler: Assembler, table: TensorTable, tensors: Sequence[TensorAt]
) -> dict[str, Any]:
    by_path: dict[str, list[TensorAt]] = {}
    for at in tensors:
        by_path.setdefault(at.path, []).append(at)
    whole = [path for path, of_it in by_path.items() if len(of_it) == len(table.header(path).tensors)]
    want_all(model, tensors)
    waiting = {path: model.whole_file(path) for path in whole}
    parts = [at for at in tensors if at.path not in waiting]
    found: dict[str, Any] = {}
    if parts:
        with Stream(model, assembler, parts, "arrival", parse_size(DEFAULT_BUFFER)) as stream:
            found.update(stream)
    for path, future in waiting.items():
        place = future.result()
        for at in by_path[path]:
            tensor = assembler.from_places(at, [place])
            found[at.span.name] = assembler.tensor(at) if tensor is None else tensor
    return {at.span.name: found[at.span.name] for at in tensors}


def load_into(
    module: Any,
    reference: str,
    *,
    strict: bool = True,
    names: Names = None,
    revision: str | None = None,
    peers: Sequence[str] = (),
    signed_by: Sequence[str] = (),
    bootstrap: Sequence[str] = (),
    data_dir: str | os.PathLike[str] | None = None,
) -> tuple[list[str], list[str]]:
    """Fill the parameters and buffers of a torch module, each as it comes, straight into its memory where it fits.

    Returns the names that the module has and the model has not, and the other way round; with `strict` both have to be
    empty. Raises `UsageError` for that and for shapes that differ, before anything is changed, and as `iter_tensors`.
    """
    torch = framework_of("pt")
    model = open_model(
        reference, revision=revision, peers=peers, signed_by=signed_by, bootstrap=bootstrap, data_dir=data_dir
    )
    with model:
        tensors = read_table(model, model.path).select(names)
        own = module.state_dict(keep_vars=True)
        missing, unexpected = _compare(own, tensors)
        if strict and (missing or unexpected):
            raise UsageError(_difference(missing, unexpected))
        filled = [at for at in tensors if at.span.name in own]
        direct = [at for at in filled if _fits(own[at.span.name], at)]
        filler = _Filler(model, torch, {at.span.name: own[at.span.name] for at in filled}, {at.path for at in direct})
        filler.direct = {at.span.name for at in direct}
        with Stream(model, filler, filled, "arrival", parse_size(DEFAULT_BUFFER)) as stream:
            for _ in stream:
                pass
        return missing, unexpected


class _Filler(Assembler):
    """Puts tensors where the module has its own."""

    def __init__(self, model: OpenedModel, torch: Any, own: Mapping[str, Any], paths: set[str]) -> None:
        super().__init__(model, torch, mapped=True)
        self._own = own
        self.direct: set[str] = set()

    def from_places(self, at: TensorAt, places: Any) -> Any:
        target = self._own[at.span.name].data
        if at.span.name in self.direct:
            return target if self.into(at, places, memory_of(target)) else None
        tensor = super().from_places(at, places)
        return None if tensor is None else target.copy_(tensor)


def _fits(target: Any, at: TensorAt) -> bool:
    """Whether the bytes of the file are those that the target has to have in its memory."""
    kind = ElementType(at.span)
    like = str(target.dtype).removeprefix("torch.")
    from p2pmodel.loading.dtypes import SAFETENSORS

    return bool(target.device.type == "cpu" and target.is_contiguous() and like == SAFETENSORS[kind.name][1])


def _compare(own: Mapping[str, Any], tensors: Sequence[TensorAt]) -> tuple[list[str], list[str]]:
    """Raises `UsageError` for shapes that differ."""
    theirs = {at.span.name: at for at in tensors}
    for name, target in own.items():
        if name in theirs and tuple(target.shape) != ElementType(theirs[name].span).shape:
            raise UsageError(
                f"{name!r} is {list(target.shape)} in the module and {list(theirs[name].span.shape)} in the model"
            )
    there = {target.data_ptr() for name, target in own.items() if name in theirs and target.numel()}
    missing = [name for name, target in own.items() if name not in theirs and target.data_ptr() not in there]
    return missing, [name for name in theirs if name not in own]


def _difference(missing: Sequence[str], unexpected: Sequence[str]) -> str:
    parts = [f"the model lacks {_some(missing)}"] if missing else []
    parts += [f"the module has no {_some(unexpected)}"] if unexpected else []
    return "; ".join(parts) + " (strict=False loads what both have)"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(map(repr, names[:3])) + more
