"""The `swarm` fixture: it makes networks, has the loop that they live on, and tells their story where a test fails."""

from __future__ import annotations

import random
import shlex
import sys
from collections.abc import Coroutine
from typing import Any, TypeVar

from p2pmodel.errors import UsageError
from p2pmodel.testing.loop import VirtualLoop, cancel_rest, check_faults
from p2pmodel.testing.net import Net
from p2pmodel.testing.options import NetOptions

T = TypeVar("T")

_SEEDS = 1_000_000
"""Seeds picked at random stay short: they are read out and typed in again."""
_TAIL_LINES = 12


class Swarm:
    """`await swarm(peers=50, seed=7)` gives a `Net`; more calls give more of them, in the same virtual time.

    Without `seed`, the first network has that of `--swarm-seed`, or else one picked at random, the second network
    the one after it, and so on.
    """

    def __init__(self, seed: int | None = None) -> None:
        self.nets: list[Net] = []
        self._base = random.SystemRandom().randrange(_SEEDS) if seed is None else seed
        self._drawn = 0
        self._options: list[NetOptions] = []
        self._ended: list[str] = []
        """What there was to say when the test failed, before everything was taken away."""
        self._loop = VirtualLoop()

    async def __call__(self, options: NetOptions | None = None, **changes: Any) -> Net:
        """Start a network; all peers have joined when it returns. Raises `UsageError` for options that are none."""
        if options is not None and changes:
            raise UsageError("either one NetOptions, or options by keyword")
        if options is None:
            if changes.get("seed") is None:
                changes["seed"] = self._base + self._drawn
                self._drawn += 1
            try:
                options = NetOptions(**changes)
            except TypeError as error:
                raise UsageError(f"swarm(): {error}") from error
        sys.stdout.write(f"swarm(seed={options.seed})\n")  # pytest shows it where the test fails or is cut off
        self._options.append(options)
        return await Net.start(options, made=self.nets.append)

    # --- used by the plugin ------------------------------------------------------------------------------------------

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        __tracebackhide__ = True
        return self._loop.run_until_complete(work)

    def run_test(self, work: Coroutine[Any, Any, None]) -> None:
        """The test, then the last look at every network: what is wrong then fails the test as well."""
        __tracebackhide__ = True
        try:
            self.run(work)
            for net in self.nets:
                self.run(net.close())
            check_faults(self._loop)
        except BaseException:
            self._ended = self._look()
            raise

    def close(self) -> None:
        """Take away what is left. Networks that no test has closed go without a last look."""
        try:
            for net in self.nets:
                if not net.closed:
                    self.run(net.abandon())
            self.run(cancel_rest(self._loop))
        finally:
            self._loop.close()

    def story(self, test: str) -> str:
        """What whoever reads a failed test needs: how to see it again, and what happened last."""
        seed = self._base if self._drawn or not self._options else self._options[0].seed
        repeat = ["repeat it with", f"    pytest {shlex.quote(test)} --swarm-seed={seed}"]
        return "\n".join([*(self._ended or self._look()), *repeat])

    def _look(self) -> list[str]:
        lines = []
        for number, options in enumerate(self._options):
            lines.append(f"swarm({options})")
            if number < len(self.nets):
                lines += _state(self.nets[number])
        faults = [fault.get("exception") or fault["message"] for fault in self._loop.faults]
        lines += [f"failed in the background: {fault!r}" for fault in faults]
        return lines


def _state(net: Net) -> list[str]:
    log = net.event_log
    lines = [
        f"{net.seconds:.3f} s of virtual time, {len(net.alive)} of {len(net)} peers alive, "
        f"{log.count} events, sha256 {log.sha256[:16]}"
    ]
    lines += [f"violation: {violation}" for violation in net.checks.violations]
    if net.milestones:
        lines += ["what happened:", *(f"    {line}" for line in net.milestones)]
    if log.count:
        lines += ["the end of the event log:", *(f"    {line}" for line in log.tail(_TAIL_LINES).splitlines())]
    return lines
