"""`safe_open` of a model that is here, comes, or is only known of: the interface of safetensors, over a swarm."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from p2pmodel.loading.assembling import Assembler
from p2pmodel.loading.dtypes import ElementType
from p2pmodel.loading.frameworks import framework_of
from p2pmodel.loading.opened import open_model
from p2pmodel.loading.slices import select
from p2pmodel.loading.tables import TensorAt, read_table


class TensorSlice:
    """A tensor of which nothing has been read: `[a:b]` reads, and fetches, what that means."""

    def __init__(self, assembler: Assembler, at: TensorAt) -> None:
        self._assembler, self._at = assembler, at
        self._kind = ElementType(at.span)

    def get_shape(self) -> list[int]:
        return list(self._kind.shape)

    def get_dtype(self) -> str:
        """As safetensors spells it."""
        return self._kind.name

    def __getitem__(self, index: Any) -> Any:
        """Raises `UsageError` for an index that does not fit."""
        return self._assembler.part(self._at, select(self._kind.shape, index))


class safe_open:
    """A file of tensors, or all those of a model: `with safe_open("<id>/model.safetensors", framework="pt") as f`.

    `framework` is "pt" or "np". What is asked for is fetched, its neighbours are not. GGUF files are opened as well;
    their quantised tensors are raw bytes, as in the `gguf` package. Close it, or use it in a `with`: tensors that it
    gave stay. Raises `NotFoundError`, `NoPeersError`, `MalformedModelError` and what `Peer.open_reader` raises.
    """

    def __init__(
        self,
        filename: str,
        framework: str = "pt",
        device: Any = "cpu",
        *,
        revision: str | None = None,
        peers: Sequence[str] = (),
        signed_by: Sequence[str] = (),
        bootstrap: Sequence[str] = (),
        data_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        self._framework = framework_of(framework)
        self._model = open_model(
            filename, revision=revision, peers=peers, signed_by=signed_by, bootstrap=bootstrap, data_dir=data_dir
        )
        try:
            self._table = read_table(self._model, self._model.path)
        except BaseException:
            self._model.close()
            raise
        self._assembler = Assembler(self._model, self._framework, device)

    @property
    def bytes_fetched(self) -> int:
        """What came over the network for it so far."""
        return self._model.bytes_fetched

    def keys(self) -> list[str]:
        return self._table.keys()

    def offset_keys(self) -> list[str]:
        """In the order in which the tensors lie in their files."""
        return [at.span.name for at in self._table.select(None)]

    def metadata(self) -> Mapping[str, str] | None:
        """What the author wrote into the (first) file's header; None where that is nothing."""
        return self._table.header(self._table.paths[0]).metadata or None

    def get_tensor(self, name: str) -> Any:
        return self._assembler.tensor(self._table.find(name))

    def get_tensors(self, names: Sequence[str]) -> dict[str, Any]:
        """All of these, fetched side by side."""
        found = [self._table.find(name) for name in names]
        for at in found:
            self._model.want(at.path, at.span.offset, at.span.offset + at.span.length)
        return {at.span.name: self._assembler.tensor(at) for at in found}

    def get_slice(self, name: str) -> TensorSlice:
        return TensorSlice(self._assembler, self._table.find(name))

    def close(self) -> None:
        self._model.close()

    def __enter__(self) -> safe_open:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
