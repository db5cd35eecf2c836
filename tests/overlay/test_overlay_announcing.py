"""Keeping keys announced: the plain ring and its cursor, the pace, restarts, and what all of it does in a network."""

from __future__ import annotations

import asyncio
import logging
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from overlay_scenarios import Settled, announce_in_bulk
from overlay_town import Node, Town, run

from p2pmodel.errors import DecodeError
from p2pmodel.overlay import CLUSTER, Profile
from p2pmodel.overlay.announcements import SLOTS, Announcements
from p2pmodel.overlay.pace import Pace, Retry

ROUND_S = 640.0
"""Ten seconds for each slot."""
WALL = 1_800_000_000.0
BUSY = Profile(
    republish_s=8.0, ttl_s=20, refresh_s=900.0, tick_s=1.0, replicas=20, sweep_replicas=12, group_nodes_max=0
)


def key_in(slot: int, n: int = 0) -> bytes:
    return bytes([slot * 4]) + n.to_bytes(3, "big") + bytes(16)


def announce_all(kept: Announcements, now: float) -> list[bytes]:
    """Take whatever is due at `now` and announce it."""
    gone: list[bytes] = []
    while (portion := kept.take_due(now)) is not None:
        kept.announced(portion.keys, now, 100.0)
        kept.give_back(portion)
        gone += portion.keys
    return gone


# --- the plain ring ---------------------------------------------------------------------------------------------------


def test_new_keys_go_out_at_once_and_again_when_the_cursor_has_gone_round() -> None:
    kept = Announcements(ROUND_S, 0.0)
    keys = [key_in(slot) for slot in range(SLOTS)]
    kept.add(keys)
    assert kept.pending == 64
    assert announce_all(kept, 1.0) == keys
    assert kept.pending == 0
    assert announce_all(kept, 2.0) == []
    times = {key: float(now) for now in range(3, 1900) for key in announce_all(kept, now)}
    assert sorted(times) == keys
    # Each slot has its own ten seconds, and a round passes between two announcements of a key.
    assert all(abs(times[keys[n + 1]] - times[keys[n]] - 10.0) <= 1.0 for n in range(20, 60))


def test_the_work_is_spread_evenly_and_no_announcement_is_older_than_a_round_and_a_quarter() -> None:
    rng = random.Random(1)
    kept = Announcements(ROUND_S, 0.0)
    kept.add(rng.randbytes(20) for _ in range(6400))
    announce_all(kept, 5.0)
    eldest, busiest = 0.0, 0
    for now in range(6, 3000):
        eldest = max(eldest, kept.lag_s(now))
        busiest = max(busiest, len(announce_all(kept, now)))
    assert eldest <= 1.25 * ROUND_S + 11
    assert busiest <= 200


def test_a_key_announced_alone_waits_for_the_next_passing_of_its_slot() -> None:
    kept = Announcements(ROUND_S, 0.0)
    kept.add([key_in(10)])
    portion = kept.take([key_in(10)], 50.0)
    kept.announced(portion.keys, 50.0, 5.0)
    kept.give_back(portion)
    assert announce_all(kept, 115.0) == []
    assert announce_all(kept, 640.0 + 111.0) == [key_in(10)]


def test_what_was_not_taken_is_pending_again() -> None:
    kept = Announcements(ROUND_S, 0.0)
    kept.add([key_in(3), key_in(3, 1)])
    announce_all(kept, 0.0)
    kept.advance(640.0)
    portion = kept.take_due(700.0)
    assert portion is not None
    assert portion.keys == [key_in(3), key_in(3, 1)]
    kept.announced([key_in(3)], 700.5, 5.0)
    meanwhile = kept.take_due(700.6)
    assert meanwhile is None or meanwhile.keys == []
    kept.give_back(portion)
    assert kept.pending == 1
    assert announce_all(kept, 701.0) == [key_in(3, 1)]


def test_keys_are_announced_anew_when_the_network_has_outgrown_their_holders() -> None:
    kept, keys = Announcements(ROUND_S, 0.0), [key_in(n) for n in range(4)]
    kept.add(keys)
    portion = kept.take_due(0.0)
    assert portion is not None
    kept.announced(keys, 0.0, 8.0)
    kept.give_back(portion)
    assert not kept.grown(15.9)
    assert kept.grown(16.0)
    assert not kept.grown(16.0)
    assert kept.pending == 4
    assert kept.remove([keys[0], bytes(20), b"x" * 20]) == [keys[0]]
    assert (len(kept), kept.pending) == (3, 3)


def test_falling_behind_is_measured_and_ends_when_the_work_is_done() -> None:
    kept = Announcements(ROUND_S, 0.0)
    kept.add(key_in(slot) for slot in range(SLOTS))
    announce_all(kept, 0.0)
    assert kept.behind_s(200.0) == pytest.approx(190.0)
    assert kept.behind_s(10_000.0) == pytest.approx(ROUND_S)
    announce_all(kept, 10_000.0)
    assert kept.behind_s(10_000.0) < 10.0


def test_a_shorter_round_moves_the_cursor_faster() -> None:
    kept = Announcements(ROUND_S, 0.0)
    kept.add([key_in(32)])
    announce_all(kept, 0.0)
    assert announce_all(kept, 200.0) == []
    kept.interval_s = 64.0
    assert announce_all(kept, 210.0) == []
    assert announce_all(kept, 214.0) == [key_in(32)]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_counts_and_turns_hold_whatever_happens(data: st.DataObject) -> None:
    """Against a model: a dict of what is provided. Nothing is lost, nothing is taken twice at once."""
    kept, now = Announcements(ROUND_S, 0.0), 0.0
    provided: dict[bytes, bool] = {}
    open_portions = []
    universe = [key_in(slot, n) for slot in (0, 1, 31, 63) for n in range(3)]
    for _ in range(data.draw(st.integers(1, 40))):
        match data.draw(st.sampled_from(["add", "remove", "due", "finish", "wait", "grow", "pace"])):
            case "add":
                keys = data.draw(st.lists(st.sampled_from(universe)))
                kept.add(keys)
                for key in keys:
                    provided.setdefault(key, False)
            case "remove":
                keys = data.draw(st.lists(st.sampled_from(universe)))
                assert kept.remove(keys) == sorted(set(keys) & set(provided))
                for key in keys:
                    provided.pop(key, None)
            case "due":
                portion = kept.take_due(now)
                if portion is not None:
                    taken = [key for other in open_portions for key in other.keys]
                    assert not set(portion.keys) & set(taken)
                    assert set(portion.keys) <= set(provided)
                    open_portions.append(portion)
            case "finish" if open_portions:
                portion = open_portions.pop(data.draw(st.integers(0, len(open_portions) - 1)))
                part = portion.keys[: data.draw(st.integers(0, len(portion.keys)))]
                kept.announced(part, now, 10.0)
                kept.give_back(portion)
            case "grow":
                kept.grown(25.0)
            case "pace":
                kept.interval_s = data.draw(st.sampled_from([30.0, ROUND_S, 80_000.0]))
            case _:
                now += data.draw(st.floats(0.0, 700.0))
        assert len(kept) == len(provided)
        assert all((key in kept) == (key in provided) for key in universe)
        assert kept.pending == sum(slot.pending for slot in kept._slots)
        assert kept.pending == sum(at is None for slot in kept._slots for at in slot.keys.values())
        assert 0.0 <= kept.behind_s(now) <= kept.interval_s
    for portion in open_portions:
        kept.give_back(portion)
    kept.interval_s = ROUND_S
    announced = set()
    for step in range(1, 140):
        announced |= set(announce_all(kept, now + 10.0 * step))
    assert announced == set(provided)
    assert kept.pending == 0


# --- restarts ---------------------------------------------------------------------------------------------------------


def restarted(kept: Announcements, then: float, away_s: float) -> Announcements:
    """A new run, whose monotonic clock begins at 7."""
    fresh = Announcements(ROUND_S, 7.0)
    fresh.restore(kept.state(then, WALL), 7.0, WALL + away_s)
    return fresh


def test_after_a_restart_known_keys_wait_for_their_turn_and_new_ones_go_out_at_once() -> None:
    rng = random.Random(3)
    old = [rng.randbytes(20) for _ in range(1000)]
    kept = Announcements(ROUND_S, 0.0)
    kept.add(old)
    announce_all(kept, 1.0)
    assert len(announce_all(kept, 301.0)) > 0
    again = restarted(kept, 301.0, 20.0)
    new = [rng.randbytes(20) for _ in range(100)]
    again.add(old + new)
    assert again.pending == 100
    assert again.lag_s(7.0) == pytest.approx(320.0)
    at_once = announce_all(again, 7.0)
    assert set(new) <= set(at_once)
    assert len(at_once) < 100 + 4 * 1000 / SLOTS
    later = {key for now in range(8, 700) for key in announce_all(again, float(now))}
    assert set(old) <= later | set(at_once)


def test_after_a_long_absence_everything_is_announced_anew() -> None:
    kept = Announcements(ROUND_S, 0.0)
    kept.add(key_in(slot) for slot in range(SLOTS))
    announce_all(kept, 0.0)
    for away_s in (801.0, 1e9, -1.0):
        again = restarted(kept, 0.0, away_s)
        again.add(key_in(slot) for slot in range(SLOTS))
        assert again.pending == SLOTS, away_s
    again = restarted(kept, 0.0, 320.0)
    again.add(key_in(slot) for slot in range(SLOTS))
    assert again.pending == 0
    assert len(announce_all(again, 7.0)) == 32


def test_what_was_withdrawn_before_the_restart_is_not_taken_for_announced() -> None:
    kept = Announcements(ROUND_S, 0.0)
    kept.add([key_in(5)])
    announce_all(kept, 0.0)
    kept.clear()
    again = restarted(kept, 0.0, 1.0)
    again.add([key_in(5)])
    assert again.pending == 1


def test_a_state_is_small_and_one_that_is_not_ours_is_refused_and_changes_nothing() -> None:
    rng = random.Random(4)
    kept = Announcements(ROUND_S, 0.0)
    kept.add(rng.randbytes(20) for _ in range(20_000))
    announce_all(kept, 0.0)
    state = kept.state(1.0, WALL)
    assert len(state) < 3 * 20_000 + 1200
    fresh = Announcements(ROUND_S, 0.0)
    for content in (
        b"",
        b"\xc0",
        state[:-1],
        state + b"\0",
        b"\x91" * 3000,
        bytes(20_000_000),
        b"\x94\x02" + state[2:],
    ):
        with pytest.raises(DecodeError):
            fresh.restore(content, 0.0, WALL)
    fresh.add([key_in(1)])
    assert fresh.pending == 1


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=400))
def test_a_state_at_random_is_refused_or_harmless(content: bytes) -> None:
    fresh = Announcements(ROUND_S, 0.0)
    try:
        fresh.restore(content, 0.0, WALL)
    except DecodeError:
        pass
    fresh.add([key_in(1)])
    announce_all(fresh, 1.0)


# --- the pace ---------------------------------------------------------------------------------------------------------


def test_the_round_stays_long_while_holders_live_and_follows_their_lives_when_they_do_not() -> None:
    pace = Pace(79_200.0, 60.0)
    for _ in range(500):
        pace.probed(True, 100.0)
    assert pace.interval_s == 79_200.0
    pace.probed(False, 100.0)
    assert pace.interval_s == 79_200.0
    rng = random.Random(5)
    for mean_life_s in (121.0, 1200.0, 6000.0):  # 50, 5 and 1 % a minute
        for _ in range(400):
            since_s = rng.uniform(15.0, mean_life_s / 2)
            pace.probed(rng.expovariate(1 / mean_life_s) > since_s, since_s)
        wanted = max(60.0, 0.4 * mean_life_s)
        assert wanted / 2 <= pace.interval_s <= wanted * 2.5
    for _ in range(800):
        pace.probed(True, 300.0)
    assert pace.interval_s == 79_200.0


def test_probes_come_often_at_first() -> None:
    assert Pace.probe_after_s(0.0) == 15.0
    assert Pace.probe_after_s(800.0) == 100.0
    assert Pace.probe_after_s(1e6) == 300.0


def test_while_nobody_takes_anything_tries_become_rarer_but_never_rarer_than_five_minutes() -> None:
    retry, now, pauses = Retry(), 0.0, []
    assert retry.due(now)
    for _ in range(100):
        retry.tried(0, 3, now)
        pause_s = next(s for s in range(10_000) if retry.due(now + s))
        pauses.append(pause_s)
        now += pause_s
    assert pauses[:6] == [10, 20, 40, 80, 160, 300]
    assert set(pauses[6:]) == {300}


def test_what_was_taken_in_part_or_is_new_is_tried_soon_again() -> None:
    retry = Retry()
    for _ in range(9):
        retry.tried(0, 3, 0.0)
    retry.tried(1, 3, 0.0)
    assert not retry.due(4.9) and retry.due(5.0)
    retry.at_once()
    assert retry.due(0.0)
    for _ in range(9):
        retry.tried(0, 3, 0.0)
    retry.tried(3, 3, 0.0)
    assert retry.due(0.0), "all was taken"
    retry.tried(0, 3, 0.0)
    assert retry.due(10.0), "and the next pause is a short one"


# --- networks ---------------------------------------------------------------------------------------------------------


async def until_announced(node: Node, limit_s: float = 60.0) -> float:
    """Virtual seconds until nothing is pending and the last copies have arrived."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    while node.overlay.stats().keys_pending:
        assert loop.time() - started < limit_s, "it never came about"
        await asyncio.sleep(0.1)
    await asyncio.sleep(3)
    return loop.time() - started - 3


@pytest.mark.parametrize(
    ("nodes", "keys"),
    [pytest.param(100, 5000, marks=pytest.mark.slow), pytest.param(10_000, 133_000, marks=pytest.mark.long)],
)
def test_announcing_in_bulk_costs_a_hundredth_of_announcing_each_and_the_nearest_have_all(
    nodes: int, keys: int
) -> None:
    town = Town(1, profile=replace(CLUSTER, republish_s=36_000.0, ttl_s=80_000, refresh_s=1e6))
    announced = run(announce_in_bulk(town, nodes, keys))
    assert announced.gain >= 100, announced
    assert announced.placed == announced.found == 1.0, announced


@pytest.mark.slow
def test_what_a_dead_holder_should_have_had_goes_to_the_next_nearest() -> None:
    async def tale() -> None:
        town, rng = Town(9), random.Random(9)
        net = await Settled.build(town, 100)
        keys = sorted(rng.randbytes(20) for _ in range(2000))
        dying = rng.sample(net.holders, 10)

        def tap(data: bytes, source: object, to: object) -> None:
            # They die as the first announcement reaches any of them: asked and answered, and gone.
            if data[:1] == b"\0" and data[23:31] == b"announce" and any(to == holder.address for holder in dying):
                town.internet.dead.update(holder.address for holder in dying)

        town.internet.tap = tap
        net.publisher.overlay.provide_later(keys)
        await until_announced(net.publisher)
        await asyncio.sleep(10)
        assert len(town.internet.dead) == 10
        whole = sum(all(net.holds(holder, key) for holder in net.nearest(key, 12)) for key in keys)
        assert whole == 2000

    run(tale())


@pytest.mark.slow
def test_where_strangers_crowd_round_a_key_it_is_stored_with_the_honest_nodes_behind_them_too() -> None:
    async def tale() -> None:
        town = Town(10)
        net = await Settled.build(town, 120)
        key = random.Random(10).randbytes(20)
        place = int.from_bytes(key, "big")
        honest = net.nearest(key, 20)
        await net.crowd(key, 25, nearer_than=honest[0].place ^ place)
        await net.publisher.overlay.provide([key])
        assert sum(net.holds(holder, key) for holder in honest[:12]) >= 10

    run(tale())


@pytest.mark.slow
def test_after_a_restart_only_what_is_due_is_announced() -> None:
    async def tale() -> None:
        town, rng = Town(11), random.Random(11)
        net = await Settled.build(town, 60)
        keys = [rng.randbytes(20) for _ in range(640)]
        first = net.publisher
        first.overlay.provide_later(keys)
        await until_announced(first)
        state = first.overlay.announce_state()
        neighbours = [holder.address for holder in net.holders[:20]]
        await first.overlay.stop(withdraw=False)
        again = await net.restart(first)
        again.overlay.restore_announcing(state)
        assert await again.overlay.bootstrap(neighbours) > 0
        again.overlay.provide_later([*keys, bytes(20)])
        assert again.overlay.stats().keys_pending == 1
        await asyncio.sleep(5)
        assert again.overlay.stats().keys_pending == 0
        town.internet.names.clear()
        await asyncio.sleep(20)
        assert town.internet.names.get(b"announce", 0) <= 60 * 3
        with pytest.raises(DecodeError):
            again.overlay.restore_announcing(b"nonsense")

    run(tale())


@pytest.mark.slow
def test_a_sweep_that_does_not_fit_into_its_round_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    async def tale() -> None:
        town, rng = Town(12, delay_s=(0.5, 0.6), profile=BUSY), random.Random(12)
        net = await Settled.build(town, 100)
        net.publisher.overlay.provide_later([rng.randbytes(20) for _ in range(2000)])
        await asyncio.sleep(60)
        assert net.publisher.overlay.stats().announce_behind_s > 2.0

    with caplog.at_level(logging.WARNING):
        run(tale())
    assert [record.message for record in caplog.records if "takes longer" in record.message][1:] == []
    assert any("takes longer" in record.message for record in caplog.records)


@pytest.mark.slow
def test_a_provider_is_found_while_half_of_the_nodes_leave_in_a_minute() -> None:
    """Mean life 121 s: the round becomes as short as that asks for, by itself."""

    async def tale() -> None:
        town, rng = Town(13), random.Random(13)
        await town.join(40)
        publisher, key = town.nodes[5], rng.randbytes(20)
        await publisher.overlay.provide([key])
        asked = found = 0
        for _ in range(100):
            await asyncio.sleep(3)
            leaving = rng.choice([n for n in town.nodes if n is not publisher and n.address not in town.internet.dead])
            town.kill([leaving])
            leaving.overlay._tasks[0].cancel()
            leaving.overlay._tasks[1].cancel()
            town.nodes.remove(leaving)
            entry = rng.choice(town.nodes)
            newcomer = await town.node()
            await newcomer.overlay.bootstrap([entry.address, publisher.address])
            reader = rng.choice([n for n in town.nodes if n is not publisher])
            asked += 1
            found += publisher.peer in await reader.find(key)
        assert publisher.overlay._announcer.interval_s <= 120.0
        assert found >= 0.99 * asked

    run(tale())


def test_what_was_announced_at_once_is_kept_announced_though_nothing_else_happens() -> None:
    async def tale() -> None:
        town = Town(profile=BUSY)
        node = (await town.join(12))[-1]
        await asyncio.sleep(30)
        key = key_in(1)
        assert await node.overlay.provide([key]) == 1
        await asyncio.sleep(60)  # three times the life of a record
        now = asyncio.get_running_loop().time()
        assert any(each.protocol.providers.find(key, 0, now)[0] for each in town.nodes)

    run(tale())
