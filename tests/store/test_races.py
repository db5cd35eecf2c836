"""Goal: rm, fetch, verify, repair, publish and the rest, on the same model at the same time, have a defined outcome.
Method: hypothesis begins operations on one store and lets them go on step by step (`testing/interleaving.py`); after
each step the store's claims are compared with the bytes on the simulated disk.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from p2pmodel.errors import RefusedError
from tests.store.racing import Scene, models

MODEL = st.integers(0, 1)
AT_ONCE = 4


class Races(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.scene = Scene()

    def is_quiet(self) -> bool:
        return len(self.scene.turns.unfinished) < AT_ONCE

    @precondition(is_quiet)
    @rule(model=MODEL, place=st.integers(0, 1), overwrite=st.booleans(), some=st.booleans())
    def fetch(self, model: int, place: int, overwrite: bool, some: bool) -> None:
        self.scene.begin_fetch(model, place, overwrite=overwrite, some=some)

    @precondition(is_quiet)
    @rule(file=st.integers(0, 4))
    def name(self, file: int) -> None:
        self.scene.begin_naming(file)

    @precondition(is_quiet)
    @rule(model=MODEL, place=st.sampled_from([None, None, 0, 1]))
    def publish(self, model: int, place: int | None) -> None:
        self.scene.begin_publish(model, place)

    @precondition(is_quiet)
    @rule(model=MODEL)
    def verify(self, model: int) -> None:
        self.scene.begin_verify(model)

    @precondition(is_quiet)
    @rule(model=MODEL)
    def repair(self, model: int) -> None:
        self.scene.begin_repair(model)

    @precondition(is_quiet)
    @rule(model=MODEL)
    def remove(self, model: int) -> None:
        self.scene.begin_remove(model)

    @precondition(is_quiet)
    @rule(model=MODEL, index=st.integers(0, 5))
    def read(self, model: int, index: int) -> None:
        self.scene.begin_read(model, index)

    @precondition(is_quiet)
    @rule()
    def look(self) -> None:
        self.scene.begin_look()

    @precondition(is_quiet)
    @rule()
    def prove(self) -> None:
        self.scene.begin_prove()

    @precondition(is_quiet)
    @rule()
    def gc(self) -> None:
        self.scene.begin_gc()

    @precondition(is_quiet)
    @rule(model=MODEL, pinned=st.booleans())
    def pin(self, model: int, pinned: bool) -> None:
        self.scene.begin_pin(model, pinned=pinned)

    @precondition(is_quiet)
    @rule()
    def scrub(self) -> None:
        self.scene.begin_scrub()

    @rule(number=st.integers(0, 20))
    def user_removes_a_file(self, number: int) -> None:
        self.scene.user_removes(number)

    @rule(number=st.integers(0, 20))
    def user_writes_a_file(self, number: int) -> None:
        self.scene.user_writes(number)

    @rule()
    def process_is_killed(self) -> None:
        self.scene.kill()

    @precondition(lambda self: self.scene.turns.unfinished)
    @rule(steps=st.lists(st.integers(0, AT_ONCE - 1), min_size=1, max_size=40))
    def step(self, steps: list[int]) -> None:
        for number in steps:
            if not (ready := self.scene.turns.runnable):
                return
            self.scene.turns.step(ready[number % len(ready)])
            self.scene.check()

    @precondition(lambda self: self.scene.turns.unfinished)
    @rule(number=st.integers(0, AT_ONCE - 1))
    def run_on(self, number: int) -> None:
        """One goes on as far as it can."""
        if ready := self.scene.turns.runnable:
            thread = ready[number % len(ready)]
            for _ in range(2000):
                if thread.done or not thread.ready() or thread.at == "a lock, for a while":
                    break
                self.scene.turns.step(thread)

    @invariant()
    def holds(self) -> None:
        self.scene.check()

    def teardown(self) -> None:
        try:
            self.scene.end()
        finally:
            self.scene.close()


EXAMPLES = int(os.environ.get("P2PMODEL_RACES", "0"))
COMMON = {"deadline": None, "suppress_health_check": list(HealthCheck), "stateful_step_count": 25}


@pytest.mark.simulated_disk
@pytest.mark.slow
class TestRaces(Races.TestCase):
    settings = settings(max_examples=EXAMPLES or 12, derandomize=not EXAMPLES, **COMMON)


@pytest.fixture
def scene(disk_kind):
    made = Scene()
    yield made
    made.close()


def side_by_side(scene: Scene) -> None:
    """Everybody in turn, one call each, to the end."""
    while ready := scene.turns.runnable:
        for thread in ready:
            if not thread.done and thread.ready():
                scene.turns.step(thread)
                scene.check()


@pytest.mark.simulated_disk
def test_one_directory_published_twice_at_once_is_one_copy(scene):
    publishings = [scene.begin_publish(0), scene.begin_publish(0)]
    side_by_side(scene)
    assert [thread.error for thread in publishings] == [None, None]
    scene.end()


@pytest.mark.simulated_disk
def test_a_partial_file_that_its_process_did_not_live_to_enter_goes_with_the_model(scene):
    fetch = scene.begin_fetch(0)
    while not any(name.endswith(".part") for name in scene.disk.tree("/out")):
        scene.turns.step(fetch)
    scene.kill()
    scene.begin_remove(0)
    scene.end()
    assert scene.disk.tree("/out") == {}


@pytest.mark.simulated_disk
@pytest.mark.parametrize("head_start", range(0, 200, 25))
def test_what_is_removed_and_published_or_fetched_again_meanwhile_is_there_or_gone_but_never_half(scene, head_start):
    scene.begin_publish(0)
    scene.turns.finish()
    remove, others = scene.begin_remove(0), [scene.begin_publish(0), scene.begin_fetch(0)]
    for _ in range(head_start):
        if not others[0].done:
            scene.turns.step(others[0])
    side_by_side(scene)
    assert remove.done
    scene.end()


@pytest.mark.simulated_disk
def test_many_who_fetch_to_one_place_write_each_chunk_once_and_are_refused_or_find_all_of_it(scene):
    fetches = [scene.begin_fetch(0) for _ in range(6)]
    side_by_side(scene)
    errors = [type(thread.error) for thread in fetches if thread.error is not None]
    assert set(errors) <= {RefusedError} and len(errors) < len(fetches)
    written = [step for step in scene.turns.trace if step.startswith("fetch 0: write ")]
    assert len(written) == len(models()[0][1])
    scene.end()


@pytest.mark.simulated_disk
def test_a_proof_in_the_background_lets_go_of_a_model_that_a_fetch_wants(scene):
    fetch = scene.begin_fetch(0)
    while not (
        fetch.at.startswith("BEGIN") and scene.disk.tree("/out").keys() == {"w.safetensors", "d/s", "d/t", "t", "empty"}
    ):
        scene.turns.step(fetch)
    scene.kill()
    prove, again = scene.begin_prove(), scene.begin_fetch(0)
    for _ in range(12):
        scene.turns.step(prove)
    assert not prove.done
    scene.turns.step(again)
    while not again.at.startswith("a lock"):
        scene.turns.step(again)
    while not prove.done:
        scene.turns.step(prove)
    unproven = [kept for copy in scene.store._catalogue.all_copies() for kept in copy.files if not kept.trusted]
    assert unproven and prove.error is None
    scene.end()
    assert again.error is None


@pytest.mark.simulated_disk
def test_a_second_removal_takes_nothing_of_what_was_fetched_again_after_the_first(scene):
    scene.begin_fetch(0, place=1)
    scene.turns.finish()
    first, late = scene.begin_remove(0), scene.begin_remove(0)
    while not first.at.startswith("BEGIN"):
        scene.turns.step(first)
    while late.at != "a lock, for a while":
        scene.turns.step(late)
    while not first.done:
        scene.turns.step(first)
    again = scene.begin_fetch(0, place=1)
    while not again.done:
        scene.turns.step(again)
    while not late.done:
        scene.turns.step(late)
    assert (late.result, again.error) == ([], None)
    assert scene.disk.tree(scene.destination(1, 0)) == models()[0][0]
    scene.end()


def test_a_removal_that_was_killed_at_any_call_leaves_no_model_without_a_copy_in_the_index(scene):
    cut = done = 0
    while not done:
        scene.begin_fetch(0)
        scene.turns.finish()
        removing = scene.begin_remove(0)
        for _ in range(cut):
            if not removing.done:
                scene.turns.step(removing)
        cut, done = cut + 1, removing.done
        scene.kill()
        scene.check()
        scene._check_index()
    assert cut > 5
    scene._check_removal()
