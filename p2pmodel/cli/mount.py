"""`mount`: models as a directory that any program can read."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from p2pmodel.cli.options import Bootstrap, DataDir, Debug, Peers, invocation_of


def mount(
    ctx: typer.Context,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="An empty directory.")],
    references: Annotated[
        list[str] | None, typer.Argument(metavar="[REF]...", help="Models to show by name; all are there by id.")
    ] = None,
    bootstrap: Bootstrap = None,
    peers: Peers = None,
    data_dir: DataDir = None,
    debug: Debug = False,
) -> None:
    """Show models as files (FUSE, read-only) until Ctrl-C; what is read is fetched, and nothing else.

    DIR/<model id>/... is there for every model that can be found, DIR/<namespace>/<model>/... for those named here.
    Needs `pip install 'p2pmodel[fuse]'` and the system's libfuse 3.
    """
    import logging

    from p2pmodel.errors import UsageError
    from p2pmodel.loading.engine import engine_for
    from p2pmodel.loading.mounting import Tree
    from p2pmodel.loading.mounting import mount as serve

    logging.basicConfig(format="p2pmodel: %(levelname)s: %(message)s", level=logging.WARNING)
    try:
        hidden = any(directory.iterdir())
    except OSError as error:
        raise UsageError(f"cannot mount on {directory}: {error.strerror}") from error
    if hidden:
        raise UsageError(f"{directory} is not empty, and what is in it could not be seen; give an empty directory")
    engine = engine_for(invocation_of(ctx).data_dir, bootstrap or ())
    # A daemon that goes comes back: its data directory must not be ours by then.
    engine.daemon_only = engine.run(engine.has_daemon())
    tree = Tree(engine, references or [], peers=peers or [])

    def say() -> None:
        sys.stderr.write(f"Mounted on {directory}; Ctrl-C ends it.\n")

    try:
        serve(tree, directory, say)
    finally:
        tree.close()
        engine.close()
