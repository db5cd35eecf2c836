"""Run by a client's own Python: download one file, say its SHA-256 and how long it took.

Arguments: repository, file, and `wait` to begin when a line comes in.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from pathlib import Path

import huggingface_hub as hub

if sys.argv[3:] == ["wait"]:
    print("ready", flush=True)  # noqa: T201
    sys.stdin.readline()
began = time.monotonic()
path = Path(hub.hf_hub_download(sys.argv[1], sys.argv[2]))
told = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "seconds": time.monotonic() - began}
sys.stdout.write(json.dumps(told))
