"""Whom this machine believes: publishers' public keys, each under a short alias that the person chose.

Kept in `<data_dir>/trust.json`, replaced atomically. A name `<alias>/<model>` and `--signed-by <alias>` are resolved
here and nowhere else, so no peer can decide what an alias means.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from p2pmodel.errors import DecodeError, NotFoundError, RefusedError, UsageError
from p2pmodel.model import PublicKey, check_name_part
from p2pmodel.peer.config import read_text
from p2pmodel.peer.files import make_private_directory, replace_file, storage_errors

TRUST_NAME = "trust.json"


class TrustedKey(msgspec.Struct, frozen=True, kw_only=True):
    """A line of `trust ls`. `added_at` is Unix time in seconds."""

    key: str
    alias: str = ""
    added_at: int = 0


class _TrustFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    keys: list[TrustedKey]


class Trust:
    """An immutable set of trusted keys; each key and each alias occurs once."""

    def __init__(self, keys: Iterable[TrustedKey] = ()) -> None:
        self._by_key: dict[PublicKey, TrustedKey] = {}
        self._by_alias: dict[str, PublicKey] = {}
        for entry in keys:
            public = PublicKey.from_text(entry.key)
            self._by_key[public] = entry
            if entry.alias:
                self._by_alias[entry.alias] = public

    def __iter__(self) -> Iterator[TrustedKey]:
        return iter(self._by_key.values())

    def __len__(self) -> int:
        return len(self._by_key)

    def __contains__(self, key: PublicKey) -> bool:
        return key in self._by_key

    def alias(self, key: PublicKey) -> str:
        """The alias of a key, or an empty text."""
        entry = self._by_key.get(key)
        return entry.alias if entry else ""

    def resolve_key(self, text: str) -> PublicKey:
        """A public key from its 52 base32 characters, 64 hex digits or alias. Raises `NotFoundError`, `UsageError`."""
        if public := self._by_alias.get(text):
            return public
        try:
            return PublicKey.from_text(text)
        except DecodeError as error:
            try:
                check_name_part(text)
            except DecodeError:
                raise UsageError(f"{text[:100]!r} is neither a public key nor an alias: {error}") from error
            if len(text) in (52, 64):
                raise UsageError(f"{text!r} is not a public key: {error}") from error
            raise NotFoundError(f"{text!r} is no alias here; `p2pmodel trust add KEY {text}` makes it one") from error

    def add(self, key: PublicKey, alias: str = "", *, now: float) -> Trust:
        """With this key, under this alias. An alias moves to another key only after `remove`: `RefusedError`."""
        if alias:
            _check_alias(alias)
            if self._by_alias.get(alias, key) != key:
                raise RefusedError(f"{alias!r} already means {self._by_alias[alias].text}; `trust rm {alias}` first")
        old = self._by_key.get(key)
        entry = TrustedKey(
            key=key.text,
            alias=alias or (old.alias if old else ""),
            added_at=old.added_at if old else int(now),
        )
        return Trust([*(kept for public, kept in self._by_key.items() if public != key), entry])

    def remove(self, text: str) -> Trust:
        """Without the key that `text` (key or alias) means. Raises `NotFoundError`."""
        key = self.resolve_key(text)
        if key not in self._by_key:
            raise NotFoundError(f"{text} is not a trusted key")
        return Trust(kept for public, kept in self._by_key.items() if public != key)


def _check_alias(alias: str) -> None:
    try:
        check_name_part(alias)
    except DecodeError as error:
        raise UsageError(f"an alias: {error}") from error
    if len(alias) in (52, 64):
        raise UsageError("an alias is shorter or longer than a key, so that the two are never mistaken")


async def load_trust(data_dir: Path) -> Trust:
    """Raises `UsageError` naming the file where it is damaged: trust is never guessed."""
    path = data_dir / TRUST_NAME
    try:
        return parse_trust(await read_text(path, "trust file"), path)
    except NotFoundError:
        return Trust()


def parse_trust(content: str | bytes, path: Path) -> Trust:
    """Raises `UsageError` naming the file."""
    try:
        return Trust(msgspec.json.decode(content, type=_TrustFile).keys)
    except (msgspec.MsgspecError, UnicodeDecodeError, DecodeError) as error:
        raise UsageError(f"{path} is damaged: {error}") from error


async def save_trust(data_dir: Path, trust: Trust) -> None:
    """Replace the file. Raises `RefusedError`, `NoSpaceError`."""
    path = data_dir / TRUST_NAME
    content = msgspec.json.format(msgspec.json.encode(_TrustFile(list(trust))), indent=2) + b"\n"
    with storage_errors(f"write {path}"):
        make_private_directory(data_dir)
        await replace_file(path, content)


async def add_trusted_key(data_dir: Path, text: str, alias: str = "") -> TrustedKey:
    """Trust a key given as text. Raises `UsageError`, `RefusedError`."""
    try:
        key = PublicKey.from_text(text)
    except DecodeError as error:
        raise UsageError(f"{text[:100]!r}: {error}") from error
    trust = (await load_trust(data_dir)).add(key, alias, now=time.time())
    await save_trust(data_dir, trust)
    return next(entry for entry in trust if entry.key == key.text)
