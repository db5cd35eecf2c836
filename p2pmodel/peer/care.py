"""`seed` and `doctor`: other programs' models, and this peer's health, carried out by a peer in this process."""

from __future__ import annotations

from pathlib import Path

from p2pmodel.errors import DecodeError, UsageError
from p2pmodel.model import SecretKey
from p2pmodel.peer.doctor import Doctor
from p2pmodel.peer.peer import Peer
from p2pmodel.peer.reports import DoctorReport, SeedReport
from p2pmodel.peer.requests import DoctorRequest, OnProgress, SeedRequest
from p2pmodel.peer.seeding import Seeding


class Care:
    """Fills `CaringService`."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    async def seed(self, request: SeedRequest, on_progress: OnProgress | None = None) -> SeedReport:
        for path in request.paths:
            check_absolute(path)
        key = await publisher_key(self._peer, request.key_pem)
        return await Seeding(self._peer, request, key, on_progress or (lambda _: None)).run()

    async def doctor(self, request: DoctorRequest, on_progress: OnProgress | None = None) -> DoctorReport:
        daemon = self._peer.config.saved_state == "keep"
        return await Doctor(self._peer, daemon, on_progress or (lambda _: None)).look(request)


async def publisher_key(peer: Peer, pem: str | None) -> SecretKey:
    """The key that came with a request, or this peer's default one."""
    if pem is None:
        return await peer.keyring.publisher_key()
    try:
        return SecretKey.from_pem(pem.encode())
    except DecodeError as error:
        raise UsageError(f"the publisher's key: {error}") from error


def check_absolute(path: str | None) -> None:
    """A daemon's working directory is nothing that whoever asks it knows. Raises `UsageError`."""
    if path is not None and not Path(path).is_absolute():
        raise UsageError(f"{path!r} has to be an absolute path")
