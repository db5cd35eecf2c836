"""What a person types to mean a model: an id, an id with a file inside, or a name."""

from __future__ import annotations

import re
from dataclasses import dataclass

from p2pmodel.errors import DecodeError, UsageError
from p2pmodel.model.digest import Digest, ModelId
from p2pmodel.model.paths import PortablePath

SCHEME = "p2pmodel:"
_PART = re.compile(r"[\w\-.]{1,96}", re.ASCII)
_ID_LIKE = re.compile(r"[0-9A-Fa-f]{40,}")


def check_name_part(text: str) -> str:
    """Return a namespace, model or revision that the Hugging Face Hub accepts. Raises `DecodeError` otherwise."""
    if not _PART.fullmatch(text) or "--" in text or ".." in text or text[0] in "-." or text[-1] in "-.":
        raise DecodeError(f"{text[:100]!r} is not a valid name: letters, digits, '_', '-' and '.', at most 96 of them")
    if text.endswith(".git"):
        raise DecodeError("a name does not end in '.git'")
    return text


@dataclass(frozen=True, slots=True)
class Reference:
    """Either `model_id` (with an optional `path` inside), or `namespace`/`name`[@`revision`]."""

    model_id: ModelId | None = None
    path: PortablePath | None = None
    namespace: str = ""
    name: str = ""
    revision: str = ""

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Raises `UsageError`, with what was wrong and how a reference looks."""
        try:
            return cls._parse(text)
        except DecodeError as error:
            raise UsageError(
                f"{text[:200]!r} is not a model: {error}. "
                "Expected 64 hex digits, p2pmodel:<id>, p2pmodel:<id>/path/inside, or <namespace>/<model>[@revision]."
            ) from error

    @classmethod
    def _parse(cls, text: str) -> Reference:
        schemed = text.startswith(SCHEME)
        # `p2pmodel://<id>/path` is how fsspec and people spell it; the double slash carries nothing.
        body = text.removeprefix(SCHEME).removeprefix("//") if schemed else text
        head, slash, rest = body.partition("/")
        if schemed or _ID_LIKE.fullmatch(head) or not slash:
            model_id = ModelId(Digest.from_hex(head))
            return cls(model_id=model_id, path=PortablePath(rest) if slash else None)
        name, _, revision = rest.partition("@")
        if "@" in rest:
            check_name_part(revision)
        return cls(namespace=check_name_part(head), name=check_name_part(name), revision=revision)

    def __str__(self) -> str:
        if self.model_id is not None:
            return self.model_id.hex if self.path is None else f"{SCHEME}{self.model_id.hex}/{self.path.text}"
        return f"{self.namespace}/{self.name}" + (f"@{self.revision}" if self.revision else "")
