"""The store's SQLite file: objects, statements, the chunk index, and what is claimed to be on disk.

Write-ahead logging with `synchronous=FULL`: a claim that a commit returned is durable. There are only a few commits in
a minute (claims go in batches), so the sync of each costs nothing that is felt, and the order "bytes, barrier, claim"
needs no second thought. One connection writes and another reads, each behind its own lock, so that a look-up never
waits for a commit.
"""

from __future__ import annotations

import sqlite3
import struct
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from p2pmodel.errors import DecodeError, NoSpaceError, P2PModelError, RefusedError
from p2pmodel.limits import KIB
from p2pmodel.store.files import Files

_VERSION_1 = """
CREATE TABLE objects (digest BLOB PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE statements (
    model_id BLOB NOT NULL, signer BLOB NOT NULL, name TEXT NOT NULL, revision TEXT NOT NULL,
    issued_at INTEGER NOT NULL, envelope BLOB NOT NULL, PRIMARY KEY (model_id, signer, name, revision)
);
CREATE INDEX statements_by_name ON statements (name, issued_at);
CREATE TABLE models (number INTEGER PRIMARY KEY, model_id BLOB NOT NULL UNIQUE, chunk_count INTEGER NOT NULL);
-- Eight bytes of the digest, then where it is; the whole digest stands in the chunk list. About 16 bytes a chunk.
CREATE TABLE chunks (
    prefix INTEGER NOT NULL, model INTEGER NOT NULL, chunk INTEGER NOT NULL, PRIMARY KEY (prefix, model, chunk)
) WITHOUT ROWID;
-- A place on this disk where a model lies, whole or in part; `have` is a have-map of what is proven.
CREATE TABLE copies (
    number INTEGER PRIMARY KEY, model INTEGER NOT NULL REFERENCES models, root BLOB NOT NULL, kind TEXT NOT NULL,
    have BLOB NOT NULL, clean INTEGER NOT NULL, UNIQUE (model, root)
);
CREATE TABLE files (
    copy INTEGER NOT NULL REFERENCES copies ON DELETE CASCADE, file INTEGER NOT NULL,
    first_chunk INTEGER NOT NULL, chunk_count INTEGER NOT NULL, location BLOB NOT NULL, state TEXT NOT NULL,
    identity BLOB NOT NULL, fault TEXT NOT NULL, PRIMARY KEY (copy, file)
) WITHOUT ROWID;
CREATE INDEX files_by_identity ON files (identity);
"""
_VERSION_2 = """
-- Models that the cache never lets go of by itself.
CREATE TABLE pins (model_id BLOB PRIMARY KEY) WITHOUT ROWID;
-- Files that are let go of, noted in the transaction that forgets them and until they are durably gone.
CREATE TABLE leaving (location BLOB PRIMARY KEY, root BLOB NOT NULL, identity BLOB NOT NULL) WITHOUT ROWID;
"""
_VERSION_3 = """
-- How often what the cache has was used of late, and its place in the order in which things go: hints, never durable.
CREATE TABLE uses (
    copy INTEGER PRIMARY KEY REFERENCES copies ON DELETE CASCADE, uses INTEGER NOT NULL, place INTEGER NOT NULL
) WITHOUT ROWID;
"""
_MIGRATIONS = (_VERSION_1, _VERSION_2, _VERSION_3)
"""What makes each version of the schema out of the one before it, the first out of an empty file. Never changed once it
is on main; what comes new is appended."""
SCHEMA_VERSION = len(_MIGRATIONS)

_ROOM_BYTES = 64 * KIB
"""Two of the pieces in which SQLite lets its shared memory grow (32 KiB)."""
_WAY_OUT = "move it away and publish or fetch again: no model file depends on it"

Row = tuple[Any, ...]


class Writer:
    """The statements of one transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def execute(self, sql: str, values: Sequence[Any] = ()) -> list[Row]:
        return self._connection.execute(sql, values).fetchall()

    def execute_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        self._connection.executemany(sql, rows)


class Database:
    """Open or create `path`. Raises `RefusedError` for missing rights or a newer format, `NoSpaceError`."""

    def __init__(self, path: Path, files: Files) -> None:
        self.path, self._files = path, files
        self._write_lock, self._read_lock = threading.Lock(), threading.Lock()
        self._closed = False
        with self._errors():
            self._writer = self._connect()
            try:
                self._prepare()
                self._reader = self._connect()
                self._reader.execute("PRAGMA query_only=ON")
            except BaseException:
                self._writer.close()
                raise

    def _connect(self) -> sqlite3.Connection:
        connection = self._files.connect(self.path)
        try:
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA foreign_keys=ON")
            connection.execute("PRAGMA cache_size=-8192")
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self) -> None:
        self._writer.execute("PRAGMA journal_mode=WAL")
        (version,) = self._writer.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA_VERSION:
            raise RefusedError(f"{str(self.path)!r} was written by a newer version of p2pmodel; upgrade this one")
        if version < SCHEMA_VERSION:
            steps = "".join(_MIGRATIONS[version:])  # all or nothing: a crash leaves the older version, whole
            self._writer.executescript(f"BEGIN IMMEDIATE; {steps} PRAGMA user_version={SCHEMA_VERSION}; COMMIT;")

    @contextmanager
    def transaction(self, *, durable: bool = True) -> Iterator[Writer]:
        """All or nothing, durable when it returns. Raises `NoSpaceError`, `RefusedError`, `P2PModelError`.

        Not `durable`: a power cut may take it back until the next one that is; never without what came after it. For
        what a network can tell again, and before whose commit a fetch would stand still.
        """
        with self._write_lock, self._errors():
            self._check_open()
            if not durable:
                self._writer.execute("PRAGMA synchronous=NORMAL")
            try:
                yield from self._transaction()
            finally:
                if not durable:
                    self._writer.execute("PRAGMA synchronous=FULL")

    def _transaction(self) -> Iterator[Writer]:
        self._writer.execute("BEGIN IMMEDIATE")
        try:
            yield Writer(self._writer)
            self._writer.execute("COMMIT")
        finally:
            if self._writer.in_transaction:  # SQLite has ended it already where the disk was full
                self._writer.execute("ROLLBACK")

    def query(self, sql: str, values: Sequence[Any] = ()) -> list[Row]:
        with self._read_lock, self._errors():
            self._check_open()
            return self._reader.execute(sql, values).fetchall()

    def check(self) -> str:
        """SQLite's own check of the whole file, on a connection of its own; what it found, or an empty text."""
        with self._errors():
            connection = self._connect()
            try:
                (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            except sqlite3.DatabaseError as error:
                return str(error)
            finally:
                connection.close()
        return "" if found == "ok" else str(found)

    def close(self) -> None:
        with self._write_lock, self._read_lock:
            if not self._closed:
                self._closed = True
                self._reader.close()
                self._writer.close()

    def _check_open(self) -> None:
        if self._closed:
            raise P2PModelError("the store has been closed")

    @contextmanager
    def well_formed(self) -> Iterator[None]:
        """What is read inside makes sense, or `P2PModelError` says that the file is damaged, and what to do."""
        try:
            yield
        except (DecodeError, ValueError, KeyError, TypeError, OverflowError, struct.error) as error:
            raise P2PModelError(f"the index {str(self.path)!r} is damaged ({error!r}); {_WAY_OUT}") from error

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise self._fault(error) from error
        except UnicodeDecodeError as error:  # SQLite's own message, which quotes what it could not read
            raise P2PModelError(f"the index {str(self.path)!r} is damaged; {_WAY_OUT}") from error

    def _is_full(self) -> bool:
        """SQLite says "disk I/O error" where there is no room for its shared memory."""
        try:
            directory = self._files.open_directory(self.path.parent)
            if directory is None:
                return False
            with closing(directory):
                return directory.free_bytes() < _ROOM_BYTES
        except P2PModelError:
            return False

    def _fault(self, error: sqlite3.Error) -> P2PModelError:
        text = f"the index {str(self.path)!r}: {error}"
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            return NoSpaceError(text)
        if code == sqlite3.SQLITE_IOERR and self._is_full():
            return NoSpaceError(f"the index {str(self.path)!r}: its disk is full")
        if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
            return RefusedError(text)
        if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            return P2PModelError(f"{text}; {_WAY_OUT}")
        return P2PModelError(text)
