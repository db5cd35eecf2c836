"""S3-FIFO as a plain object: what goes first, what stays, and that its sums are right whatever happens."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from p2pmodel.store.eviction import S3Fifo


def drained(policy: S3Fifo[str], count: int, **options) -> list[str | None]:
    return [policy.victim(**options) for _ in range(count)]


def test_what_was_never_used_goes_before_what_was():
    policy: S3Fifo[str] = S3Fifo()
    for key in "abcd":
        policy.add(key, 1)
    for key in "acc":
        policy.touch(key)
    assert drained(policy, 5) == ["b", "d", "a", "c", None]


def test_a_scan_of_things_that_nobody_uses_again_pushes_nothing_out_that_is_used():
    policy: S3Fifo[int] = S3Fifo()
    for key in range(10):
        policy.add(key, 1)
        policy.touch(key)
    for key in range(1000, 1005):
        policy.add(key, 1)
    for key in range(1005, 1100):
        policy.add(key, 1)
        assert policy.victim() == key - 5
    assert set(range(10)) <= set(policy)


def test_what_comes_back_soon_after_it_went_stays_longer():
    policy: S3Fifo[str] = S3Fifo()
    policy.add("back", 1)
    policy.add("other", 1)
    assert policy.victim() == "back"
    policy.add("back", 1)
    policy.add("new", 1)
    assert drained(policy, 3) == ["other", "new", "back"]


def test_what_may_not_go_is_passed_over_and_none_is_left_where_nothing_may():
    policy: S3Fifo[str] = S3Fifo()
    for key in "abc":
        policy.add(key, 1)
        policy.touch(key)
        policy.touch(key)
    assert drained(policy, 2, may_go=lambda key: key == "b") == ["b", None]
    assert set(policy) == {"a", "c"}
    assert sorted(drained(policy, 2)) == ["a", "c"]


def test_what_nobody_else_has_goes_round_once_more_than_others_and_then_goes_too():
    policy: S3Fifo[str] = S3Fifo()
    for key in ("rare", "b", "c"):
        policy.add(key, 1)
    assert drained(policy, 4, is_rare=lambda key: key == "rare") == ["b", "c", "rare", None]


def test_sizes_are_counted_by_what_is_in_each_queue():
    policy: S3Fifo[str] = S3Fifo()
    policy.add("big", 100)
    policy.add("big", 40)
    assert policy.size("big") == 40
    policy.add("small", 1)
    assert policy.victim() == "big" and policy.last_size_bytes == 40
    policy.drop("small")
    policy.drop("small")
    assert len(policy) == 0 and policy.victim() is None


STEPS = st.lists(st.tuples(st.sampled_from("atdvr"), st.integers(0, 12), st.integers(1, 50)), max_size=200)


@settings(max_examples=200, deadline=None)
@given(STEPS)
def test_whatever_happens_each_key_is_in_one_queue_and_the_sums_are_right(steps):
    policy: S3Fifo[int] = S3Fifo()
    known: dict[int, int] = {}
    for step, key, size in steps:
        match step:
            case "a":
                policy.add(key, size)
                known[key] = size
            case "t":
                policy.touch(key)
            case "d":
                policy.drop(key)
                known.pop(key, None)
            case "v" | "r":
                gone = policy.victim(lambda other, key=key: other != key, lambda other: other % 2 == 0)
                assert (gone is None) == (not known.keys() - {key})
                if gone is not None:
                    assert policy.last_size_bytes == known.pop(gone)
        small, main = set(policy._small), set(policy._main)
        assert not small & main and small | main == set(known) == set(policy)
        assert policy._bytes == sum(known.values())
        assert policy._small_bytes == sum(known[key] for key in small)
        assert set(policy._spared) <= set(known)
