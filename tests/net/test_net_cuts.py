"""A connection that ends, is reset or stands still at any point of a session, in the handshake too.

After each cut both sides have been told, nothing false was said, and the peer goes on with others. In the end no
descriptor, thread, task or buffer is left (the fixture `town` counts the buffers).
"""

from __future__ import annotations

import pytest
from footprint import Footprint, returns_to
from middle import DOWN, UP, Cut, End, passes
from sessions import Sessions
from wire_pairs import comes_true

from p2pmodel.errors import PeerFault

pytestmark = pytest.mark.slow


async def cut_everywhere(
    town, how: End, *, points: int, answer_bytes: int, encryption: bool = True, early: bool = False
) -> None:
    """`points` cuts in each direction, evenly over a whole session; each followed by the end of the session."""
    async with Sessions(town, encryption=(encryption, encryption), answer_bytes=answer_bytes, early=early) as sessions:
        sessions.middle.meddle = passes
        assert (await sessions.talk()).whole
        lengths = dict(sessions.middle.carried[0].bytes)
        # Threads of a pool are started when first needed, and stay.
        assert (await sessions.talk()).whole
        before = Footprint.now()
        for direction in (UP, DOWN):
            length = lengths[direction]
            for number in range(points):
                # The last words of both sides may cross; a cut behind the last byte cuts nothing.
                sessions.middle.cut = Cut(direction, 1 + number * (length - 2) // points, how)
                session = await sessions.talk()
                assert not session.whole
                assert session.refused is None or isinstance(session.refused, PeerFault)
                await comes_true(lambda: town.lent_bytes == 0)
        sessions.middle.cut = None
        assert (await sessions.talk()).whole
        await returns_to(before)


@pytest.mark.parametrize("how", [End.RESET, End.CLOSE])
async def test_a_cut_at_any_byte_of_a_session_ends_it_on_both_sides_and_leaves_nothing(town, how: End) -> None:
    await cut_everywhere(town, how, points=40, answer_bytes=3000)


@pytest.mark.parametrize("encryption", [True, False], ids=["sealed", "clear"])
async def test_a_reset_in_a_long_answer_leaves_nothing(town, encryption: bool) -> None:
    await cut_everywhere(town, End.RESET, points=12, answer_bytes=3 << 20, encryption=encryption)


async def test_a_reset_around_a_first_message_that_leaves_with_the_hello_leaves_nothing(town) -> None:
    await cut_everywhere(town, End.RESET, points=20, answer_bytes=300, early=True)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("how", [End.RESET, End.CLOSE])
async def test_a_cut_at_every_byte_of_a_session_ends_it_on_both_sides_and_leaves_nothing(town, how: End) -> None:
    await cut_everywhere(town, how, points=4000, answer_bytes=1000)
