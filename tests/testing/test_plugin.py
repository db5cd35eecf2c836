"""The pytest plugin in somebody else's project: which tests it runs, beside which plugins, and what a failure shows."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

pytest_plugins = "pytester"
pytestmark = pytest.mark.slow

FETCH = """
async def test_fetch(swarm):
    net = await swarm(peers=3)
    model = await net[0].publish(net.random_model(size=100_000))
    assert all(report.verified for report in await net.fetch_all(model))
"""
FAILS = """
async def test_fails(swarm):
    net = await swarm(peers=3{seed})
    model = await net[0].publish(net.random_model(size=1000))
    await net.kill(peers=[net[0]])
    await net.fetch_all(model)
"""


def outcome(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    lines = ["[pytest]", "filterwarnings = error"]
    if "no:asyncio" not in arguments:
        lines.append("asyncio_default_fixture_loop_scope = function")
    pytester.makeini("\n".join(lines))
    return pytester.runpytest_inprocess("-p", "no:cacheprovider", "-p", "no:cov", *arguments)


@pytest.mark.parametrize("mode", [("--asyncio-mode=strict",), ("--asyncio-mode=auto",), ("-p", "no:asyncio")])
def test_an_async_test_runs_in_any_mode_of_pytest_asyncio_and_without_it(pytester, mode):
    pytester.makepyfile(FETCH)
    outcome(pytester, *mode).assert_outcomes(passed=1)


@pytest.mark.parametrize("mode", ["strict", "auto"])
def test_marks_methods_parameters_and_async_fixtures_work_as_ever(pytester, mode):
    pytester.makepyfile(
        """
        import asyncio
        import pytest
        import pytest_asyncio

        @pytest_asyncio.fixture
        async def net(swarm):
            net = await swarm(peers=2)
            yield net
            await asyncio.sleep(3600)  # an hour of virtual time
            assert net.clock.monotonic() > 3600

        @pytest_asyncio.fixture
        async def loop():
            await asyncio.sleep(0)
            return asyncio.get_running_loop()

        @pytest_asyncio.fixture(scope="module", loop_scope="module")
        async def module_loop():
            return asyncio.get_running_loop()

        async def test_fixtures_share_the_loop_of_the_test(net, loop, module_loop):
            assert loop is asyncio.get_running_loop()
            assert module_loop is not loop
            await net.run_for(10)

        @pytest.mark.asyncio
        async def test_marked(swarm):
            await swarm(peers=1)

        @pytest.mark.asyncio
        async def test_without_peers(loop):
            assert type(loop).__name__ != "VirtualLoop"

        @pytest.mark.parametrize("loss", [0.0, 0.1])
        async def test_parameters(swarm, loss):
            assert (await swarm(peers=1, loss=loss)).options.loss == loss

        class TestMethods:
            @pytest_asyncio.fixture
            async def mine(self, swarm):
                self.kept = await swarm(peers=1)
                return self.kept

            async def test_method(self, mine):
                assert self.kept is mine
        """
    )
    outcome(pytester, f"--asyncio-mode={mode}").assert_outcomes(passed=6)


def test_a_failure_shows_seed_options_time_events_and_the_command_that_repeats_it(pytester):
    pytester.makepyfile(FAILS.format(seed=""))
    result = outcome(pytester, "--asyncio-mode=strict")
    result.assert_outcomes(failed=1)
    text = result.stdout.str()
    (seed,) = re.findall(r"pytest \S+::test_fails --swarm-seed=(\d+)", text)
    assert f"swarm(peers=3, seed={seed}, entry=3, latency_ms=(10.0, 50.0)," in text
    result.stdout.re_match_lines_random(
        [
            r"-+ simulated network -+",
            r"\d\.\d{3} s of virtual time, 2 of 3 peers alive, \d+ events, sha256 [0-9a-f]{16}",
            r" +\d\.\d{3} s  kill 0 0",
            r" +\d\.\d{3} s  failed 1 [0-9a-f]{12}\.\.\. NotFoundError",
            r"the end of the event log:",
        ]
    )
    again = outcome(pytester, "--asyncio-mode=strict", f"--swarm-seed={seed}")
    assert events(again) == events(result)
    assert events(outcome(pytester, f"--swarm-seed={int(seed) + 1}")) != events(result)


def events(result: pytest.RunResult) -> list[str]:
    return re.findall(r"\d+ events, sha256 \w+", result.stdout.str())


def test_the_seed_that_a_test_sets_wins(pytester):
    pytester.makepyfile(FAILS.format(seed=", seed=7"))
    result = outcome(pytester, "--swarm-seed=8")
    assert "--swarm-seed=7" in result.stdout.str()


def test_a_broken_promise_fails_a_test_that_did_not_look(pytester):
    pytester.makepyfile(
        """
        async def test_blind(swarm):
            net = await swarm(peers=2)
            net[1].peer.overlay._protocol.table._count += 1
        """
    )
    result = outcome(pytester, "--asyncio-mode=auto")
    result.assert_outcomes(failed=1)
    result.stdout.re_match_lines([r"E .*ViolationError: peer 1 .* counts 2 contacts and has 1 \[seed \d+, "])


def test_a_test_that_waits_for_what_never_comes_fails_at_once(pytester):
    pytester.makepyfile(
        """
        import asyncio

        async def test_waits(swarm):
            await asyncio.get_running_loop().create_future()
        """
    )
    result = outcome(pytester, "--asyncio-mode=auto")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*Deadlock: nothing will ever happen again*"])


def test_a_fixture_asked_for_in_passing_says_what_it_needs(pytester):
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.asyncio
        async def test_dynamic(request):
            await request.getfixturevalue("swarm")(peers=1)
        """
    )
    result = outcome(pytester, "--asyncio-mode=auto")
    result.stdout.fnmatch_lines(["*UsageError: a simulated network needs a VirtualLoop*"])


def test_the_plugin_imports_nothing_heavy_before_a_test_asks_for_it():
    code = (
        "import sys, pytest; before = set(sys.modules); import p2pmodel.testing.plugin; "
        "new = set(sys.modules) - before; assert len(new) < 12, sorted(new); "
        "assert not {'asyncio', 'cryptography', 'kademlia', 'msgspec'} & new"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
