"""Goal: every second of a download is counted once, under the cause that truly had it.

Method: the account is driven by hand, with round times. What a real fetch reports is in `tests/peer`.
"""

from __future__ import annotations

from random import Random

import pytest

from p2pmodel.swarm.accounting import CAUSES, Account, SmoothRate


def account_of(missing: int, *peers: str) -> Account[str]:
    """Two seconds until a peer is found, one for the manifest, half a second for the disk; pulling begins at 3.5."""
    account: Account[str] = Account(0.0)
    account.enter("manifest", 2.0)
    account.enter("checking", 3.0)
    account.pull(missing, 3.5)
    for peer in peers:
        account.joined(peer, f"10.0.0.{len(account.sources) + 1}:1", encrypted=True, scope=1, now=3.5)
    return account


def counted(account: Account[str]) -> dict[str, float]:
    return {cause: seconds for cause, seconds in account.seconds.items() if seconds}


BEFORE = {"discovery": 2.0, "manifest": 1.0, "checking": 0.5}


def test_the_phases_before_the_first_chunk_have_their_time_each() -> None:
    account = account_of(1)
    account.note(4.5)  # the manifest was here already: still nobody to ask
    account.joined("a", "10.0.0.1:1", encrypted=True, scope=1, now=4.5)
    account.note(10.0)
    assert counted(account) == {**BEFORE, "discovery": 3.0, "no_source": 5.5}


def test_while_an_answer_is_due_the_sources_are_the_limit() -> None:
    account = account_of(2, "a")
    account.note(4.0)  # half a second until its have-map came
    account.asked("a", 0, 4.0)
    account.settled("a", 0, 0.0, 6.0)
    account.gave("a", 100)
    account.close(6.5)
    assert counted(account) == {**BEFORE, "no_source": 1.0, "sources": 2.0}
    assert account.sources["a"].rate_bytes_per_s == 50.0
    assert account.sources["a"].chunks == 1


def test_time_of_hash_and_disk_is_ours_by_the_share_of_the_connection() -> None:
    account = account_of(9, "a", "b")
    account.asked("a", 0, 3.5)
    account.asked("b", 1, 3.5)
    account.asked("b", 2, 3.5)
    account.settled("a", 0, 1.0, 5.5)  # of two connections one stood still for a second
    account.settled("b", 1, 0.5, 6.5)  # now there is only this one
    assert counted(account) == {**BEFORE, "sources": 2.0, "own_disk": 1.0}


def test_our_own_limit_has_the_time_until_it_lets_something_be_asked() -> None:
    account = account_of(9, "a")
    account.asked("a", 0, 3.5)
    account.paced(5.0, 4.0)
    account.settled("a", 0, 0.0, 4.5)
    account.note(6.0)
    assert counted(account) == {**BEFORE, "sources": 0.5, "download_limit": 1.0, "no_source": 1.0}


def test_the_end_game_has_the_time_in_which_peers_that_gave_stand_idle() -> None:
    account = account_of(3, "slow", "fast", "never")
    account.asked("slow", 0, 3.5)
    account.asked("fast", 1, 3.5)
    account.asked("fast", 2, 3.5)
    for index in (1, 2):
        account.settled("fast", index, 0.0, 4.5)
        account.gave("fast", 10)
    account.note(9.5)
    assert counted(account) == {**BEFORE, "sources": 1.0, "end_game": 5.0}
    account.left("fast", "it went away", 9.5)  # nobody is idle who could have helped
    account.note(10.5)
    assert account.seconds["sources"] == 2.0
    assert account.sources["fast"].ended == "it went away"


def test_a_chunk_that_nobody_is_asked_for_is_no_end_game() -> None:
    account = account_of(2, "a", "b")
    account.asked("a", 0, 3.5)
    account.settled("a", 0, 0.0, 4.5)
    account.gave("a", 1)
    account.asked("b", 1, 4.5)
    account.note(5.5)  # "a" is idle and all is asked for
    account.settled("b", 1, 0.0, 5.5)
    account.refused("b")
    account.asked("b", 1, 6.5)
    assert counted(account) == {**BEFORE, "sources": 1.0, "end_game": 1.0, "no_source": 1.0}


def test_a_peer_that_comes_back_keeps_its_figures_and_loses_its_ending() -> None:
    account = account_of(5, "a")
    account.asked("a", 0, 3.5)
    account.settled("a", 0, 0.0, 4.5)
    account.gave("a", 100)
    account.left("a", "reset", 4.5)
    account.joined("a", "10.0.0.1:1", encrypted=False, scope=1, now=5.5)
    source = account.sources["a"]
    assert (source.bytes, source.ended, source.connected, source.encrypted) == (100, "", True, False)


def test_the_first_reason_to_end_is_kept_and_waste_is_told_by_kind() -> None:
    account = account_of(5, "a")
    account.left("a", "it sent a corrupt chunk", 4.0)
    account.left("a", "closed", 4.5)
    account.waste("a", "corrupt", 7)
    account.waste("a", "duplicate", 5)
    assert account.sources["a"].ended == "it sent a corrupt chunk"
    assert account.sources["a"].wasted_bytes == 12
    assert account.wasted == {"duplicate": 5, "cancelled": 0, "corrupt": 7}


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_the_causes_add_up_to_the_whole_time(seed: int) -> None:
    rng = Random(seed)
    account, now, peers = account_of(40, "a", "b", "c"), 3.5, ["a", "b", "c"]
    opened: list[tuple[str, int]] = []
    for _ in range(300):
        now += rng.choice([0.0, 0.01, 0.5])
        peer = rng.choice(peers)
        match rng.randrange(6):
            case 0 | 1 if (peer, index := rng.randrange(40)) not in opened:
                account.asked(peer, index, now)
                opened.append((peer, index))
            case 2 | 3 if opened:
                peer, index = opened.pop(rng.randrange(len(opened)))
                account.settled(peer, index, rng.choice([0.0, 0.1, 3.0]), now)
                account.gave(peer, 10)
            case 4:
                account.left(peer, "gone", now)
                account.joined(peer, "", encrypted=True, scope=0, now=now)
            case 5:
                account.paced(now + rng.random(), now)
    account.close(now)
    assert sum(account.seconds.values()) == pytest.approx(now)
    assert all(seconds >= 0 for seconds in account.seconds.values())
    assert set(account.seconds) == set(CAUSES)
    assert sum(source.bytes for source in account.sources.values()) == 10 * sum(
        source.chunks for source in account.sources.values()
    )


def test_a_smooth_rate_is_the_mean_at_first_and_follows_slowly_afterwards() -> None:
    rate = SmoothRate(10.0)
    assert rate.update(500, 0.0) == 0.0  # what was here before counts for nothing
    assert rate.update(600, 1.0) == pytest.approx(100)
    for second in range(2, 60):
        steady = rate.update(500 + 100 * second, float(second))
    assert steady == pytest.approx(100)
    pause = rate.update(500 + 100 * 59, 60.0)
    assert 85 < pause < 100  # a second of silence is no reason to tell of hours
    for second in range(61, 140):
        faster = rate.update(6400 + 300 * (second - 60), float(second))
    assert faster == pytest.approx(300, rel=0.01)
