"""What a person writes to mean a file of a model: `<id>/path` or `<namespace>/<model>[@revision]/path`."""

from __future__ import annotations

import re

from p2pmodel.errors import UsageError
from p2pmodel.model import PortablePath, Reference
from p2pmodel.model.reference import SCHEME

_ID = re.compile(r"[0-9a-f]{64}")


def split_reference(text: str, revision: str | None = None) -> tuple[str, str]:
    """A model and a path inside it, which is empty for the model itself. Raises `UsageError`."""
    body = text.removeprefix(SCHEME).removeprefix("//") if text.startswith(SCHEME) else text
    parts = body.strip("/").split("/")
    count = 1 if _ID.fullmatch(parts[0]) else 2
    model, path = "/".join(parts[:count]), "/".join(parts[count:])
    if revision is not None and count == 2 and "@" not in model:
        model = f"{model}@{revision}"
    Reference.parse(model)
    if path:
        try:
            PortablePath(path)
        except Exception as error:
            raise UsageError(f"{path[:200]!r} is not a path inside a model: {error}") from error
    return model, path
