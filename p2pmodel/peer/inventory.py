"""What is on this disk, as the person is told: models, their files and places, what they take, what was let go of.

Objects behind `--json` and the control API, as in `peer/reports.py`; keys are stable (docs/cli.md).
"""

from __future__ import annotations

from typing import Literal

import msgspec


class ModelFile(msgspec.Struct, frozen=True, kw_only=True):
    path: str
    size: int
    blake3: str
    sha256: str
    chunks: int
    bytes_held: int


class Signer(msgspec.Struct, frozen=True, kw_only=True):
    key: str
    alias: str = ""
    trusted: bool = False
    name: str = ""
    revision: str = ""
    message: str = ""
    issued_at: int = 0


class ModelPlace(msgspec.Struct, frozen=True, kw_only=True):
    """One of the places where a model lies on this disk."""

    path: str
    state: Literal["published", "fetched", "partial", "broken"]
    content: Literal["published", "fetched", "cached"]
    """Whose it is: only what is `cached` goes to make room, or when the model is let go of."""
    bytes_held: int
    fault: str = ""


class ModelSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A line of `ls`. `path` and what follows from it are of the place where most of it is."""

    model_id: str
    name: str
    path: str
    state: Literal["published", "fetched", "partial", "broken", "remote"]
    files: int
    bytes_total: int
    bytes_held: int
    chunks: int
    chunks_held: int
    pinned: bool = False
    cached: bool = False
    """It lies in the cache, which may let go of it unless it is pinned."""
    fault: str = ""
    """Why it is broken: the file that changed or vanished."""
    places: list[ModelPlace] = []
    """All of them, that at `path` first; none where the model is not here."""


class ModelUsage(msgspec.Struct, frozen=True, kw_only=True):
    """A line of `du`: one model, over all the places where it lies."""

    model_id: str
    name: str
    path: str
    pinned: bool
    cached: bool
    """Any place of it is the cache's."""
    places: list[str]
    bytes_apparent: int
    """Of its chunks that are here, in each place of it."""
    bytes_on_disk: int
    """Blocks of its files, those that it shares with other models as well."""
    bytes_own: int
    """Of these, what no other model has: what would be free without it."""
    bytes_shared: int
    """Of its chunks, those that other models here have too, by hash; the disk may hold them several times."""


class DiskUsage(msgspec.Struct, frozen=True, kw_only=True):
    """`du`."""

    models: list[ModelUsage]
    bytes_apparent: int
    bytes_on_disk: int
    """Of all together: a file with two names, and blocks that the file system says are shared, count once."""
    bytes_saved: int
    """Blocks that would be taken besides if no two models had a file or blocks in common."""
    bytes_repeated: int
    """Chunks that are here more often than once, each time with blocks of their own: what sharing could save still."""


class PinReport(msgspec.Struct, frozen=True, kw_only=True):
    """`pin`, `unpin`."""

    model_id: str
    pinned: bool
    """How it is now."""
    changed: bool


class ReleasedCopy(msgspec.Struct, frozen=True, kw_only=True):
    """A copy of a model, or chunks of it, that was let go of, or would be."""

    model_id: str
    path: str
    content: Literal["published", "fetched", "cached"]
    """Whose it was: its owner's, the user's for whom it was fetched, or the cache's."""
    chunks: int
    bytes_freed: int
    whole: bool
    """Nothing of this copy is served any more."""
    files_stay: bool = False
    """The files are still there: they are not for this program to delete."""
    reason: str = ""


class RemoveReport(msgspec.Struct, frozen=True, kw_only=True):
    model_id: str
    copies: list[ReleasedCopy]
    bytes_freed: int


class ReleasedLeftover(msgspec.Struct, frozen=True, kw_only=True):
    """A file that a reader of an origin had left, and that was let go of, or would be: unfinished, or private."""

    path: str
    """Without its ending: several may belong together."""
    bytes_freed: int
    reason: str = ""


class CollectReport(msgspec.Struct, frozen=True, kw_only=True):
    """`gc`."""

    released: list[ReleasedCopy]
    bytes_freed: int
    """Of `released` and `leftovers`."""
    bytes_used: int
    """By the cache, afterwards; in a dry run, now."""
    bytes_pinned: int
    """Of `bytes_used`, what is pinned."""
    quota_bytes: int | None
    free_floor_bytes: int
    dry_run: bool = False
    leftovers: list[ReleasedLeftover] = []
    """They go before any model."""


class ModelDetail(msgspec.Struct, frozen=True, kw_only=True):
    """`show`: the manifest, its files and who signed it."""

    model: ModelSummary
    chunker: str
    manifest_bytes: int
    files: list[ModelFile]
    signers: list[Signer]
