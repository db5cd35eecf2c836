"""What a peer is told before it starts. Values only: a `PeerConfig` is valid by construction and easy to build in code.

Where the values come from on a command line (flag, environment, file, default) is the matter of `settings.py`.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast, get_args
from urllib.parse import urlsplit

import aiofiles

from p2pmodel.errors import NotFoundError, RefusedError, UsageError
from p2pmodel.limits import CONFIG_BYTES_MAX, FREE_DISK_FLOOR_BYTES, UPLOADS_MAX
from p2pmodel.net.address import split_host_port
from p2pmodel.peer.files import uninterrupted

DEFAULT_LISTEN = "[::]:8764"
"""Every address of this machine, IPv6 and IPv4; IPv4 alone where the machine has no IPv6."""
DEFAULT_HTTP = "127.0.0.1:8765"
DEFAULT_NETWORK_NAME = "public"
DEFAULT_ORIGIN_URL = "https://huggingface.co"

Profile = Literal["cluster", "internet"]
Encryption = Literal["required", "off"]
ScrubRate = int | Literal["auto", "off"]
"""Bytes per second at which what is kept is read again; `auto` is once in four weeks."""
_NETWORK_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkConfig:
    """Which network this is: peers of different networks refuse each other in the handshake.

    `bootstrap` are entry nodes as HOST:PORT. `profile` sets the overlay's times: a "cluster" forgets dead peers in
    minutes, the "internet" keeps records for hours.
    """

    name: str = DEFAULT_NETWORK_NAME
    bootstrap: tuple[str, ...] = ()
    profile: Profile = "internet"

    def __post_init__(self) -> None:
        if not _NETWORK_NAME.fullmatch(self.name):
            raise UsageError(f"{self.name[:80]!r} is not a network's name: a-z, 0-9, '.', '_', '-', at most 64 of them")
        if self.profile not in get_args(Profile):
            raise UsageError(f"a network's profile is 'cluster' or 'internet', not {self.profile!r}")
        object.__setattr__(self, "bootstrap", check_bootstrap(self.bootstrap))


@cache
def default_network() -> NetworkConfig:
    """The public network, entered through the peers of `peers.toml` (packaged, or `bootstrap/` in a checkout)."""
    for path in (Path(__file__).with_name("peers.toml"), Path(__file__).parents[2] / "bootstrap" / "peers.toml"):
        try:
            content = path.read_text(encoding="utf-8")
        except OSError:
            continue
        table = parse_toml(content, str(path))
        return NetworkConfig(bootstrap=tuple(_strings(table.get("peers", []), f"{path}: peers")))
    return NetworkConfig()


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerConfig:
    """Everything of one peer. `PeerConfig(data_dir=..., listen="127.0.0.1:0", bootstrap=("10.0.0.1:8764",))`.

    Port 0 takes a free one. A default port that is taken gives way to a free one, so that several peers on one machine
    just work; a port that somebody asked for (`listen_explicit`, `http_explicit`: set by any value but the default)
    is an error when it is taken. Limits are in bytes per second, None for none.
    """

    data_dir: Path
    listen: str = DEFAULT_LISTEN
    listen_explicit: bool = False
    http: str | None = DEFAULT_HTTP
    http_explicit: bool = False
    bootstrap: tuple[str, ...] = ()
    network: NetworkConfig = field(default_factory=default_network)
    encryption: Encryption = "required"
    upload_limit_bytes_per_s: int | None = None
    download_limit_bytes_per_s: int | None = None
    cache_quota_bytes: int | None = None
    """What fetches without a destination may take; what was not used for long goes when more is needed."""
    cache_bytes: int | None = None
    """This peer is a cache: it fetches what its neighbours ask it for, and keeps so much of it."""
    free_disk_floor_bytes: int = FREE_DISK_FLOOR_BYTES
    """What stays free on a disk that is fetched to."""
    upload_slots: int | None = None
    """Answers that leave at once; None: as many as fill the line, as measured."""
    background: bool = False
    """Where the process is this peer's own (a daemon, a command): it takes what CPU and disk time others leave."""
    scrub_rate: ScrubRate = "auto"
    lan: bool = True
    origin: str | None = None
    """The hub, as a URL, through which repositories are found that no peer has published; None for none."""
    client_only: bool | None = None
    """Others cannot reach this peer: it asks the overlay without becoming a part of it, and tells no port to those it
    connects to. None finds out whether they can, and makes it a client while they cannot."""
    passing: bool = False
    """Soon gone again: it asks the overlay without becoming a part of it, and serves while it is here."""
    saved_state: Literal["keep", "read", "ignore"] = "keep"
    """The neighbours and the announcing of the last run: a peer that stays goes on from them and keeps them for the
    next, one for a single command only reads them, one that enters no network leaves them alone."""

    def __post_init__(self) -> None:
        """Raises `UsageError`."""
        put = object.__setattr__
        put(self, "data_dir", absolute(Path(self.data_dir)))
        split_host_port(self.listen)
        put(self, "listen_explicit", self.listen_explicit or self.listen != DEFAULT_LISTEN)
        if self.http is not None:
            split_host_port(self.http)
            put(self, "http_explicit", self.http_explicit or self.http != DEFAULT_HTTP)
        put(self, "bootstrap", check_bootstrap(self.bootstrap))
        if self.encryption not in get_args(Encryption):
            raise UsageError(f"encryption is 'required' or 'off', not {self.encryption!r}")
        for limit in (self.upload_limit_bytes_per_s, self.download_limit_bytes_per_s):
            if limit is not None and limit < 1:
                raise UsageError("a limit is a positive number of bytes per second")
        if self.cache_bytes is not None:
            put(self, "cache_quota_bytes", min(self.cache_bytes, self.cache_quota_bytes or self.cache_bytes))
        if min(self.cache_quota_bytes or 0, self.free_disk_floor_bytes) < 0:
            raise UsageError("a quota and a floor of free disk are numbers of bytes, 0 at least")
        if isinstance(self.scrub_rate, int) and self.scrub_rate < 1:
            raise UsageError("a scrub rate is a positive number of bytes per second, 'auto' or 'off'")
        if self.origin is not None:
            put(self, "origin", check_origin(self.origin))
        if self.upload_slots is not None and not 1 <= self.upload_slots <= UPLOADS_MAX:
            raise UsageError(f"there are from 1 to {UPLOADS_MAX} upload slots")

    def for_one_command(self, *, offline: bool) -> PeerConfig:
        """The same peer on a free port, leaving the usual one to a daemon; offline: in no network."""
        if self.cache_bytes is not None:  # a cache is a daemon; a command on its data directory keeps its quota
            return replace(self, cache_bytes=None).for_one_command(offline=offline)
        if offline:
            network = replace(self.network, bootstrap=())
            alone = replace(self, listen="127.0.0.1:0", http=None, bootstrap=(), network=network, lan=False)
            return replace(alone, saved_state="ignore")
        host, _ = split_host_port(self.listen)
        listen = f"[{host}]:0" if ":" in host else f"{host}:0"
        return replace(self, listen=listen, http=None, passing=True, saved_state="read")

    @property
    def entry_peers(self) -> tuple[str, ...]:
        """Whom to ask first: the peers given for this run, then those of the network; each once."""
        return tuple(dict.fromkeys(self.bootstrap + self.network.bootstrap))


def absolute(path: Path) -> Path:
    """`~` resolved, relative to the working directory made absolute, symbolic links left as they are."""
    return Path(os.path.abspath(path.expanduser()))  # noqa: PTH100  (Path.absolute keeps "..")


def check_bootstrap(peers: tuple[str, ...] | list[str]) -> tuple[str, ...]:
    """HOST:PORT each, host names allowed because only this machine's owner writes them. Raises `UsageError`."""
    for peer in peers:
        if split_host_port(peer)[1] == 0:
            raise UsageError(f"{peer!r}: a bootstrap peer has a port from 1 to 65535")
    return tuple(peers)


def check_origin(url: str) -> str:
    """`http` or `https`, a host, perhaps a path; without a slash at its end. Raises `UsageError`."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        good = False
    if not good or parts.query or parts.fragment or parts.username is not None or not url.isascii() or " " in url:
        raise UsageError(f"an origin is the URL of a hub, as {DEFAULT_ORIGIN_URL}, or 'off'; not {url[:200]!r}")
    return url.rstrip("/")


def default_data_dir() -> Path:
    from platformdirs import user_data_path

    return user_data_path("p2pmodel", appauthor=False)


def default_config_dir() -> Path:
    from platformdirs import user_config_path

    return user_config_path("p2pmodel", appauthor=False)


async def load_network(path: Path) -> NetworkConfig:
    """Read a network's TOML: `name`, `bootstrap = ["HOST:PORT", ...]`, `profile`.

    Raises `NotFoundError`, `RefusedError`, `UsageError` naming file and key.
    """
    table = parse_toml(await read_text(path, "network file"), str(path))
    if unknown := sorted(set(table) - {"name", "bootstrap", "profile"}):
        raise UsageError(f"{path}: unknown key {unknown[0]!r}; a network has name, bootstrap and profile")
    for key in ("name", "profile"):
        if key in table and not isinstance(table[key], str):
            raise UsageError(f"{path}: {key}: expected text")
    if "name" not in table:
        raise UsageError(f"{path}: name is missing; peers of networks with different names never meet")
    try:
        return NetworkConfig(
            name=table["name"],
            bootstrap=tuple(_strings(table.get("bootstrap", []), "bootstrap")),
            profile=cast("Profile", table.get("profile", "internet")),
        )
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error


@uninterrupted
async def read_text(path: Path, what: str) -> str:
    """A small UTF-8 file. Raises `NotFoundError`, `RefusedError` or `UsageError`, each naming the file."""
    try:
        async with aiofiles.open(path, "rb") as file:
            content = await file.read(CONFIG_BYTES_MAX + 1)
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no {what} {path}") from error
    except PermissionError as error:
        raise RefusedError(f"no permission to read the {what} {path}") from error
    except OSError as error:
        raise UsageError(f"cannot read the {what} {path}: {error.strerror or error}") from error
    if len(content) > CONFIG_BYTES_MAX:
        raise UsageError(f"the {what} {path} is longer than {CONFIG_BYTES_MAX} bytes")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"the {what} {path} is not UTF-8 text") from error


def parse_toml(content: str, where: str) -> Mapping[str, Any]:
    try:
        return tomllib.loads(content)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"{where}: not TOML: {error}") from error


def _strings(value: object, where: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise UsageError(f"{where}: expected a list of texts")
    return value
