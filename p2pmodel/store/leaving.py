"""Files that are let go of: first they are forgotten, durably, then their names go, then the bytes.

The transaction that forgets a file notes it here, so that no start after a crash finds bytes that nobody knows of, nor
a claim about bytes that are gone. What was noted and not done is done by the next start. A file that is not the noted
one any more, because somebody put another there, is left alone.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from p2pmodel.store.database import Database, Writer
from p2pmodel.store.files import Files
from p2pmodel.store.values import FileIdentity


class Leaving:
    """Thread-safe. Whoever notes a file holds its copy, until `finish` is done with it."""

    def __init__(self, files: Files, database: Database) -> None:
        self._files, self._database = files, database
        self._lock = threading.Lock()

    def note(self, writer: Writer, root: Path, files: Iterable[tuple[Path, FileIdentity]]) -> None:
        """These files below `root` are let go of, as part of the transaction that forgets them."""
        rows = [(os.fsencode(at), os.fsencode(root), identity.pack()) for at, identity in files]
        writer.execute_many("INSERT OR REPLACE INTO leaving VALUES (?, ?, ?)", rows)

    def finish(self, root: Path | None = None) -> int:
        """Remove what was noted (below one root), and return the bytes that this has freed.

        Directories that are empty then go as well, up to the root and with it. Raises `P2PModelError`; what could not
        be removed stays noted.
        """
        freed = 0
        with self._lock:
            condition, values = ("", ()) if root is None else (" WHERE root = ?", (os.fsencode(root),))
            rows = self._database.query(f"SELECT location, root, identity FROM leaving{condition}", values)
            if not rows:
                return 0
            touched: dict[Path, None] = {}
            for location, below, identity in rows:
                at, top = Path(os.fsdecode(location)), Path(os.fsdecode(below))
                freed += self._remove(at, top, FileIdentity.unpack(identity), touched)
            self._sync(touched)
            with self._database.transaction() as writer:
                writer.execute_many("DELETE FROM leaving WHERE location = ?", [(row[0],) for row in rows])
        return freed

    def _remove(self, at: Path, root: Path, identity: FileIdentity, touched: dict[Path, None]) -> int:
        """Remove a file, and the directories above it that are empty then, up to `root`. The bytes that it took."""
        taken = 0
        directory = self._files.open_directory(at.parent)
        if directory is not None:
            with closing(directory):
                status = directory.status(at.name)
                if status is not None and status.kind == "file":
                    if (status.identity.device, status.identity.inode) != (identity.device, identity.inode):
                        return 0
                    taken = status.allocated_bytes if status.links == 1 else 0
                    directory.remove(at.name)
        touched[at.parent] = None
        while at.parent != root.parent and at.is_relative_to(root):
            at = at.parent
            above = self._files.open_directory(at.parent)
            if above is not None:
                with closing(above):
                    above.remove(at.name)
            touched[at.parent] = None
        return taken

    def _sync(self, touched: Iterable[Path]) -> None:
        for path in sorted(touched, key=lambda path: (-len(path.parts), path)):
            directory = self._files.open_directory(path)
            if directory is not None:
                with closing(directory):
                    directory.sync()
