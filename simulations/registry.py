"""The list of scenarios: one module each, with a `SCENARIO` in it."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from simulations.scenario import Scenario

MODULES = {
    "lookup": "simulations.lookup",
    "churn": "simulations.churn",
    "flash_crowd": "simulations.flash_crowd",
    "partition": "simulations.partition",
    "seed_leaves": "simulations.seed_leaves",
    "slow_tail": "simulations.slow_tail",
    "short_lives": "simulations.short_lives",
    "byzantine": "simulations.byzantine",
    "slot_thieves": "simulations.slot_thieves",
    "sybil": "simulations.sybil",
    "eclipse": "simulations.eclipse",
    "announce": "simulations.announce",
}
"""Name of a scenario, as it is typed, to its module; in the order in which they are shown."""


def scenarios() -> dict[str, Scenario[Any]]:
    found = {}
    for name, module in MODULES.items():
        scenario: Scenario[Any] = import_module(module).SCENARIO
        assert scenario.name == name
        found[name] = scenario
    return found
