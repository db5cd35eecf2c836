"""Nothing that a simulated peer runs may depend on the order of a set: that order changes with the hash seed of the
process and with the addresses of objects. Read from the syntax trees: which names are sets, and where one is iterated.

A dict is an ordered set; `sorted` makes an order; sets of small numbers have one order everywhere. Nor may it depend on
what takes another number of turns of the event loop in another version of Python.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import p2pmodel

PACKAGE = Path(p2pmodel.__file__).parent
ROOMS = ("model", "net", "overlay", "peer", "store", "swarm", "testing")
ELSEWHERE = {"peer/control.py", "peer/control_stream.py", "peer/daemon.py"}
"""The daemon around the peer; no simulation runs it."""
MODULES = sorted(
    path
    for room in ROOMS
    for path in (PACKAGE / room).rglob("*.py")
    if path.relative_to(PACKAGE).as_posix() not in ELSEWHERE
)

ORDERED_BY = {"sorted", "len", "any", "all", "min", "max", "sum", "set", "frozenset", "isinstance"}
"""What makes nothing of the order of its argument."""
TAKES_IN_ORDER = {"list", "tuple", "iter", "enumerate", "map", "zip", "filter", "fromkeys", "join", "extend", "sample"}


def name_of(node: ast.expr) -> str | None:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else None


def is_set_type(annotation: ast.expr) -> bool:
    text = ast.unparse(annotation).strip("'\"")
    return text.startswith(("set[", "frozenset[")) and not text.endswith("[int]")


class Sets(ast.NodeVisitor):
    """Finds the names of a module that hold sets, then the places where the order of one matters."""

    def __init__(self, tree: ast.Module) -> None:
        self.names: set[str] = set()
        self.found: list[tuple[int, str]] = []
        self._harmless: set[int] = set()
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.AnnAssign | ast.arg)
                and node.annotation is not None
                and is_set_type(node.annotation)
            ):
                target = node.arg if isinstance(node, ast.arg) else name_of(node.target)
                self.names.add(target or "")
            elif isinstance(node, ast.Assign) and "asyncio.wait(" in ast.unparse(node.value):
                elements = getattr(node.targets[0], "elts", [])
                self.names.update(filter(None, map(name_of, elements)))
            elif isinstance(node, ast.Assign) and self.is_set(node.value):
                self.names.update(filter(None, map(name_of, node.targets)))
        for node in ast.walk(tree):
            if isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation).startswith("dict["):
                self.names.discard(name_of(node.target) or "")
        self.visit(tree)

    def is_set(self, node: ast.expr) -> bool:
        if isinstance(node, ast.Set | ast.SetComp):
            return not all(
                isinstance(item, ast.Constant) and isinstance(item.value, int) for item in getattr(node, "elts", [0])
            )
        if isinstance(node, ast.BinOp):
            return self.is_set(node.left) or self.is_set(node.right)
        if isinstance(node, ast.Call):
            return name_of(node.func) in ("set", "frozenset", "all_tasks") and not ast.unparse(node).startswith(
                "set(range"
            )
        return name_of(node) in self.names

    def check(self, node: ast.expr) -> None:
        if self.is_set(node):
            self.found.append((node.lineno, f"iterates over the set {ast.unparse(node)}"))

    def visit_For(self, node: ast.For) -> None:
        self.check(node.iter)
        self.generic_visit(node)

    def visit_Starred(self, node: ast.Starred) -> None:
        self.check(node.value)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        if id(node) not in self._harmless:
            self.check(node.iter)
        self.generic_visit(node)

    def visit_SetComp(self, node: ast.SetComp) -> None:
        self._harmless.update(map(id, node.generators))
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        called = name_of(node.func)
        if called in ORDERED_BY:
            for argument in node.args:
                if isinstance(argument, ast.GeneratorExp | ast.ListComp):
                    self._harmless.update(map(id, argument.generators))
        elif called in TAKES_IN_ORDER:
            for argument in node.args:
                self.check(argument)
        elif called == "pop" and not node.args and isinstance(node.func, ast.Attribute):
            self.check(node.func.value)
        elif called in ("TaskGroup", "as_completed"):
            self.found.append((node.lineno, f"{called} keeps its tasks in a set"))
        if called == "gather" and any(word.arg == "return_exceptions" for word in node.keywords):
            self.found.append((node.lineno, "waits with gather for tasks that may have ended: see `net.ended`"))
        self.generic_visit(node)


def places(path: Path) -> Iterator[str]:
    name = path.relative_to(PACKAGE).as_posix()
    for line, what in Sets(ast.parse(path.read_text())).found:
        if not (name.startswith("testing/") and "gather" in what):  # ends whole simulations, not parts of one
            yield f"{name}:{line} {what}"


def test_no_code_of_a_simulated_peer_depends_on_the_order_of_a_set() -> None:
    found = [place for path in MODULES for place in places(path)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "code",
    [
        "for x in {a, b}: pass",
        "known: set[bytes] = set()\nlist(known)",
        "self._tasks = set()\nfor task in self._tasks: task.cancel()",
        "def f(links: set[Link]): return [link.peer for link in links]",
        "dict.fromkeys(known | set(others))",
        "waiting = {x for x in y}\nwaiting.pop()",
        "f(*{a, b})",
        "done, late = await asyncio.wait(tasks)\nfor task in done: pass",
        "async with asyncio.TaskGroup() as group: pass",
        "asyncio.gather(*tasks, return_exceptions=True)",
    ],
)
def test_what_depends_on_the_order_of_a_set_is_seen(code: str) -> None:
    assert Sets(ast.parse(code if "async" not in code else f"async def f():\n {code}")).found


@pytest.mark.parametrize(
    "code",
    [
        "for x in sorted({a, b}): pass",
        "known: set[int] = set()\nlist(known)",
        "known = set()\nany(x.late for x in known)\nlen(known)\nx in known",
        "order: dict[bytes, None] = {}\nlist(order)",
        "{x for x in {a, b}}",
    ],
)
def test_what_does_not_is_left_alone(code: str) -> None:
    assert not Sets(ast.parse(code)).found
