"""The secret keys of one data directory: the node's own, and those with which its owner signs what is published.

A key file is unencrypted PKCS #8 PEM (RFC 8410), mode 0600 in directories of mode 0700, and appears complete or not at
all: it is written under another name and linked into place, which also decides between two processes that make the
same key at once. Nothing here ever overwrites a key.
"""

from __future__ import annotations

import logging
import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import aiofiles
import aiofiles.os

from p2pmodel.errors import DecodeError, NotFoundError, P2PModelError, RefusedError, UsageError
from p2pmodel.limits import KEY_FILE_BYTES_MAX
from p2pmodel.model import PublicKey, SecretKey, check_name_part
from p2pmodel.peer.files import make_private_directory, storage_errors, uninterrupted

DEFAULT_PUBLISHER = "default"
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PublisherKey:
    """A line of `key ls`."""

    name: str
    public: PublicKey
    path: Path


class Keys(Protocol):
    """The secret keys that a peer uses. `Keyring` fills it from the disk, a simulation from its seed."""

    async def node_key(self) -> SecretKey:
        """This peer's identity."""

    async def publisher_key(self, name: str = DEFAULT_PUBLISHER) -> SecretKey:
        """A key to sign what is published. Raises `NotFoundError` for a name that is not here."""


class Keyring:
    """Fills `Keys`. Reads keys afresh on every call, so that a key made by another process is seen."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self._directory = data_dir / "keys"
        self._publishers = self._directory / "publisher"

    @property
    def node_key_path(self) -> Path:
        return self._directory / "node.pem"

    async def node_key(self) -> SecretKey:
        """This peer's identity, made on first use. Raises `RefusedError` or `UsageError` where it cannot be had."""
        return await self._read_or_make(self.node_key_path)

    async def publisher_key(self, name: str = DEFAULT_PUBLISHER) -> SecretKey:
        """A key to sign with; "default" is made on first use. Raises `NotFoundError` for any other that is not here."""
        if name == DEFAULT_PUBLISHER:
            return await self._read_or_make(self._publisher_path(name))
        return await self.existing_publisher_key(name)

    async def existing_publisher_key(self, name: str) -> SecretKey:
        """Raises `NotFoundError` where it is not here, "default" too."""
        try:
            return await read_key(self._publisher_path(name))
        except NotFoundError as error:
            raise NotFoundError(f"there is no publisher key {name!r}; `p2pmodel key new {name}` makes one") from error

    async def create(self, name: str = DEFAULT_PUBLISHER) -> PublisherKey:
        """A new publisher key. Raises `RefusedError` where the name is taken."""
        path = self._publisher_path(name)
        key = SecretKey.generate()
        if not await self._write_new(path, key):
            raise RefusedError(f"there is a publisher key {name!r} already, and keys are never overwritten")
        return PublisherKey(name, key.public, path)

    async def publishers(self) -> list[PublisherKey]:
        """Every publisher key that is here, by name. A file that is no key is left out, with a warning in the log."""
        try:
            names = sorted(await aiofiles.os.listdir(self._publishers))
        except FileNotFoundError:
            return []
        except PermissionError as error:
            raise RefusedError(f"no permission to read {self._publishers}") from error
        found = []
        for file_name in names:
            if not file_name.endswith(".pem") or file_name.startswith("."):
                continue
            path = self._publishers / file_name
            try:
                found.append(PublisherKey(path.stem, (await read_key(path)).public, path))
            except P2PModelError as error:
                log.warning("%s", error)
        return found

    def _publisher_path(self, name: str) -> Path:
        try:
            return self._publishers / f"{check_name_part(name)}.pem"
        except DecodeError as error:
            raise UsageError(f"a key's name: {error}") from error

    async def _read_or_make(self, path: Path) -> SecretKey:
        try:
            return await read_key(path)
        except NotFoundError:
            key = SecretKey.generate()
            return key if await self._write_new(path, key) else await read_key(path)

    @uninterrupted
    async def _write_new(self, path: Path, key: SecretKey) -> bool:
        """Whether the file was made; False where one is there already."""
        temporary = path.parent / f".{path.name}.{secrets.token_hex(8)}"
        with storage_errors(f"write the key {path}"):
            make_private_directory(self._directory)
            make_private_directory(path.parent)
            try:
                async with aiofiles.open(temporary, "xb", opener=_private_opener) as file:
                    await file.write(key.to_pem())
                    await file.flush()
                    os.fsync(file.fileno())
                await aiofiles.os.link(temporary, path)
            except FileExistsError:
                return False
            finally:
                temporary.unlink(missing_ok=True)
        return True


@uninterrupted
async def read_key(path: Path) -> SecretKey:
    """Raises `NotFoundError`, `RefusedError`, or `UsageError` where the file is not an Ed25519 key in PEM form.

    A file that others may read is used, with a warning in the log, because secrets mounted into containers are so.
    """
    try:
        async with aiofiles.open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            pem: bytes = await file.read(KEY_FILE_BYTES_MAX + 1)
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no key file {path}") from error
    except PermissionError as error:
        raise RefusedError(f"no permission to read the key {path}") from error
    except OSError as error:
        raise UsageError(f"cannot read the key {path}: {error.strerror or error}") from error
    if stat.S_IMODE(mode) & 0o077:
        log.warning("the key %s can be read by others; `chmod 600 %s` closes it", path, path)
    if len(pem) > KEY_FILE_BYTES_MAX:
        raise UsageError(f"{path}: too long for a key")
    try:
        return SecretKey.from_pem(pem)
    except DecodeError as error:
        raise UsageError(f"{path}: {error}") from error


def _private_opener(name: str, flags: int) -> Any:
    return os.open(name, flags | os.O_EXCL | os.O_NOFOLLOW, 0o600)
