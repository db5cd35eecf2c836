"""What the overlay knows, kept over a restart: the neighbours, and how far announcing has come.

Two small files in the data directory, each replaced as a whole now and then and at the end, where it has changed. A
file that cannot be read or written costs a warning and the start that it would have made faster, never the peer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from p2pmodel.errors import P2PModelError
from p2pmodel.limits import ANNOUNCE_STATE_BYTES_MAX, NEIGHBOURS_FILE_BYTES_MAX
from p2pmodel.net import Network
from p2pmodel.overlay import Overlay
from p2pmodel.store import Files

log = logging.getLogger(__name__)

NEIGHBOURS_NAME = "neighbours.json"
ANNOUNCING_NAME = "announcing.msgpack"
_ANNOUNCING_BYTES_MAX = 2 * ANNOUNCE_STATE_BYTES_MAX + 16
"""Roots and chunks."""
_SAVE_S = 180.0
_FIRST_SAVE_S = 20.0
"""Soon enough that a peer which lives for a minute finds its way back, late enough to have met somebody."""


class SavedState:
    """The two files of one peer; `restore` belongs between the overlay's start and the first key that it provides.

    `mode` is `PeerConfig.saved_state`.
    """

    def __init__(self, directory: Path, mode: str, files: Files, overlay: Overlay, network: Network) -> None:
        self._neighbours = directory / NEIGHBOURS_NAME
        self._announcing = directory / ANNOUNCING_NAME
        self._mode = mode
        self._files = files
        self._overlay = overlay
        self._network = network
        self._written: dict[Path, bytes] = {}
        """As they stand on the disk."""

    async def restore(self) -> None:
        if self._mode == "ignore":
            return
        await self._read(self._neighbours, NEIGHBOURS_FILE_BYTES_MAX, self._overlay.remember)
        if self._mode == "keep":
            await self._read(self._announcing, _ANNOUNCING_BYTES_MAX, self._overlay.restore_announcing)

    async def _read(self, path: Path, bytes_max: int, use: Callable[[bytes], object]) -> None:
        try:
            content = await self._network.offload(self._files.read_small, path, bytes_max)
            if content:
                self._written[path] = content
                use(content)
        except P2PModelError as error:
            log.warning("%s of the last run is of no use, starting without it: %s", path, error)

    async def run(self) -> None:
        """Save now and then, for ever."""
        await asyncio.sleep(_FIRST_SAVE_S)
        while True:
            await self.save()
            await asyncio.sleep(_SAVE_S)

    async def save(self) -> None:
        if self._mode == "keep":
            await self._write(self._neighbours, self._overlay.saved_neighbours())
            stats = self._overlay.stats()
            # What nobody holds yet is announced from the beginning in any case.
            announced = stats.keys_provided > stats.keys_pending
            await self._write(self._announcing, self._overlay.announce_state() if announced else b"")

    async def save_last(self) -> None:
        """Before the overlay stops, which takes back what was announced: nothing of that is left to go on from."""
        if self._mode == "keep":
            await self._write(self._neighbours, self._overlay.saved_neighbours())
            await self._write(self._announcing, b"")

    async def _write(self, path: Path, content: bytes) -> None:
        if content == self._written.get(path, b""):
            return
        try:
            await self._network.offload(self._files.write_small, path, content)
            self._written[path] = content
        except P2PModelError as error:
            log.warning("cannot keep %s for the next start: %s", path, error)
