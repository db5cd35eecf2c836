"""`id`, `key`, `trust`: who this peer is, who signs here, and whom this machine believes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from p2pmodel.cli.options import DataDir, Debug, Invocation, Json, Quiet, invocation_of

if TYPE_CHECKING:
    from p2pmodel.peer.keyring import Keyring

key_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The keys that sign what is published here.")
trust_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The publishers that this machine believes.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The key's name.")]


def show_id(
    ctx: typer.Context, data_dir: DataDir = None, as_json: Json = False, quiet: Quiet = False, debug: Debug = False
) -> None:
    """Print this peer's id: its public key, made on first use. With -q the same: it is an id alone."""
    from p2pmodel.cli.output import data, data_json
    from p2pmodel.cli.session import run

    async def read() -> tuple[str, str, str]:
        keyring = await _keyring(invocation_of(ctx))
        return (await keyring.node_key()).public.text, str(keyring.node_key_path), str(keyring.data_dir)

    peer_id, path, directory = run(read())
    if as_json:
        data_json({"peer_id": peer_id, "key_file": path, "data_dir": directory})
    else:
        data(peer_id)


@key_app.command("new")
def key_new(
    ctx: typer.Context,
    name: Name = "default",
    data_dir: DataDir = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Make a key to sign with; print its public part. An existing key is never overwritten."""
    from p2pmodel.cli.output import data, data_json, talk
    from p2pmodel.cli.session import run

    async def make() -> tuple[str, str]:
        made = await (await _keyring(invocation_of(ctx))).create(name)
        return made.public.text, str(made.path)

    public, path = run(make())
    if as_json:
        data_json({"name": name, "public_key": public, "path": path})
        return
    data(public)
    if not quiet:
        talk(f"The secret part is in {path}; keep a copy of it, nobody can replace it.")


@key_app.command("ls")
def key_ls(
    ctx: typer.Context, data_dir: DataDir = None, as_json: Json = False, quiet: Quiet = False, debug: Debug = False
) -> None:
    """List the keys to sign with."""
    from p2pmodel.cli.output import columns, data, data_json, talk
    from p2pmodel.cli.session import run

    async def read() -> list[dict[str, str]]:
        found = await (await _keyring(invocation_of(ctx))).publishers()
        return [{"name": key.name, "public_key": key.public.text, "path": str(key.path)} for key in found]

    keys = run(read())
    if as_json:
        data_json({"keys": keys})
    elif quiet:
        for key in keys:
            data(key["public_key"])
    elif not keys:
        talk("No keys yet: `p2pmodel key new NAME` makes one, and the first `p2pmodel publish` one named 'default'.")
    else:
        for line in columns([("NAME", "PUBLIC KEY"), *((key["name"], key["public_key"]) for key in keys)]):
            data(line)


@key_app.command("export")
def key_export(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The key's name, as `key ls` lists it.")],
    secret: Annotated[
        bool, typer.Option("--secret", help="The secret key as PEM. Whoever has it signs as you.")
    ] = False,
    data_dir: DataDir = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Print a key's public part, for others to `trust add`; with --secret the whole key."""
    from p2pmodel.cli.output import data, data_json
    from p2pmodel.cli.session import run

    async def read() -> tuple[str, str]:
        keyring = await _keyring(invocation_of(ctx))
        key = await keyring.existing_publisher_key(name)
        return key.public.text, key.to_pem().decode() if secret else ""

    public, pem = run(read())
    if as_json:
        data_json({"name": name, "public_key": public} | ({"secret_key_pem": pem} if secret else {}))
    else:
        data(pem.rstrip("\n") if secret else public)


@trust_app.command("add")
def trust_add(
    ctx: typer.Context,
    key: Annotated[
        str, typer.Argument(metavar="KEY", help="A publisher's public key: 52 base32 characters or 64 hex.")
    ],
    alias: Annotated[str, typer.Argument(metavar="ALIAS", help="A short name for it, yours alone.")] = "",
    data_dir: DataDir = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Believe what this publisher signs, and call it ALIAS."""
    from p2pmodel.cli.output import data, data_json, talk
    from p2pmodel.cli.session import run, settings_of
    from p2pmodel.peer.trust import TrustedKey, add_trusted_key

    async def add() -> TrustedKey:
        return await add_trusted_key((await settings_of(invocation_of(ctx))).data_dir, key, alias)

    entry = run(add())
    if as_json:
        data_json(entry)
        return
    data(entry.key)
    if not quiet:
        talk(f"Trusted{f' as {entry.alias!r}' if entry.alias else ''}.")


@trust_app.command("ls")
def trust_ls(
    ctx: typer.Context, data_dir: DataDir = None, as_json: Json = False, quiet: Quiet = False, debug: Debug = False
) -> None:
    """List the publishers that this machine believes."""
    from p2pmodel.cli.output import columns, data, data_json, talk
    from p2pmodel.cli.session import run, settings_of
    from p2pmodel.peer.trust import TrustedKey, load_trust

    async def read() -> list[TrustedKey]:
        return sorted(
            await load_trust((await settings_of(invocation_of(ctx))).data_dir), key=lambda e: (e.alias, e.key)
        )

    entries = run(read())
    if as_json:
        data_json({"keys": entries})
    elif quiet:
        for entry in entries:
            data(entry.key)
    elif not entries:
        talk("Nobody yet: `p2pmodel trust add KEY ALIAS`.")
    else:
        for line in columns([("ALIAS", "KEY"), *((entry.alias or "-", entry.key) for entry in entries)]):
            data(line)


@trust_app.command("rm")
def trust_rm(
    ctx: typer.Context,
    key: Annotated[str, typer.Argument(metavar="KEY|ALIAS", help="The key, or the alias that it has here.")],
    data_dir: DataDir = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Believe this publisher no more."""
    from p2pmodel.cli.output import data, data_json
    from p2pmodel.cli.session import run, settings_of
    from p2pmodel.peer.trust import load_trust, save_trust

    async def remove() -> str:
        directory = (await settings_of(invocation_of(ctx))).data_dir
        trust = await load_trust(directory)
        removed = trust.resolve_key(key).text
        await save_trust(directory, trust.remove(key))
        return removed

    removed = run(remove())
    if as_json:
        data_json({"key": removed})
    else:
        data(removed)


async def _keyring(invocation: Invocation) -> Keyring:
    from p2pmodel.cli.session import settings_of
    from p2pmodel.peer.keyring import Keyring

    return Keyring((await settings_of(invocation)).data_dir)
