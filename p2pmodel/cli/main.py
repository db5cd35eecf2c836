"""The program: which commands there are, and how each error becomes one sentence on stderr and an exit code.

Start-up time is part of the interface (`p2pmodel --help` within 150 ms of bare Python), so this module and those that
it imports load nothing but typer; each command imports what it needs when it runs.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from p2pmodel.cli import (
    daemon,
    demo,
    doctor,
    environment,
    fetch,
    keeping,
    keys,
    limits,
    models,
    mount,
    publish,
    seed,
    settings,
    usage,
)
from p2pmodel.cli.options import DataDir, Debug, Invocation
from p2pmodel.errors import P2PModelError

EXIT_OTHER = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

app = typer.Typer(
    name="p2pmodel",
    no_args_is_help=True,
    rich_markup_mode=None,  # rich costs 100 ms at every --help
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Start with `p2pmodel demo`. Exit codes: 0 done, 1 other, 2 usage, 3 not found, 4 no peers or network, "
    "5 timeout, 6 verification failed, 7 no space, 8 refused, 9 daemon not running, 130 interrupted.",
)


def _show_version(value: bool) -> None:
    if value:
        from p2pmodel.version import __version__

        sys.stdout.write(f"p2pmodel {__version__}\n")
        raise typer.Exit


@app.callback()
def root(
    data_dir: DataDir = None,
    debug: Debug = False,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Print the version.")
    ] = False,
) -> None:
    """Model weights that travel from peer to peer: found by content hash, pulled from many peers, verified."""


# A line of `--help` each, short enough for a terminal of 80 columns.
app.command(short_help="See it work on this machine, with no set-up.")(demo.demo)
app.command(short_help="Run a peer in the foreground.")(daemon.daemon)
app.command(short_help="Offer a model; print its id.")(publish.publish)
app.command(short_help="Offer models of other programs from where they lie.")(seed.seed)
app.command(short_help="Get a model from all peers that hold it; print the path.")(fetch.fetch)
app.command(short_help="Models as a directory of files that come when they are read.")(mount.mount)
app.command(short_help="A model's manifest, files and signers.")(models.show)
app.command(short_help="The models that are here, and how whole each is.")(models.ls)
app.command(short_help="What they take, and what sharing saves.")(usage.du)
app.command(short_help="Hash a model's files again.")(models.verify)
app.command(short_help="Never let go of a model to make room.")(keeping.pin)
app.command(short_help="Let the cache decide about a model again.")(keeping.unpin)
app.command(short_help="Let go of a model; your own files stay.")(keeping.rm)
app.command(short_help="Bring the cache within its limits.")(keeping.gc)
app.command(short_help="How the running daemon is.")(daemon.status)
app.command(short_help="Its connections and neighbours.")(daemon.peers)
app.command(short_help="What it may use of the line; change it.")(limits.limits)
app.command(short_help="What is wrong and what to do about it.")(doctor.doctor)
app.command("env", short_help="What points Hugging Face programs at the daemon.")(environment.env)
app.command(
    short_help="Run a command with that, and a daemon for it.",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)(environment.run)
app.command("id", short_help="This peer's id.")(keys.show_id)
app.add_typer(keys.key_app, name="key")
app.add_typer(keys.trust_app, name="trust")
app.add_typer(settings.config_app, name="config")


def main() -> None:
    """Run the command line of this process and exit with its code."""
    sys.exit(run_command_line())


def run_command_line(arguments: list[str] | None = None) -> int:
    invocation = Invocation(debug=bool(os.environ.get("P2PMODEL_DEBUG")))
    try:
        code = app(args=arguments, prog_name="p2pmodel", standalone_mode=False, obj=invocation)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except BrokenPipeError:
        return _reader_is_gone()
    except P2PModelError as error:
        return _fail(str(error), error.exit_code, invocation)
    except typer.Abort:
        return _fail("interrupted", EXIT_INTERRUPTED, invocation)
    except Exception as error:  # noqa: BLE001  (the outermost frame: nothing may reach the person as a traceback)
        return _unexpected(error, invocation)


def _unexpected(error: Exception, invocation: Invocation) -> int:
    # Older typer takes click from its own package, newer typer carries a copy: its errors are known by their shape.
    format_message = getattr(error, "format_message", None)
    if callable(format_message) and hasattr(error, "exit_code"):
        context = getattr(error, "ctx", None)
        if type(error).__name__ == "NoArgsIsHelpError":
            sys.stderr.write(f"{format_message()}\n")
            return EXIT_USAGE
        path = context.command_path if context is not None else "p2pmodel"
        return _fail(f"{format_message().rstrip('.')}; see `{path} --help`", EXIT_USAGE, invocation)
    hint = "" if invocation.debug else "; run it again with --debug for the whole story"
    reason = " ".join(str(error).split())
    return _fail(f"unexpected {type(error).__name__}{': ' + reason if reason else ''}{hint}", EXIT_OTHER, invocation)


def _fail(sentence: str, code: int, invocation: Invocation) -> int:
    try:
        if invocation.debug:
            import traceback

            traceback.print_exc()
        sys.stderr.write(f"p2pmodel: error: {' '.join(sentence.split())}\n")
        sys.stderr.flush()
    except BrokenPipeError:
        return _reader_is_gone()
    return code


def _reader_is_gone() -> int:
    """`p2pmodel ls | head -1`: be quiet, also when the interpreter flushes stdout on its way out."""
    sink = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            os.dup2(sink, stream.fileno())
    return EXIT_OTHER
