"""`env`, `run`: programs of the Hugging Face world, pointed at the daemon without a change of theirs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from p2pmodel.cli.options import Bootstrap, DataDir, Debug, Invocation, Json, invocation_of

if TYPE_CHECKING:
    from p2pmodel.peer.runtime import RuntimeRecord

_CLIENT_SETTINGS = {
    # Bytes would come from the hub's own store and past the swarm, and there is no way back to plain HTTP.
    "HF_HUB_DISABLE_XET": "1",
    # Ten seconds without a byte are an error to these programs; a peer behind a slow line may take longer for a chunk.
    "HF_HUB_DOWNLOAD_TIMEOUT": "120",
    "HF_HUB_ETAG_TIMEOUT": "60",
}
_PROXIES = ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")
_SHELLS = ("sh", "bash", "zsh", "dash", "ksh", "fish", "csh", "tcsh", "powershell", "pwsh")
NOT_FOUND, NOT_EXECUTABLE = 127, 126
"""What shells and `env` end with."""


def env(
    ctx: typer.Context,
    shell: Annotated[
        str | None,
        typer.Option("--shell", metavar="SHELL", help=f"One of {', '.join(_SHELLS)}. [default: that of $SHELL]"),
    ] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Print what makes Hugging Face programs draw on the swarm: eval "$(p2pmodel env)".

    It names the running daemon. Programs read it when they start.
    """
    from p2pmodel.cli.output import data, data_json
    from p2pmodel.cli.session import run as run_work
    from p2pmodel.errors import UsageError

    chosen = shell or Path(os.environ.get("SHELL", "")).name
    if shell and shell not in _SHELLS:
        raise UsageError(f"{shell!r} is not a shell that is known here; choose one of {', '.join(_SHELLS)}")
    variables = variables_of(run_work(_running(invocation_of(ctx))), os.environ)
    if as_json:
        data_json(variables)
        return
    for name, value in variables.items():
        data(assignment(chosen, name, value))


async def _running(invocation: Invocation) -> RuntimeRecord:
    from p2pmodel.cli.session import open_daemon

    async with open_daemon(invocation) as daemon:
        return daemon.record


def variables_of(record: RuntimeRecord, environment: Mapping[str, str]) -> dict[str, str]:
    """Raises `DaemonNotRunningError` where the daemon serves no HTTP."""
    from p2pmodel.errors import DaemonNotRunningError

    if record.http is None:
        raise DaemonNotRunningError(
            f"the peer of process {record.pid} serves no HTTP; start `p2pmodel daemon` without --http off"
        )
    host, _, port = record.http.rpartition(":")
    host = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)
    variables = {"HF_ENDPOINT": f"http://{host}:{port}/hf", **_CLIENT_SETTINGS}
    if any(environment.get(name) for name in _PROXIES):
        # A proxy does not reach this machine's own address.
        for name in ("NO_PROXY", "no_proxy"):
            past = [entry for entry in environment.get(name, "").split(",") if entry]
            bare = host.strip("[]")
            variables[name] = ",".join([*past, *([] if bare in past else [bare])])
    return variables


def assignment(shell: str, name: str, value: str) -> str:
    """A line that sets an environment variable in this shell; that of POSIX where it is not known."""
    import shlex

    if shell == "fish":
        quoted = value.replace("\\", "\\\\").replace("'", "\\'")
        return f"set -gx {name} '{quoted}';"
    if shell in ("csh", "tcsh"):
        return f"setenv {name} {shlex.quote(value)};"
    if shell in ("powershell", "pwsh"):
        quoted = value.replace("'", "''")
        return f"$env:{name} = '{quoted}'"
    return f"export {name}={shlex.quote(value)}"


def run(
    ctx: typer.Context,
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND...", help="The program and its arguments.")],
    bootstrap: Bootstrap = None,
    data_dir: DataDir = None,
    debug: Debug = False,
) -> None:
    """Run a program that draws on the swarm wherever it would have asked the Hugging Face Hub.

    It uses the daemon that runs on the data directory, and without one starts a daemon for as long as the program runs.
    Ends with the exit code of the program.
    """
    from p2pmodel.cli.session import run as run_work

    code = run_work(_run(invocation_of(ctx), command, {"bootstrap": bootstrap or None}))
    raise typer.Exit(code)


async def _run(invocation: Invocation, command: list[str], flags: dict[str, object]) -> int:
    from dataclasses import replace

    from p2pmodel.cli.output import talk
    from p2pmodel.cli.session import find_running, settings_of

    settings = await settings_of(invocation, flags)
    if (daemon := await find_running(settings)) is not None:
        await daemon.close()
        if not daemon.record.command:
            return await _execute(command, variables_of(daemon.record, os.environ))
    from p2pmodel.gateway import hub_of
    from p2pmodel.peer.daemon import open_daemon

    config = replace(settings.peer_config().for_one_command(offline=False), http="127.0.0.1:0")
    async with open_daemon(config, fronts=[hub_of]) as record:
        talk(f"A peer serves {record.http} for as long as this runs.")
        return await _execute(command, variables_of(record, os.environ))


async def _execute(command: list[str], variables: Mapping[str, str]) -> int:
    """What signals mean is for the program to say: those of the terminal reach it anyway, others are passed on."""
    import asyncio
    import signal

    from p2pmodel.cli.output import talk

    # They may come before the program is there, and must not end this command then: it would leave the program behind.
    process: asyncio.subprocess.Process | None = None
    early: list[int] = []

    def pass_on(number: int) -> None:
        if process is None:
            early.append(number)
        elif process.returncode is None:
            process.send_signal(number)

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, lambda: None)
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, pass_on, number)
    try:
        process = await asyncio.create_subprocess_exec(*command, env={**os.environ, **variables})
    except (FileNotFoundError, NotADirectoryError):
        talk(f"p2pmodel: error: there is no program {command[0]!r}")
        return NOT_FOUND
    except OSError as error:
        talk(f"p2pmodel: error: {command[0]!r} cannot be run: {error.strerror or error}")
        return NOT_EXECUTABLE
    for waiting in early:
        pass_on(waiting)
    code = await process.wait()
    return code if code >= 0 else 128 - code
