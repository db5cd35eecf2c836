"""What a person or program asks a peer to do, in this process or through a daemon, and the interface that both fill."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Protocol

import msgspec

from p2pmodel.peer.inventory import CollectReport, DiskUsage, ModelDetail, ModelSummary, PinReport, RemoveReport
from p2pmodel.peer.reports import DoctorReport, FetchReport, Progress, PublishReport, SeedReport, VerifyReport
from p2pmodel.peer.status import Limits, Neighbour, PeerStatus

OnProgress = Callable[[Progress], None]


class PublishRequest(msgspec.Struct, frozen=True, kw_only=True):
    path: str
    """Absolute: a daemon does not share the caller's working directory."""
    name: str = ""
    """`model` or `model@revision`; the namespace is the publisher's key."""
    message: str = ""
    key_pem: str | None = None
    """The publisher's secret key; None takes this peer's default publisher key, made on first use."""
    follow_symlinks: bool = False


class FetchRequest(msgspec.Struct, frozen=True, kw_only=True):
    ref: str
    files: list[str] = []
    include: list[str] = []
    exclude: list[str] = []
    to: str | None = None
    """Absolute; None places the files in the data directory."""
    bootstrap: list[str] = []
    peers: list[str] = []
    """HOST:PORT of peers to ask directly."""
    signed_by: list[str] = []
    """Public keys or aliases; every one must have signed."""
    dry_run: bool = False
    overwrite: bool = False
    """Replace files at the destination that p2pmodel did not put there."""
    link: bool = False
    """Hard links to files of other models on this disk that are the same, wherever these are."""
    timeout_s: float | None = None
    background: bool = False
    """Take only what others leave of the line."""


class ReadRequest(msgspec.Struct, frozen=True, kw_only=True):
    ref: str
    files: list[str] = []
    """Exact paths or directories; all of the model by default."""
    whole: bool = False
    """Bring all of these files, not only what is asked for."""
    bootstrap: list[str] = []
    peers: list[str] = []
    signed_by: list[str] = []
    timeout_s: float | None = None
    """For finding the model; not for what is read of it."""


class ShowRequest(msgspec.Struct, frozen=True, kw_only=True):
    ref: str
    bootstrap: list[str] = []
    peers: list[str] = []
    timeout_s: float | None = None


class VerifyRequest(msgspec.Struct, frozen=True, kw_only=True):
    target: str
    """A reference, or an absolute path of something published or fetched here."""
    repair: bool = False
    """Fetch the chunks that are bad and write them where they belong, into published files too."""
    bootstrap: list[str] = []
    peers: list[str] = []
    timeout_s: float | None = None


class KeepRequest(msgspec.Struct, frozen=True, kw_only=True):
    ref: str
    """A model that is here: its id, or a name."""


class RemoveRequest(msgspec.Struct, frozen=True, kw_only=True):
    ref: str
    pinned: bool = False
    """It is known that the model is pinned."""


class CollectRequest(msgspec.Struct, frozen=True, kw_only=True):
    keep_bytes: Annotated[int, msgspec.Meta(ge=0)] | None = None
    """Let the cache take no more than this, even if its quota allows it."""
    dry_run: bool = False


class SeedRequest(msgspec.Struct, frozen=True, kw_only=True):
    paths: list[str]
    """Absolute. Each a Hugging Face cache, an Ollama store, GGUF files, or directories of models."""
    include: list[str] = []
    exclude: list[str] = []
    """Shell patterns over titles such as `org/name@main`, or names before the `@`."""
    key_pem: str | None = None
    dry_run: bool = False


class DoctorRequest(msgspec.Struct, frozen=True, kw_only=True):
    deep: bool = False
    """Hash everything again, and check the index as a whole."""


class LimitsChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """New limits in bytes per second, at least 1; null lifts one, what is left out stays as it is."""

    upload_bytes_per_s: Annotated[int, msgspec.Meta(ge=1)] | msgspec.UnsetType | None = msgspec.UNSET
    download_bytes_per_s: Annotated[int, msgspec.Meta(ge=1)] | msgspec.UnsetType | None = msgspec.UNSET


class LimitsService(Protocol):
    """A peer whose limits can be changed while it runs; it keeps them for its next start."""

    async def limits(self) -> Limits: ...

    async def set_limits(self, change: LimitsChange) -> Limits: ...


class KeepingService(Protocol):
    """What is kept on a peer's disk. Each method raises `P2PModelError` with the command's exit code."""

    async def pin(self, request: KeepRequest) -> PinReport: ...

    async def unpin(self, request: KeepRequest) -> PinReport: ...

    async def remove(self, request: RemoveRequest) -> RemoveReport: ...

    async def collect(self, request: CollectRequest) -> CollectReport: ...

    async def usage(self) -> DiskUsage: ...


class CaringService(Protocol):
    """Models that other programs keep, and the health of a peer. Raises as `PeerService` does."""

    async def seed(self, request: SeedRequest, on_progress: OnProgress | None = None) -> SeedReport: ...

    async def doctor(self, request: DoctorRequest, on_progress: OnProgress | None = None) -> DoctorReport: ...


class PeerService(Protocol):
    """All that the command line asks of a peer. Each method raises `P2PModelError` with the command's exit code.

    Cancelling a call stops the work; what a fetch has by then is kept.
    """

    async def status(self) -> PeerStatus: ...

    async def neighbours(self) -> list[Neighbour]: ...

    async def models(self) -> list[ModelSummary]: ...

    async def show(self, request: ShowRequest) -> ModelDetail: ...

    async def publish(self, request: PublishRequest, on_progress: OnProgress | None = None) -> PublishReport: ...

    async def fetch(self, request: FetchRequest, on_progress: OnProgress | None = None) -> FetchReport: ...

    async def verify(self, request: VerifyRequest, on_progress: OnProgress | None = None) -> VerifyReport: ...

    async def close(self) -> None: ...
