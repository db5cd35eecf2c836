"""What is wrong with what is kept, place by place, as far as is known without reading it again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from p2pmodel.model import ModelId
from p2pmodel.store.catalogue import Catalogue
from p2pmodel.store.copies import Copy
from p2pmodel.store.database import Database
from p2pmodel.store.files import Files
from p2pmodel.store.values import FileState

Trouble = Literal["vanished", "short", "changed", "damaged", "partial"]


@dataclass(frozen=True, slots=True)
class Ailment:
    """One file of one copy, or for `partial` the copy itself, with how much of it is here."""

    trouble: Trouble
    model_id: ModelId
    root: Path
    published: bool
    """By its owner; False for what was fetched."""
    location: Path
    text: str = ""
    chunks: int = 0
    """Of a damaged file those that are bad, of a partial copy those that are here."""
    chunks_total: int = 0


class Health:
    """Thread-safe. Reads no bytes of models."""

    def __init__(self, files: Files, database: Database, catalogue: Catalogue) -> None:
        self._files, self._database, self._catalogue = files, database, catalogue

    def ailments(self) -> list[Ailment]:
        """Every trouble of every copy, as of the last look at the files."""
        return _ailments(self._files, self._catalogue)

    def damaged(self) -> list[tuple[ModelId, Path]]:
        """Fetched models with chunks that went bad, and where: what a peer may put right without asking anybody.

        A file that somebody changed is not among them: it is his now.
        """
        fetched = [copy for copy in self._catalogue.all_copies() if copy.kind == "fetched"]
        return [(copy.model_id, copy.root) for copy in fetched if any(not file.fault for file, _ in copy.damaged)]

    def places(self) -> list[tuple[ModelId, Path, int]]:
        """Every place where a model lies, and the bytes there."""
        copies = self._catalogue.all_copies()
        return [(copy.model_id, copy.root, sum(kept.identity.size for kept in copy.files)) for copy in copies]

    def check_index(self) -> str:
        """What is wrong with the database as a file, in its own words; empty where nothing is."""
        return self._database.check()


def _ailments(files: Files, catalogue: Catalogue) -> list[Ailment]:
    found: list[Ailment] = []
    for copy in sorted(catalogue.all_copies(), key=lambda copy: copy.number):
        damaged = {file.index: lost for file, lost in copy.damaged}
        unfinished = False
        for kept in copy.files:
            published = copy.kind == "published"
            if kept.state is FileState.PARTIAL and not kept.fault:
                unfinished = True
            elif kept.fault:
                status = files.status(kept.location)
                trouble: Trouble = "changed"
                if status is None:
                    trouble = "vanished"
                elif status.identity.size < kept.identity.size:
                    trouble = "short"
                found.append(Ailment(trouble, copy.model_id, copy.root, published, kept.location, kept.fault))
            elif kept.index in damaged:
                count = damaged[kept.index].bit_count()
                found.append(
                    Ailment("damaged", copy.model_id, copy.root, published, kept.location, "", count, len(kept.span))
                )
        if unfinished and not _is_written(copy):
            held = copy.bits.bit_count()
            found.append(Ailment("partial", copy.model_id, copy.root, False, copy.root, "", held, copy.count))
    return found


def _is_written(copy: Copy) -> bool:
    """A fetch or a check has it: nothing is left behind."""
    return copy.busy.locked()
