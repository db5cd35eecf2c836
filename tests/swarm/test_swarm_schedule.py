"""The schedule driven by hand: time is a number, peers are letters, dice are seeded.

The stories state one rule each; the state machine lets peers come, tell, answer, refuse, stall and go in any order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from p2pmodel.limits import (
    CHUNK_BYTES,
    DUPLICATE_REQUESTS_MAX,
    IN_FLIGHT_BYTES_FAR_MAX,
    IN_FLIGHT_BYTES_MAX,
    IN_FLIGHT_BYTES_STRANGERS_MAX,
    QUEUES_MAX,
    REFUSALS_IN_A_ROW_MAX,
    REQUEST_DEADLINE_MAX_S,
    REQUEST_TURN_S,
    REQUEST_WINDOW_CHUNKS_MAX,
    REQUEST_WINDOW_CHUNKS_START,
    REQUESTS_BEGUN,
)
from p2pmodel.model.have_map import iter_bits
from p2pmodel.swarm import Schedule, overtaking
from p2pmodel.swarm.rarity import Rarity


def everything(count: int) -> int:
    return (1 << count) - 1


def plan(count: int, *, have: int = 0, length: int = CHUNK_BYTES, seed: int = 1) -> Schedule[str]:
    return Schedule(count, everything(count), have, lambda index: length, Random(seed))


def join(schedule: Schedule[str], **peers: int) -> None:
    for peer, bits in peers.items():
        schedule.peer_joined(peer)
        schedule.peer_has(peer, bits)


def ask(schedule: Schedule[str], peer: str, now: float = 0.0) -> list[int]:
    return list(schedule.next_requests(peer, now))


def test_a_new_peer_is_asked_for_a_first_window_of_different_chunks() -> None:
    schedule = plan(100)
    join(schedule, a=everything(100))
    asked = ask(schedule, "a")
    assert len(asked) == len(set(asked)) == REQUEST_WINDOW_CHUNKS_START


def test_a_peer_with_several_connections_is_asked_for_a_first_window_for_each_while_it_is_alone() -> None:
    schedule = plan(100)
    schedule.peer_joined("a", lanes=4)
    schedule.peer_has("a", everything(100))
    assert len(ask(schedule, "a")) == 4 * REQUEST_WINDOW_CHUNKS_START
    join(schedule, b=everything(100))
    assert len(ask(schedule, "b")) == REQUEST_WINDOW_CHUNKS_START // 2


def test_nobody_is_asked_for_what_he_does_not_hold_or_we_have() -> None:
    schedule = plan(8, have=0b1111_0000)
    join(schedule, a=0b0011_0011)
    assert sorted(ask(schedule, "a")) == [0, 1]


def test_a_chunk_is_not_asked_of_two_peers_while_others_are_free() -> None:
    schedule = plan(100)
    join(schedule, a=everything(100), b=everything(100))
    assert not set(ask(schedule, "a")) & set(ask(schedule, "b"))


def test_after_the_first_chunks_the_rarest_is_asked_first() -> None:
    schedule = plan(50, seed=3)
    join(schedule, a=everything(50), b=everything(50) & ~(1 << 17), c=everything(50) & ~(1 << 17))
    for now in (0.01, 0.02, 0.03, 0.04):
        for index in ask(schedule, "b", now):
            schedule.arrived("b", index, now + 0.01)
    assert ask(schedule, "a", 1.0)[0] == 17


def test_peers_that_start_together_take_different_first_chunks() -> None:
    firsts = set()
    for seed in range(20):
        schedule = plan(1000, seed=seed)
        join(schedule, a=everything(1000))
        firsts.add(ask(schedule, "a")[0])
    assert len(firsts) > 15


def test_the_window_of_a_fast_and_distant_peer_opens_and_that_of_a_slow_one_does_not() -> None:
    schedule = plan(5000)
    join(schedule, distant=everything(5000), slow=everything(5000))
    now, windows = 0.0, []
    for _ in range(12):
        # A fifth of a second away, and everything that is asked for arrives together.
        asked = ask(schedule, "distant", now)
        windows.append(len(asked))
        now += 0.2
        for index in asked:
            schedule.arrived("distant", index, now)
    assert windows[-1] > 4 * windows[0]
    assert max(windows) <= REQUEST_WINDOW_CHUNKS_MAX
    for _ in range(12):
        queue = [*schedule._sources["slow"].requests] or ask(schedule, "slow", now)
        now += 3.0
        schedule.arrived("slow", queue[0], now)
        ask(schedule, "slow", now)
        assert len(schedule._sources["slow"].requests) <= 2 * REQUEST_WINDOW_CHUNKS_START


def test_the_window_opens_while_answers_come_as_soon_as_they_can_though_the_rate_of_a_second_is_still_low() -> None:
    """A path that begins as narrow as TCP makes it: for half a second nothing, then 100 chunks a second after 0.1 s."""
    schedule = plan(5000)
    join(schedule, far=everything(5000))
    asked = ask(schedule, "far")
    source = schedule._sources["far"]
    now = 0.5
    for index in asked:
        now += 0.01
        schedule.arrived("far", index, now)
    assert source.rate_bytes_per_s < 10 * CHUNK_BYTES
    for _ in range(4):
        asked = ask(schedule, "far", now)
        window, now = source.window, now + 0.1
        for index in asked:
            schedule.arrived("far", index, now)
        assert source.window == min(2 * window, REQUEST_WINDOW_CHUNKS_MAX)


def test_the_window_closes_where_answers_wait_for_each_other() -> None:
    schedule = plan(5000)
    join(schedule, far=everything(5000))
    source = schedule._sources["far"]
    now, due = 0.1, ask(schedule, "far")
    for _ in range(300):  # 20 chunks a second, each 0.1 s under way: what is more than two waits
        now += 0.05
        schedule.arrived("far", due.pop(0), now)
        due += ask(schedule, "far", now)
    assert source.window <= 2 + 2 * 20 * source.response_s + 1


def test_a_fast_peer_nearby_is_asked_for_what_it_sends_while_an_arrival_becomes_the_next_request() -> None:
    schedule = plan(5000)
    join(schedule, near=everything(5000))
    now = 0.0
    for _ in range(100):
        queue = list(schedule._sources["near"].requests) or ask(schedule, "near", now)
        now += 0.001  # a GB/s, each chunk within a millisecond of its request
        schedule.arrived("near", queue[0], now)
        ask(schedule, "near", now)
    assert len(schedule._sources["near"].requests) >= REQUEST_TURN_S * 1000


def test_a_request_past_its_deadline_is_free_for_another_peer() -> None:
    schedule = plan(2)
    join(schedule, a=0b11)
    assert sorted(ask(schedule, "a")) == [0, 1]
    join(schedule, b=0b11)
    assert schedule.expire(0.5) == []
    assert ask(schedule, "b", 0.5) == []
    assert schedule.expire(REQUEST_DEADLINE_MAX_S) == ["a"]
    assert schedule.late_s("a", REQUEST_DEADLINE_MAX_S) == REQUEST_DEADLINE_MAX_S
    assert sorted(ask(schedule, "b", REQUEST_DEADLINE_MAX_S)) == [0, 1]


def test_a_peer_that_lets_deadlines_pass_is_asked_for_no_more_until_it_delivers() -> None:
    schedule = plan(100)
    join(schedule, a=everything(100))
    asked = ask(schedule, "a")
    schedule.expire(30.0)
    assert ask(schedule, "a", 30.0) == []
    for index in asked:
        schedule.arrived("a", index, 31.0)
    assert ask(schedule, "a", 31.0)


def test_when_a_chunk_comes_the_others_who_were_asked_are_named_and_owe_nothing_more() -> None:
    schedule = plan(1)
    join(schedule, late=1, later=1, good=1)
    for number, peer in enumerate(("late", "later", "good")):
        assert ask(schedule, peer, 30.0 * number) == [0]
        schedule.expire(30.0 * (number + 1))
    assert sorted(schedule.arrived("good", 0, 100.0)) == ["late", "later"]
    assert all(not source.requests and not source.queued_bytes for source in schedule._sources.values())


def test_a_late_peer_is_asked_for_one_chunk_at_a_time() -> None:
    schedule = plan(10)
    join(schedule, a=0b1)
    assert ask(schedule, "a") == [0]
    schedule.expire(30.0)
    schedule.peer_has("a", everything(10))
    assert ask(schedule, "a", 30.0) == []
    schedule.arrived("a", 0, 30.0)
    assert len(ask(schedule, "a", 30.0)) > 1


def test_what_a_peer_that_leaves_was_asked_for_is_free_at_once() -> None:
    schedule = plan(3)
    join(schedule, a=0b111)
    assert sorted(ask(schedule, "a")) == [0, 1, 2]
    join(schedule, b=0b111)
    schedule.peer_left("a")
    assert schedule.in_flight_bytes == 0
    assert sorted(ask(schedule, "b")) == [0, 1, 2]


def test_a_refused_chunk_is_asked_of_somebody_else() -> None:
    schedule = plan(1)
    join(schedule, a=1, b=1)
    assert ask(schedule, "a") == [0]
    schedule.refused("a", 0, 1.0)
    assert ask(schedule, "a") == []
    assert ask(schedule, "b") == [0]


def test_a_corrupt_chunk_is_free_again() -> None:
    schedule = plan(1)
    join(schedule, a=1, b=1)
    ask(schedule, "a")
    schedule.failed("a", 0)
    assert schedule.missing == 1
    assert ask(schedule, "b") == [0]


def test_in_the_end_game_a_fast_peer_is_given_what_waits_at_a_slow_one() -> None:
    schedule = plan(40)
    join(schedule, slow=everything(40), fast=everything(40))
    waiting, now = ask(schedule, "slow"), 0.0
    # The slow one has shown its rate: a chunk in eight seconds.
    schedule.arrived("slow", waiting.pop(0), 8.0)
    queue, now = ask(schedule, "fast", 8.0), 8.0
    while queue:
        now += 0.01
        schedule.arrived("fast", queue.pop(0), now)
        queue += ask(schedule, "fast", now)
        if schedule.missing.bit_count() <= len(waiting) and not queue:
            break
    assert schedule.complete or not schedule.missing & ~sum(1 << index for index in waiting)
    assert schedule.complete, "the fast peer has fetched what waited at the slow one"


def test_nothing_is_asked_for_twice_while_somebody_can_be_asked_for_something_new() -> None:
    schedule = plan(40)
    join(schedule, slow=everything(40), fast=everything(8))
    waiting = ask(schedule, "slow")
    schedule.arrived("slow", waiting.pop(0), 8.0)
    queue, now = ask(schedule, "fast", 8.0), 8.0
    while queue:
        now += 0.01
        schedule.arrived("fast", queue.pop(0), now)
        more = ask(schedule, "fast", now)
        assert not set(more) & set(waiting), "the slow one can still be asked for what the fast one lacks"
        queue += more


def at_the_end(count: int = 400) -> tuple[Schedule[str], float]:
    """One peer owes the last chunks and says nothing more; another has nothing left to be asked for."""
    schedule = plan(count)
    join(schedule, stuck=everything(count), free=everything(count))
    now = settled(schedule, {"stuck": 20, "free": 20}, lambda: schedule.missing.bit_count() <= 8)
    for index in list(schedule._sources["free"].requests):
        schedule.arrived("free", index, now)
    return schedule, now


def twice(schedule: Schedule[str], now: float, until: float) -> list[tuple[float, int]]:
    """When second copies of what is stuck are asked for; nothing of it comes."""
    asked = []
    for tick in range(int((until - now) / 0.05)):
        at = now + 0.05 * tick
        for index in ask(schedule, "free", at):
            if index in schedule._sources["stuck"].requests:
                asked.append((at, index))
            else:
                schedule.arrived("free", index, at)
    return asked


def test_a_second_copy_is_asked_for_of_what_has_been_out_for_unusually_long_only() -> None:
    schedule, now = at_the_end()
    asked = twice(schedule, now, now + 1.5)
    assert asked
    for at, index in asked:
        assert at - schedule._sources["stuck"].requests[index].asked_at >= overtaking._UNUSUAL * schedule.usual_s - 0.01


def test_second_copies_end_where_too_much_has_come_twice_already() -> None:
    schedule, now = at_the_end()
    schedule.overtaking.wasted_bytes = 400 * CHUNK_BYTES // 100
    assert twice(schedule, now, now + 1.5) == []
    schedule.expire(now + REQUEST_DEADLINE_MAX_S)
    assert twice(schedule, now + REQUEST_DEADLINE_MAX_S, now + REQUEST_DEADLINE_MAX_S + 1), "its deadline still holds"


def test_nobody_fetches_twice_from_equal_peers() -> None:
    schedule = plan(60)
    join(schedule, a=everything(60), b=everything(60))
    queues, now, asked = {"a": ask(schedule, "a"), "b": ask(schedule, "b")}, 0.0, Counter()
    for queue in queues.values():
        asked.update(queue)
    while not schedule.complete:
        now += 0.05
        for peer, queue in queues.items():
            if queue:
                schedule.arrived(peer, queue.pop(0), now)
            more = ask(schedule, peer, now)
            asked.update(more)
            queue += more
    assert max(asked.values()) == 1


def test_no_more_is_in_flight_than_a_crash_may_cost() -> None:
    schedule = plan(5000, length=4 * CHUNK_BYTES)
    join(schedule, **{f"p{number}": everything(5000) for number in range(100)})
    for number in range(100):
        ask(schedule, f"p{number}")
    # Each peer may have one request, however many there are, as long as something comes of most.
    assert schedule.in_flight_bytes <= IN_FLIGHT_BYTES_MAX + 100 * 4 * CHUNK_BYTES
    assert all(schedule._sources[f"p{number}"].requests for number in range(100))


def test_where_many_keep_us_waiting_for_our_turn_only_what_is_rare_is_asked_of_more() -> None:
    schedule = plan(5000, length=4 * CHUNK_BYTES)
    schedule.overtaking.coming = lambda peer: False
    join(schedule, **{f"p{number}": everything(2500) for number in range(100)})
    for number in range(100):
        ask(schedule, f"p{number}", number / 1000)
    assert schedule.in_flight_bytes <= max(IN_FLIGHT_BYTES_MAX, QUEUES_MAX * 4 * CHUNK_BYTES) + 4 * CHUNK_BYTES
    join(schedule, seed=everything(5000))
    (index,) = ask(schedule, "seed", 0.2)
    assert index >= 2500, "nobody else has it"


def test_a_chunk_that_a_write_elsewhere_has_made_whole_is_not_asked_for() -> None:
    schedule = plan(2)
    join(schedule, a=0b11)
    schedule.held(0b01)
    assert ask(schedule, "a") == [1]


def test_chunks_that_nobody_holds_are_known() -> None:
    schedule = plan(4)
    join(schedule, a=0b0011)
    assert schedule.unheld == 0b1100
    schedule.peer_lost("a", 0b0001)
    assert schedule.unheld == 0b1101


@pytest.mark.parametrize("seed", range(5))
def test_a_stalled_peer_holds_up_the_last_chunks_no_longer_than_their_deadline(seed: int) -> None:
    """The stall at 99 %: one peer takes requests and never answers."""
    schedule = plan(200, seed=seed)
    join(schedule, dead=everything(200), good=everything(200))
    ask(schedule, "dead")
    queue, now = ask(schedule, "good"), 0.0
    while not schedule.complete:
        now += 0.02
        assert now < REQUEST_DEADLINE_MAX_S, "stalled"
        schedule.expire(now)
        if queue:
            schedule.arrived("good", queue.pop(0), now)
        queue += ask(schedule, "good", now)
        ask(schedule, "dead", now)


# --- strangers, slow ones, those who refuse ----------------------------------------------------------------------


def test_a_stranger_shows_one_chunk_before_it_is_trusted_with_more_where_others_deliver() -> None:
    schedule = plan(100)
    join(schedule, known=everything(100))
    schedule.arrived("known", ask(schedule, "known")[0], 0.1)
    join(schedule, stranger=everything(100))
    (shown,) = ask(schedule, "stranger", 0.1)
    assert ask(schedule, "stranger", 0.2) == []
    schedule.arrived("stranger", shown, 0.3)
    assert len(ask(schedule, "stranger", 0.3)) > 1


def test_of_several_strangers_each_is_asked_for_little_until_one_has_delivered() -> None:
    schedule = plan(100)
    join(schedule, **dict.fromkeys("abcd", everything(100)))
    assert [len(ask(schedule, peer)) for peer in "abcd"] == [1, 1, 1, 1]
    schedule.peer_left("c")
    schedule.peer_left("d")
    assert [len(ask(schedule, peer)) for peer in "ab"] == [1, 1], "two of four places each"


def test_a_stranger_that_was_asked_before_anything_was_known_is_late_by_what_is_usual_since() -> None:
    schedule = plan(400)
    join(schedule, silent=everything(400))
    ask(schedule, "silent")
    join(schedule, good=everything(400))
    now = settled(schedule, {"good": 50}, lambda: schedule.missing.bit_count() < 330)
    assert schedule.usual_s < 0.4 and now < 2
    assert schedule.expire(now) == []
    assert schedule.expire(2.5) == ["silent"]


def test_what_only_a_silent_peer_and_a_stranger_hold_is_asked_of_the_stranger_while_others_deliver() -> None:
    schedule = plan(30)
    join(schedule, silent=1 << 29 | 1)
    assert sorted(ask(schedule, "silent")) == [0, 29]
    schedule.arrived("silent", 0, 0.1)
    assert schedule.expire(9.0) == ["silent"]
    join(schedule, good=everything(29))
    now = settled(schedule, {"good": 400}, lambda: schedule.missing.bit_count() == 5, now=9.0)
    join(schedule, stranger=1 << 29)
    assert ask(schedule, "stranger", now) == [29]


def settled(schedule: Schedule[str], rates: dict[str, float], until: Callable[[], bool], now: float = 0.0) -> float:
    """Let each peer deliver at its rate, in chunks a second, in the order in which it was asked; returns the time."""
    due = dict.fromkeys(rates, now)
    queues = {peer: ask(schedule, peer, now) for peer in rates}
    while not until():
        peer = min((peer for peer in rates if queues[peer]), key=lambda peer: due[peer] + 1 / rates[peer])
        now = due[peer] = max(due[peer] + 1 / rates[peer], now)
        schedule.arrived(peer, queues[peer].pop(0), now)
        for other, queue in queues.items():
            queue += ask(schedule, other, now)
            for who, index in schedule.withdrawn():
                queues[who].remove(index)
    return now


def test_what_waits_behind_others_at_a_slow_peer_moves_to_one_that_has_nothing_left() -> None:
    schedule = plan(60)
    join(schedule, slows=everything(60), fast=everything(60))
    now = settled(schedule, {"slows": 20, "fast": 20}, lambda: schedule.missing.bit_count() <= 12)
    owed = list(schedule._sources["slows"].requests)
    assert len(owed) > REQUESTS_BEGUN
    moved = []
    while not schedule.complete and now < 10:
        # Nothing comes from the slow one any more.
        now += 0.05
        for index in list(schedule._sources["fast"].requests):
            schedule.arrived("fast", index, now)
        ask(schedule, "fast", now)
        moved += schedule.withdrawn()
    assert schedule.complete and now < 3
    assert {peer for peer, _ in moved} == {"slows"}
    assert {index for _, index in moved} == set(owed[REQUESTS_BEGUN:]), "what it may have begun is not withdrawn"


def test_what_has_long_waited_for_its_turn_moves_to_a_peer_that_answers_at_once() -> None:
    schedule = plan(60)
    join(schedule, crowded=everything(60), idle=everything(20))
    now = settled(schedule, {"crowded": 20, "idle": 20}, lambda: not schedule.missing & everything(20))
    (waiting, *_) = schedule._sources["crowded"].requests
    schedule.peer_has("idle", 1 << waiting)
    schedule._sources["idle"].content_until = 0.0
    assert waiting not in ask(schedule, "idle", now + 1), "its answer may be on its way"
    schedule.overtaking.coming = lambda peer: peer != "crowded"
    schedule._sources["idle"].content_until = 0.0
    assert waiting in ask(schedule, "idle", now + 1)
    assert ("crowded", waiting) in schedule.withdrawn()


def test_what_a_late_peer_cannot_have_begun_is_withdrawn_and_the_rest_stays_out() -> None:
    schedule = plan(100)
    join(schedule, late=everything(100))
    asked = ask(schedule, "late")
    schedule.expire(30.0)
    assert schedule.withdrawn() == [("late", index) for index in asked[REQUESTS_BEGUN:]]
    assert list(schedule._sources["late"].requests) == asked[:REQUESTS_BEGUN]
    assert schedule.withdrawn() == []
    join(schedule, other=everything(100))
    assert schedule._free.bits == everything(100), "everything may be asked of others"


def test_one_that_needs_longer_than_others_gets_the_time_and_then_counts_as_what_it_is() -> None:
    schedule = plan(200)
    join(schedule, fast=everything(200))
    now = settled(schedule, {"fast": 10}, lambda: schedule.missing.bit_count() < 150)
    join(schedule, slow=everything(200))
    for _ in range(6):
        (index,) = ask(schedule, "slow", now)
        began = now
        while now < began + 12 and index in schedule._sources["slow"].requests:
            now += 0.25
            schedule.expire(now)
            if not schedule._sources["slow"].requests[index].overdue:
                continue
            # Somebody else has been asked meanwhile, and is quicker.
            schedule.arrived("fast", index, now)
        if index in schedule._sources["slow"].requests:
            schedule.arrived("slow", index, now)
            assert schedule.proven("slow") and not schedule.fails("slow")
            return
    pytest.fail("it never had the time that it needs")


def test_who_only_refuses_is_paused_where_others_deliver_and_asked_on_where_nobody_else_is() -> None:
    for others in (False, True):
        schedule = plan(200)
        join(schedule, boaster=everything(200))
        if others:
            join(schedule, good=everything(200))
            schedule.arrived("good", ask(schedule, "good")[0], 0.0)
        refused = 0
        for step in range(100):
            for index in ask(schedule, "boaster", 0.01 * step):
                schedule.refused("boaster", index, 0.01 * step)
                refused += 1
        assert schedule.fails("boaster") and schedule.idle("boaster")
        assert refused <= 2 * REFUSALS_IN_A_ROW_MAX if others else refused > 50


# --- what is asked for first, and of whom ------------------------------------------------------------------------


def test_preferred_chunks_come_first_and_then_the_others() -> None:
    schedule = plan(500)
    join(schedule, a=everything(500), b=everything(500))
    now = settled(schedule, {"a": 50, "b": 30}, lambda: schedule.missing.bit_count() <= 450)
    wanted = sum(1 << index for index in range(200, 240))
    schedule.prefer(wanted)
    left = (schedule.missing & wanted).bit_count()
    before = schedule.missing.bit_count()
    in_flight = len(schedule._askers)
    settled_at = settled_with(schedule, {"a": 50, "b": 30}, lambda: not schedule.missing & wanted, now)
    assert before - schedule.missing.bit_count() <= left + in_flight + 4
    settled_with(schedule, {"a": 50, "b": 30}, lambda: schedule.complete, settled_at)


def settled_with(schedule: Schedule[str], rates: dict[str, float], until: Callable[[], bool], now: float) -> float:
    """As `settled`, from where the schedule is."""
    for peer in rates:
        for index in list(schedule._sources[peer].requests):
            schedule.arrived(peer, index, now)
    return settled(schedule, rates, until, now)


def test_a_preferred_chunk_that_waits_at_a_slow_peer_is_fetched_elsewhere_though_others_are_free() -> None:
    schedule = plan(5000)
    join(schedule, slow=everything(5000), fast=everything(5000))
    now = settled(schedule, {"slow": 20, "fast": 20}, lambda: schedule.missing.bit_count() <= 4950)
    owed = list(schedule._sources["slow"].requests)
    schedule.prefer(1 << owed[0] | 1 << owed[-1])
    asked = []
    for _ in range(20):
        now += 0.05
        for index in list(schedule._sources["fast"].requests):
            schedule.arrived("fast", index, now)
        asked += ask(schedule, "fast", now)
    assert {owed[0], owed[-1]} <= set(asked)
    assert not set(owed[1:-1]) & set(asked), "the others can wait: there is enough that nobody is asked for"


def test_near_peers_are_asked_before_far_ones_and_fast_ones_before_slow_ones() -> None:
    schedule = plan(100)
    for peer, nearness in (("far", 0), ("farther", 0), ("here", 2), ("lan", 1)):
        schedule.peer_joined(peer, nearness)
        schedule.peer_has(peer, everything(100))
    schedule.arrived("farther", ask(schedule, "farther")[0], 0.5)
    assert schedule.ranking() == ["here", "lan", "farther", "far"]


def test_a_far_peer_leaves_room_for_one_that_is_near_and_delivers() -> None:
    schedule = plan(5000)
    for peer, nearness in (("near", 1), ("far", 0)):
        schedule.peer_joined(peer, nearness)
        schedule.peer_has(peer, everything(5000))
        schedule.arrived(peer, ask(schedule, peer)[0], 0.01)
        schedule._sources[peer].window = 64
    ask(schedule, "far", 0.1)
    assert schedule.in_flight_bytes == IN_FLIGHT_BYTES_FAR_MAX
    ask(schedule, "near", 0.1)
    assert schedule.in_flight_bytes == IN_FLIGHT_BYTES_MAX
    schedule.peer_left("near")
    ask(schedule, "far", 0.1)
    assert schedule.in_flight_bytes == IN_FLIGHT_BYTES_MAX


def test_a_crowd_that_has_delivered_nothing_leaves_a_part_of_what_may_be_asked_for_to_those_who_have() -> None:
    schedule = plan(5000)
    join(schedule, good=everything(5000))
    schedule.arrived("good", ask(schedule, "good")[0], 0.01)
    for number in range(64):
        join(schedule, **{f"stranger {number}": everything(5000)})
        ask(schedule, f"stranger {number}", 0.1)
    strangers = schedule.in_flight_bytes - schedule._sources["good"].queued_bytes
    assert strangers == IN_FLIGHT_BYTES_STRANGERS_MAX
    schedule.expire(REQUEST_DEADLINE_MAX_S + 1)
    assert ask(schedule, "stranger 63", REQUEST_DEADLINE_MAX_S + 1), "those who are late do not count any more"


def test_one_that_delivers_has_its_whole_window_among_a_crowd_that_does_not() -> None:
    schedule = plan(5000)
    for number in range(64):
        join(schedule, **{f"stranger {number}": everything(5000)})
        ask(schedule, f"stranger {number}")
    join(schedule, good=everything(5000))
    schedule.arrived("good", ask(schedule, "good")[0], 0.01)
    schedule._sources["good"].window = 30
    assert len(ask(schedule, "good", 0.01)) == 30


def test_at_the_end_a_stranger_is_asked_only_for_what_nobody_else_has() -> None:
    schedule = plan(400)
    join(schedule, good=everything(399))
    now = settled(schedule, {"good": 1000.0}, lambda: schedule.missing.bit_count() <= 150)
    join(schedule, stranger=everything(400))
    assert ask(schedule, "stranger", now) == [399]
    join(schedule, other=everything(399))
    assert ask(schedule, "other", now) == []
    assert ask(schedule, "other", now + 1.0), "the good one has fallen silent"


def test_a_stranger_finishes_what_one_that_delivered_is_asked_for_no_more() -> None:
    """Two chunks in no time, and then nobody asks the one that brought them."""
    schedule = plan(24)
    join(schedule, quick=everything(24))
    for index in ask(schedule, "quick"):
        schedule.arrived("quick", index, 0.0)
    join(schedule, other=everything(24))
    assert ask(schedule, "other", 0.1) == []
    assert ask(schedule, "other", 0.5)


def test_the_whole_of_a_large_model_is_looked_at_once_for_many_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    rarest = Rarity.rarest
    monkeypatch.setattr(Rarity, "rarest", lambda *args: looks.append(args) or rarest(*args))
    schedule = plan(20_000)
    join(schedule, a=everything(20_000), b=everything(20_000) >> 5000)
    settled(schedule, {"a": 1000.0, "b": 500.0}, lambda: schedule.missing.bit_count() <= 18_000)
    assert len(looks) < 2000 / 20


COUNT = 24
PEERS = st.sampled_from(["a", "b", "c", "d"])


class ScheduleUnderAnything(RuleBasedStateMachine):
    """Whatever peers do, the accounts agree with each other."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.late_answers: list[tuple[str, int]] = []

    @initialize(seed=st.integers(), have=st.integers(0, (1 << COUNT) - 1))
    def begin(self, seed: int, have: int) -> None:
        self.lengths = [100 + index for index in range(COUNT)]
        self.schedule: Schedule[str] = Schedule(
            COUNT, everything(COUNT) & ~0b1010, have, self.lengths.__getitem__, Random(seed)
        )

    def requests(self) -> list[tuple[str, int]]:
        return [(peer, index) for peer, source in self.schedule._sources.items() for index in source.requests]

    @rule(peer=PEERS, bits=st.integers(0, (1 << COUNT) - 1))
    def tells(self, peer: str, bits: int) -> None:
        self.schedule.peer_joined(peer)
        self.schedule.peer_has(peer, bits)

    @rule(peer=PEERS, bits=st.integers(0, (1 << COUNT) - 1))
    def loses(self, peer: str, bits: int) -> None:
        if self.schedule.has_source(peer):
            self.schedule.peer_lost(peer, bits)

    @rule(peer=PEERS)
    def goes(self, peer: str) -> None:
        self.schedule.peer_left(peer)

    @rule(peer=PEERS)
    def is_asked(self, peer: str) -> None:
        if not self.schedule.has_source(peer):
            return
        before = {index for other, index in self.requests() if other == peer}
        for index in self.schedule.next_requests(peer, self.now):
            assert index not in before
            before.add(index)
            for other, taken in self.schedule.withdrawn():
                assert (other, taken) not in self.requests()
            assert self.schedule._sources[peer].bits >> index & 1
            assert self.schedule.is_missing(index)

    @precondition(lambda self: self.requests())
    @rule(data=st.data(), outcome=st.sampled_from(["arrived", "refused", "failed"]))
    def answers(self, data: st.DataObject, outcome: str) -> None:
        peer, index = data.draw(st.sampled_from(self.requests()))
        self.late_answers.append((peer, index))
        if outcome == "arrived":
            others = {other for other, that in self.requests() if that == index and other != peer}
            assert set(self.schedule.arrived(peer, index, self.now)) == others
            assert not self.schedule.is_missing(index)
            assert index not in {that for _, that in self.requests()}
        else:
            getattr(self.schedule, outcome)(peer, index, *([self.now] if outcome == "refused" else []))

    @precondition(lambda self: self.late_answers)
    @rule(data=st.data())
    def answers_again(self, data: st.DataObject) -> None:
        """After the request is settled, or the peer has gone and come back."""
        peer, index = data.draw(st.sampled_from(self.late_answers))
        self.schedule.arrived(peer, index, self.now)

    @rule(bits=st.integers(0, (1 << COUNT) - 1))
    def are_preferred(self, bits: int) -> None:
        self.schedule.prefer(bits)

    @rule(bits=st.integers(0, (1 << COUNT) - 1))
    def elsewhere(self, bits: int) -> None:
        self.schedule.held(bits & 0b11)

    @rule(seconds=st.floats(0.01, 30))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        late = self.schedule.expire(self.now)
        assert set(late) <= set(self.schedule._sources)
        assert not set(self.schedule.withdrawn()) & set(self.requests())

    @invariant()
    def in_flight_is_what_is_asked_and_not_overdue(self) -> None:
        if not hasattr(self, "schedule"):
            return
        fresh = [
            request
            for source in self.schedule._sources.values()
            for request in source.requests.values()
            if not request.overdue
        ]
        assert self.schedule.in_flight_bytes == sum(request.length for request in fresh) >= 0
        strangers = [source for source in self.schedule._sources.values() if not source.proven]
        asked = [request for source in strangers for request in source.requests.values() if not request.overdue]
        assert self.schedule._in_flight.strangers_bytes == sum(request.length for request in asked)
        for source in self.schedule._sources.values():
            assert source.queued_bytes == sum(request.length for request in source.requests.values())

    @invariant()
    def asked_chunks_are_those_with_a_fresh_request(self) -> None:
        if not hasattr(self, "schedule"):
            return
        fresh, askers = 0, {}
        for peer, source in self.schedule._sources.items():
            for index, request in source.requests.items():
                askers.setdefault(index, set()).add(peer)
                if not request.overdue:
                    fresh |= 1 << index
        schedule = self.schedule
        assert schedule._missing.bits == sum(1 << i for i in range(COUNT) if schedule.is_missing(i))
        assert schedule._missing.bits ^ schedule._free.bits == fresh & schedule._missing.bits
        assert schedule.complete == (not schedule._missing.bits)
        assert {index: set(peers) for index, peers in self.schedule._askers.items()} == askers

    @invariant()
    def second_copies_are_those_of_chunks_that_two_are_asked_for(self) -> None:
        if not hasattr(self, "schedule"):
            return
        schedule = self.schedule
        assert all(len(schedule._askers[index]) > 1 for index in schedule.overtaking._twice)
        assert schedule.overtaking._twice_bytes == sum(schedule.overtaking._twice.values())

    @invariant()
    def fresh_requests_for_a_chunk_are_few(self) -> None:
        if not hasattr(self, "schedule"):
            return
        fresh = Counter(
            index
            for source in self.schedule._sources.values()
            for index, request in source.requests.items()
            if not request.overdue
        )
        assert all(count <= DUPLICATE_REQUESTS_MAX for count in fresh.values())

    def teardown(self) -> None:
        """From any state, a good peer that comes finishes the job, and then nothing is in flight."""
        if not hasattr(self, "schedule"):
            return
        schedule = self.schedule
        join(schedule, good=everything(COUNT))
        for _ in range(500):
            if schedule.complete:
                break
            self.now += 0.5
            schedule.expire(self.now)
            for index in list(schedule.next_requests("good", self.now)):
                schedule.arrived("good", index, self.now)
        assert schedule.complete
        for peer in list(schedule._sources):
            schedule.peer_left(peer)
        assert schedule.in_flight_bytes == 0 and schedule._free.bits == 0 and not schedule._askers
        assert set(iter_bits(schedule._rarity.unheld(everything(COUNT)))) == set(range(COUNT))


TestScheduleUnderAnything = ScheduleUnderAnything.TestCase
TestScheduleUnderAnything.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestScheduleUnderAnything.pytestmark = [pytest.mark.slow]
