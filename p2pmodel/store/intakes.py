"""Fetches that write to this disk: at most one into each place, what each finds here already, and their end."""

from __future__ import annotations

import threading
from collections.abc import Collection
from contextlib import ExitStack
from pathlib import Path

from p2pmodel.errors import RefusedError, UsageError
from p2pmodel.model import HaveMap, Layout
from p2pmodel.store.borrowing import Borrowing
from p2pmodel.store.cache import MODELS_NAME, Cache
from p2pmodel.store.catalogue import Catalogue
from p2pmodel.store.copies import Copy, hold
from p2pmodel.store.database import Database
from p2pmodel.store.destination import Destination
from p2pmodel.store.files import Files
from p2pmodel.store.intake import Intake
from p2pmodel.store.lending import Lender
from p2pmodel.store.objects import Objects
from p2pmodel.store.releasing import Releaser
from p2pmodel.store.serving import Server
from p2pmodel.store.values import Reuse


class Intakes:
    """The open ones of a data directory. Thread-safe."""

    def __init__(
        self,
        directory: Path,
        *,
        files: Files,
        database: Database,
        catalogue: Catalogue,
        objects: Objects,
        server: Server,
        lender: Lender,
        releaser: Releaser,
        cache: Cache,
    ) -> None:
        self._directory = directory
        self._files, self._database, self._catalogue, self._objects = files, database, catalogue, objects
        self._server, self._lender, self._releaser, self._cache = server, lender, releaser, cache
        self._lock = threading.Lock()
        self._intakes: dict[Intake, None] = {}

    def open(
        self,
        layout: Layout,
        file_indices: Collection[int],
        destination: Path,
        *,
        overwrite: bool = False,
        sparse: bool = False,
        link: bool = False,
        stop: threading.Event | None = None,
    ) -> Intake:
        """Begin, or resume, a fetch of these files into a directory. Call `adopt` next, and `close` in the end.

        With `link`, a file that some model here has as well is one with that; otherwise only among fetched ones in the
        data directory.
        `sparse` is how a cache fetches: no space is reserved, each chunk asks for its own, and no file gets its name.
        Raises `UsageError` for no files or unknown ones, `RefusedError` where the directory is not to be written
        to, or this model is being fetched into it, and `InterruptedFetchError` once `stop` is set.
        """
        if not file_indices or not all(0 <= index < len(layout.files) for index in file_indices):
            raise UsageError("a fetch needs at least one file of the model")
        root = self._files.resolve(destination)
        copy = self._held_copy(layout, root, stop or threading.Event())
        try:
            self._releaser.finish(copy)
            place = Destination(self._files, root, layout.model_id)
        except BaseException:
            copy.busy.release()
            raise
        try:
            intake = Intake(
                layout=layout,
                file_indices=file_indices,
                copy=copy,
                destination=place,
                files=self._files,
                database=self._database,
                catalogue=self._catalogue,
                borrowing=self._borrowing(place.root, link and not sparse),
                cache=self._cache,
                overwrite=overwrite,
                sparse=sparse,
                on_close=self._intake_closed,
            )
        except BaseException:
            place.close()
            copy.busy.release()
            raise
        with self._lock:
            self._intakes[intake] = None
        return intake

    def _held_copy(self, layout: Layout, root: Path, stop: threading.Event) -> Copy:
        """Waits while the copy is being checked, or let go of; a new one takes its place then."""
        while True:
            copy = self._copy_for(layout, root)
            if self.writes_to(copy):
                raise RefusedError(f"another fetch is writing to {str(root)!r}")
            hold(copy, stop)
            if self._catalogue.copy_at(layout.model_id, root) is copy:
                return copy
            copy.busy.release()

    def would_reuse(self, layout: Layout, file_indices: Collection[int]) -> dict[Reuse, int]:
        """What a fetch of these files would find on this disk, as far as the index says; no file is looked at."""
        wanted, held = layout.have_map(file_indices), self._lender.have_map(layout.model_id)
        own = HaveMap(len(layout), wanted.bits & held.bits if held is not None else 0)
        elsewhere = self._borrowing(self._directory, link=False).found(
            layout, HaveMap(len(layout), wanted.bits & ~own.bits)
        )
        return {"resumed": sum(layout.length(index) for index in own), "copied": elsewhere}

    def _borrowing(self, destination: Path, link: bool) -> Borrowing:
        own = self._files.resolve(self._directory) / MODELS_NAME

        def may_link(copy: Copy) -> bool:
            return link or (copy.kind == "fetched" and own in copy.root.parents and own in destination.parents)

        return Borrowing(
            files=self._files,
            database=self._database,
            catalogue=self._catalogue,
            server=self._server,
            layout_of=self._objects.layout,
            may_link=may_link,
        )

    def _copy_for(self, layout: Layout, root: Path) -> Copy:
        with self._catalogue.entering:
            copy = self._catalogue.copy_at(layout.model_id, root)
            if copy is None:
                # Nothing is here yet: after a power cut that takes this back the fetch begins again.
                with self._database.transaction(durable=False) as writer:
                    self._objects.put_layout(writer, layout)
                    copy = self._catalogue.create(writer, layout, root, "fetched")
                self._catalogue.publish_copy(copy)
            self._objects.remember(layout)
            return copy

    def writes_to(self, copy: Copy) -> bool:
        """Whether a fetch into this copy is open."""
        return any(intake.copy is copy for intake in self.now)

    @property
    def now(self) -> list[Intake]:
        with self._lock:
            return list(self._intakes)

    def close(self) -> None:
        """End every fetch that is still open."""
        with ExitStack() as ending:
            for intake in self.now:
                ending.callback(intake.close)

    def _intake_closed(self, intake: Intake) -> None:
        with self._lock:
            self._intakes.pop(intake, None)
        intake.copy.busy.release()
        self._cache.expendables.settle(intake.copy)
        if intake.was_whole:
            self._cache.expendables.used(intake.copy)
