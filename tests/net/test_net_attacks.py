"""A man in the middle tries to break the record layer: replay, reordering, deletion, reflection, splicing, truncation,
flipped bits, downgrade. Real peers, real sockets; he sees all and has no key.

`Sessions` checks after each try that neither side was told anything that the other did not say.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import pytest
from middle import DOWN, UP, End, Meddle, Seen
from sessions import Session, Sessions
from wire_pairs import comes_true

from p2pmodel.errors import HandshakeError, ProtocolError
from p2pmodel.limits import RECORDS_PER_KEY

pytestmark = pytest.mark.slow
DIRECTIONS = pytest.mark.parametrize("direction", [UP, DOWN])


def broken(session: Session) -> bool:
    """Some side noticed, and said what it was."""
    return not session.whole and any(isinstance(reason, ProtocolError) for reason in session.reasons)


async def attack(sessions: Sessions, meddle: Meddle) -> Session:
    sessions.middle.meddle = meddle
    return await sessions.talk()


def at(direction: str, number: int, what: Callable[[Seen], list]) -> Meddle:
    """Do this to one of our own records."""

    def meddle(seen: Seen) -> list:
        hit = not seen.tls and seen.direction == direction and seen.number == number
        return what(seen) if hit else [seen.data]

    return meddle


async def test_a_session_goes_through_the_middle_whole(town) -> None:
    async with Sessions(town) as sessions:
        session = await attack(sessions, lambda seen: [seen.data])
        assert session.whole
        carried = sessions.middle.carried[0].seen
        for direction in (UP, DOWN):
            ours = [seen.data for seen in carried if not seen.tls and seen.direction == direction]
            assert len(ours) == 4
            for word in (b"first of", sessions.near_answer[:8], sessions.far_answer[:8]):
                assert not any(word in data for data in ours)


@DIRECTIONS
async def test_a_record_that_is_repeated_ends_the_connection(town, direction: str) -> None:
    async with Sessions(town) as sessions:
        for number in range(3):
            assert broken(await attack(sessions, at(direction, number, lambda seen: [seen.data, seen.data])))


@DIRECTIONS
async def test_a_record_that_is_left_out_ends_the_connection(town, direction: str) -> None:
    async with Sessions(town) as sessions:
        for number in range(3):
            assert broken(await attack(sessions, at(direction, number, lambda seen: [])))


@DIRECTIONS
async def test_records_in_another_order_end_the_connection(town, direction: str) -> None:
    async with Sessions(town) as sessions:
        for number in range(2):
            kept: list[bytes] = []

            def swap(seen: Seen, number: int = number, kept: list[bytes] = kept) -> list:
                if seen.tls or seen.direction != direction or seen.number not in (number, number + 1):
                    return [seen.data]
                kept.append(seen.data)
                return [] if len(kept) == 1 else kept[::-1]

            assert broken(await attack(sessions, swap))


@DIRECTIONS
async def test_a_record_sent_back_to_its_sender_ends_the_connection(town, direction: str) -> None:
    back = {UP: DOWN, DOWN: UP}[direction]
    async with Sessions(town) as sessions:
        for number in range(3):
            session = await attack(sessions, at(direction, number, lambda seen: [(back, seen.data), seen.data]))
            assert broken(session)


@DIRECTIONS
async def test_a_record_of_another_connection_of_the_same_peers_ends_the_connection(town, direction: str) -> None:
    """Same keys of the peers, same place in the stream: only the handshake's own secrets tell them apart."""
    async with Sessions(town) as sessions:
        assert (await attack(sessions, lambda seen: [seen.data])).whole
        before = [seen for seen in sessions.middle.carried[0].seen if not seen.tls and seen.direction == direction]
        for number in range(3):
            old = before[number].data
            assert broken(await attack(sessions, at(direction, number, lambda seen, old=old: [old])))


@DIRECTIONS
async def test_a_record_of_his_own_making_ends_the_connection(town, direction: str) -> None:
    makes = [
        b"\x01\x00\x00\x05hello",
        b"\x01\x00\x00\x05hello" + bytes(16),
        b"\x02\x00\x00\x08" + bytes(7) + b"\x08" + bytes(16),
        b"\x03\x00\x00\x01\x00" + bytes(16),
        b"\x17\x03\x03\x00\x20" + bytes(32),
        b"\x15\x03\x03\x00\x02\x01\x00",
    ]
    async with Sessions(town) as sessions:
        for made in makes:
            assert broken(await attack(sessions, at(direction, 1, lambda seen, made=made: [made, seen.data])))


@DIRECTIONS
async def test_a_bit_flipped_in_any_byte_of_a_record_ends_the_connection(town, direction: str) -> None:
    async with Sessions(town) as sessions:
        for number, size in ((0, 40), (1, 4 + 8 + 16)):
            for position in range(size):

                def flip(seen: Seen, position: int = position) -> list:
                    data = bytearray(seen.data)
                    if position < len(data):
                        data[position] ^= 1 << position % 8
                    # A length that has grown waits for bytes that must not come from him alone.
                    return [bytes(data) + bytes(600_000)]

                assert not (await attack(sessions, at(direction, number, flip))).whole


@DIRECTIONS
@pytest.mark.parametrize("how", [End.CLOSE, End.RESET])
async def test_a_stream_that_ends_between_two_records_of_an_answer_gives_no_answer(
    town, direction: str, how: End
) -> None:
    """A cut stream never looks like a whole one: the length of an answer was announced, under seal."""
    async with Sessions(town, answer_bytes=700_000) as sessions:
        for number in range(2, 5):
            session = await attack(sessions, at(direction, number, lambda seen: [how]))
            assert not session.whole
            [far] = session.far
            assert session.near is not None
            assert (far if direction == UP else session.near).answers == []


EARLY: dict[str, Callable[[Seen], list]] = {
    "repeated": lambda seen: [seen.data, seen.data],
    "left out": lambda seen: [],
    "sent back": lambda seen: [(DOWN, seen.data), seen.data],
    "altered": lambda seen: [seen.data[:-1] + bytes([seen.data[-1] ^ 1])],
    "replaced by one in the clear": lambda seen: [b"\x01\x00\x00\x05hello"],
}


@pytest.mark.parametrize("what", EARLY)
async def test_what_goes_out_with_the_hello_is_under_the_same_seal(town, what: str) -> None:
    """Whether or not the other side wants sealing: ours does."""
    for encryption in ((True, True), (True, False)):
        async with Sessions(town, encryption=encryption, early=True) as sessions:
            assert (await attack(sessions, lambda seen: [seen.data])).whole
            early = next(seen for seen in sessions.middle.carried[-1].seen if not seen.tls and seen.direction == UP)
            assert b"first of" not in early.data
            session = await attack(sessions, at(UP, 0, EARLY[what]))
            assert broken(session) or isinstance(session.refused, HandshakeError)
            assert broken(await attack(sessions, at(UP, 0, lambda seen, old=early.data: [old, seen.data]))), (
                "that of another connection of the same peers"
            )


# --- the handshake ---------------------------------------------------------------------------------------------------


class Flip:
    """Flips one bit of the handshake, so many bytes from its beginning in one direction."""

    def __init__(self, direction: str, at_byte: int) -> None:
        self.direction = direction
        self.within: int | None = None
        """Where it fell in its TLS record; None where the handshake was shorter."""
        self._at_byte = at_byte
        self._passed = 0

    def __call__(self, seen: Seen) -> list:
        if not seen.tls or seen.direction != self.direction:
            return [seen.data]
        data, position = bytearray(seen.data), self._at_byte - self._passed
        self._passed += len(data)
        if 0 <= position < len(data):
            data[position] ^= 1 << self._at_byte % 8
            self.within = position
        return [bytes(data)]


async def flip_every(town, step: int) -> None:
    """A handshake with a flipped bit ends, or has established what it would have without: see `Sessions._check`."""
    async with Sessions(town, encryption=(True, False)) as sessions:
        sessions.middle.silence_s = 0.2
        for direction in (UP, DOWN):
            for position in count(0, step):
                flip = Flip(direction, position)
                session = await attack(sessions, flip)
                if flip.within is None:
                    break
                # The version in a TLS record's header is not looked at by anybody (RFC 8446 section 5.1).
                assert not session.whole or flip.within in (1, 2), f"{direction} {position}: {session}"
            assert session.whole and position > 1500, "all of the handshake has been tried"


async def test_a_bit_flipped_in_the_handshake_changes_nothing_that_is_agreed_on(town) -> None:
    await flip_every(town, 67)


@pytest.mark.long
@pytest.mark.timeout(1200)
async def test_a_bit_flipped_in_any_byte_of_the_handshake_changes_nothing_that_is_agreed_on(town) -> None:
    await flip_every(town, 1)


async def test_the_wire_stays_sealed_where_one_side_wants_it_so(town) -> None:
    for encryption in ((True, False), (False, True), (True, True)):
        async with Sessions(town, encryption=encryption) as sessions:
            session = await attack(sessions, lambda seen: [seen.data])
            assert session.whole and session.near is not None
            assert session.near.channel.encrypted and session.far[0].channel.encrypted
            wire = b"".join(seen.data for seen in sessions.middle.carried[-1].seen)
            assert b"first of" not in wire and sessions.near_answer[:16] not in wire


async def test_the_wire_is_clear_only_where_both_sides_say_so(town) -> None:
    async with Sessions(town, encryption=(False, False)) as sessions:
        session = await attack(sessions, lambda seen: [seen.data])
        assert session.whole
        wire = b"".join(seen.data for seen in sessions.middle.carried[-1].seen)
        assert b"first of near" in wire and b"first of far" in wire


@DIRECTIONS
async def test_clear_records_are_not_believed_where_the_wire_is_sealed(town, direction: str) -> None:
    """What a downgrade would be: all of one side's records, replaced by the same in the clear."""
    async with Sessions(town, encryption=(False, False)) as clear:
        await attack(clear, lambda seen: [seen.data])
        script = [seen.data for seen in clear.middle.carried[-1].seen if not seen.tls and seen.direction == direction]
    async with Sessions(town, encryption=(True, False)) as sessions:
        assert broken(await attack(sessions, at(direction, 0, lambda seen: list(script))))


@pytest.mark.long
async def test_the_key_changes_where_the_limit_is_and_both_sides_go_on(town) -> None:
    """Over a real connection, 2^18 records and some more in one direction; no sealed record ever comes twice."""
    async with Sessions(town) as sessions:
        sealed: dict[bytes, None] = {}

        def watch(seen: Seen) -> list:
            if not seen.tls:
                assert seen.data not in sealed
                sealed[seen.data] = None
            return [seen.data]

        sessions.middle.meddle = watch
        session = await sessions.begin()
        near = session.near
        assert near is not None
        await comes_true(lambda: session.far and session.far[0].heard_all(sessions.near_answer, sessions.near_says))
        far, text = session.far[0], bytes(16)
        for _ in range(RECORDS_PER_KEY // 1000 + 2):
            expected = len(far.handler.messages) + 1000
            for _ in range(1000):
                near.channel.send(text)
            await far.handler.until(lambda expected=expected: len(far.handler.messages) == expected)
        assert len(sealed) > RECORDS_PER_KEY
        await near.end()
        await far.handler.until_closed()
