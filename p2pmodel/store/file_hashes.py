"""Which models here have a file with this hash: in the words of their manifests, which for files that were fetched are
their publishers'."""

from __future__ import annotations

import threading

from p2pmodel.model import ModelId
from p2pmodel.store.catalogue import Catalogue
from p2pmodel.store.objects import Objects


class FileHashes:
    """By SHA-256 and by BLAKE3, read from the manifests of what is here. Thread-safe."""

    def __init__(self, catalogue: Catalogue, objects: Objects) -> None:
        self._catalogue, self._objects = catalogue, objects
        self._lock = threading.Lock()
        self._places: dict[bytes, dict[tuple[ModelId, int], None]] = {}
        self._hashes: dict[ModelId, list[tuple[bytes, tuple[ModelId, int]]]] = {}

    def places(self, raw: bytes) -> list[tuple[ModelId, int]]:
        """Models and file numbers, for the 32 bytes of either hash."""
        with self._lock:
            self._keep_up()
            return list(self._places.get(raw, ()))

    def _keep_up(self) -> None:
        here = dict.fromkeys(self._catalogue.model_ids())
        for model_id in [known for known in self._hashes if known not in here]:
            for raw, place in self._hashes.pop(model_id):
                del self._places[raw][place]
                if not self._places[raw]:
                    del self._places[raw]
        for model_id in here:
            if model_id not in self._hashes and (manifest := self._objects.manifest(model_id)) is not None:
                pairs = [
                    (raw, (model_id, index))
                    for index, file in enumerate(manifest.files)
                    if file.size
                    for raw in (file.sha256.raw, file.blake3.raw)
                ]
                self._hashes[model_id] = list(dict.fromkeys(pairs))
                for raw, place in pairs:
                    self._places.setdefault(raw, {})[place] = None
