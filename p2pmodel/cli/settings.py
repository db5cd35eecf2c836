"""`config`: which settings hold here and where each comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from p2pmodel.cli.options import DataDir, Debug, Json, invocation_of

if TYPE_CHECKING:
    from p2pmodel.peer.settings import Setting

_SIZES = {"cache": "off", "cache_quota": "unlimited", "free_disk_floor": "off"}
"""Settings that are sizes, and what a person is told where there is none."""

config_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The settings of this peer.")


@config_app.callback()
def config() -> None:
    """The settings of this peer: flag > P2PMODEL_* environment > `limits` > config.toml > default."""


@config_app.command("show")
def config_show(ctx: typer.Context, data_dir: DataDir = None, as_json: Json = False, debug: Debug = False) -> None:
    """Print every setting and where it comes from."""
    import dataclasses

    from p2pmodel.cli.output import columns, data, data_json
    from p2pmodel.cli.session import run, settings_of

    settings = run(settings_of(invocation_of(ctx)))
    if as_json:
        shown = {key: {"value": setting.value, "origin": setting.origin} for key, setting in settings.values.items()}
        shown["data_dir"]["value"] = str(settings.data_dir)
        shown["network"]["value"] = dataclasses.asdict(settings.network)
        shown["network"]["file"] = settings.values["network"].value
        data_json(shown)
        return
    rows = [("SETTING", "VALUE", "ORIGIN")]
    rows += [
        (key, _text(key, setting, settings.network.name), setting.origin) for key, setting in settings.values.items()
    ]
    for line in columns(rows):
        data(line)


def _text(key: str, setting: Setting, network: str) -> str:
    from p2pmodel.peer.units import format_size

    value = setting.value
    if key == "network":
        return f"{network} ({value})" if value else network
    if key in ("http", "origin") and value is None:
        return "off"
    if key in ("upload_limit", "download_limit"):
        return f"{value} bytes/s" if value else "unlimited"
    if key in _SIZES:
        return _SIZES[key] if value is None else format_size(value)
    if key in ("client_only", "upload_slots") and value is None:
        return "auto"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ", ".join(value) or "(none)"
    return str(value)
