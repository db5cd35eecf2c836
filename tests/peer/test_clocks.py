"""Goal (R7): no clock breaks a transfer, keeps a record too long, or sets off a storm. Method: whole peers in virtual
time, whose wall clocks are wrong by years or are set while they run, and whose steady clocks jump as after a sleep.
"""

from __future__ import annotations

import asyncio

import pytest

from p2pmodel.overlay import CLUSTER
from p2pmodel.testing.loop import running_loop

pytestmark = pytest.mark.slow
MIB = 1 << 20
MINUTE, HOUR, YEAR = 60.0, 3600.0, 365.25 * 86_400
LINE = MIB
"""Bytes a second of each peer's line, so that a fetch takes seconds in which clocks can be set."""
WRONG = (0.0, 10 * MINUTE, -10 * MINUTE, 10 * YEAR, -10 * YEAR, -HOUR)


async def skewed(swarm, seed: int, **options):
    """Peers each of which has another time of day."""
    net = await swarm(peers=len(WRONG), seed=seed, upload_bytes_per_s=LINE, **options)
    await set_clocks(net, WRONG)
    return net


async def set_clocks(net, errors) -> None:
    for peer, error_s in zip(net, errors, strict=True):
        peer.host.clock_error_s = error_s
        await peer.stop()
        await peer.start()


def some(*values, also=()):
    """The ordinary run has the first ones, `-m long` the others."""
    return [*values, *(pytest.param(value, marks=pytest.mark.long) for value in also)]


@pytest.mark.parametrize("publisher", some(3, also=(0, 1, 2, 4, 5)))
async def test_peers_whose_wall_clocks_differ_by_twenty_years_fetch_from_each_other(swarm, publisher):
    net = await skewed(swarm, 1 + publisher)
    model = await net[publisher].publish(net.random_model(size=4 * MIB), name="tiny")
    reports = await net.fetch_all(model)
    assert len(reports) == len(WRONG) - 1 and all(report.verified for report in reports)
    for peer in net:
        assert (await peer.verify(model)).ok


@pytest.mark.parametrize("change_s", some(-HOUR, also=(HOUR, 10 * YEAR, -10 * YEAR, 10 * MINUTE, -10 * MINUTE)))
async def test_a_wall_clock_that_is_set_in_the_middle_of_a_transfer_costs_nothing(swarm, change_s):
    net = await swarm(peers=4, seed=3, upload_bytes_per_s=LINE)
    model = await net[0].publish(net.random_model(size=12 * MIB))
    fetching = asyncio.create_task(net.fetch_all(model))
    for _ in range(4):
        await net.run_for(3)
        for peer in net:
            peer.host.clock_error_s += change_s
            change_s = -change_s
    reports = await fetching
    assert len(reports) == 3
    assert all(report.verified and report.bytes_wasted == 0 for report in reports)
    for peer in net:
        assert peer.holds(model), "what was written before the clock was set back counts as it did"
        assert (await peer.verify(model)).ok


@pytest.mark.parametrize("change_s", some(-HOUR, also=(-10 * YEAR, 10 * YEAR)))
async def test_a_peer_that_starts_again_with_another_date_is_found_with_what_it_has_and_what_is_new(swarm, change_s):
    net = await swarm(peers=8, seed=5)
    old = await net[5].publish(net.random_model(size=MIB))
    await net[6].fetch(old)
    net[5].host.clock_error_s = change_s
    net[5].crash()
    await net[5].restart()
    await net[6].stop()  # nobody else has it
    new = await net[5].publish(net.random_model(size=MIB))
    await net.run_for(30)
    assert (await net[1].fetch(old)).verified and (await net[2].fetch(new)).verified


@pytest.mark.parametrize("change_s", some(-HOUR, also=(10 * YEAR, -10 * YEAR)))
async def test_a_fetch_that_was_killed_goes_on_after_the_clock_was_set(swarm, change_s):
    net = await swarm(peers=4, seed=6, upload_bytes_per_s=LINE)
    model = await net[0].publish(net.random_model(size=12 * MIB))
    fetching = asyncio.create_task(net[1].fetch(model))
    await net.run_for(8)
    net[1].crash(power=False)
    await asyncio.wait({fetching})
    assert fetching.exception() is not None
    net[1].host.clock_error_s += change_s
    await net[1].restart()
    report = await net[1].fetch(model)
    assert report.bytes_reused > 4 * MIB and report.bytes_reused + report.bytes_fetched >= 12 * MIB


async def test_records_of_a_dead_peer_expire_at_their_time_whatever_the_clocks_of_their_holders_say(swarm):
    """The error is at most ten minutes, by the validity that the publisher gave: holders are years apart."""
    net = await skewed(swarm, 9)
    await net[0].publish(net.model_from({"config.json": b"{}"}))
    await net.run_for(MINUTE)
    for number, peer in enumerate(net):
        peer.host.clock_error_s += (-1) ** number * HOUR  # set once more while they hold it
    net[0].crash()
    assert sum([(await peer.status()).records_held for peer in net[1:]]) >= len(WRONG) - 1
    await net.run_for(CLUSTER.ttl_s - 10 * MINUTE)
    assert all([(await peer.status()).records_held > 0 for peer in net[1:]]), "not before its time"
    await net.run_for(20 * MINUTE)
    assert not any([(await peer.status()).records_held for peer in net[1:]]), "nor long after it"


# --- sleep


async def packets(net, seconds: float) -> int:
    """How many events the network sees in so much time."""
    before = net.event_log.count
    await net.run_for(seconds)
    return net.event_log.count - before


@pytest.mark.parametrize("who", ["one", "all"])
async def test_after_half_an_hour_of_sleep_there_is_no_storm_and_everything_works(swarm, who):
    """The clock of one peer alone, or all machines at once (virtual ones that were paused): then everybody has every
    round to make up for, and they do it one after the other."""
    net = await swarm(peers=10, seed=11)
    models = [await peer.publish(net.random_model(size=MIB)) for peer in net[:4]]
    await net.fetch_all(models[0])
    await net.run_for(5 * MINUTE)
    normal = max([await packets(net, MINUTE) for _ in range(15)])
    if who == "all":
        running_loop().now += 30 * MINUTE
    else:
        net[2].host.slept_s += 30 * MINUTE
    at_once = await packets(net, 5)
    after = at_once + await packets(net, MINUTE - 5)
    assert at_once <= normal, f"{at_once} packets at once, {normal} in the busiest minute before"
    assert after <= 2 * normal, f"{after} packets in the first minute, {normal} in the busiest before"
    reports = await net.fetch_all(models[1])
    assert len(reports) == 9


@pytest.mark.parametrize("who", some("all", also=("downloader", "seed")))
async def test_a_transfer_goes_on_after_half_an_hour_of_sleep(swarm, who):
    net = await swarm(peers=4, seed=12, upload_bytes_per_s=LINE)
    model = await net[0].publish(net.random_model(size=12 * MIB))
    fetching = asyncio.create_task(net[1].fetch(model))
    await net.run_for(4)
    if who == "all":
        running_loop().now += 30 * MINUTE
    else:
        net[1 if who == "downloader" else 0].host.slept_s += 30 * MINUTE
    report = await fetching
    assert report.verified and (await net[1].verify(model)).ok
