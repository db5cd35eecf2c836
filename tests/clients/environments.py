"""The environments that the clients live in: one for each version of huggingface_hub, as its users install it.

    python -m tests.clients.environments [NAME...]

makes them below `.clients/` (or `$P2PMODEL_CLIENTS`), where they stay; one whose requirements changed is made anew.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

REQUIREMENTS = Path(__file__).parent / "requirements"
ROOT = Path(os.environ.get("P2PMODEL_CLIENTS") or Path(__file__).parents[2] / ".clients")
CHECKOUT = Path(__file__).parents[2]
OURS = "# with p2pmodel of this checkout"
"""In the requirements of those that call p2pmodel itself."""
BESIDE = "# beside what is in "
"""In the requirements of those that see the packages of another environment: torch is unpacked once."""
NAMES = sorted(path.stem for path in REQUIREMENTS.glob("*.txt"))


def python_of(name: str) -> Path:
    return ROOT / name / "bin" / "python"


def is_made(name: str) -> bool:
    made = ROOT / name / "requirements.txt"
    return made.is_file() and made.read_text() == (REQUIREMENTS / f"{name}.txt").read_text()


def beside(name: str) -> str | None:
    """The environment whose packages this one sees, too."""
    for line in (REQUIREMENTS / f"{name}.txt").read_text().splitlines():
        if line.startswith(BESIDE):
            return line.removeprefix(BESIDE)
    return None


def packages_of(name: str) -> str:
    return sysconfig.get_path("purelib", "venv", {"base": str(ROOT / name)})


def make(name: str) -> None:
    wanted = REQUIREMENTS / f"{name}.txt"
    venv.create(ROOT / name, with_pip=True, clear=True)
    other = beside(name)
    if other is not None:
        Path(packages_of(name), "beside.pth").write_text(packages_of(other) + "\n")
    subprocess.run([python_of(name), "-m", "pip", "install", "-q", "--no-compile", "-r", wanted], check=True)
    if OURS in wanted.read_text():
        subprocess.run([python_of(name), "-m", "pip", "install", "-q", "-e", f"{CHECKOUT}[fsspec]"], check=True)
    (ROOT / name / "requirements.txt").write_text(wanted.read_text())


def main(names: list[str]) -> None:
    missing = [name for name in names or NAMES if not is_made(name)]
    if missing:
        sys.stderr.write(f"making the environments {', '.join(missing)} in {ROOT}\n")
    with ThreadPoolExecutor(2) as pool:  # one installs while the other waits for the network
        list(pool.map(make, [name for name in missing if beside(name) is None]))
        list(pool.map(make, [name for name in missing if beside(name) is not None]))


if __name__ == "__main__":
    main(sys.argv[1:])
