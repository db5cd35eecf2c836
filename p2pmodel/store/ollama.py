"""An Ollama store as a place of models: `manifests/<registry>/<namespace>/<model>/<tag>` and `blobs/sha256-<hex>`.

A manifest names layers by media type and digest. Each model is taken under names that say what its layers are
(`model.gguf`, `template`, `params`), with the manifest itself beside them, so that it can be put back as it was.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import msgspec

from p2pmodel.errors import P2PModelError
from p2pmodel.model import PortablePath
from p2pmodel.store.files import Files
from p2pmodel.store.seeds import Seed, Seeds, name_of
from p2pmodel.store.walk import FoundFile
from p2pmodel.store.wholeness import why_not_whole

_LAYER_PREFIX = "application/vnd.ollama.image."
_GGUF = {"model", "adapter", "projector"}
_DEPTH = 4
"""registry / namespace / model / tag."""
_LIBRARY = "library"


class _Layer(msgspec.Struct, rename="camel"):
    digest: str
    size: int
    media_type: str = ""


class _Manifest(msgspec.Struct):
    layers: list[_Layer]
    config: _Layer | None = None


def ollama_root(files: Files, path: Path) -> Path | None:
    """The directory with `manifests` and `blobs`: `path`, or `models` in it."""

    def is_directory(place: Path) -> bool:
        status = files.status(place)
        return status is not None and status.kind == "directory"

    places = (path, path / "models")
    return next((at for at in places if is_directory(at / "manifests") and is_directory(at / "blobs")), None)


def seed_ollama(files: Files, root: Path, seeds: Seeds) -> None:
    for blob in files.entries(root / "blobs"):
        if "-partial" in blob.name:
            seeds.leave_out(root / "blobs" / blob.name, "a download that is not finished")
    waiting = [(root / "manifests", 0)]
    while waiting:
        directory, depth = waiting.pop()
        for entry in reversed(files.entries(directory)):
            if entry.status.kind == "directory" and depth < _DEPTH:
                waiting.append((directory / entry.name, depth + 1))
            elif entry.status.kind == "file" and depth == _DEPTH - 1:
                _seed(files, root, directory / entry.name, seeds)


def _seed(files: Files, root: Path, path: Path, seeds: Seeds) -> None:
    try:
        manifest = msgspec.json.decode(files.read_small(path) or b"", type=_Manifest)
        found = _files(files, root, path, manifest)
    except msgspec.MsgspecError as error:
        seeds.leave_out(path, f"not an Ollama manifest: {error}")
        return
    except P2PModelError as error:
        seeds.leave_out(path, error)
        return
    if isinstance(found, str):
        seeds.leave_out(path, found)
        return
    registry, namespace, model, tag = path.relative_to(root / "manifests").parts
    title = f"{model}:{tag}" if namespace == _LIBRARY else f"{namespace}/{model}:{tag}"
    qualified = name_of(model if namespace == _LIBRARY else f"{namespace}.{model}")
    revision = name_of(tag)
    seeds.found.append(
        Seed("ollama", path, title, tuple(found), name_of(model), qualified, (revision,) if revision else (), registry)
    )


def _files(files: Files, root: Path, path: Path, manifest: _Manifest) -> list[FoundFile] | str:
    """Each layer where it lies, with the name that it gets; or why the model is not whole."""
    status = files.status(path)
    size = status.identity.size if status is not None else 0
    found = [FoundFile(PortablePath("manifest.json"), files.resolve(path), size)]
    if not any(layer.media_type == f"{_LAYER_PREFIX}model" for layer in manifest.layers):
        return "it has no weights of its own"
    layers = [*manifest.layers, *([manifest.config] if manifest.config is not None else [])]
    names: Counter[str] = Counter()
    for layer in layers:
        kind, _, digest = layer.digest.partition(":")
        if kind != "sha256" or len(digest) != 64:
            return f"a layer has the digest {layer.digest[:80]!r}, which is no SHA-256"
        place = _blob(files, root, digest)
        if place is None:
            return f"the layer sha256:{digest[:12]}... is not here"
        location, length = place
        if length != layer.size:
            return f"the layer sha256:{digest[:12]}... has {length} of {layer.size} bytes"
        name = _name(layer, names, is_config=layer is manifest.config)
        if name.endswith(".gguf") and (reason := why_not_whole(files, name, location)):
            return f"the layer sha256:{digest[:12]}...: {reason}"
        found.append(FoundFile(PortablePath(name), location, length, claim=f"sha256:{digest}"))
    return found


def _blob(files: Files, root: Path, digest: str) -> tuple[Path, int] | None:
    for name in (f"sha256-{digest}", f"sha256:{digest}"):  # the second in stores of 2023
        location = files.resolve(root / "blobs" / name)
        status = files.status(location)
        if status is not None and status.kind == "file":
            return location, status.identity.size
    return None


def _name(layer: _Layer, names: Counter[str], *, is_config: bool) -> str:
    kind = name_of(layer.media_type.removeprefix(_LAYER_PREFIX)) or "layer"
    suffix = ""
    if is_config:
        kind, suffix = "config", ".json"
    elif kind in _GGUF:
        suffix = ".gguf"
    names[kind] += 1
    return f"{kind}{suffix}" if names[kind] == 1 else f"{kind}-{names[kind]}{suffix}"
