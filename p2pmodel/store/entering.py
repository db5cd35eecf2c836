"""A file that came to the data directory by another way than a fetch becomes a model of one file, in the cache."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from p2pmodel.errors import P2PModelError, VerificationError
from p2pmodel.model import Layout, Manifest, PortablePath, Sha256
from p2pmodel.store.files import Files
from p2pmodel.store.hashing import HashPool, hash_file
from p2pmodel.store.intake import Intake

OpenIntake = Callable[[Layout, Path], Intake]


class Entrance:
    """`directory` is where the cache lies."""

    def __init__(self, directory: Path, files: Files, pool: HashPool, open_intake: OpenIntake) -> None:
        self._directory, self._files, self._pool, self._open_intake = directory, files, pool, open_intake

    def enter(self, path: Path, name: PortablePath, sha256: Sha256, stop: threading.Event) -> Layout:
        """Hash the file, and move it to where the cache keeps what was fetched.

        Raises `VerificationError` where it has another SHA-256, `InterruptedFetchError` on `stop`.
        """
        layout = self._hash(path, name, sha256, stop)
        root = self._directory / layout.model_id.hex
        self._move(path, root, name)
        intake = self._open_intake(layout, root)
        try:
            intake.adopt()  # once it is moved it is not left half-way
            intake.finish()
        finally:
            intake.close()
        return layout

    def _hash(self, path: Path, name: PortablePath, sha256: Sha256, stop: threading.Event) -> Layout:
        file = self._files.open_file(path)
        if file is None:
            raise P2PModelError(f"{str(path)!r} has vanished")
        try:
            hashed = hash_file(file, file.status().identity, name, self._pool, lambda count, name: None, stop)
        finally:
            file.close()
        if hashed.entry.sha256 != sha256:
            raise VerificationError(f"{str(path)!r} has the SHA-256 {hashed.entry.sha256} instead of {sha256}")
        return Layout(Manifest.of([hashed.entry]), [hashed.chunks])

    def _move(self, path: Path, root: Path, name: PortablePath) -> None:
        source = self._files.open_directory(path.parent)
        target = self._files.open_directory(root, create=True)
        assert source is not None and target is not None
        try:
            source.rename(path.name, target, name.text)
            target.sync()
            source.sync()
        finally:
            source.close()
            target.close()
