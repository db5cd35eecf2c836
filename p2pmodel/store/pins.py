"""Models that are never let go of to make room, until somebody says so. Thread-safe, and kept over a restart."""

from __future__ import annotations

import threading

from p2pmodel.model import Digest, ModelId
from p2pmodel.store.database import Database


class Pins:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._pinned = {ModelId(Digest(row[0])) for row in database.query("SELECT model_id FROM pins")}

    def __contains__(self, model_id: ModelId) -> bool:
        with self._lock:
            return model_id in self._pinned

    def add(self, model_id: ModelId) -> bool:
        """Durable when it returns. Whether that is news."""
        with self._lock:
            if model_id in self._pinned:
                return False
            with self._database.transaction() as writer:
                writer.execute("INSERT INTO pins VALUES (?)", (model_id.raw,))
            self._pinned.add(model_id)
            return True

    def remove(self, model_id: ModelId) -> bool:
        """Whether it was pinned."""
        with self._lock:
            if model_id not in self._pinned:
                return False
            with self._database.transaction() as writer:
                writer.execute("DELETE FROM pins WHERE model_id = ?", (model_id.raw,))
            self._pinned.remove(model_id)
            return True
