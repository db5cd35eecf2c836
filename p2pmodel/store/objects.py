"""Manifests and chunk lists by the hash of their bytes, layouts made of them, and what publishers signed about them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable

from p2pmodel.errors import DecodeError, VerificationError
from p2pmodel.limits import CHUNKS_PER_MODEL_MAX, OBJECT_BYTES_MAX, STATEMENTS_PER_MODEL_MAX
from p2pmodel.model import ChunkList, Digest, Layout, Manifest, ModelId, PublicKey, SignedStatement, open_statement
from p2pmodel.store.database import Database, Writer

_PUT = "INSERT OR IGNORE INTO objects (digest, data) VALUES (?, ?)"
_BY_NAME = "SELECT envelope FROM statements WHERE name = ? ORDER BY issued_at DESC"


class Objects:
    """Content-addressed objects, hashed again whenever they are read. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._layouts: OrderedDict[ModelId, Layout] = OrderedDict()
        self._chunks = 0
        """Of all layouts that are kept: counting them anew for each of 2,000 models took 0.8 s."""

    def put(self, data: bytes) -> Digest:
        """Raises `DecodeError` for more than `OBJECT_BYTES_MAX` bytes."""
        if len(data) > OBJECT_BYTES_MAX:
            raise DecodeError(f"an object has at most {OBJECT_BYTES_MAX} bytes")
        digest = Digest.of(data)
        if not self._database.query("SELECT 1 FROM objects WHERE digest = ?", (digest.raw,)):
            with self._database.transaction(durable=False) as writer:
                writer.execute(_PUT, (digest.raw, data))
        return digest

    def get(self, digest: Digest) -> bytes | None:
        rows = self._database.query("SELECT data FROM objects WHERE digest = ?", (digest.raw,))
        if not rows or not digest.is_of(rows[0][0]):
            return None
        data: bytes = rows[0][0]
        return data

    def put_layout(self, writer: Writer, layout: Layout) -> None:
        """Keep the manifest and all chunk lists, inside the caller's transaction."""
        encoded = [layout.manifest.encode(), *(chunks.encoded for chunks in layout.chunk_lists)]
        digests = [layout.model_id.raw, *(file.chunk_list.raw for file in layout.files)]
        writer.execute_many(_PUT, zip(digests, encoded, strict=True))

    def manifest(self, model_id: ModelId) -> Manifest | None:
        encoded = self.get(model_id)
        try:
            return Manifest.decode(encoded) if encoded is not None else None
        except DecodeError:
            return None

    def layout(self, model_id: ModelId) -> Layout | None:
        """The manifest and chunk lists, where all are here; the least recently used ones are let go."""
        with self._lock:
            if cached := self._layouts.get(model_id):
                self._layouts.move_to_end(model_id)
                return cached
        manifest = self.manifest(model_id)
        if manifest is None:
            return None
        lists = [self.get(file.chunk_list) for file in manifest.files]
        try:
            layout = Layout(manifest, [ChunkList(encoded) for encoded in lists if encoded is not None])
        except DecodeError:
            return None
        self.remember(layout)
        return layout

    def forget(self, layout: Layout, others: Iterable[ModelId]) -> None:
        """Remove a model's manifest and chunk lists, except for those that other models name too."""
        with self._lock:
            if self._layouts.pop(layout.model_id, None) is not None:
                self._chunks -= len(layout)
        self.discard({layout.model_id.raw, *(file.chunk_list.raw for file in layout.files)}, others)

    def discard(self, gone: set[bytes], others: Iterable[ModelId]) -> None:
        """Remove objects by their hashes, except for those that other models name."""
        for other in others:
            manifest = self.manifest(other)
            if manifest is not None:
                gone -= {other.raw, *(file.chunk_list.raw for file in manifest.files)}
        with self._database.transaction() as writer:
            writer.execute_many("DELETE FROM objects WHERE digest = ?", [(digest,) for digest in sorted(gone)])

    def remember(self, layout: Layout) -> None:
        with self._lock:
            if layout.model_id not in self._layouts:
                self._chunks += len(layout)
            self._layouts[layout.model_id] = layout
            while self._chunks > CHUNKS_PER_MODEL_MAX and len(self._layouts) > 1:
                self._chunks -= len(self._layouts.popitem(last=False)[1])


class Statements:
    """What publishers signed; verified again whenever it is read. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, signed: SignedStatement, *, durable: bool) -> None:
        """A newer statement by the same key about the same id, name and revision takes the older one's place."""
        said = signed.statement
        with self._database.transaction(durable=durable) as writer:
            writer.execute(
                "INSERT INTO statements VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
                "issued_at = excluded.issued_at, envelope = excluded.envelope "
                "WHERE excluded.issued_at >= statements.issued_at",
                (said.model_id.raw, signed.signer.raw, said.name, said.revision, said.issued_at, signed.envelope),
            )
            writer.execute(
                "DELETE FROM statements WHERE model_id = ? AND rowid NOT IN "
                "(SELECT rowid FROM statements WHERE model_id = ? ORDER BY rowid LIMIT ?)",
                (said.model_id.raw, said.model_id.raw, STATEMENTS_PER_MODEL_MAX),
            )

    def of(self, model_id: ModelId) -> list[SignedStatement]:
        """Newest first."""
        sql = "SELECT envelope FROM statements WHERE model_id = ? ORDER BY issued_at DESC"
        return _opened(row[0] for row in self._database.query(sql, (model_id.raw,)))

    def find_name(self, name: str, *, namespace: PublicKey | None = None, revision: str = "") -> list[SignedStatement]:
        """Statements that give `name`, newest first; of one signer or of all, of one revision or of all."""
        found = _opened(row[0] for row in self._database.query(_BY_NAME, (name,)))
        return [
            signed
            for signed in found
            if (namespace is None or signed.signer == namespace) and revision in ("", signed.statement.revision)
        ]


def _opened(envelopes: Iterable[bytes]) -> list[SignedStatement]:
    found = []
    for envelope in envelopes:
        try:
            found.append(open_statement(envelope))
        except (DecodeError, VerificationError):
            continue
    return found
