"""`seed`: models of other programs, found, hashed, named, signed and announced; nothing is copied.

One model that cannot be taken never keeps the others from it: it is left out, with the reason.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from msgspec.structs import replace

from p2pmodel.errors import InterruptedFetchError, NotFoundError, P2PModelError
from p2pmodel.model import ModelId, SecretKey, SignedStatement, Statement, sign_statement
from p2pmodel.peer.peer import Peer
from p2pmodel.peer.reports import NotSeeded, Progress, SeededModel, SeedReport
from p2pmodel.peer.requests import OnProgress, SeedRequest
from p2pmodel.store import LeftOut, Seed
from p2pmodel.store.seeds import name_of

_ANNOUNCE_S = 5.0
"""How long it waits for the root records to be out."""


@dataclass(slots=True)
class Seeding:
    """One `SeedRequest`."""

    peer: Peer
    request: SeedRequest
    key: SecretKey
    progress: OnProgress
    _models: list[SeededModel] = field(default_factory=list)
    _left_out: list[LeftOut] = field(default_factory=list)

    async def run(self) -> SeedReport:
        """Raises `NotFoundError` where a path is not there, or where nothing at all was found."""
        began = self.peer.network.clock.monotonic()
        seeds = await self._find()
        names = _names(seeds)
        announced = 0
        for seed in seeds:
            if self.request.dry_run:
                self._models.append(_told(seed, names[seed.root, seed.title], seed.bytes_total))
            elif model_id := await self._take(seed, names[seed.root, seed.title]):
                announced += await self._announce(model_id)
        return SeedReport(
            models=self._models,
            left_out=[NotSeeded(path=str(left.path), reason=left.reason) for left in self._left_out],
            bytes_total=sum(model.bytes_total for model in self._models),
            bytes_hashed=sum(model.bytes_hashed for model in self._models),
            seconds=round(self.peer.network.clock.monotonic() - began, 3),
            signed_by="" if self.request.dry_run else self.key.public.text,
            announced=announced > 0,
            dry_run=self.request.dry_run,
        )

    async def _find(self) -> list[Seed]:
        """Every model below the paths, each once."""
        found: dict[tuple[Path, str], Seed] = {}
        for path in self.request.paths:
            seeds = await self.peer.network.offload(self.peer.store.find_seeds, Path(path))
            self._left_out += seeds.left_out
            for seed in seeds.found:
                if self._is_wanted(seed):
                    found[seed.root, seed.title] = seed
                else:
                    self._left_out.append(LeftOut(seed.root, f"{seed.title}: not asked for"))
        if not found and not self._left_out:
            raise NotFoundError(f"no model was found below {', '.join(map(repr, self.request.paths))}")
        return list(found.values())

    def _is_wanted(self, seed: Seed) -> bool:
        texts = (seed.title, seed.family)

        def fits(patterns: Sequence[str]) -> bool:
            return any(fnmatchcase(text, pattern) for text in texts for pattern in patterns)

        return (not self.request.include or fits(self.request.include)) and not fits(self.request.exclude)

    async def _take(self, seed: Seed, name: str) -> ModelId | None:
        store, loop, stop = self.peer.store, asyncio.get_running_loop(), threading.Event()

        def tell(done: int, total: int, file: str) -> None:
            news = Progress(phase="hashing", bytes_done=done, bytes_total=total, file=file, note=seed.title)
            loop.call_soon_threadsafe(self.progress, news)

        known = {model.model_id for model in await self.peer.network.offload(store.models)}
        try:
            published = await self.peer.until_stopped(stop, store.seed, seed, on_progress=tell, stop=stop)
        except InterruptedFetchError:
            raise
        except P2PModelError as error:
            self._left_out.append(LeftOut(seed.root, f"{seed.title}: {error}"))
            return None
        name = await self._sign(seed, published.model_id, name)
        model = _told(seed, name, published.bytes_hashed)
        full_name = f"{self.key.public.text}/{name}" if name else ""
        is_new = published.model_id not in known
        self._models.append(replace(model, model_id=published.model_id.hex, name=full_name, new=is_new))
        return published.model_id

    async def _sign(self, seed: Seed, model_id: ModelId, name: str) -> str:
        """Say what it is called, unless that was said before; returns the name."""
        offload, store, key = self.peer.network.offload, self.peer.store, self.key
        message = f"{seed.family}, {_ORIGINS[seed.origin]}"
        name, said = await self._free_name(seed, name, message)
        own = await offload(store.statements, model_id)
        revisions = (seed.revisions if name else ()) or ("",)
        for revision in revisions:
            # What the name alone means is what was said last.
            is_meant = revision != revisions[-1] or not name or (bool(said) and said[0].statement.model_id == model_id)
            if _was_said(own, key, name, revision) and is_meant:
                continue
            said_at = [one.statement.issued_at + 1 for one in said]
            issued_at = max([int(self.peer.network.clock.wall()), *said_at])
            signed = sign_statement(Statement(model_id, issued_at, name, revision, message), key)
            await offload(store.add_statement, signed)
            said = [signed, *said]
        return name

    async def _free_name(self, seed: Seed, name: str, message: str) -> tuple[str, list[SignedStatement]]:
        """The first of its names that this key gave to no other model, with what was said of it; empty where all are
        taken. What somebody published himself keeps its name."""
        names = [name, seed.qualified_name, name_of(f"{seed.origin}.{seed.qualified_name}")] if name else []
        for one in dict.fromkeys(names):
            said = await self.peer.network.offload(self.peer.store.find_name, one, namespace=self.key.public)
            if all(each.statement.message == message for each in said):
                return one, said
        return "", []

    async def _announce(self, model_id: ModelId) -> int:
        try:
            async with asyncio.timeout(_ANNOUNCE_S):
                return await self.peer.announcer.update(model_id, now=True)
        except TimeoutError:
            return 0


_ORIGINS = {
    "huggingface": "as the Hugging Face Hub has it",
    "ollama": "as Ollama has it",
    "gguf": "a GGUF file",
    "directory": "a directory",
}
"""Signed with the name, so that it can be told from another model that is called the same."""


def _was_said(own: Sequence[SignedStatement], key: SecretKey, name: str, revision: str) -> bool:
    wanted = (key.public, name, revision)
    return any((one.signer, one.statement.name, one.statement.revision) == wanted for one in own)


def _names(seeds: Sequence[Seed]) -> dict[tuple[Path, str], str]:
    """What each is called: its own name, or with its organization where two different models would have the same."""
    titles = dict.fromkeys((seed.name, seed.family) for seed in seeds)
    shared = Counter(name for name, _ in titles)
    return {(seed.root, seed.title): seed.name if shared[seed.name] == 1 else seed.qualified_name for seed in seeds}


def _told(seed: Seed, name: str, bytes_hashed: int) -> SeededModel:
    return SeededModel(
        model_id="",
        title=seed.title,
        origin=seed.origin,
        path=str(seed.root),
        files=len(seed.files),
        bytes_total=seed.bytes_total,
        bytes_hashed=bytes_hashed,
        name=name,
        revisions=list(seed.revisions),
        note=seed.note,
    )
