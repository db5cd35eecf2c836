"""Every crash of every short workload, with every part of what was not synced lost or kept: each is recovered from.

In the ordinary run workloads of one operation, and of two where the second one is `SECOND`; `-m long` has all of up to
three, and all crashes of the recovery itself. `docs/store.md` tells how states are enumerated, and how many there are.
"""

from __future__ import annotations

import pytest
from crash_workloads import FETCHED, MODEL, OPERATIONS, OUT, OWNED_ID, Search, Stage, recover, start, workloads

from p2pmodel.testing.disk_states import crash_states

pytestmark = [pytest.mark.slow, pytest.mark.simulated_disk]
SECOND = ("publish", "remove", "restart")


@pytest.fixture(scope="module")
def search():
    """One for all: a disk that another workload has led to is not checked again."""
    return Search()


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_crash_of_one_operation_is_recovered_from(search, name):
    search.run((name,))
    assert search.calls and search.checked


@pytest.mark.parametrize("name", SECOND)
def test_every_crash_of_an_operation_after_another_is_recovered_from(search, name):
    for first in OPERATIONS:
        search.run((first, name))


def test_a_file_that_is_replaced_is_the_old_one_or_the_new_one_after_every_crash():
    """What a user allowed to be replaced is not lost before there is something in its place."""
    with start() as disk:
        old = b"what was here before" * 200
        disk.write_file(OUT / "a", old)
        disk.sync_all()
        stage = Stage(disk, MODEL, OWNED_ID)
        seen = {}

        def look(operation, path):
            for state in crash_states(disk):
                if state.key not in seen:
                    with state.disk() as left:
                        seen[state.key] = left.tree(OUT).get("a")

        disk.on_call = look
        stage.fetch(overwrite=True, claim=False)  # no barrier but those that giving names has of itself
        look("", OUT)
        disk.on_call = None
        stage.close()
    assert set(seen.values()) == {old, FETCHED["a"]}


@pytest.mark.parametrize("name", ["fetch", "fetch_killed_at_the_end", "remove"])
def test_what_dice_make_of_a_power_cut_is_always_among_the_states_that_are_enumerated(name):
    missed = cuts = 0
    with start() as disk:
        stage = Stage(disk, MODEL, OWNED_ID)
        OPERATIONS["fetch_killed"](stage)

        def look(operation, path):
            nonlocal missed, cuts
            if disk.calls % 3:
                return
            known = {state.key for state in crash_states(disk)}
            for seed in range(6):
                with disk.fork() as fork:
                    fork.rng.seed(seed)
                    # Only torn pages are not tried in all ways: dice tear at any sector, the search in the middle.
                    fork.cut_power(_Whole(fork))
                    (left,) = crash_states(fork, killed=False)
                    missed += left.key not in known
                    cuts += 1

        disk.on_call = look
        OPERATIONS[name](stage)
        disk.on_call = None
        stage.close()
    assert cuts > 20 and not missed


class _Whole:
    """Dice that keep or lose a page whole."""

    def __init__(self, disk):
        self._rng = disk.rng

    def version(self, count):
        return self._rng.randrange(count)

    def sectors(self):
        raise AssertionError("no page is torn")

    def kept(self):
        return self._rng.random() < 0.5


@pytest.mark.long
@pytest.mark.timeout(4 * 3600)
@pytest.mark.parametrize("first", OPERATIONS)
def test_every_crash_of_every_workload_of_up_to_three_operations_is_recovered_from(search, first):
    search.run((first,))
    for length in (1, 2):
        for rest in workloads(length):
            search.run((first, *rest))
    print(f"{first}: {search.calls} calls, {search.states} states, {search.checked} different ones")  # noqa: T201


@pytest.mark.long
@pytest.mark.timeout(4 * 3600)
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_crash_of_a_recovery_is_recovered_from(name):
    inner = Search()

    def crash_again(disk, must):
        stage = Stage(disk, MODEL, OWNED_ID)
        stage.now(**{field: getattr(must, field) for field in must.__slots__})
        inner.explore(stage, OPERATIONS["restart"], (name, "restart"), recover)
        inner.explore(stage, OPERATIONS["fetch"], (name, "restart", "fetch"), recover)
        stage.close()

    Search().run((name,), then=crash_again)
    assert inner.checked
