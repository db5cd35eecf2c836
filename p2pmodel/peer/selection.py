"""Which files of a model a person means: names, patterns to include, patterns to leave out."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from p2pmodel.errors import NotFoundError, UsageError
from p2pmodel.model import Manifest


def select_files(
    manifest: Manifest, *, files: Sequence[str] = (), include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> list[int]:
    """The numbers of the files, ascending; all of them by default.

    `files` are exact paths or directories; patterns are those of `hf download` (shell style, `*` crosses `/`). Raises
    `NotFoundError` for a name that the model does not have, `UsageError` where nothing is left.
    """
    paths = [file.path.text for file in manifest.files]
    chosen = set(range(len(paths)))
    if files:
        chosen = set()
        for name in files:
            wanted = name.rstrip("/")
            found = {i for i, path in enumerate(paths) if path == wanted or path.startswith(wanted + "/")}
            if not found:
                raise NotFoundError(f"the model has no file {name!r}; `p2pmodel show` lists them")
            chosen |= found
    if include:
        chosen = {i for i in chosen if any(_matches(paths[i], pattern) for pattern in include)}
    chosen = {i for i in chosen if not any(_matches(paths[i], pattern) for pattern in exclude)}
    if not chosen:
        raise UsageError("the patterns leave no file of this model")
    return sorted(chosen)


def _matches(path: str, pattern: str) -> bool:
    return fnmatchcase(path, pattern + "*" if pattern.endswith("/") else pattern)
