"""Where each setting comes from: flag > `P2PMODEL_*` environment > `limits` > `config.toml` > default.

What was set while the peer ran (`kept_limits.py`) is newer than what was written down before. Two files are read where
they exist: `config.toml` of the data directory, then that of the person's configuration directory. Every value keeps
its origin, for `config show` and for error messages that name the culprit.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from p2pmodel.errors import NotFoundError, UsageError
from p2pmodel.limits import FREE_DISK_FLOOR_BYTES, UPLOADS_MAX
from p2pmodel.net.address import split_host_port
from p2pmodel.peer.config import (
    DEFAULT_HTTP,
    DEFAULT_LISTEN,
    DEFAULT_ORIGIN_URL,
    NetworkConfig,
    PeerConfig,
    ScrubRate,
    absolute,
    check_bootstrap,
    check_origin,
    default_config_dir,
    default_data_dir,
    default_network,
    load_network,
    parse_toml,
    read_text,
)
from p2pmodel.peer.kept_limits import LIMITS_NAME, parse_kept
from p2pmodel.peer.units import UNLIMITED, parse_rate, parse_size

DEFAULT_ORIGIN = "default"
CONFIG_NAME = "config.toml"


@dataclass(frozen=True, slots=True)
class Setting:
    """One value and where it came from: `flag --listen`, `environment P2PMODEL_LISTEN`, a file, or `default`."""

    value: Any
    origin: str


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise UsageError("expected text")
    return value


def _listen(value: object) -> str:
    split_host_port(_text(value))
    return _text(value)


def _http(value: object) -> str | None:
    return None if value == "off" else _listen(value)


def _bootstrap(value: object) -> tuple[str, ...]:
    if isinstance(value, str):  # the environment: separated by commas or spaces
        value = value.replace(",", " ").split()
    if not isinstance(value, Sequence) or not all(isinstance(item, str) for item in value):
        raise UsageError("expected a list of HOST:PORT")
    return check_bootstrap(tuple(value))


def _encryption(value: object) -> str:
    if value not in ("required", "off"):
        raise UsageError(f"expected 'required' or 'off', not {value!r}")
    return str(value)


def _rate(value: object) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    return parse_rate(_text(value))


def _size(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    return parse_size(_text(value))


def _quota(value: object) -> int | None:
    return None if isinstance(value, str) and value.strip().lower() in UNLIMITED else _size(value)


def _slots(value: object) -> int | None:
    if value == "auto":
        return None
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 6:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= UPLOADS_MAX:
        raise UsageError(f"expected 'auto' or a number from 1 to {UPLOADS_MAX}, not {value!r}")
    return value


def _scrub_rate(value: object) -> ScrubRate:
    if value in ("auto", "off"):
        return "auto" if value == "auto" else "off"
    return _rate(value) or "off"


def _origin(value: object) -> str | None:
    return None if value == "off" else check_origin(_text(value))


def _switch(value: object) -> bool:
    if isinstance(value, bool):
        return value
    words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    try:
        return words[_text(value).strip().lower()]
    except KeyError:
        raise UsageError(f"expected true or false, not {value!r}") from None


_PARSERS: dict[str, Callable[[object], Any]] = {
    "listen": _listen,
    "http": _http,
    "bootstrap": _bootstrap,
    "network": _text,
    "encryption": _encryption,
    "upload_limit": _rate,
    "download_limit": _rate,
    "cache": _quota,
    "cache_quota": _quota,
    "free_disk_floor": _size,
    "upload_slots": _slots,
    "scrub_rate": _scrub_rate,
    "background": _switch,
    "lan": _switch,
    "client_only": _switch,
    "origin": _origin,
}
_DEFAULTS: dict[str, Any] = {
    "listen": DEFAULT_LISTEN,
    "http": DEFAULT_HTTP,
    "bootstrap": (),
    "network": None,
    "encryption": "required",
    "upload_limit": None,
    "download_limit": None,
    "cache": None,
    "cache_quota": None,
    "free_disk_floor": FREE_DISK_FLOOR_BYTES,
    "upload_slots": None,
    "scrub_rate": "auto",
    "background": False,
    "lan": True,
    "client_only": None,
    "origin": DEFAULT_ORIGIN_URL,
}


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting by key, in a fixed order, `data_dir` first."""

    values: Mapping[str, Setting]
    network: NetworkConfig

    @property
    def data_dir(self) -> Path:
        path: Path = self.values["data_dir"].value
        return path

    def peer_config(self) -> PeerConfig:
        value = {key: setting.value for key, setting in self.values.items()}
        return PeerConfig(
            data_dir=value["data_dir"],
            listen=value["listen"],
            listen_explicit=self.values["listen"].origin != DEFAULT_ORIGIN,
            http=value["http"],
            http_explicit=self.values["http"].origin != DEFAULT_ORIGIN,
            bootstrap=value["bootstrap"],
            network=self.network,
            encryption=value["encryption"],
            upload_limit_bytes_per_s=value["upload_limit"],
            download_limit_bytes_per_s=value["download_limit"],
            cache_bytes=value["cache"],
            cache_quota_bytes=value["cache_quota"],
            free_disk_floor_bytes=value["free_disk_floor"],
            upload_slots=value["upload_slots"],
            scrub_rate=value["scrub_rate"],
            background=value["background"],
            lan=value["lan"],
            client_only=value["client_only"],
            origin=value["origin"],
        )


async def load_settings(
    flags: Mapping[str, object] | None = None, *, environ: Mapping[str, str] | None = None
) -> Settings:
    """Resolve every setting. `flags` has what the command line gave, under the keys of `config.toml` and `data_dir`.

    Raises `UsageError` naming the flag, variable or file and key that is at fault.
    """
    flags = {key: value for key, value in (flags or {}).items() if value is not None}
    environ = os.environ if environ is None else environ
    data_dir = _data_dir(flags, environ)
    files = [await _read_kept(data_dir.value / LIMITS_NAME)]
    files += [await _read_config(path) for path in (data_dir.value / CONFIG_NAME, default_config_dir() / CONFIG_NAME)]
    values = {"data_dir": data_dir}
    for key in _PARSERS:
        values[key] = _resolve(key, flags, environ, files)
    network = await _network(values["network"])
    return Settings(values, network)


def _data_dir(flags: Mapping[str, object], environ: Mapping[str, str]) -> Setting:
    if "data_dir" in flags:
        return Setting(absolute(Path(str(flags["data_dir"]))), "flag --data-dir")
    if text := environ.get("P2PMODEL_DATA_DIR"):
        return Setting(absolute(Path(text)), "environment P2PMODEL_DATA_DIR")
    return Setting(default_data_dir(), DEFAULT_ORIGIN)


async def _read_kept(path: Path) -> tuple[Path, Mapping[str, Any]]:
    try:
        return path, parse_kept(await read_text(path, "file of limits"), str(path))
    except NotFoundError:
        return path, {}


async def _read_config(path: Path) -> tuple[Path, Mapping[str, Any]]:
    try:
        content = await read_text(path, "configuration")
    except NotFoundError:
        return path, {}
    table = parse_toml(content, str(path))
    if unknown := sorted(set(table) - set(_PARSERS)):
        raise UsageError(f"{path}: unknown key {unknown[0]!r}; the known keys are {', '.join(_PARSERS)}")
    return path, table


def _resolve(
    key: str, flags: Mapping[str, object], environ: Mapping[str, str], files: Sequence[tuple[Path, Mapping[str, Any]]]
) -> Setting:
    variable = f"P2PMODEL_{key.upper()}"
    if key in flags:
        flag = "--no-lan" if key == "lan" else f"--{key.replace('_', '-')}"
        return _parse(key, flags[key], f"flag {flag}", base=None)
    if environ.get(variable):
        return _parse(key, environ[variable], f"environment {variable}", base=None)
    for path, table in files:
        if key in table:
            return _parse(key, table[key], f"{path}", base=path.parent)
    return Setting(_DEFAULTS[key], DEFAULT_ORIGIN)


def _parse(key: str, value: object, origin: str, base: Path | None) -> Setting:
    try:
        parsed = _PARSERS[key](value)
    except UsageError as error:
        name = f"{origin}: {key}" if base is not None else origin.removeprefix("flag ").removeprefix("environment ")
        raise UsageError(f"{name}: {error}") from error
    if key == "network":
        # A path in a file is relative to that file, one from flag or environment to the working directory.
        parsed = str(absolute((base or Path()) / Path(parsed).expanduser()))
    return Setting(parsed, origin)


async def _network(setting: Setting) -> NetworkConfig:
    if setting.value is None:
        return default_network()
    return await load_network(Path(setting.value))
