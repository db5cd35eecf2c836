"""Tensors of a framework out of bytes: memory that it owns and we fill, or a view into a mapped file.

torch and numpy are imported when a tensor of theirs is first asked for, and never before.
"""

from __future__ import annotations

import ctypes
import importlib
import mmap
from collections.abc import Sequence
from types import ModuleType
from typing import Any, Protocol

from p2pmodel.errors import UsageError
from p2pmodel.limits import MIB
from p2pmodel.loading.dtypes import SAFETENSORS, ElementType

_HUGE_BYTES = 4 * MIB
"""From here on memory is asked for in huge pages, as numpy does."""
_NAMES = {"pt": "pt", "torch": "pt", "pytorch": "pt", "np": "np", "numpy": "np"}


class Framework(Protocol):
    """Bytes are one-dimensional arrays of unsigned bytes; `cast` gives them type and shape, without a copy."""

    def empty(self, count: int) -> tuple[Any, memoryview]:
        """So many bytes, not initialised, as an array and as writable memory."""

    def over(self, memory: memoryview) -> Any:
        """An array over memory that stays as long as the array does."""

    def cast(self, array: Any, kind: ElementType, shape: Sequence[int]) -> Any: ...

    def to_device(self, tensor: Any, device: Any) -> Any: ...


def framework_of(name: str) -> Framework:
    """`pt` or `np`. Raises `UsageError` for others, and where it is not installed."""
    if name not in _NAMES:
        raise UsageError(f"framework {name!r}: expected 'pt' (torch) or 'np' (numpy)")
    return _Torch() if _NAMES[name] == "pt" else _Numpy()


def _installed(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UsageError(f"tensors of {name} were asked for, and {name} is not installed: {error}") from error


class _Torch:
    def __init__(self) -> None:
        self._torch: Any = _installed("torch")

    def empty(self, count: int) -> tuple[Any, memoryview]:
        if count >= _HUGE_BYTES:
            memory = _huge(count)
            return self._torch.frombuffer(memory, dtype=self._torch.uint8), memory
        array = self._torch.empty(count, dtype=self._torch.uint8)
        if not count:
            return array, memoryview(bytearray())
        return array, memory_of(array)

    def over(self, memory: memoryview) -> Any:
        return self._torch.frombuffer(memory, dtype=self._torch.uint8)

    def cast(self, array: Any, kind: ElementType, shape: Sequence[int]) -> Any:
        dtype = getattr(self._torch, SAFETENSORS[kind.name][1], None)
        if dtype is None:
            raise UsageError(f"torch {self._torch.__version__} has no type for {kind.name}")
        if array.data_ptr() % kind.item_bytes:
            array = array.clone()
        if not array.numel():
            return self._torch.empty(tuple(shape), dtype=dtype)
        return array.view(dtype).reshape(tuple(shape))

    def to_device(self, tensor: Any, device: Any) -> Any:
        if device is None or str(device) == "cpu":
            return tensor
        return tensor.to(device)


class _Numpy:
    def __init__(self) -> None:
        self._numpy: Any = _installed("numpy")

    def empty(self, count: int) -> tuple[Any, memoryview]:
        array = self._numpy.empty(count, dtype=self._numpy.uint8)
        return array, memoryview(array)

    def over(self, memory: memoryview) -> Any:
        return self._numpy.frombuffer(memory, dtype=self._numpy.uint8)

    def cast(self, array: Any, kind: ElementType, shape: Sequence[int]) -> Any:
        if array.ctypes.data % kind.item_bytes:
            array = array.copy()
        return array.view(self._dtype(kind.name)).reshape(tuple(shape))

    def _dtype(self, name: str) -> Any:
        numpy_name = SAFETENSORS[name][2]
        try:
            return self._numpy.dtype(numpy_name)
        except TypeError:
            pass
        try:
            return self._numpy.dtype(getattr(importlib.import_module("ml_dtypes"), numpy_name))
        except ImportError as error:
            raise UsageError(f"numpy has no type for {name}: install ml_dtypes, or ask for framework='pt'") from error

    def to_device(self, tensor: Any, device: Any) -> Any:
        if device not in (None, "cpu"):
            raise UsageError(f"numpy has its arrays in memory, and none on {device!r}")
        return tensor


def _huge(count: int) -> memoryview:
    """Fresh memory in pages of 2 MiB where the system has them: to touch it costs a third less CPU time."""
    memory = mmap.mmap(-1, count)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        try:
            memory.madvise(mmap.MADV_HUGEPAGE)
        except OSError:
            pass  # a kernel without them
    return memoryview(memory)


def memory_of(tensor: Any) -> memoryview:
    """The memory of a contiguous torch tensor on the CPU, writable; the tensor has to outlive it."""
    size = tensor.numel() * tensor.element_size()
    return memoryview((ctypes.c_ubyte * size).from_address(tensor.data_ptr())).cast("B")
