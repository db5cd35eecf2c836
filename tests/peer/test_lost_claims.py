"""A power cut in the middle of a fetch takes back at most the claims of five seconds, and no byte that the disk has."""

from __future__ import annotations

import asyncio

import pytest

from p2pmodel.model import Reference

pytestmark = pytest.mark.slow
MIB = 1 << 20
LINE = 4 * MIB
SIZE = 64 * MIB


@pytest.mark.parametrize("seed", [1, 2, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(3, 40))])
async def test_a_power_cut_takes_back_at_most_the_claims_of_five_seconds(swarm, seed):
    net = await swarm(peers=3, seed=seed, upload_bytes_per_s=LINE)
    model = await net[0].publish(net.random_model(size=SIZE))
    model_id = Reference.parse(str(model)).model_id
    assert model_id is not None
    fetching = asyncio.create_task(net[1].fetch(model))
    await net.run_for(7 + seed * 0.7 % 7)
    held = net[1].peer.store.have_map(model_id)
    net[1].crash(power=True)
    await asyncio.wait({fetching})
    assert fetching.exception() is not None
    await net[1].restart()
    claimed = net[1].peer.store.have_map(model_id)
    lost = (held.held - claimed.held) * MIB
    assert claimed.held > 0 and lost <= 5 * LINE, f"{lost / MIB} MiB of claims were lost"
    report = await net[1].fetch(model)
    kept = (claimed.held - 1) * MIB  # the first chunk of a file is its header, and small
    assert report.verified and report.bytes_reused >= kept and report.bytes_fetched <= SIZE - kept
