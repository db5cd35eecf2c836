"""Run by a client's own Python: what huggingface_hub does against an endpoint, told as one JSON object.

Arguments: repository, directory for what is downloaded, paths of its files as JSON.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import hf_xet  # noqa: F401  (installed, as for everybody, and not to be used)
import huggingface_hub as hub
from huggingface_hub import HfFileSystem

REPO, ROOT, FILES = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
told: dict[str, Any] = {"version": hub.__version__}


def hashes(directory: str) -> dict[str, str]:
    return {name: hashlib.sha256((Path(directory) / name).read_bytes()).hexdigest() for name in FILES}


def attempt(name: str, call: Any) -> None:
    try:
        told[name] = call()
    except Exception as error:  # noqa: BLE001  (which one it is, is what is asked)
        told[name] = [type(error).__name__, str(error)]


def listed(directory: Path) -> list[str]:
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())


snapshot = hub.snapshot_download(REPO)
told["snapshot"] = hashes(snapshot)
told["commit"] = Path(snapshot).name
told["one_file"] = Path(hub.hf_hub_download(REPO, FILES[0], cache_dir=ROOT / "one")).read_text()
hub.snapshot_download(REPO, local_dir=ROOT / "local")
told["local_dir"] = hashes(str(ROOT / "local"))
hub.snapshot_download(REPO, allow_patterns=["*.json"], local_dir=ROOT / "part")
told["patterns"] = [name for name in listed(ROOT / "part") if not name.startswith(".cache")]
told["offline"] = hub.snapshot_download(REPO, local_files_only=True) == snapshot
attempt("no_file", lambda: hub.hf_hub_download(REPO, "nope.txt"))
attempt("no_file_kept", lambda: str(hub.try_to_load_from_cache(REPO, "nope.txt")))
attempt("no_revision", lambda: hub.hf_hub_download(REPO, FILES[0], revision="v9"))
attempt("no_repo", lambda: hub.hf_hub_download("nobody/x", FILES[0]))
attempt("no_repo_snapshot", lambda: hub.snapshot_download("nobody/x"))
attempt("upload", lambda: str(hub.HfApi().upload_file(
    path_or_fileobj=b"x", path_in_repo="x", repo_id=REPO, token="hf_x")))  # fmt: skip
attempt("exists", lambda: [hub.HfApi().file_exists(REPO, name) for name in (FILES[0], "nope")])
attempt("whoami", lambda: str(hub.whoami(token="hf_x")))
attempt("names", lambda: sorted(hub.list_repo_files(REPO)))
attempt("paths", lambda: [entry.path for entry in hub.HfApi().get_paths_info(REPO, [FILES[0], "nope"])])
attempt("metadata", lambda: sorted(hub.get_safetensors_metadata(REPO).weight_map))
file_system = HfFileSystem()
told["ranges"] = [file_system.cat_file(f"{REPO}/{FILES[0]}", start=2, end=9).decode(),
                  file_system.info(f"{REPO}/{FILES[0]}")["size"]]  # fmt: skip
told["listed"] = sorted(path.removeprefix(f"{REPO}/") for path in file_system.find(REPO))


def command(*arguments: str) -> list[Any]:
    program = Path(sys.executable).with_name("hf")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=120, check=False)
    return [done.returncode, done.stdout, done.stderr]


told["hf_download"] = command("download", REPO, "--local-dir", str(ROOT / "command"))
told["hf_download_files"] = hashes(str(ROOT / "command"))
told["hf_missing"] = command("download", "nobody/x")
if not hub.__version__.startswith("0."):
    told["hf_dry_run"] = command("download", REPO, "--dry-run", "--cache-dir", str(ROOT / "dry"))
    told["dry_run_wrote"] = listed(ROOT / "dry") if (ROOT / "dry").exists() else []
    told["hf_verify"] = command("cache", "verify", REPO)
sys.stdout.write(json.dumps(told))
