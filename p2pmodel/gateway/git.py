"""What git and its Large File Storage call a file: the names by which clients of the hub know contents again.

A file that the hub keeps in LFS goes by its SHA-256, any other by git's object id. For repositories of our own the rule
is `in_lfs`: it depends on the manifest alone, so that it never changes and no byte has to be here to know it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from p2pmodel.limits import LFS_BYTES_MIN, PLAIN_FILE_BYTES_MAX, PLAIN_FILES_BYTES_MAX, PLAIN_FILES_MAX

_SHA256_DIGITS = 64
_LFS_SUFFIXES = frozenset({
    "7z", "arrow", "bin", "bz2", "ckpt", "ftz", "gguf", "gz", "h5", "joblib", "lz4", "mlmodel", "model", "msgpack",
    "npy", "npz", "onnx", "ot", "parquet", "pb", "pickle", "pkl", "pt", "pth", "rar", "safetensors", "saved_model",
    "tar", "tflite", "tgz", "wasm", "xz", "zip", "zst",
})  # fmt: skip
"""Of the `.gitattributes` that the hub gives to each new repository."""


def blob_oid(content: bytes | memoryview) -> str:
    """git's SHA-1 id of a file with this content, in hex."""
    digest = hashlib.sha1(b"blob %d\0" % len(content), usedforsecurity=False)
    digest.update(content)
    return digest.hexdigest()


def pointer(sha256: str, size: int) -> bytes:
    """The text that git keeps in place of a file in LFS (its specification, version 1)."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def is_of_lfs(name: str, size: int = 0) -> bool:
    """Whether a hub that calls a content so has it in LFS, by the length; what is too long to be read goes so, too."""
    return len(name) == _SHA256_DIGITS or size > PLAIN_FILE_BYTES_MAX


def in_lfs(sizes: Mapping[str, int]) -> frozenset[str]:
    """Which files of a model (path and size) go by their SHA-256.

    By size and by suffix, as on the hub. The others go by git's id, which takes their bytes to compute: where there
    are too many of them for that, all go by their SHA-256.
    """
    plain = {path for path, size in sizes.items() if size < LFS_BYTES_MIN and not _has_lfs_suffix(path)}
    if len(plain) > PLAIN_FILES_MAX or sum(sizes[path] for path in plain) > PLAIN_FILES_BYTES_MAX:
        plain = set()
    return frozenset(sizes.keys() - plain)


def _has_lfs_suffix(path: str) -> bool:
    stem, _, suffix = path.rpartition("/")[2].rpartition(".")
    return bool(stem) and suffix.lower() in _LFS_SUFFIXES
