"""What the peer tells the person: the objects behind `--json` and the control API. Keys are stable (docs/cli.md).

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


class Neighbour(msgspec.Struct, frozen=True, kw_only=True):
    """A line of `peers`: a connection (`kind` "connection") or an entry of the routing table ("overlay")."""

    peer_id: str
    address: str
    kind: Literal["connection", "overlay"]
    direction: str = ""
    agent: str = ""
    encrypted: bool = True
    bytes_sent: int = 0
    bytes_received: int = 0
    connected_s: float = 0.0
    send_rate_bytes_per_s: int = 0
    """Over the last second or few, as the next one."""
    receive_rate_bytes_per_s: int = 0
    requests_out: int = 0
    """What we have asked of it and not got yet."""
    requests_in: int = 0
    """What it has asked of us and not got yet."""
    in_upload_slot: bool = False
    """An answer to it is on its way, or its turn has come."""


class Transfer(msgspec.Struct, frozen=True, kw_only=True):
    """A fetch that is running."""

    model_id: str
    progress: Progress
    callers: int = 1
    """How many wait for it."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a running peer may use of its line at present, in bytes per second; None is no limit."""

    upload_bytes_per_s: int | None = None
    download_bytes_per_s: int | None = None


class PeerStatus(msgspec.Struct, frozen=True, kw_only=True):
    peer_id: str
    listen: str
    http: str | None
    data_dir: str
    network: str
    version: str
    pid: int
    uptime_s: float
    neighbours: int
    """Live entries of the routing table."""
    connections: int
    models: int
    chunks_held: int
    keys_announced: int
    """Keys that this peer provides: models, files, names, chunks."""
    records_held: int
    """Provider records kept for others."""
    bytes_sent: int
    bytes_received: int
    transfers: list[Transfer]
    keys_pending: int = 0
    """Of `keys_announced`, those that no other peer holds a record of (yet)."""
    announce_lag_s: float = 0.0
    """Age of the eldest announcement that stands."""
    announce_behind_s: float = 0.0
    """How late announcing is; 0 where it keeps up."""
    client_only: bool = False
    """It uses the overlay without being a part of it, because it was told to or because others cannot reach it."""
    reachability: Literal["unknown", "reachable", "unreachable"] | None = None
    """What it has found out by asking others to dial it back; None where it was told what to be and does not ask."""
    hidden: bool = False
    """Others cannot reach it, as it was told or has found out: it announces nothing, and tells nobody a port."""
    connected_from_outside: bool = False
    """Somebody with a public address has opened a connection to it."""
    limits: Limits = Limits()
    cache_bytes: int = 0
    """What models take that were fetched without a destination, or for neighbours."""
    cache_quota_bytes: int | None = None
    """What these may take; None is no limit."""
    is_cache: bool = False
    """It fetches what its neighbours ask it for."""
    background: bool = False
    """It takes what CPU and disk time others leave."""
    upload_slots: int = 0
    """Answers that may leave at once at present."""
    network_size: int = 1
    """Estimated number of peers in the overlay, this one included."""
    warnings: list[str] = []


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
