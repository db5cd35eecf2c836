"""Which model a cache takes up, and how much it fetches for whom: the plain object."""

from __future__ import annotations

from p2pmodel.limits import CACHE_ASKERS_PER_MODEL_MAX, CACHE_MODELS_WATCHED_MAX, CACHE_TURNOVER_PER_ASKER
from p2pmodel.peer.admission import HALF_LIFE_S, Admission

QUOTA = 1_000_000


def admission(*asked: tuple[str, str]) -> Admission[str, str]:
    made: Admission[str, str] = Admission(QUOTA, 0.0)
    for model, asker in asked:
        made.asked(model, asker, 0.0)
    return made


def test_what_most_ask_for_comes_first_and_only_while_somebody_follows_it():
    made = admission(("a", "x"), ("b", "x"), ("b", "y"), ("c", "x"))
    assert made.next({"a", "b", "c"}, (), 0.0) == "b"
    assert made.next({"a", "c"}, (), 0.0) == "c", "the latest of equals"
    assert made.next({"a", "b", "c"}, ("b", "c"), 0.0) == "a"
    assert made.next((), (), 0.0) is None and made.next({"unknown"}, (), 0.0) is None


def test_asking_again_and_again_counts_once_and_is_forgotten_by_halves():
    made = admission(*[("a", "x")] * 50, ("b", "x"), ("b", "y"))
    assert made.popularity("a", 0.0) == 1 and made.popularity("b", 0.0) == 2
    assert made.popularity("b", HALF_LIFE_S) == 1
    assert made.popularity("unknown", 0.0) == 0


def test_a_full_cache_takes_up_only_what_more_ask_for_than_for_what_would_go():
    made = admission(("new", "x"), ("old", "y"))
    assert not made.admits("new", ["old"], 0.0)
    made.asked("new", "z", 0.0)
    assert made.admits("new", ["old"], 0.0)
    assert not made.admits("new", ["new"], 0.0) and not made.admits("new", [], 0.0)


def test_nobody_alone_makes_it_fetch_without_end_and_an_hour_refills_what_was_used():
    made = admission(("a", "x"), ("b", "x"), ("c", "y"))
    whole = int(QUOTA * CACHE_TURNOVER_PER_ASKER)
    assert made.allowance("a", 0.0) == whole
    made.spend("a", whole, 0.0)
    assert made.allowance("a", 0.0) == made.allowance("b", 0.0) == 0
    assert made.next({"a", "b"}, (), 0.0) is None
    assert made.allowance("c", 0.0) == whole, "another asker has its own"
    assert made.allowance("b", 1800.0) == whole // 2
    assert made.allowance("b", 36_000.0) == whole


def test_askers_share_what_a_model_costs():
    made = admission(("a", "x"), ("a", "y"), ("b", "x"))
    made.spend("a", 200_000, 0.0)
    assert made.allowance("b", 0.0) == QUOTA * CACHE_TURNOVER_PER_ASKER - 100_000


def test_all_askers_together_cannot_have_it_turn_over_without_end():
    made: Admission[str, int] = Admission(QUOTA, 0.0)
    for asker in range(40):
        made.asked("a", asker, 0.0)
    spent = 0
    while (left := made.allowance("a", 0.0)) > 0:
        made.spend("a", min(left, 100_000), 0.0)
        spent += min(left, 100_000)
    assert spent == 2 * QUOTA


def test_what_could_not_be_had_waits_and_what_is_here_waits_for_a_new_asker():
    made = admission(("a", "x"), ("b", "y"))
    made.put_off("a", 0.0)
    made.done("b")
    assert made.next({"a", "b"}, (), 1.0) is None
    assert made.next({"a", "b"}, (), 61.0) == "a"
    made.asked("b", "y", 2.0)
    assert made.next({"b"}, (), 2.0) == "b"


def test_what_is_remembered_is_bounded_however_many_ask_for_whatever():
    made: Admission[int, int] = Admission(QUOTA, 0.0)
    for number in range(5000):
        made.asked(number, number, 0.0)
        made.asked(0, number, 0.0)
        made.allowance(number, 0.0)
    assert len(made._demand) == CACHE_MODELS_WATCHED_MAX
    assert made.popularity(0, 0.0) == CACHE_ASKERS_PER_MODEL_MAX
    assert len(made._allowances) <= 4096
