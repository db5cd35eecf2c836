"""What a scenario is: its options, a run, a plot. `registry.py` lists them, `cli.py` reads their options.

Options are a frozen dataclass; each field made with `option` becomes a command-line option, `--per-minute` for
`per_minute`, with its help, its bounds and its default. A `bool` becomes a switch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from p2pmodel.testing.events import EventLog
from p2pmodel.testing.report import Result

PEERS_MAX = 20_000


def option(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] | None = None,
    metavar: str | None = None,
) -> Any:
    """A field of a scenario's options. `low` and `high` are the bounds, both allowed."""
    metadata = {"help": help, "low": low, "high": high, "choices": choices, "metavar": metavar}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What every scenario has. A scenario with another fitting number of peers overrides `peers`."""

    peers: int = option(1_000, "How many peers there are.", low=2, high=PEERS_MAX, metavar="N")
    seed: int = option(1, "All chance comes from it: the same seed, the same event log.", low=0, metavar="S")


class Observer(Protocol):
    """Whoever watches a run. Give `log` to the `Internet`; nothing that is said here reaches the result."""

    log: EventLog

    def progress(self, text: str) -> None:
        """What the run is doing now, for a person who waits: a few words, as often as you like."""


O = TypeVar("O", bound=Options)  # noqa: E741


@dataclass(frozen=True)
class Scenario(Generic[O]):
    """`run` builds its network on an event loop of its own (`p2pmodel.testing.loop.run`) and returns when it is done.

    It raises `UsageError` where options do not fit each other. `plot` draws `result.series` and the marks of
    `result.lines` on an empty matplotlib figure; it may divide it into axes as it likes.
    """

    name: str
    summary: str
    """One sentence for the list of scenarios."""
    story: str
    """What happens in it and what is measured, with the scorecard ids: the head of its own `--help`."""
    options: type[O]
    run: Callable[[O, Observer], Result]
    plot: Callable[[Result, O, Any], None]
