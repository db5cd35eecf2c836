"""The pytest plugin: tests and fixtures that ask for `swarm` run in virtual time. Loaded at every start of pytest.

An `async def` test with `swarm` among its fixtures, directly or through another, gets an event loop of its own whose
time is virtual, and so do its function-scoped async fixtures. pytest-asyncio and anyio leave such a test alone, in any
mode and with any mark; neither is needed. Nothing but pytest is imported here before a test asks for it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from p2pmodel.testing.fixture import Swarm

_FIXTURE = "swarm"
_OTHERS = ("asyncio", "anyio", "trio")
"""Marks by which other plugins would take a test to a loop of theirs."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("p2pmodel", "simulated networks of peers")
    group.addoption(
        "--swarm-seed",
        type=int,
        default=None,
        metavar="N",
        help="seed of the `swarm` fixture where a test does not set one (default: another at each run)",
    )


class VirtualTimeFunction(pytest.Function):
    """An async test that runs on the loop of its `swarm` fixture."""

    def get_closest_marker(self, name: str, default: Any = None) -> Any:
        return default if name in _OTHERS else super().get_closest_marker(name, default)

    def runtest(self) -> None:
        test = self.obj
        swarm: Any = self.funcargs[_FIXTURE]

        def run(**arguments: Any) -> None:
            swarm.run_test(test(**arguments))

        self.obj = run
        try:
            super().runtest()
        finally:
            self.obj = test


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_pycollect_makeitem(collector: Any, name: str, obj: object) -> Generator[None, Any, Any]:
    """Innermost, so that other plugins see what is ours already."""
    made = yield
    if not isinstance(made, list):
        return made
    return [_ours(item) if _asks_for_swarm(item) else item for item in made]


def _asks_for_swarm(item: object) -> bool:
    return isinstance(item, pytest.Function) and _FIXTURE in item.fixturenames and inspect.iscoroutinefunction(item.obj)


def _ours(item: Any) -> VirtualTimeFunction:
    ours: VirtualTimeFunction = VirtualTimeFunction.from_parent(
        item.parent,
        name=item.name,
        callspec=getattr(item, "callspec", None),
        callobj=item.obj,
        fixtureinfo=item._fixtureinfo,
        keywords=item.keywords,
        originalname=item.originalname,
    )
    ours.own_markers = item.own_markers
    return ours


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_fixture_setup(fixturedef: Any, request: Any) -> Generator[None, Any, Any]:
    """Outermost, so that other plugins see a plain function where an async fixture runs on our loop."""
    function = fixturedef.func
    is_async = inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
    if not is_async or fixturedef.scope != "function" or not isinstance(request.node, VirtualTimeFunction):
        return (yield)
    fixturedef.func = _on_our_loop(function, request)
    try:
        return (yield)
    finally:
        fixturedef.func = function


def _on_our_loop(function: Callable[..., Any], request: Any) -> Callable[..., Any]:
    def set_up(*_: Any, **arguments: Any) -> Any:
        swarm: Swarm = request.getfixturevalue(_FIXTURE)
        bound = _bound(function, request.instance)
        if inspect.iscoroutinefunction(function):
            return swarm.run(bound(**arguments))
        steps = bound(**arguments)
        value = swarm.run(anext(steps))
        request.addfinalizer(lambda: swarm.run(_last_step(steps)))
        return value

    return set_up


def _bound(function: Callable[..., Any], instance: Any) -> Callable[..., Any]:
    """A fixture that is a method belongs to the instance of the test, not to the one that it was found on."""
    owner = getattr(function, "__self__", None)
    if owner is None or instance is None or not isinstance(instance, type(owner)):
        return function
    rebound: Callable[..., Any] = function.__func__.__get__(instance)  # type: ignore[attr-defined]
    return rebound


async def _last_step(steps: Any) -> None:
    try:
        await anext(steps)
    except StopAsyncIteration:
        return
    raise RuntimeError("an async fixture yields once")


@pytest.fixture
def swarm(request: pytest.FixtureRequest) -> Generator[Swarm, None, None]:
    """Makes networks of simulated peers: `net = await swarm(peers=50, loss=0.02, seed=7)`.

    Options as in `p2pmodel.testing.NetOptions`. The test runs in virtual time. `docs/simulation.md` has the rest.
    """
    from p2pmodel.testing.fixture import Swarm

    made = Swarm(request.config.getoption("--swarm-seed"))
    yield made
    made.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any) -> Generator[None, Any, Any]:
    report = yield
    made = getattr(item, "funcargs", {}).get(_FIXTURE)
    if report.failed and made is not None and hasattr(made, "story"):
        report.sections.append(("simulated network", made.story(item.nodeid)))
    return report
