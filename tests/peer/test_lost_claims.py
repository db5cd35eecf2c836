"""A power cut in the middle of a fetch takes back at most the claims of five seconds, and no byte that the disk has."""

from __future__ import annotations

import asyncio
import errno

import pytest

from p2pmodel.errors import P2PModelError
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


async def test_a_barrier_that_fails_ends_the_fetch_then_with_the_words_of_the_disk_and_the_next_one_goes_on(swarm):
    net = await swarm(peers=2, seed=1, upload_bytes_per_s=LINE)
    model = await net[0].publish(net.random_model(size=SIZE))
    began = asyncio.get_running_loop().time()
    fetching = asyncio.create_task(net[1].fetch(model))
    await net.run_for(6)  # one barrier has held
    net[1].disk.fail_after(1, errno.EIO, only={"sync"}, times=1)
    with pytest.raises(P2PModelError, match="Input/output error"):
        await fetching
    assert asyncio.get_running_loop().time() - began < 12, "nothing is brought that could not be kept"
    report = await net[1].fetch(model)
    assert report.verified and report.bytes_reused > 0
