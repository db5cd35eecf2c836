"""Whether a file of weights is as long as its own header says: what a download that broke off leaves is not."""

from __future__ import annotations

from math import prod
from pathlib import Path

from p2pmodel.errors import DecodeError
from p2pmodel.model import PortablePath
from p2pmodel.model.gguf import GGML_TYPES
from p2pmodel.model.tensors import TensorHeader, TensorSpan
from p2pmodel.store.files import Files
from p2pmodel.store.hashing import read_tensor_header

_CHECKED = (".safetensors", ".gguf")


def why_not_whole(files: Files, name: str, location: Path) -> str:
    """Why a file called `name` cannot be all of it, in a few words; empty where nothing speaks against it."""
    suffix = Path(name).suffix.lower()
    file = files.open_file(location)
    if file is None:
        return "it has vanished, or is no regular file"
    try:
        size = file.status().identity.size
        if suffix not in _CHECKED:
            return ""
        header = read_tensor_header(file, PortablePath(f"x{suffix}"), size)
    except DecodeError as error:
        return str(error)
    finally:
        file.close()
    if header is None:
        return f"it is not a whole {suffix[1:]} file: its header does not fit its {size} bytes"
    short = _short_bytes(header) if suffix == ".gguf" else 0
    return f"it is not a whole gguf file: {short} bytes are missing at its end" if short else ""


def _short_bytes(header: TensorHeader) -> int:
    """What the last tensor lacks: the parser takes that to be as long as the file is."""
    if not header.tensors:
        return 0
    last = header.tensors[-1]
    return max(0, _bytes_of(last) - last.length)


def _bytes_of(tensor: TensorSpan) -> int:
    """As its shape and type say; 0 for a type that is not known here."""
    number = tensor.dtype.removeprefix("ggml:")
    elements, size = GGML_TYPES.get(int(number), (1, 0)) if number.isdigit() else (1, 0)
    return prod(tensor.shape) // elements * size
