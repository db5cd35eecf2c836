"""The store of one peer: which models are on this disk, where each chunk lies, and what may be said to be here.

Files stay where they are: a published model is served in place, a fetched one is written once, into files that take
their final names when they are whole. Nothing is served from a file that changed since it was hashed. All methods may
be called from any thread; none needs an event loop.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from p2pmodel.errors import NotFoundError, P2PModelError, RefusedError
from p2pmodel.model import Digest, HaveMap, Layout, ModelId, PortablePath, PublicKey, Sha256, SignedStatement
from p2pmodel.store.adoption import LocalChunks
from p2pmodel.store.cache import Beside, Cache
from p2pmodel.store.catalogue import Catalogue
from p2pmodel.store.checking import Checker
from p2pmodel.store.copies import Copy, hold
from p2pmodel.store.database import Database
from p2pmodel.store.entering import Entrance
from p2pmodel.store.file_hashes import FileHashes
from p2pmodel.store.files import Files
from p2pmodel.store.hashing import HashPool
from p2pmodel.store.health import Health
from p2pmodel.store.intake import Intake
from p2pmodel.store.intakes import Intakes
from p2pmodel.store.leaving import Leaving
from p2pmodel.store.lending import Lender
from p2pmodel.store.model_places import find_seeds
from p2pmodel.store.objects import Objects, Statements
from p2pmodel.store.os_files import OS_FILES
from p2pmodel.store.pins import Pins
from p2pmodel.store.proving import Prover, run_behind
from p2pmodel.store.publishing import OnProgress, Publisher, Tally
from p2pmodel.store.releasing import Releaser
from p2pmodel.store.repairing import Repair
from p2pmodel.store.scrubbing import Scrubber
from p2pmodel.store.seeds import Seed, Seeds
from p2pmodel.store.serving import ChunkSource, Server
from p2pmodel.store.summary import stored_model
from p2pmodel.store.tidying import Tidier
from p2pmodel.store.usage import usage
from p2pmodel.store.values import (
    BadRange,
    CacheLimits,
    CacheUse,
    FilePlace,
    FileState,
    Published,
    Released,
    Reuse,
    StoredModel,
    Usage,
)
from p2pmodel.store.walk import Tree

INDEX_NAME = "store.sqlite3"


class Store:
    """Made by `Store.open`. The data directory must be this process's own (`Files.lock`)."""

    def __init__(self, directory: Path, database: Database, files: Files, pool: HashPool) -> None:
        self.directory = directory
        self._files, self._database = files, database
        self._objects, self._statements = Objects(database), Statements(database)
        self._catalogue = Catalogue(database)
        self._pool = pool
        self._server = Server(files, self._catalogue)
        self._publisher = Publisher(files, database, self._objects, self._catalogue, self._pool)
        self._checker = Checker(files, database, self._catalogue, self._pool)
        self._prover = Prover(self._catalogue, self._checker, self.layout)
        self.health = Health(files, database, self._catalogue)
        self.scrubber = Scrubber(files, database, self._catalogue, self.layout)
        self._pins = Pins(database)
        self._releaser = Releaser(
            files=files,
            database=database,
            catalogue=self._catalogue,
            objects=self._objects,
            server=self._server,
            leaving=Leaving(files, database),
        )
        self._releaser.finish()
        self._releaser.finish_models()
        self.cache = Cache(
            directory,
            files=files,
            database=database,
            catalogue=self._catalogue,
            objects=self._objects,
            server=self._server,
            releaser=self._releaser,
            pins=self._pins,
        )

        self._lender = Lender(files, self._catalogue, self._objects, self._server, self.cache)
        self._intakes = Intakes(
            directory,
            files=files,
            database=database,
            catalogue=self._catalogue,
            objects=self._objects,
            server=self._server,
            lender=self._lender,
            releaser=self._releaser,
            cache=self.cache,
        )
        self._file_hashes = FileHashes(self._catalogue, self._objects)
        self._entrance = Entrance(
            self.cache.directory, files, pool, lambda layout, root: self._intakes.open(layout, [0], root)
        )
        self._tidier = Tidier(
            self.cache.directory,
            files=files,
            database=database,
            catalogue=self._catalogue,
            releaser=self._releaser,
        )

    @classmethod
    def open(cls, directory: Path, *, files: Files = OS_FILES, hash_threads: int | None = None) -> Store:
        """Open the store in a data directory, made if need be. Raises `RefusedError`, `NoSpaceError`.

        `hash_threads` is how many files are hashed at once: by default as many as the disk and the cores allow.
        """
        opened = files.open_directory(directory, create=True)
        assert opened is not None
        opened.close()
        database = Database(directory / INDEX_NAME, files)
        try:
            with database.well_formed():
                return cls(directory, database, files, HashPool(hash_threads or files.threads))
        except BaseException:
            database.close()
            raise

    def close(self) -> None:
        """End every fetch that is still open and let go of all files."""
        with ExitStack() as ending:
            ending.callback(self._database.close)
            ending.callback(self._save_uses)
            ending.callback(self._pool.close)
            ending.callback(self._server.open_files.close)
            ending.callback(self._intakes.close)

    def _save_uses(self) -> None:
        with suppress(P2PModelError):  # a hint for the next run
            self.cache.expendables.save()

    # --- objects and statements

    def put_object(self, data: bytes) -> Digest:
        """Keep a manifest or chunk list. Raises `DecodeError` where it is too long."""
        return self._objects.put(data)

    def object(self, digest: Digest) -> bytes | None:
        """The bytes with this hash, which is computed again."""
        return self._objects.get(digest)

    def layout(self, model_id: ModelId) -> Layout | None:
        """The model's manifest and chunk lists, where all of them are here."""
        return self._objects.layout(model_id)

    def add_statement(self, signed: SignedStatement, *, durable: bool = True) -> None:
        """Not `durable` is enough for what peers told, and would tell again."""
        self._statements.add(signed, durable=durable)

    def statements(self, model_id: ModelId) -> list[SignedStatement]:
        """Newest first."""
        return self._statements.of(model_id)

    def find_name(self, name: str, *, namespace: PublicKey | None = None, revision: str = "") -> list[SignedStatement]:
        """Who calls what by this name, newest first; an empty revision stands for all."""
        return self._statements.find_name(name, namespace=namespace, revision=revision)

    # --- publishing and serving

    @property
    def hash_each_read(self) -> bool:
        """Whether a chunk is hashed whenever it is read for others, or once while its file stays as it is."""
        return self._server.hash_each_read

    @hash_each_read.setter
    def hash_each_read(self, value: bool) -> None:
        self._server.hash_each_read = value

    @property
    def wrong_reads(self) -> int:
        """Reads that came back wrong and, at once repeated, right."""
        return self._server.wrong_reads

    def publish(
        self,
        path: Path,
        *,
        follow_symlinks: bool = False,
        on_progress: OnProgress | None = None,
        stop: threading.Event | None = None,
    ) -> Published:
        """Hash a directory or file where it lies and serve it from there.

        Raises `NotFoundError`, `UsageError` (nothing in it, a link that leads outside, a name that is not portable, a
        socket), `RefusedError` (no permission), `VerificationError` (a file changed meanwhile), and
        `InterruptedFetchError` once `stop` is set.
        """
        stop = stop or threading.Event()
        done = self._publisher.publish(path, follow_symlinks=follow_symlinks, on_progress=on_progress, stop=stop)
        self._settle(done.model_id)
        return done

    def find_seeds(self, path: Path) -> Seeds:
        """Models of other programs below a path. Raises `NotFoundError`, `RefusedError`."""
        return find_seeds(self._files, path)

    def seed(
        self, seed: Seed, *, on_progress: OnProgress | None = None, stop: threading.Event | None = None
    ) -> Published:
        """Hash a model that was found and serve it from where it lies; raises as `publish` does.

        `VerificationError` also where a file is not what the other program's name for it says.
        """
        tree = Tree(seed.files, ())
        stop = stop or threading.Event()
        done = self._publisher.enter(tree, seed.root, on_progress=on_progress, stop=stop, claims=True)
        self._settle(done.model_id)
        return done

    def chunk(self, digest: Digest, where: tuple[ModelId, int] | None = None) -> ChunkSource | None:
        """The chunk with this hash, from whichever model holds it; the caller releases it.

        `where` says which chunk of which model it may be: right, it saves a look into the database.
        """
        return self._lender.chunk(digest, where)

    def models_with(self, digests: Sequence[Digest]) -> list[ModelId]:
        """Models of which chunks with these hashes are here, those with most of them first."""
        return self._lender.models_with(digests)

    def models_with_file(self, hashed: Digest | Sha256) -> list[tuple[ModelId, int]]:
        """Models of which something is here and whose manifests name a file with this hash, and its number there."""
        return self._file_hashes.places(hashed.raw)

    def have_map(self, model_id: ModelId) -> HaveMap | None:
        """What can be served of a model now, chunks of a running fetch included; None where nothing is known of it."""
        return self._lender.have_map(model_id)

    def file_place(self, model_id: ModelId, file_index: int, chunks: int) -> FilePlace | None:
        """Where these chunks (bits) of a file can be read together, in the best place first; None for nowhere.

        The file is looked at: one that changed is not named.
        """
        return self._lender.file_place(model_id, file_index, chunks)

    def digests(self, model_id: ModelId) -> Iterator[Digest]:
        """The hashes of the chunks that are here, in order."""
        return self._lender.digests(model_id)

    # --- fetching

    def open_intake(
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
        `sparse` is how a cache fetches: no space is reserved, each chunk asks for its own, and no file gets its name
        unless `Intake.place_whole` gives it.
        Raises `UsageError` for no files or unknown ones, `RefusedError` where the directory is not to be written
        to, or this model is being fetched into it, and `InterruptedFetchError` once `stop` is set.
        """
        return self._intakes.open(
            layout, file_indices, destination, overwrite=overwrite, sparse=sparse, link=link, stop=stop
        )

    def enter(self, path: Path, name: PortablePath, sha256: Sha256, *, stop: threading.Event | None = None) -> Layout:
        """Take a file with this SHA-256 out of the data directory into the cache, as a model of one file.

        Raises `VerificationError` where it has another, `InterruptedFetchError` once `stop` is set.
        """
        return self._entrance.enter(path, name, sha256, stop or threading.Event())

    def would_reuse(self, layout: Layout, file_indices: Collection[int]) -> dict[Reuse, int]:
        """What a fetch of these files would find on this disk, as far as the index says; no file is looked at."""
        return self._intakes.would_reuse(layout, file_indices)

    # --- what is here

    def models(self) -> list[StoredModel]:
        found = [self.model(model_id) for model_id in self._catalogue.model_ids()]
        return [model for model in found if model is not None]

    def published_roots(self) -> list[tuple[ModelId, Path]]:
        """Where models were published, whole now or not. No model is looked at: cheap however many there are."""
        return [(copy.model_id, copy.root) for copy in self._catalogue.all_copies() if copy.kind == "published"]

    def model(self, model_id: ModelId) -> StoredModel | None:
        """What is here of one model, at the place where most of it is."""
        manifest = self._objects.manifest(model_id)
        copies = self._catalogue.copies(model_id)
        if manifest is None or not copies:
            return None
        pinned = model_id in self._pins
        return stored_model(manifest, copies, self.layout, pinned=pinned, content=self.cache.content)

    def usage(self) -> Usage:
        """What the models take on this disk, and what they have in common."""
        return usage(self._files, self._catalogue, self.layout)

    def model_at(self, path: Path) -> ModelId | None:
        """The model that was published from, or fetched into, this path; the latest where there are several."""
        root = self._files.resolve(path)
        found = [copy for copy in self._catalogue.all_copies() if copy.root == root]
        return max(found, key=lambda copy: (not copy.fault, copy.number)).model_id if found else None

    def check_files(self, model_id: ModelId | None = None) -> list[StoredModel]:
        """Stat every file, or those of one model; returns the models of which one changed, vanished or came back since
        the last look."""
        copies = self._catalogue.all_copies() if model_id is None else self._catalogue.copies(model_id)
        news = {copy.model_id: None for copy in copies if self._checker.look(copy)}
        found = [self.model(model_id) for model_id in news]
        return [model for model in found if model is not None]

    def verify(
        self,
        model_id: ModelId,
        *,
        path: Path | None = None,
        on_progress: OnProgress | None = None,
        stop: threading.Event | None = None,
    ) -> list[BadRange]:
        """Hash all files of a model again, at `path` or where most of it is; its have-map is then what the disk says.

        Raises `NotFoundError` where nothing of it is here, `RefusedError` while it is being fetched to that place.
        """
        copy, layout = self._to_check(model_id, path)
        tally = Tally(sum(layout.files[kept.index].size for kept in copy.files), on_progress)
        stop = stop or threading.Event()
        self._hold_listed(copy, stop)
        try:
            return self._checker.verify(copy, layout, tally, stop)
        finally:
            copy.busy.release()
            self.cache.expendables.settle(copy)

    def _hold_listed(self, copy: Copy, stop: threading.Event) -> None:
        """Raises `NotFoundError` where the copy was let go of meanwhile."""
        hold(copy, stop)
        if self._catalogue.copy_at(copy.model_id, copy.root) is not copy:
            copy.busy.release()
            raise NotFoundError(f"the model {copy.model_id.hex} has just been let go of")

    def _to_check(self, model_id: ModelId, path: Path | None) -> tuple[Copy, Layout]:
        copies = self._catalogue.copies(model_id)
        if path is not None:
            copies = [copy for copy in copies if copy.root == self._files.resolve(path)]
        layout = self.layout(model_id)
        if not copies or layout is None:
            raise NotFoundError(f"nothing of the model {model_id.hex} is on this disk")
        copy = max(copies, key=lambda copy: copy.bits.bit_count())
        if self._intakes.writes_to(copy):
            raise RefusedError(f"the model {model_id.hex} is being fetched into {str(copy.root)!r}")
        return copy, layout

    def open_repair(
        self,
        model_id: ModelId,
        *,
        path: Path | None = None,
        unasked: bool = False,
        stop: threading.Event | None = None,
    ) -> Repair:
        """Begin to put right the chunks that `verify` found to be bad. Call `begin` next, and `close` in the end.

        `unasked`: nobody said that it may overwrite what somebody changed; such files are left alone. Raises as
        `verify` does.
        """
        copy, layout = self._to_check(model_id, path)
        self._hold_listed(copy, stop or threading.Event())
        try:
            return Repair(
                layout,
                copy,
                files=self._files,
                database=self._database,
                catalogue=self._catalogue,
                local_chunks=LocalChunks(self._lender.find, lambda: True),
                on_close=copy.busy.release,
                unasked=unasked,
            )
        except BaseException:
            copy.busy.release()
            raise

    def is_fetched(self, model_id: ModelId, path: Path | None) -> bool:
        """Whether what `verify` would check was put there by p2pmodel."""
        return self._to_check(model_id, path)[0].kind == "fetched"

    def prove(self, *, stop: threading.Event | None = None) -> list[StoredModel]:
        """Hash files that an earlier run placed and did not prove before it ended; until then they are not served.

        In the cache, what was written and not claimed is hashed too, and what nobody knows of is freed.

        Meant for the background after a start. Returns the models of which that was true.
        """
        stop, proven = stop or threading.Event(), list[ModelId]()

        def work() -> None:
            proven.extend(self._prover.run(stop))
            for copy in self._tidier.run(self.layout, stop):
                self.cache.expendables.settle(copy)
                proven.append(copy.model_id)

        if self._pool.threads == 1:
            work()
        else:
            run_behind(work)
        found = [self.model(model_id) for model_id in proven]
        return [model for model in found if model is not None]

    # --- keeping and letting go

    def watch_cache(
        self,
        limits: CacheLimits,
        on_released: Callable[[ModelId, int], None],
        known_elsewhere: Callable[[ModelId], int],
        beside: Beside,
    ) -> None:
        """How much the cache may take, who is told of what goes, who says what others hold, and what lies beside the
        models (see `Cache`)."""
        self.cache.limits, self.cache.beside = limits, beside
        self.cache.on_released, self.cache.expendables.known_elsewhere = on_released, known_elsewhere

    def cache_use(self) -> CacheUse:
        """What the cache takes at present, and may take."""
        return self.cache.use()

    def pin(self, model_id: ModelId) -> bool:
        """Never let go of a model to make room. Whether that is news. Raises `NotFoundError` where it is not here."""
        if not self._catalogue.copies(model_id):
            raise NotFoundError(f"nothing of the model {model_id.hex} is on this disk; fetch it first")
        news = self._pins.add(model_id)
        self._settle(model_id)
        return news

    def unpin(self, model_id: ModelId) -> bool:
        """Whether it was pinned."""
        was = self._pins.remove(model_id)
        self._settle(model_id)
        return was

    def _settle(self, model_id: ModelId) -> None:
        for copy in self._catalogue.copies(model_id):
            self.cache.expendables.settle(copy)

    def remove(self, model_id: ModelId, *, pinned: bool = False, stop: threading.Event | None = None) -> list[Released]:
        """Let go of a model, here and now. Only cached files are deleted, and partial files of a fetch anywhere.

        Returns what became of each copy; nothing where there was none. Raises `RefusedError` while it is being fetched,
        or where it is pinned and `pinned` does not say that this is known.
        """
        if any(intake.layout.model_id == model_id for intake in self._intakes.now):
            raise RefusedError(f"the model {model_id.hex} is being fetched")
        if model_id in self._pins and not pinned:
            raise RefusedError(f"the model {model_id.hex} is pinned; unpin it first")
        gone = []
        for copy in self._catalogue.copies(model_id):
            hold(copy, stop or threading.Event())
            try:
                if self._catalogue.is_listed(copy):  # else another one was faster
                    gone.append(self._let_go(copy))
            finally:
                copy.busy.release()
                self.cache.expendables.settle(copy)
        self._pins.remove(model_id)
        return gone

    def forget_unused(self, model_id: ModelId) -> None:
        """After the cache looked into a model: what it noted of one of which it then kept nothing goes again.

        Strangers say what a cache looks into, and could fill its index otherwise. Raises `P2PModelError`.
        """
        for copy in self._catalogue.copies(model_id):
            unused = self.cache.content(copy) == "cached" and model_id not in self._pins and not copy.proven
            if not unused or not copy.busy.acquire(blocking=False):
                continue
            try:
                if self._catalogue.is_listed(copy) and not copy.proven:
                    self._releaser.whole(copy, files=False)
            finally:
                copy.busy.release()
                self.cache.expendables.settle(copy)
        with self._catalogue.entering:
            if not self._catalogue.copies(model_id):
                self._objects.discard({model_id.raw}, self._catalogue.model_ids())

    def _let_go(self, copy: Copy) -> Released:
        content, chunks = self.cache.content(copy), copy.bits.bit_count()
        named = any(kept.state is not FileState.PARTIAL for kept in copy.files)
        freed = self._releaser.whole(copy, files=content == "cached")
        stay = named and content != "cached"
        return Released(
            copy.model_id, copy.root, content, chunks, freed, True, files_stay=stay, reason="it was asked for"
        )
