"""SQLite on a simulated disk: a database in memory that outlives its connections.

A commit with `synchronous=FULL` is durable when it returns; of those with `synchronous=NORMAL` since the last durable
one a power cut keeps the first few, as a write-ahead log does. A transaction that did not commit is gone with its
process. SQLite's own journal is trusted and not simulated. What can fail are opening and commits.
"""

from __future__ import annotations

import errno
import itertools
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Self

from p2pmodel.testing.disk_pages import Choices

_numbers = itertools.count()
_FULL = (errno.ENOSPC, errno.EDQUOT)

OnCommit = Callable[[int], None]
"""Told of each commit before it happens, and how large the database is then; raises `OSError` where it fails."""


class SimDatabase:
    """One database, kept by a connection that nobody else uses."""

    def __init__(self, image: bytes | None = None) -> None:
        self._uri = f"file:/p2pmodel-simulated-{next(_numbers)}?vfs=memdb"
        self._anchor = sqlite3.connect(self._uri, uri=True, isolation_level=None, check_same_thread=False)
        if image:
            try:
                self._load(image)
            except BaseException:
                self._anchor.close()
                raise
        self.size = len(image or b"")
        self.image: bytes | None = None
        """What was committed before the transaction that is under way, where somebody may want a copy."""
        self.older: list[bytes] = []
        """What a power cut may go back to: the durable state, then that after each commit since but for the last."""

    def _load(self, image: bytes) -> None:
        with closing(sqlite3.connect(":memory:")) as with_image:
            with_image.deserialize(image)
            with_image.backup(self._anchor)

    def connect(self, path: Path, on_commit: OnCommit, keeps_images: Callable[[], bool]) -> SimConnection:
        connection = sqlite3.connect(
            self._uri, uri=True, isolation_level=None, check_same_thread=False, timeout=10.0, factory=SimConnection
        )
        connection.database, connection.path = self, path
        connection.on_commit, connection.keeps_images = on_commit, keeps_images
        return connection

    def committed(self) -> bytes:
        return self.image if self.image is not None else self._anchor.serialize()

    def cut(self, choices: Choices) -> None:
        """Of the commits that nothing made durable the first few are left. Connections must be closed."""
        for image in self.older:
            if not choices.kept():
                self._load(image)
                self.size = len(image)
                break
        self.older.clear()

    def close(self) -> None:
        self._anchor.close()


class SimConnection(sqlite3.Connection):
    """A connection whose commits are calls to the simulated disk."""

    database: SimDatabase
    path: Path
    on_commit: OnCommit
    keeps_images: Callable[[], bool]
    is_closed = False
    _durable = True
    _before = b""

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        if sql.startswith("BEGIN"):
            if not self._durable:
                self._before = self.database.committed()
            if self.keeps_images():
                self.database.image = self.database.committed()
        elif sql == "COMMIT":
            self._commit()
            if self._durable:
                self.database.older.clear()
            else:
                self.database.older.append(self._before)
        elif sql.startswith("PRAGMA synchronous="):
            self._durable = sql.endswith("FULL")
        cursor = super().execute(sql, parameters)
        if sql in ("COMMIT", "ROLLBACK"):
            self.database.image = None
        return cursor

    def executescript(self, sql_script: str, /) -> sqlite3.Cursor:
        self._commit()
        cursor = super().executescript(sql_script)
        self.database.older.clear()
        self.database.size = self._size()
        return cursor

    def _commit(self) -> None:
        size = self._size()
        try:
            self.on_commit(size)
        except OSError as error:
            raise sqlite_fault(error) from error
        self.database.size = size

    def _size(self) -> int:
        pages: tuple[int] = super().execute("PRAGMA page_count").fetchone()
        size: tuple[int] = super().execute("PRAGMA page_size").fetchone()
        return pages[0] * size[0]

    def close(self) -> None:
        self.is_closed = True
        super().close()

    def __enter__(self) -> Self:
        raise NotImplementedError("write BEGIN and COMMIT")


def sqlite_fault(error: OSError) -> sqlite3.OperationalError:
    """As SQLite tells an error of the disk."""
    if error.errno in _FULL:
        code, text = sqlite3.SQLITE_FULL, "database or disk is full"
    elif error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES):
        code, text = sqlite3.SQLITE_CANTOPEN, "unable to open database file"
    else:
        code, text = sqlite3.SQLITE_IOERR, f"disk I/O error: {error.strerror}"
    fault = sqlite3.OperationalError(text)
    fault.sqlite_errorcode = code
    return fault
