"""Who reads what from an origin: decisions, with time and names as arguments; how a file is cut by hash and size."""

import pytest

from p2pmodel.errors import DecodeError
from p2pmodel.limits import GATHER_LATE_S, PART_BYTES_MAX, PART_BYTES_MIN, PARTS_PER_FILE, PARTS_PER_RUN
from p2pmodel.model import Sha256
from p2pmodel.model.parts import Parts
from p2pmodel.peer.leases import Leases

RUNS = list(range(64))
NAMES = [bytes([i]) * 32 for i in range(10)]


def town(now=0.0):
    everybody = {name: Leases(name, b"file") for name in NAMES}
    for name, leases in everybody.items():
        for other in NAMES:
            if other != name:
                leases.joined(other, now)
    return everybody


def test_all_who_know_each_other_agree_on_every_run_without_a_word():
    everybody = town()
    for run in RUNS:
        assert len({leases.owner(run, 1.0) for leases in everybody.values()}) == 1
    shares = [sum(leases.owner(run, 1.0) == name for run in RUNS) for name, leases in everybody.items()]
    assert sum(shares) == len(RUNS) and max(shares) <= 20


def test_whoever_comes_takes_runs_from_others_and_moves_none_between_them():
    leases = Leases(NAMES[0], b"file")
    leases.joined(NAMES[1], 0.0)
    before = {run: leases.owner(run, 1.0) for run in RUNS}
    leases.joined(NAMES[2], 1.0)
    after = {run: leases.owner(run, 1.0) for run in RUNS}
    assert {after[run] for run in RUNS if after[run] != before[run]} == {NAMES[2]}


def test_from_one_that_brings_nothing_the_next_takes_over_and_who_brings_something_keeps_his():
    leases = Leases(NAMES[0], b"file")
    leases.joined(NAMES[1], 0.0)
    leases.joined(NAMES[2], 0.0)
    leases.heard(NAMES[2], 3, GATHER_LATE_S)
    owners = {leases.owner(run, GATHER_LATE_S + 0.1) for run in RUNS}
    assert owners == {NAMES[0], NAMES[2]}
    leases.left(NAMES[2])
    assert {leases.owner(run, GATHER_LATE_S + 0.1) for run in RUNS} == {NAMES[0]}


def test_alone_one_reads_in_the_order_in_which_it_is_wanted():
    assert Leases(NAMES[0], b"file").next([7, 3, 9], 0.0) == 7
    assert Leases(NAMES[0], b"file").next([], 0.0) is None


def test_a_run_that_somebody_has_begun_is_left_to_him_for_as_long_as_he_is_heard_of():
    leases = Leases(NAMES[0], b"file")
    leases.joined(NAMES[1], 0.0)
    mine = next(run for run in RUNS if leases.owner(run, 0.0) == NAMES[0])
    leases.claimed(NAMES[1], [mine], 0.0)
    assert leases.next([mine], 0.1) is None
    assert leases.next([mine], GATHER_LATE_S + 0.1) == mine


def test_who_claims_everything_holds_up_no_more_than_he_can_have_under_way():
    leases = Leases(NAMES[0], b"file")
    leases.joined(NAMES[1], 0.0)
    leases.claimed(NAMES[1], RUNS, 0.0)
    assert len(leases.taken(0.1)) == 2


def test_of_two_that_begin_the_same_run_exactly_one_goes_on():
    one, other = Leases(NAMES[0], b"file"), Leases(NAMES[1], b"file")
    for run in RUNS:
        assert one.goes_before(NAMES[1], run) != other.goes_before(NAMES[0], run)


def test_who_is_done_takes_the_last_of_the_one_that_needs_much_longer():
    leases = Leases(NAMES[0], b"file")
    leases.joined(NAMES[1], 0.0)
    leases.heard(NAMES[1], 1, 1.0)
    theirs = [run for run in RUNS if leases.owner(run, 1.0) == NAMES[1]]
    assert leases.next(theirs, 1.0, run_s=None) is None
    assert leases.next(theirs, 1.0, run_s=0.1) == theirs[-1]
    leases.heard(NAMES[1], 10_000, 1.1)
    assert leases.next(theirs, 1.1, run_s=10.0) is None


@pytest.mark.parametrize("size", [1, PART_BYTES_MIN, PART_BYTES_MIN + 1, 24_000_000, 5_000_000_000, 1 << 44])
def test_parts_and_runs_cover_a_file_once(size):
    parts = Parts(Sha256(bytes(32)), size)
    assert PART_BYTES_MIN <= parts.part_bytes <= PART_BYTES_MAX
    assert parts.count <= PARTS_PER_FILE or parts.part_bytes == PART_BYTES_MAX
    ends = [0, *(parts.span(i)[1] for i in {0, parts.count // 2, parts.count - 1})]
    assert max(ends) == size and parts.span(0)[0] == 0
    assert parts.run(parts.runs - 1).stop == parts.count and len(parts.run(0)) <= PARTS_PER_RUN
    assert parts.at(size - 1) == parts.count - 1


def test_what_stands_for_a_file_depends_on_hash_and_size():
    ids = {Parts(Sha256(bytes([i]) * 32), size).gathering_id for i in range(2) for size in (10, 11)}
    assert len(ids) == 4
    for size in (0, (1 << 44) + 1):
        with pytest.raises(DecodeError):
            Parts(Sha256(bytes(32)), size)
