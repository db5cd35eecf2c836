"""A connection that has ended is gone at once: what a flood of them leaves must not wait for the garbage collector.

The collector looks at old objects only when as many new ones have come, and after a flood none come: thousands of ended
connections stayed in memory.
"""

from __future__ import annotations

import gc
import weakref

import pytest
from swarm_town import comes_true

from p2pmodel.errors import PeerGoneError, ProtocolError

pytestmark = pytest.mark.slow

ENDS = {
    "we close it": lambda ours, theirs: ours.close(PeerGoneError("enough")),
    "it closes": lambda ours, theirs: theirs.channel.close(PeerGoneError("enough")),
    "it breaks the rules": lambda ours, theirs: theirs.channel.send(b"\xc1"),
    "we say that it did": lambda ours, theirs: ours.close(ProtocolError("enough")),
}


@pytest.mark.parametrize("end", ENDS)
async def test_a_connection_that_has_ended_leaves_nothing_to_the_garbage_collector(town, end: str) -> None:
    seed = await town.seed(1)
    hostile = await town.hostile_to(seed)
    await comes_true(lambda: seed.swarm.links)
    [link] = seed.swarm.links.values()
    lane = link.channel._lanes[0]
    parts = [weakref.ref(part) for part in (link, link.channel, link._queue, lane.receiver, lane.sender)]
    gc.collect()
    gc.disable()
    try:
        ENDS[end](link, hostile)
        del link, lane
        await comes_true(lambda: not seed.swarm.links)
        await hostile.until_cut_off()
        await comes_true(lambda: not any(part() for part in parts))
    finally:
        gc.enable()


async def test_so_is_one_over_which_a_model_came(town) -> None:
    seed, leech = await town.seed(1), await town.peer(2)
    await leech.fetch([seed])
    leech.downloads.clear()
    parts = [
        weakref.ref(part)
        for peer in (seed, leech)
        for link in peer.swarm.links.values()
        for part in (link, link.channel)
    ]
    gc.collect()
    gc.disable()
    try:
        next(iter(leech.swarm.links.values())).close(PeerGoneError("enough"))
        await comes_true(lambda: not any(part() for part in parts))
    finally:
        gc.enable()
