"""Imports a model into a Hugging Face cache again and again, each time killed one step of the disk later.

Prints, as JSON, how many steps there are and every wrong success that a client had afterwards.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
from pathlib import Path

import filelock  # noqa: F401  (loaded here once, and not by each of the children)
from huggingface_hub import snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import LocalEntryNotFoundError

from p2pmodel.gateway.hub_cache import CacheEntry, import_into_cache

FILES = {"config.json": b"{}", "sub/notes.txt": b"n" * 100, "model.safetensors": b"w" * 200_000}
REPO, COMMIT = "p2pmodel/tiny", "c" * 40
_STEPS = {"open", "os.mkdir", "os.rename", "os.link", "os.symlink", "os.remove", "os.rmdir"}


def entry_of(source: Path) -> CacheEntry:
    for path, content in FILES.items():
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).write_bytes(content)
    files = {path: (len(content), hashlib.sha256(content).hexdigest()) for path, content in FILES.items()}
    return CacheEntry("model", REPO, COMMIT, "main", source, files, list(files))


def import_and_die(cache: Path, entry: CacheEntry, step: int) -> bool:
    """Whether it was killed before its end."""
    child = os.fork()
    if not child:
        left = step

        def count(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal left
            if event in _STEPS and str(cache) in repr(arguments):
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        import_into_cache(cache, entry)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0


def wrong_successes(cache: Path) -> list[str]:
    wrong = []
    for revision in (None, COMMIT):
        try:
            path = Path(snapshot_download(REPO, revision=revision, cache_dir=cache, local_files_only=True))
        except LocalEntryNotFoundError:
            continue
        for name, content in FILES.items():
            if not (path / name).is_file() or (path / name).read_bytes() != content:
                wrong.append(f"{revision}: {name}")
    # Older clients know no list of files: to them a revision that is there is whole, and a name leads to one.
    repository = cache / f"models--{REPO.replace('/', '--')}"
    snapshot = repository / "snapshots" / COMMIT
    if snapshot.exists() and {name: (snapshot / name).is_file() for name in FILES} != dict.fromkeys(FILES, True):
        wrong.append("a revision in part")
    if (repository / "refs" / "main").exists() and not snapshot.exists():
        wrong.append("a name that leads nowhere")
    for name, content in FILES.items():
        found = try_to_load_from_cache(REPO, name, cache_dir=cache)
        if isinstance(found, str) and Path(found).read_bytes() != content:
            wrong.append(f"loaded: {name}")
    return wrong


def main(root: Path) -> None:
    os.fsync = lambda _: None  # who is killed loses nothing that was written
    entry, wrong, step, again = entry_of(root / "source"), [], 0, []
    while True:
        cache = root / f"cache{step}"
        killed = import_and_die(cache, entry, step)
        wrong += [f"step {step}: {what}" for what in wrong_successes(cache)]
        if killed:
            import_into_cache(cache, entry)  # what was left is no obstacle
        path = Path(snapshot_download(REPO, cache_dir=cache, local_files_only=True))
        if {name: (path / name).read_bytes() for name in FILES} != FILES:
            again.append(step)
        if list(cache.rglob(".p2pmodel-*")):
            again.append(step)
        shutil.rmtree(cache)
        if not killed:
            break
        step += 1
    sys.stdout.write(json.dumps({"steps": step, "wrong": wrong, "again": again}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
