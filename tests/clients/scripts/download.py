"""Run by a client's own Python: download one file, and say its SHA-256. Arguments: repository, file."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import huggingface_hub as hub

path = Path(hub.hf_hub_download(sys.argv[1], sys.argv[2]))
sys.stdout.write(json.dumps({"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}))
