"""What came of an operation, and how far it is: the objects behind `--json` and the control API (keys: docs/cli.md).

The same objects come from a peer in this process and, decoded from JSON, from a daemon, so a command renders one kind.
"""

from __future__ import annotations

from typing import Literal

import msgspec


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far an operation is. `phase` is one of: lookup, manifest, transfer, hashing, placing, announcing."""

    phase: str
    bytes_done: int = 0
    bytes_total: int = 0
    rate_bytes_per_s: float = 0.0
    """Over the last seconds, not since the start."""
    peers: int = 0
    """Peers that sent something in the last seconds, or are connected in the phases before."""
    eta_s: float | None = None
    """From the rate of the last half minute, so that it does not jump."""
    bytes_reused: int = 0
    """Of `bytes_done`, what was on this disk when the transfer began: an earlier run's part, or another model's."""
    file: str = ""
    note: str = ""
    """One sentence for the person, where there is something to say: "waiting for a peer that holds 3 chunks"."""


class PublishReport(msgspec.Struct, frozen=True, kw_only=True):
    model_id: str
    path: str
    files: int
    bytes_total: int
    chunks: int
    signed_by: str
    """Text form of the publisher's public key."""
    seconds: float
    name: str = ""
    skipped: list[str] = []
    """What was left out of a directory on purpose (.git, download metadata, partial files)."""
    announced: bool = False
    """Whether a running peer told the overlay; False where it was only added to this data directory."""


class SeededModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model that is served from where another program keeps it."""

    model_id: str
    """Empty for a dry run."""
    title: str
    """What its owner calls it: `org/name@main`."""
    origin: Literal["huggingface", "ollama", "gguf", "directory"]
    path: str
    files: int
    bytes_total: int
    bytes_hashed: int = 0
    """Less than all where unchanged files had been hashed before."""
    name: str = ""
    """In the publisher's namespace; with `revisions`, the last of which the name alone means."""
    revisions: list[str] = []
    note: str = ""
    new: bool = False
    """It was not served before."""


class NotSeeded(msgspec.Struct, frozen=True, kw_only=True):
    path: str
    reason: str


class SeedReport(msgspec.Struct, frozen=True, kw_only=True):
    models: list[SeededModel]
    left_out: list[NotSeeded]
    bytes_total: int
    bytes_hashed: int
    seconds: float
    signed_by: str = ""
    announced: bool = False
    """Whether a running peer told the overlay; False where they were only added to this data directory."""
    dry_run: bool = False


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is wrong, or good to know, and what cures it."""

    about: str
    """A stable key: `file-changed`, `key-mode`, `bootstrap`."""
    severity: Literal["error", "warning", "note"]
    what: str
    cure: str
    """A command, or a sentence where none does it."""
    path: str = ""
    model_id: str = ""


class DoctorReport(msgspec.Struct, frozen=True, kw_only=True):
    ok: bool
    """No finding is an error."""
    findings: list[Finding]
    """Worst first."""
    bytes_checked: int = 0
    """Hashed again for `--deep`."""
    seconds: float = 0.0


class PeerBytes(msgspec.Struct, frozen=True, kw_only=True):
    peer_id: str
    address: str
    bytes: int
    rejected: int = 0
    """Chunks from this peer that were not what was asked for."""


Distance = Literal["host", "network", "internet"]
"""This machine, a private network, or neither."""


class SourcePart(msgspec.Struct, frozen=True, kw_only=True):
    """What one peer had to do with a fetch."""

    peer_id: str
    address: str
    bytes: int
    """Verified, and the first copy."""
    chunks: int
    share: float
    """Of all bytes fetched, 0 to 1."""
    seconds: float
    """In which it had something to answer; `rate_bytes_per_s` is over these."""
    rate_bytes_per_s: int
    encrypted: bool
    distance: Distance
    rejected: int = 0
    """Chunks that were not what was asked for."""
    refused: int = 0
    """Chunks that it did not want to send, or did not have."""
    bytes_wasted: int = 0
    ended: str = ""
    """Why it gave no more; empty where it was there to the end."""


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Where the time of a fetch went. `seconds` has every cause (docs/cli.md), and they add up to the whole."""

    summary: str
    """One sentence for a person."""
    limit: str
    """The cause that had most of the time."""
    seconds: dict[str, float]
    wasted: dict[str, int]
    """Bytes by reason: duplicate, cancelled, corrupt."""
    sources: list[SourcePart]


class FetchReport(msgspec.Struct, frozen=True, kw_only=True):
    model_id: str
    path: str
    files: int
    bytes_total: int
    """Of the files that were asked for."""
    bytes_fetched: int
    """Verified bytes that came over the network in this run."""
    bytes_reused: int
    """Bytes that were already on this disk, or that a chunk filled which came once and stands at several places."""
    bytes_wasted: int
    """Bytes that arrived and were of no use: corrupt, or a second copy in the end game."""
    seconds: float
    chunks_rejected: int
    peers: list[PeerBytes]
    origin_bytes: int = 0
    verified: bool = True
    signed_by: list[str] = []
    dry_run: bool = False
    reused: dict[str, int] = {}
    """`bytes_reused` by how they came to be here: in_place, resumed, linked, reflinked, copied, repeated."""
    joined: bool = False
    """Another caller had asked for the same just before: his fetch brought it, and its bytes count there."""
    explain: Explanation | None = None
    """None for a dry run."""


class BadRange(msgspec.Struct, frozen=True, kw_only=True):
    """`length` bytes from `offset` of `file` are not what the manifest says."""

    file: str
    offset: int
    length: int
    reason: str


class VerifyReport(msgspec.Struct, frozen=True, kw_only=True):
    model_id: str
    path: str
    files: int
    bytes_checked: int
    ok: bool
    """Whether every byte is right now, after the repair where there was one."""
    bad: list[BadRange]
    """What was found."""
    seconds: float
    left: list[BadRange] = []
    """What is bad still; the same as `bad` where nothing was repaired."""
    repaired: bool = False
    """Whether something was bad and all of it is right now."""
    bytes_fetched: int = 0
    bytes_reused: int = 0
    """What the repair found on this disk in other places."""
