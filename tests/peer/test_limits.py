"""Goal: limits that are changed while a peer runs hold at once, for transfers that have begun too.

Method: whole peers in virtual time, where a rate is a fact; rates between two looks by hand.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from p2pmodel.peer.meter import Meter
from p2pmodel.peer.requests import LimitsChange
from p2pmodel.peer.service import LocalService

MIB = 1 << 20


@pytest.mark.slow
@pytest.mark.parametrize("which", ["upload", "download"])
async def test_a_limit_that_is_lifted_or_lowered_counts_for_what_runs(swarm, which):
    side = f"{which}_limit_bytes_per_s"
    net = await swarm(peers=4, latency_ms=(5, 10), config={side: 64 * 1024}, seed=3)
    limited = net[0] if which == "upload" else net[3]
    service = LocalService(limited.peer)
    model = await net[0].publish(net.random_model(size=24 * MIB))
    fetching = asyncio.ensure_future(net[3].fetch(model))
    await asyncio.sleep(20)
    assert not fetching.done()
    assert net[3].peer.swarm.bytes_received < 4 * MIB
    raised = LimitsChange(**{f"{which}_bytes_per_s": 2 * MIB})
    found = await service.set_limits(raised)
    assert getattr(found, f"{which}_bytes_per_s") == 2 * MIB
    assert (await service.status()).limits == found
    await asyncio.sleep(4)
    assert 6 * MIB < net[3].peer.swarm.bytes_received < 14 * MIB
    await service.set_limits(LimitsChange(**{f"{which}_bytes_per_s": MIB // 2}))
    before = net[3].peer.swarm.bytes_received
    await asyncio.sleep(8)
    assert net[3].peer.swarm.bytes_received - before < 8 * MIB
    await service.set_limits(LimitsChange(**{f"{which}_bytes_per_s": None}))
    began = net.clock.monotonic()
    assert (await fetching).verified
    assert net.clock.monotonic() - began < 10


@pytest.mark.slow
@pytest.mark.parametrize("which", ["upload", "download"])
async def test_what_moved_before_there_was_a_limit_is_no_debt(swarm, which):
    net = await swarm(peers=4, latency_ms=(5, 10), seed=12)
    first = await net[0].publish(net.random_model(size=32 * MIB))
    await net[3].fetch(first)
    service = LocalService((net[0] if which == "upload" else net[3]).peer)
    second = await net[0].publish(net.random_model(size=4 * MIB))
    await service.set_limits(LimitsChange(**{f"{which}_bytes_per_s": MIB}))
    began = net.clock.monotonic()
    await net[3].fetch(second)
    assert 2 < net.clock.monotonic() - began < 8


@pytest.mark.slow
async def test_who_is_being_served_and_what_is_due_is_seen_while_it_lasts(swarm):
    net = await swarm(peers=4, latency_ms=(5, 10), upload_bytes_per_s=MIB, config={"upload_slots": 1}, seed=4)
    model = await net[0].publish(net.random_model(size=12 * MIB))
    fetching = asyncio.ensure_future(net[3].fetch(model))
    await asyncio.sleep(3)
    seed, leech = LocalService(net[0].peer), LocalService(net[3].peer)
    (upload,) = [each for each in await seed.neighbours() if each.requests_in]
    (download,) = [each for each in await leech.neighbours() if each.requests_out]
    assert (upload.peer_id, download.peer_id) == (net[3].peer_id.text, net[0].peer_id.text)
    assert upload.in_upload_slot
    assert not download.in_upload_slot
    assert 0.3 * MIB < upload.send_rate_bytes_per_s < 2.5 * MIB
    assert (await seed.status()).upload_slots == 1
    await fetching
    assert not any(each.in_upload_slot or each.requests_in for each in await seed.neighbours())


@dataclass(eq=False)
class Line:
    """What the meter looks at: its own channel."""

    bytes_sent: int = 0
    bytes_received: int = 0

    @property
    def channel(self) -> Line:
        return self


def test_a_rate_is_what_moved_between_two_looks() -> None:
    meter: Meter[Line] = Meter()
    old = Line(1_000_000, 5)
    assert meter.stale(0.0)
    meter.look([old], 0.0)
    assert meter.rates(old) == (0.0, 0.0)
    old.bytes_sent += 300
    new = Line(0, 50)
    meter.look([old, new], 0.1)  # too soon to say anything
    assert meter.rates(old) == (0.0, 0.0)
    meter.look([old, new], 2.0)
    assert meter.rates(old) == (150.0, 0.0)
    assert meter.rates(new) == (0.0, 25.0)
    meter.look([old], 4.0)
    assert meter.rates(old) == (0.0, 0.0)
    assert meter.rates(new) == (0.0, 0.0)  # it has gone
    assert not meter.stale(14.0)
    assert meter.stale(14.1)
    meter.look([old], 60.0)
    old.bytes_sent += 10
    meter.look([old], 61.0)
    assert meter.rates(old) == (10.0, 0.0)
