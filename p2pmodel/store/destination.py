"""The directory that a fetch writes to: partial files beside, final names by rename, never through a link.

Partial files lie in `<destination>/.p2pmodel-<16 digits of the model id>/`, named by the file's number in the
manifest, so no name from outside is used before its file is whole. Every component below the destination is opened
relative to the directory above it and without following links: whoever swaps a link in gets a refusal, not a file
written elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from p2pmodel.errors import P2PModelError, RefusedError
from p2pmodel.model import ModelId, PortablePath
from p2pmodel.store.files import Directory, Files, OpenFile
from p2pmodel.store.values import FileStatus

PARTIALS_PREFIX = ".p2pmodel-"
_PARTIAL = re.compile(r"([0-9]{5,})\.part")


class Destination:
    """Opens (and makes) the directory. Raises `RefusedError` where another fetch of this model writes there."""

    def __init__(self, files: Files, root: Path, model_id: ModelId) -> None:
        self._made = files.status(root) is None
        directory = files.open_directory(root, create=True)
        assert directory is not None
        self._files, self.root, self._directory = files, root, directory
        self._model_id = model_id
        self.partials_name = partials_name(model_id)
        try:
            partials = directory.directory(self.partials_name, create=True, exclusive=True)
            assert partials is not None
        except P2PModelError:
            directory.close()
            raise
        self._partials = partials
        self._partial_names_durable = False
        self._durable: dict[tuple[str, ...], None] = {}
        """Directories below the destination whose names were made durable by this fetch."""

    def final(self, path: PortablePath) -> Path:
        return self.root / path.text

    def partial(self, file_index: int) -> Path:
        return partial_path(self.root, self._model_id, file_index)

    @contextmanager
    def parent(self, path: PortablePath, *, create: bool = False) -> Iterator[Directory | None]:
        """The open directory that a file belongs in; None where it does not exist. `RefusedError` for links.

        With `create` they are made, and in any case durable before anything is moved into them: proven bytes must not
        vanish with a directory that a process made before it died.
        """
        opened: list[Directory] = []
        try:
            above = self._directory
            for depth, part in enumerate(path.parts[:-1], start=1):
                directory = above.directory(part, create=create)
                if directory is None:
                    break
                opened.append(directory)
                if create and path.parts[:depth] not in self._durable:
                    above.sync()
                    self._durable[path.parts[:depth]] = None
                above = directory
            yield above if len(opened) == len(path.parts) - 1 else None
        finally:
            for directory in reversed(opened):
                directory.close()

    def status(self, path: PortablePath) -> FileStatus | None:
        with self.parent(path) as directory:
            return directory.status(path.name) if directory else None

    def open_final(self, path: PortablePath) -> OpenFile | None:
        with self.parent(path) as directory:
            return directory.open(path.name) if directory else None

    def partial_status(self, file_index: int) -> FileStatus | None:
        return self._partials.status(_partial_name(file_index))

    def open_partial(self, file_index: int, *, create: bool = False) -> OpenFile | None:
        if create:
            self._partial_names_durable = False
        return self._partials.open(_partial_name(file_index), write=True, create=create)

    def remove_partial(self, file_index: int) -> None:
        self._partials.remove(_partial_name(file_index))

    def remove_partials(self) -> None:
        """Remove the partial directory, unless something is in it."""
        self._directory.remove(self.partials_name)

    def free_bytes(self) -> int:
        return self._directory.free_bytes()

    def place(self, file_index: int, path: PortablePath) -> None:
        """Give a partial file its final name, replacing what has it. Raises `RefusedError` for a directory there."""
        with self.parent(path, create=True) as directory:
            assert directory is not None
            status = directory.status(path.name)
            if status is not None and status.kind == "directory":
                raise RefusedError(f"{str(self.final(path))!r} is a directory where a file has to be")
            self._partials.rename(_partial_name(file_index), directory, path.name)

    def link(self, file: OpenFile, path: PortablePath) -> bool:
        """Give a file a final name here as well, unless something has that name. Whether it has it now."""
        with self.parent(path, create=True) as directory:
            assert directory is not None
            return self._files.sharing.link(file, directory, path.name)

    def unlink(self, path: PortablePath) -> None:
        with self.parent(path) as directory:
            if directory is not None:
                directory.remove(path.name)

    def take_back(self, file_index: int, path: PortablePath) -> None:
        """Make a placed file partial again: it is not whole, so it may not keep its name.

        Durable when it returns: once the catalogue says "partial", a file under the final name would be a stranger's.
        """
        with self.parent(path) as directory:
            assert directory is not None
            directory.rename(path.name, self._partials, _partial_name(file_index))
            self._partials.sync()
            directory.sync()

    def sync_partial_names(self) -> None:
        """Make durable that the partial files are there, unless that is so already."""
        if not self._partial_names_durable:
            self._partials.sync()
            self._directory.sync()
            self._partial_names_durable = True

    def sync_directories(self, paths: list[PortablePath]) -> None:
        """Make the names of these files durable: each directory from the destination down, once."""
        prefixes = {path.parts[:depth] for path in paths for depth in range(1, len(path.parts))}
        for parts in sorted(prefixes, key=lambda parts: (-len(parts), parts)):
            with self.parent(PortablePath("/".join((*parts, "_")))) as directory:
                if directory is not None:
                    directory.sync()
        self._directory.sync()

    def close(self) -> None:
        """Remove the partial directory if nothing is in it, and the destination likewise if it was made for this."""
        try:
            self.remove_partials()
        finally:
            self._partials.close()
            self._directory.close()
        if self._made and (above := self._files.open_directory(self.root.parent)) is not None:
            above.remove(self.root.name)
            above.close()


def partials_name(model_id: ModelId) -> str:
    """The directory of a model's partial files, in the destination."""
    return f"{PARTIALS_PREFIX}{model_id.hex[:16]}"


def partial_path(root: Path, model_id: ModelId, file_index: int) -> Path:
    """Where the partial file of a model that is fetched into `root` lies."""
    return root / partials_name(model_id) / _partial_name(file_index)


def partial_index(name: str) -> int | None:
    """Which file of its model a partial file is; None for a name that no partial file has."""
    found = _PARTIAL.fullmatch(name)
    return int(found[1]) if found else None


def _partial_name(file_index: int) -> str:
    return f"{file_index:05d}.part"
