"""The traces that a running daemon leaves for others on this machine: `daemon.json`, its control socket, its token.

A record may be stale (the daemon was killed), so it is a hint where to knock, never a proof that somebody is home.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from pathlib import Path
from typing import Literal

import aiofiles
import msgspec

from p2pmodel.errors import NotFoundError, P2PModelError
from p2pmodel.peer.config import read_text
from p2pmodel.peer.files import make_private_directory, replace_file, storage_errors
from p2pmodel.store.files import Lock
from p2pmodel.store.lock import DirectoryLock

RUNTIME_NAME = "daemon.json"
SOCKET_NAME = "control.sock"
TOKEN_NAME = "api-token"
_SOCKET_PATH_BYTES_MAX = 100
"""`sun_path` has 104 bytes on macOS and 108 on Linux (unix(7))."""


class RuntimeRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What `daemon.json` says. `listen` and `http` are HOST:PORT as bound; `http` is None where it is off."""

    pid: int
    peer_id: str
    listen: str
    http: str | None
    socket: str
    command: Literal["", "offline", "online"] = ""
    """Set where the peer is not a daemon but lives as long as one command; then, whether that is in the network."""


def own_directory(data_dir: Path) -> Lock:
    """The data directory for this process, made if need be.

    Raises `DirectoryInUseError`, and `UsageError` where it cannot be one.
    """
    return DirectoryLock(data_dir)


async def write_runtime(data_dir: Path, record: RuntimeRecord) -> None:
    """Raises `RefusedError`, `NoSpaceError`."""
    path = data_dir / RUNTIME_NAME
    with storage_errors(f"write {path}"):
        await replace_file(path, msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")


async def read_runtime(data_dir: Path) -> RuntimeRecord | None:
    """None where there is no record, or none that can be read."""
    try:
        return msgspec.json.decode(await read_text(data_dir / RUNTIME_NAME, "daemon record"), type=RuntimeRecord)
    except (P2PModelError, msgspec.MsgspecError):
        return None


def remove_runtime(data_dir: Path) -> None:
    (data_dir / RUNTIME_NAME).unlink(missing_ok=True)


def choose_socket_path(data_dir: Path) -> Path:
    """`<data_dir>/control.sock`, or a short path in a new private directory where that one is too long to bind."""
    path = data_dir / SOCKET_NAME
    if len(os.fsencode(path)) <= _SOCKET_PATH_BYTES_MAX:
        return path
    return Path(tempfile.mkdtemp(prefix="p2pmodel-")) / SOCKET_NAME


def remove_socket(path: Path, data_dir: Path) -> None:
    path.unlink(missing_ok=True)
    if path.parent != data_dir:
        try:
            path.parent.rmdir()
        except OSError:  # somebody else's file is in it: not ours to remove
            pass


async def api_token(data_dir: Path) -> str:
    """The token that the HTTP port asks for, made on first use with mode 0600. Raises `RefusedError`."""
    path = data_dir / TOKEN_NAME
    try:
        token = (await read_text(path, "token")).strip()
        if len(token) >= 32 and token.isascii():
            return token
    except NotFoundError:
        pass
    token = secrets.token_urlsafe(32)
    with storage_errors(f"write {path}"):
        make_private_directory(data_dir)
        await replace_file(path, token.encode() + b"\n")
    return token


async def read_tail(path: Path, bytes_max: int) -> str:
    """The end of a log file, for an error message; empty where there is none."""
    try:
        async with aiofiles.open(path, "rb") as file:
            size = await file.seek(0, os.SEEK_END)
            await file.seek(max(0, size - bytes_max))
            return str((await file.read(bytes_max)).decode("utf-8", "replace"))
    except OSError:
        return ""
