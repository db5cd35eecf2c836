"""`python tests/store/planted.py`: break the store in one place after another, and see that a test goes red (X3).

Each bug is one that somebody could write: a barrier that is left out, a claim that comes too early, a name that is
given before it is recorded. The suite named beside it must fail; what is not caught is printed, and is the exit code.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
STATES, CALLS, FAULTS = (
    "tests/store/test_crash_states.py",
    "tests/store/test_failing_calls.py",
    "tests/store/test_faults.py",
)
POWER, DAMAGE = "tests/store/test_power.py", "tests/store/test_index_damage.py"
CLOCKS, INTAKE = "tests/peer/test_clocks.py", "tests/store/test_intake.py"
ADOPTION, CATALOGUE, DATABASE = "adoption", "catalogue", "database"


@dataclass(frozen=True)
class Bug:
    """In `p2pmodel/store/<module>.py`, `right` becomes `wrong`; `caught_by` is a test file and what to select in it."""

    what: str
    module: str
    right: str
    wrong: str
    caught_by: tuple[str, str]


BUGS = [
    Bug("a partial file is claimed without a barrier", "intake",
        "                    file.sync()\n", "", (STATES, "fetch")),
    Bug("a placed file is claimed without a barrier", "intake",
        "                placed.sync()\n", "", (STATES, "fetch")),
    Bug("partial files are claimed before their names are durable", "intake",
        "                    self._destination.sync_partial_names()\n", "                    pass\n",
        (STATES, "fetch")),
    Bug("placed files are claimed before their names are durable", "intake",
        "                    self._destination.sync_directories(", "                    str(", (STATES, "fetch")),
    Bug("a file gets its name before that is recorded", "intake",
        "        placed = [self._placed(kept) for kept in partial]\n",
        "        placed = [self._placed(kept) for kept in partial]\n"
        "        for file in placed:\n            self._place(file)\n        placed = []\n",
        (STATES, "fetch")),
    Bug("a file is replaced before the new one is durable", "intake",
        "                file.sync()  # what it replaces", "                pass  # what it replaces",
        (STATES, "replaced")),
    Bug("a placed file counts as proven", "intake",
        "replace(kept, state=FileState.PLACED,", "replace(kept, state=FileState.PROVEN,", (STATES, "fetch")),
    Bug("what a failed barrier should have proven still counts", "intake",
        "            self._copy.drop(kept.mask & ~self._proven)\n            if kept.state is",
        "            if kept.state is",
        (FAULTS, "barrier")),
    Bug("a second barrier proves what the first did not", "intake",
        "                self._doubtful.add(file_index)\n", "                pass\n", (CALLS, "second_barrier")),
    Bug("placed files are trusted at the next start", CATALOGUE,
        "trusted=state is not FileState.PLACED", "trusted=True", (STATES, "fetch")),
    Bug("what is unproven in a partial file is believed", ADOPTION,
        "good_chunks(file, self._layout, unproven, self._buffer, self._stop)", "sum(1 << at for at in unproven)",
        (STATES, "fetch")),
    Bug("what an earlier run wrote is fetched again", ADOPTION,
        "            self._copy.add(good_chunks(file, self._layout, unproven, self._buffer, self._stop))\n",
        "            pass\n", (STATES, "fetch")),
    Bug("a later run believes memory after a failed barrier", ADOPTION,
        "                file.sync(forget=True)  # a barrier", "                pass  # a barrier",
        (FAULTS, "barrier")),
    Bug("a partial file of an earlier run is known by its number alone", ADOPTION,
        "            or not kept.has_grown_into(identity)\n"
        "            or (self._copy.clean and kept.identity != identity)\n", "", (INTAKE, "")),
    Bug("a refused reservation leaves its files", ADOPTION,
        "                for index in made:\n                    self._destination.remove_partial(index)\n",
        "                for index in made:\n", (CALLS, "reserved")),
    Bug("a file that is taken back is claimed partial before it is", "destination",
        "            self._partials.sync()\n            directory.sync()\n", "", (POWER, "every_call")),
    Bug("a directory is not durable before a file is moved into it", "destination",
        "                    above.sync()\n", "", (POWER, "every_call")),
    Bug("what is published is entered before it is durable", "publishing",
        "        file.sync()\n", "", (STATES, "publish")),
    Bug("a small file is renamed before its bytes are durable", "files",
        "                file.sync()\n", "", (POWER, "small_file")),
    Bug("a small file is replaced and its name not waited for", "files",
        "            directory.sync()\n        finally:\n",
        "        finally:\n", (POWER, "small_file")),
    Bug("claims are commits that need not be durable", DATABASE,
        "def transaction(self, *, durable: bool = True)", "def transaction(self, *, durable: bool = False)",
        (STATES, "fetch")),
    Bug("after a commit that may be lost no other is durable", DATABASE,
        '                    self._writer.execute("PRAGMA synchronous=FULL")\n', "                    pass\n",
        (STATES, "fetch")),
    Bug("files are deleted that the index still claims", "releasing",
        "                self._catalogue.forget_copy(writer, copy)\n", "                pass\n", (STATES, "remove")),
    Bug("files are forgotten and not noted for deletion", "releasing",
        "                self._leaving.note(writer, top, gone)\n", "                pass\n", (STATES, "remove")),
    Bug("deleted names are not waited for", "leaving", "            self._sync(touched)\n", "", (STATES, "remove")),
    Bug("an earlier time means another file", "copies", "            return self.identity.same_place(identity)\n",
        "            return self.identity.same_place(identity) and self.identity.mtime_ns <= identity.mtime_ns\n",
        (CLOCKS, "middle")),
    Bug("a full quota is no lack of space", "files", "(errno.ENOSPC, errno.EDQUOT, errno.EFBIG)",
        "(errno.ENOSPC, errno.EFBIG)", (FAULTS, "class")),
    Bug("nonsense in the index ends in a traceback", DATABASE,
        "        except (DecodeError, ValueError, KeyError, TypeError, OverflowError, struct.error) as error:\n",
        "        except OverflowError as error:\n", (DAMAGE, "")),
]  # fmt: skip


def path_of(bug: Bug) -> Path:
    return Path("p2pmodel/store") / f"{bug.module}.py"


def is_caught(bug: Bug, tree: Path) -> bool:
    path = tree / path_of(bug)
    right = path.read_text()
    assert right.count(bug.right) == 1, f"{bug.what}: the line to break is there {right.count(bug.right)} times"
    path.write_text(right.replace(bug.right, bug.wrong))
    file, select = bug.caught_by
    args = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        file,
        *(["-k", select] if select else []),
    ]
    done = subprocess.run(
        args, cwd=tree, env={**os.environ, "PYTHONPATH": str(tree)}, capture_output=True, text=True, check=False
    )
    path.write_text(right)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.returncode == 1


def main() -> int:
    missed = 0
    wanted = [bug for bug in BUGS if not sys.argv[1:] or any(word in bug.what for word in sys.argv[1:])]
    with tempfile.TemporaryDirectory() as name:
        tree = Path(name)
        for part in ("p2pmodel", "tests", "bootstrap", "simulations"):
            shutil.copytree(REPOSITORY / part, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(REPOSITORY / "pyproject.toml", tree)
        for bug in wanted:
            caught = is_caught(bug, tree)
            missed += not caught
            sys.stdout.write(f"{'caught' if caught else 'MISSED'}: {bug.what}\n")
            sys.stdout.flush()
    sys.stdout.write(f"{len(wanted) - missed} of {len(wanted)} caught\n")
    return missed


if __name__ == "__main__":
    sys.exit(main())
