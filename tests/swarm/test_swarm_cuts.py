"""Downloads while the connection to one holder ends, is reset, stands still or brings altered bytes, at any point.

A man in the middle stands before one of two seeds. Every download is whole in the end, nothing that he altered counts,
and nothing is left: the fixture `town` looks for tasks, buffers and chunks, the test for descriptors and threads.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "net"))

from footprint import Footprint, returns_to
from middle import DOWN, UP, Cut, End, Middle, Seen

from p2pmodel.errors import HandshakeError, PeerGoneError

pytestmark = pytest.mark.slow


async def download(town, number: int, middle: Middle, seed) -> int:
    """By a newcomer, from both; returns how many chunks were not what they should have been."""
    leech = await town.peer(number)
    pulled = leech.open_download()
    try:
        pulled.add_link(await leech.swarm.connect(middle.address))
    except (HandshakeError, PeerGoneError):
        pass
    await leech.fetch([seed], pulled)
    assert leech.shelf.bits == town.model.all_bits
    assert [leech.shelf.written[index] for index in range(len(town.model))] == town.model.chunks
    rejected = pulled.tally.chunks_rejected
    await leech.stop()
    town._peers.remove(leech)
    return rejected


@pytest.mark.parametrize("how", [End.RESET, End.CLOSE, End.STALL])
async def test_a_download_outlives_a_holder_that_goes_away_at_any_point(town, how: End) -> None:
    """A connection that stands still is not waited for either: what it was asked for is asked elsewhere in time."""
    points = 3 if how is End.STALL else 10
    cut_seed, seed = await town.seed(1), await town.seed(2)
    async with Middle(cut_seed.address) as middle:
        await download(town, 10, middle, seed)
        lengths, before = dict(middle.carried[0].bytes), Footprint.now()
        for direction in (UP, DOWN):
            # A handshake that stands still takes its ten seconds, and is tried in the tests of `net`.
            start = 4000 if how is End.STALL else 1
            for number in range(points):
                at = start + number * max(lengths[direction] - start, 1) // points
                middle.cut = Cut(direction, at, how)
                assert await download(town, 20 + number, middle, seed) == 0
    await returns_to(before)


async def test_a_download_outlives_a_holder_whose_bytes_are_altered_on_the_way(town) -> None:
    cut_seed, seed = await town.seed(1), await town.seed(2)

    def flips(seen: Seen) -> list:
        if seen.tls or seen.number != victim:
            return [seen.data]
        return [seen.data[:-1] + bytes([seen.data[-1] ^ 1])]

    async with Middle(cut_seed.address, meddle=flips) as middle:
        for victim in range(8):
            assert await download(town, 20 + victim, middle, seed) == 0, (
                "it is the connection that is wrong, not the peer"
            )
