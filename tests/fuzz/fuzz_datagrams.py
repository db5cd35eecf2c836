"""Coverage-guided fuzzing of what reads others' bytes: `python tests/fuzz/fuzz_datagrams.py --seconds 300`.

Needs the optional `fuzz` dependencies. Each target runs in a process of its own for its part of the time; the corpus
is read and what was found is written elsewhere, so that the tree changes only where somebody copies an input over.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
INPUT_BYTES_MAX = 4096
HANG_S = 1
RSS_MIB = 1024


def fuzz(target: str, arguments: list[str]) -> None:
    """One target, in this process; never returns."""
    import atheris

    sys.path.insert(0, str(HERE))
    with atheris.instrument_imports(include=["p2pmodel", "fuzz_targets", "peer_targets"]):
        import fuzz_targets

    atheris.Setup([sys.argv[0], *arguments], fuzz_targets.TARGETS[target])
    atheris.Fuzz()


def main() -> int:
    sys.path.insert(0, str(HERE))
    from fuzz_targets import TARGETS

    parser = argparse.ArgumentParser(description="Fuzz every decoder, a whole node and a whole connection.")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; all by default")
    parser.add_argument("--seconds", type=int, default=300, help="for all targets together")
    parser.add_argument("--found", type=Path, help="directory for new inputs; a temporary one by default")
    options = parser.parse_args()
    chosen = options.targets or list(TARGETS)
    if unknown := set(chosen) - set(TARGETS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    # A whole node and a whole link have the most to find.
    shares = {target: 4 if target in ("node", "link") else 1 for target in chosen}
    found = options.found or Path(tempfile.mkdtemp(prefix="p2pmodel-fuzz-"))
    failed, total = [], 0
    print(f"{'target':<22}{'executions':>12}{'edges':>8}{'features':>10}{'corpus':>8}  inputs in {found}")
    for target in chosen:
        new = found / target
        new.mkdir(parents=True, exist_ok=True)
        seconds = max(1, options.seconds * shares[target] // sum(shares.values()))
        command = [sys.executable, __file__, "--one", target, str(new), str(HERE / "corpus" / target)]
        limits = [f"-max_total_time={seconds}", f"-max_len={INPUT_BYTES_MAX}", f"-timeout={HANG_S}"]
        limits += [f"-rss_limit_mb={RSS_MIB}", "-print_final_stats=1", f"-artifact_prefix={new}/fault-", "-seed=1"]
        ended = subprocess.run([*command, *limits], capture_output=True, text=True, check=False)
        runs = re.findall(r"stat::number_of_executed_units: (\d+)", ended.stderr)
        seen = re.findall(r"cov: (\d+) ft: (\d+) corp: (\d+)", ended.stderr)
        edges, features, corpus = seen[-1] if seen else ("?", "?", "?")
        total += int(runs[-1]) if runs else 0
        print(f"{target:<22}{runs[-1] if runs else '?':>12}{edges:>8}{features:>10}{corpus:>8}", flush=True)
        if ended.returncode:
            failed.append(target)
            print(ended.stderr[-2000:], file=sys.stderr)
    print(f"{'all':<22}{total:>12}  {'failed: ' + ', '.join(failed) if failed else 'no fault'}")
    return 1 if failed else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        fuzz(sys.argv[2], sys.argv[3:])
    else:
        sys.exit(main())
