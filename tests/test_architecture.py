"""The rooms of the house, by what they import: read from the syntax trees, so that an import in a function counts too.

The table is that of the architecture document; an exception is listed here with its reason or it does not exist.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

import p2pmodel
from p2pmodel import errors

PACKAGE = Path(p2pmodel.__file__).parent

MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "limits": set(),
    "version": set(),
    "model": set(),
    "net": {"model"},
    "overlay": {"model", "net"},
    "swarm": {"model", "net"},
    "store": {"model"},
    "peer": {"model", "net", "overlay", "swarm", "store", "version"},
    "gateway": {"model", "peer", "version"},
    "loading": {"model", "peer"},
    "cli": {"model", "peer", "loading", "gateway", "version"},  # it puts the daemon together
    "testing": {"model", "net", "overlay", "swarm", "store", "peer", "gateway", "loading"},
    "__init__": {"version", "peer", "loading", "cli", "model"},
    "__main__": {"cli"},
}
EVERYBODY = {"errors", "limits"}
"""What every room may import, besides itself."""

WITHOUT_ASYNCIO = {"errors", "limits", "model", "store"}
WITHOUT_WORLD = {"errors", "limits", "model"}
"""Rooms whose values depend on nothing but their arguments."""
WORLD = {
    "aiofiles", "aiohttp", "asyncio", "concurrent", "fcntl", "glob", "http", "io", "mmap", "multiprocessing", "os",
    "random", "secrets", "select", "selectors", "shutil", "signal", "socket", "sqlite3", "ssl", "subprocess", "sys",
    "tempfile", "threading", "time", "urllib", "uuid",
}  # fmt: skip
"""Disk, network, clock, dice and threads."""
NOWHERE = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "torch", "imp"}
"""What turns bytes from others into running code."""

KADEMLIA_ADAPTER = "overlay/package.py"

MODULES = sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of every module that is imported, those that only a type checker sees too."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name_of(path)}:{node.lineno}: imports are absolute"
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"


def rooms_imported(path: Path) -> Iterator[tuple[int, str]]:
    for line, name in imports_of(path):
        package, _, rest = name.partition(".")
        if package == "p2pmodel":
            yield line, rest.partition(".")[0]


def outside(path: Path) -> Iterator[tuple[int, str]]:
    for line, name in imports_of(path):
        yield line, name.partition(".")[0]


def every(*rooms: str) -> list[Path]:
    return [path for path in MODULES if room_of(path) in rooms]


def violations(paths: list[Path], banned: set[str]) -> list[str]:
    return [
        f"{name_of(path)}:{line} imports {name}" for path in paths for line, name in outside(path) if name in banned
    ]


def test_every_room_is_in_the_table() -> None:
    assert {room_of(path) for path in MODULES} <= set(MAY_IMPORT)


@pytest.mark.parametrize("room", sorted({room_of(path) for path in MODULES}))
def test_a_room_imports_only_what_stands_above_it(room: str) -> None:
    allowed = MAY_IMPORT[room] | EVERYBODY | {room} - ({"errors"} if room == "limits" else set())
    wrong = [
        f"{name_of(path)}:{line} imports {imported}"
        for path in every(room)
        for line, imported in rooms_imported(path)
        if imported not in allowed
    ]
    assert not wrong, "\n".join(wrong)


def test_errors_and_limits_import_nothing() -> None:
    for path in every("errors", "limits"):
        assert {name for _, name in outside(path)} <= {"__future__"}


def test_the_table_has_no_cycle() -> None:
    order: list[str] = []
    while len(order) < len(MAY_IMPORT):
        free = [room for room, above in MAY_IMPORT.items() if room not in order and above <= set(order)]
        assert free, f"a cycle among {set(MAY_IMPORT) - set(order)}"
        order += free


def test_siblings_do_not_know_each_other() -> None:
    for room in ("overlay", "swarm", "store"):
        assert not MAY_IMPORT[room] & {"overlay", "swarm", "store"}


def test_values_know_no_disk_network_clock_dice_or_thread() -> None:
    assert not violations(every(*WITHOUT_WORLD), WORLD)


def test_values_open_nothing() -> None:
    """`pathlib` would be allowed for its names; so are calls of `open` and the like looked for."""
    calls = {"open", "exec", "eval", "compile", "print", "input", "__import__"}
    for path in every(*WITHOUT_WORLD):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in calls, f"{name_of(path)}:{node.lineno} calls {node.func.id}"


def test_the_event_loop_is_unknown_above_the_net_and_in_the_store() -> None:
    assert not violations(every(*WITHOUT_ASYNCIO), {"asyncio", "aiofiles", "aiohttp", "uvloop"})


def test_only_the_net_knows_sockets_and_tls() -> None:
    banned = {"socket", "ssl", "OpenSSL", "select", "selectors"}
    assert not violations(every("model", "overlay", "swarm", "store"), banned)


def test_one_module_knows_the_kademlia_package() -> None:
    wrong = violations(
        [path for path in MODULES if name_of(path) != KADEMLIA_ADAPTER], {"kademlia", "rpcudp", "umsgpack"}
    )
    assert not wrong, "\n".join(wrong)
    assert {"kademlia"} <= {name for _, name in outside(PACKAGE / KADEMLIA_ADAPTER)}


def test_nothing_that_runs_code_out_of_bytes_is_imported() -> None:
    assert not violations(MODULES, NOWHERE)


def test_nothing_is_evaluated() -> None:
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in {"eval", "exec"}, f"{name_of(path)}:{node.lineno}"


def test_a_blind_except_raises_on_or_logs_or_has_its_reason_beside_it() -> None:
    for path in MODULES:
        lines = path.read_text().splitlines()
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ExceptHandler):
                continue
            where = f"{name_of(path)}:{node.lineno}"
            assert node.type is not None, f"{where}: a bare except"
            blind = isinstance(node.type, ast.Name) and node.type.id in {"Exception", "BaseException"}
            inner = list(ast.walk(node))
            raises = any(isinstance(part, ast.Raise) for part in inner)
            logs = any(isinstance(part, ast.Attribute) and part.attr == "exception" for part in inner)
            assert not blind or raises or logs or "#" in lines[node.lineno - 1], where


def test_every_module_says_on_top_what_it_is() -> None:
    for path in MODULES:
        assert (
            ast.get_docstring(ast.parse(path.read_text()))
            or not path.read_text().strip()
            or room_of(path) in ("version",)
        ), name_of(path)


# --- errors -------------------------------------------------------------------------------------------------------


def error_classes() -> list[type[errors.P2PModelError]]:
    return [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.P2PModelError)]


def test_every_error_has_an_exit_code_that_a_shell_can_tell_from_success() -> None:
    for kind in error_classes():
        assert isinstance(kind.exit_code, int) and 0 < kind.exit_code < 256, kind.__name__


def test_every_error_that_a_person_meets_has_an_exit_code_of_its_family() -> None:
    codes: dict[int, set[str]] = {}
    for kind in error_classes():
        if "exit_code" in vars(kind):
            codes.setdefault(kind.exit_code, set()).add(kind.__name__)
    assert all(len(names) == 1 for names in codes.values()), codes


def test_no_error_is_both_ours_and_a_peers() -> None:
    for kind in error_classes():
        bases = {base for base in kind.__mro__ if base in error_classes()}
        assert errors.PeerFault not in bases or kind.exit_code == 1


def test_every_error_is_defined_in_one_place() -> None:
    for path in MODULES:
        if room_of(path) == "errors":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                bases = {base.id for base in node.bases if isinstance(base, ast.Name)}
                known = {kind.__name__ for kind in error_classes()} | {"Exception", "BaseException"}
                assert not bases & known, f"{name_of(path)}:{node.lineno} defines an error, {node.name}"
